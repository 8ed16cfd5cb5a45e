//! Edits of the logits before confidence and choice.

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::canvas::Canvas;

/// Classifier-free guidance: `u + (scale + 1) * (c - u)`, written over the conditional logits.
pub(super) fn guide(conditional: &mut [f32], unconditional: &[f32], scale: f32) {
    let strength = scale + 1.0;
    conditional.par_chunks_mut(1 << 14).zip(unconditional.par_chunks(1 << 14)).for_each(|(c, u)| {
        for (c, u) in c.iter_mut().zip(u) {
            *c = u + strength * (*c - u);
        }
    });
}

/// Subtracts the suppression vector `[V]` from every row.
pub(super) fn suppress(logits: &mut [f32], suppression: &[f32]) {
    logits.par_chunks_mut(suppression.len()).for_each(|row| {
        for (logit, s) in row.iter_mut().zip(suppression) {
            *logit -= s;
        }
    });
}

/// The repetition penalty and the bans, with what stood there before.
pub struct RowEdits {
    /// Edited columns, ascending.
    columns: Vec<u32>,
    /// `[rows, columns]`.
    originals: Vec<f32>,
}

impl RowEdits {
    /// Penalises every id that stands anywhere in the canvas, then bans EOS, mask and pad.
    pub fn apply(canvas: &Canvas, logits: &mut [f32], vocab: usize) -> Self {
        let penalty = canvas.params().repetition_penalty;
        let special = canvas.special();
        let banned = [special.eos, special.mask, special.pad];
        let mut columns: BTreeSet<u32> = banned.into();
        if penalty != 1.0 {
            columns.extend(canvas.ids().iter().copied());
        }
        let columns: Vec<u32> = columns.into_iter().filter(|id| (*id as usize) < vocab).collect();
        let mut originals = Vec::with_capacity(columns.len() * logits.len() / vocab);
        for row in logits.chunks_exact_mut(vocab) {
            for id in &columns {
                let logit = &mut row[*id as usize];
                originals.push(*logit);
                *logit = if banned.contains(id) {
                    f32::NEG_INFINITY
                } else if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
        Self { columns, originals }
    }

    /// What stood at (`row`, `id`) before, if it was edited.
    pub fn original(&self, row: usize, id: u32) -> Option<f32> {
        let column = self.columns.binary_search(&id).ok()?;
        Some(self.originals[row * self.columns.len() + column])
    }
}
