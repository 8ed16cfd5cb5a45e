//! Concept attribution: the logit of a committed token as a sum over concepts and a remainder. MODEL.md section 6.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::canvas::Commit;
use crate::concepts::{ConceptHead, sigmoid};
use crate::steer::{ConceptKey, WeightEdit};
use crate::{Error, Model, Result, scratch};

/// What one concept adds to a logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConceptShare {
    /// Index within its head.
    pub index: u32,
    /// Weight `w`, 0 to 1 unless set otherwise.
    pub weight: f32,
    /// `w (e . lm_head_y)` in logits.
    pub contribution: f32,
}

/// A logit taken apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contributions {
    /// The top-k known concepts, largest weight first, then those whose weight was set.
    pub known: Vec<ConceptShare>,
    /// The top-k unknown concepts, likewise.
    pub unknown: Vec<ConceptShare>,
    /// What the output head makes of the part that these concepts leave, `(composed - known - unknown) . lm_head_y`:
    /// computed from the vectors, not as a difference of logits, so that the sum can be held against the logit.
    pub remainder: f32,
}

/// A committed token and why.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenAttribution {
    /// Absolute index in the sequence.
    pub position: usize,
    /// Token id.
    pub id: u32,
    /// Denoising step that committed it.
    pub step: usize,
    /// The model's logit, before suppression, penalty and bans.
    pub target_logit: f32,
    /// The logit that decided, after them; unknown when a trace is replayed.
    pub decision_logit: Option<f32>,
    /// The logit taken apart.
    pub contributions: Contributions,
}

impl TokenAttribution {
    /// The attribution of a commit.
    pub fn of(commit: &Commit, contributions: Contributions) -> Self {
        let Commit { position, id, step, target_logit, decision_logit, .. } = *commit;
        Self { position, id, step, target_logit, decision_logit: Some(decision_logit), contributions }
    }

    /// Sum over known concepts in logits.
    pub fn known_total(&self) -> f32 {
        total(&self.contributions.known)
    }

    /// Sum over unknown concepts in logits.
    pub fn unknown_total(&self) -> f32 {
        total(&self.contributions.unknown)
    }

    /// What the concepts leave of the logit: `target_logit - known_total - unknown_total`.
    pub fn epsilon(&self) -> f32 {
        self.target_logit - self.known_total() - self.unknown_total()
    }

    /// `sum |known| + sum |unknown| + |epsilon|`.
    pub fn absolute_total(&self) -> f32 {
        absolute(&self.contributions.known) + absolute(&self.contributions.unknown) + self.epsilon().abs()
    }

    /// Shares of known concepts, unknown concepts and epsilon in [`Self::absolute_total`]; they add up to 1.
    pub fn fractions(&self) -> [f32; 3] {
        let all = self.absolute_total().max(f32::MIN_POSITIVE);
        let parts = [absolute(&self.contributions.known), absolute(&self.contributions.unknown), self.epsilon().abs()];
        parts.map(|part| part / all)
    }

    /// How far concepts and remainder together are from the logit.
    pub fn error(&self) -> f32 {
        (self.epsilon() - self.contributions.remainder).abs()
    }
}

fn total(shares: &[ConceptShare]) -> f32 {
    shares.iter().map(|share| share.contribution).sum()
}

fn absolute(shares: &[ConceptShare]) -> f32 {
    shares.iter().map(|share| share.contribution.abs()).sum()
}

impl Model {
    /// Takes the logits of `tokens` apart, one for each of the hidden states `[N, D]`, as they are after `edits`, a chunk
    /// of rows at a time.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without concept heads, [`Error::Device`].
    pub fn contributions(&self, hidden: &Tensor, tokens: &[u32], edits: &[WeightEdit]) -> Result<Vec<Contributions>> {
        let heads = self
            .heads()
            .ok_or_else(|| Error::Unsupported("concept attribution of a checkpoint without concept heads".into()))?;
        let known_edits = edits_of(edits, |c| if let ConceptKey::Known(i) = c { Some(i) } else { None });
        let unknown_edits = edits_of(edits, |c| if let ConceptKey::Unknown(i) = c { Some(i) } else { None });
        let of_chunk = |hidden: &Tensor, chunk: Range<usize>| {
            let rows = self.backbone().lm_head().rows(&tokens[chunk.clone()])?; // [N, D]
            let composed = self.composed(hidden, edits)?;
            let (known, known_sum) = shares(&heads.known, hidden, &rows, &known_edits)?;
            let mut rest = (composed - known_sum)?;
            let unknown = match &heads.unknown {
                Some(head) => {
                    let (unknown, unknown_sum) = shares(head, hidden, &rows, &unknown_edits)?;
                    rest = (rest - unknown_sum)?;
                    unknown
                }
                None => vec![Vec::new(); chunk.len()],
            };
            let remainder = (rest.to_dtype(DType::F32)? * rows.to_dtype(DType::F32)?)?.sum(1)?.to_vec1::<f32>()?;
            let parts = known.into_iter().zip(unknown).zip(remainder);
            let parts = parts.map(|((known, unknown), remainder)| Contributions { known, unknown, remainder });
            Ok(parts.collect::<Vec<_>>())
        };
        let chunk = scratch::chunk_rows(scratch::head_row(&self.info().config, edits.len()));
        Ok(scratch::in_chunks(hidden, chunk, of_chunk)?.into_iter().flatten().collect())
    }
}

fn edits_of(edits: &[WeightEdit], index: impl Fn(ConceptKey) -> Option<u32>) -> Vec<(u32, f32)> {
    edits.iter().filter_map(|edit| Some((index(edit.concept)?, edit.weight))).collect()
}

/// The concepts of one head for every hidden state, and the sum of their features `[N, D]`.
fn shares(
    head: &ConceptHead,
    hidden: &Tensor,
    rows: &Tensor,
    edits: &[(u32, f32)],
) -> Result<(Vec<Vec<ConceptShare>>, Tensor)> {
    let mut weights: Vec<Vec<(u32, f32)>> = head
        .active(hidden)?
        .into_iter()
        .map(|row| row.into_iter().map(|(index, z)| (index, sigmoid(z))).collect())
        .collect();
    for row in &mut weights {
        for (index, value) in edits {
            match row.iter_mut().find(|(i, _)| i == index) {
                Some((_, weight)) => *weight = *value,
                None => row.push((*index, *value)),
            }
        }
    }
    let sum = head.mix_rows(&weights, hidden)?;
    let alignments = head.alignments(&weights, rows)?;
    let shares = weights.iter().zip(alignments).map(|(row, alignments)| {
        let share = |((index, weight), a): (&(u32, f32), f32)| ConceptShare {
            index: *index,
            weight: *weight,
            contribution: weight * a,
        };
        row.iter().zip(alignments).map(share).collect()
    });
    Ok((shares.collect(), sum))
}
