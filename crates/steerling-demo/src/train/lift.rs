//! Which tokens a concept lifts: those that hardly occur without it.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::data::Writer;
use crate::concepts::CONCEPTS;

const SEQUENCES: usize = 2000;
const SEED: u64 = u32::MAX as u64 - 1;
/// A concept's lifted tokens are at most so many, the most frequent ones.
const MOST: usize = 50;
/// Of the chunks with a lifted token at least this share has the concept.
const PRECISION: f64 = 0.95;
/// A token in fewer chunks says nothing.
const FEWEST: u32 = 8;

/// What the corpus says about words and concepts.
pub(super) struct Lift {
    /// For each concept a distribution over its lifted tokens, uniform, `[C, V]`.
    pub(super) tokens: Tensor,
    /// The share of chunks with each concept.
    pub(super) frequency: Vec<f64>,
}

impl Lift {
    /// Counts tokens and labels of chunks.
    pub(super) fn count(writer: &Writer, vocab: usize, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let concepts = CONCEPTS.len();
        let (mut with, mut all) = (vec![0u32; vocab * concepts], vec![0u32; vocab]);
        let (mut tagged, mut chunks) = (vec![0u32; concepts], 0u32);
        for _ in 0..SEQUENCES {
            let sequence = writer.documents(512, &mut rng)?;
            for span in sequence.spans.iter().filter(|span| span.whole) {
                let mut ids = sequence.ids[span.start..span.end].to_vec();
                ids.sort_unstable();
                ids.dedup();
                for id in ids {
                    all[id as usize] += 1;
                    span.labels.iter().for_each(|concept| with[id as usize * concepts + concept] += 1);
                }
                span.labels.iter().for_each(|concept| tagged[concept] += 1);
                chunks += 1;
            }
        }
        let mut tokens = vec![0f32; concepts * vocab];
        for concept in 0..concepts {
            let count = |id: &usize| with[id * concepts + concept];
            let precise = |id: &usize| f64::from(count(id)) >= PRECISION * f64::from(all[*id]) && all[*id] >= FEWEST;
            let mut lifted: Vec<usize> = (0..vocab).filter(precise).collect();
            lifted.sort_by_key(|id| std::cmp::Reverse(count(id)));
            lifted.truncate(MOST);
            anyhow::ensure!(!lifted.is_empty(), "{} lifts no token", CONCEPTS[concept].name);
            lifted.iter().for_each(|id| tokens[concept * vocab + id] = 1.0 / lifted.len() as f32);
        }
        let frequency = tagged.iter().map(|n| f64::from(*n) / f64::from(chunks)).collect();
        Ok(Self { tokens: Tensor::from_vec(tokens, (concepts, vocab), device)?, frequency })
    }
}
