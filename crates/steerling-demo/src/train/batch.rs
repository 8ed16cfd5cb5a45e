//! Sequences and their masks as tensors.

use candle_core::{Device, Result, Tensor};
use rand::{Rng, RngExt};

use super::data::{Recipe, Sequence};
use super::mask::Masking;
use super::tokenizer::special_ids;
use crate::concepts::{CONCEPTS, Labels};

/// A share of the visible positions predict themselves, with this weight beside all masked ones: what the model holds
/// of a token it sees is then in the same terms as what it holds of one it predicts.
const VISIBLE_SHARE: f64 = 0.25;
const VISIBLE_WEIGHT: f32 = 0.1;

/// `B` sequences of `T` positions; rows count over both.
pub(super) struct Batch {
    pub(super) b: usize,
    pub(super) t: usize,
    /// What the model sees, `[B T]`.
    pub(super) input: Tensor,
    /// 1 at masks, `[B, T, 1]`.
    pub(super) masked: Tensor,
    /// The rows that predict: masked ones, then some visible ones.
    pub(super) rows: Vec<u32>,
    /// Their tokens.
    pub(super) targets: Vec<u32>,
    /// Their shares of the loss, `[rows]`; sums to `1 + VISIBLE_WEIGHT`.
    pub(super) weights: Tensor,
    /// The concepts of the chunk of each row, `[B T, C]`.
    pub(super) truth: Tensor,
    /// Sums over the masked positions of each whole chunk, `[chunks, B T]`, and over the visible ones.
    pub(super) pools: [Tensor; 2],
    /// The chunks' concepts.
    pub(super) labels: Vec<Labels>,
    pub(super) recipes: Vec<Recipe>,
}

impl Batch {
    /// Masks the sequences and puts them together.
    pub(super) fn new(sequences: &[Sequence], s: usize, device: &Device, rng: &mut impl Rng) -> Result<Self> {
        let (b, t) = (sequences.len(), sequences[0].ids.len());
        let (mut input, mut is_masked) = (Vec::with_capacity(b * t), Vec::with_capacity(b * t));
        let (mut masked_rows, mut visible_rows) = (Vec::new(), Vec::new());
        let mut truth = vec![0f32; b * t * CONCEPTS.len()];
        let (mut spans, mut labels) = (Vec::new(), Vec::new());
        for (n, sequence) in sequences.iter().enumerate() {
            let masking = Masking::draw(t, s, sequence.prompt, rng);
            for (i, id) in sequence.ids.iter().enumerate() {
                let row = (n * t + i) as u32;
                input.push(if masking.masked[i] { special_ids().mask } else { *id });
                is_masked.push(f32::from(u8::from(masking.masked[i])));
                if masking.masked[i] && i < sequence.counted {
                    masked_rows.push((row, *id, 1.0 / masking.rate[i]));
                } else if !masking.masked[i] && rng.random_bool(VISIBLE_SHARE) {
                    visible_rows.push((row, *id, 1.0));
                }
            }
            for span in &sequence.spans {
                for row in n * t + span.start..n * t + span.end {
                    span.labels.iter().for_each(|id| truth[row * CONCEPTS.len() + id] = 1.0);
                }
                if span.whole {
                    spans.push(n * t + span.start..n * t + span.end);
                    labels.push(span.labels);
                }
            }
        }
        let mut weights = Vec::with_capacity(masked_rows.len() + visible_rows.len());
        for (rows, share) in [(&masked_rows, 1.0), (&visible_rows, VISIBLE_WEIGHT)] {
            let sum: f32 = rows.iter().map(|row| row.2).sum();
            weights.extend(rows.iter().map(|row| share * row.2 / sum));
        }
        let all: Vec<_> = masked_rows.into_iter().chain(visible_rows).collect();
        let mut pools = [(); 2].map(|()| vec![0f32; spans.len() * b * t]);
        for (chunk, rows) in spans.into_iter().enumerate() {
            for row in rows {
                pools[usize::from(is_masked[row] == 0.0)][chunk * b * t + row] = 1.0;
            }
        }
        let chunks = labels.len();
        let [masked_pool, visible_pool] = pools.map(|pool| Tensor::from_vec(pool, (chunks, b * t), device));
        Ok(Self {
            b,
            t,
            input: Tensor::from_vec(input, b * t, device)?,
            masked: Tensor::from_vec(is_masked, (b, t, 1), device)?,
            rows: all.iter().map(|row| row.0).collect(),
            targets: all.iter().map(|row| row.1).collect(),
            weights: Tensor::from_vec(weights, all.len(), device)?,
            truth: Tensor::from_vec(truth, (b * t, CONCEPTS.len()), device)?,
            pools: [masked_pool?, visible_pool?],
            labels,
            recipes: sequences.iter().map(|sequence| sequence.recipe.clone()).collect(),
        })
    }
}
