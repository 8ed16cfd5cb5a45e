//! What the rows of a canvas came to: computed here from logits on the host, or before on the device.

use std::sync::Arc;

use super::logits::RowEdits;
use super::{Sampler, suppression, uniform};
use crate::canvas::{Canvas, Choice};
use crate::gpu::{Draw, RowPlan, RowResult};
use crate::kernels::softmax::{RowStats, entropies};
use crate::steer::Steering;

/// The rows of the masked positions of one canvas.
pub(super) enum Rows<'a> {
    /// Tokens are drawn when asked for.
    Host {
        /// Edited, `[positions, V]`.
        logits: &'a [f32],
        stats: Vec<RowStats>,
        edits: RowEdits,
    },
    /// Tokens are drawn for those rows that may be committed.
    Device(&'a [RowResult]),
}

impl Rows<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Host { stats, .. } => stats.len(),
            Self::Device(results) => results.len(),
        }
    }

    /// Largest logit and `sum exp(logit - largest)` of a row.
    pub(super) fn stats(&self, row: usize) -> (f32, f32) {
        match self {
            Self::Host { stats, .. } => (stats[row].max, stats[row].sum_exp),
            Self::Device(results) => (results[row].max, results[row].sum_exp),
        }
    }

    /// Entropies of all rows in nats.
    pub(super) fn entropies(&self) -> Vec<f32> {
        match self {
            Self::Host { logits, stats, .. } => entropies(logits, stats),
            Self::Device(results) => results.iter().map(|result| result.entropy).collect(),
        }
    }

    /// The token that is drawn for a row of `canvas`, at `position`.
    pub(super) fn choice(&self, canvas: &Canvas, row: usize, position: usize) -> Choice {
        let confidence = 1.0 / self.stats(row).1;
        match self {
            Self::Host { logits, stats, edits } => {
                let params = canvas.params();
                let vocab = logits.len() / stats.len();
                let edited = &logits[row * vocab..][..vocab];
                let id = Sampler::new(params).draw(edited, &stats[row], uniform(params.seed, position));
                let decision_logit = edited[id as usize];
                let suppressed = suppression(canvas).map_or(0.0, |suppression| suppression[id as usize]);
                let target_logit = edits.original(row, id).unwrap_or(decision_logit) + suppressed;
                Choice { position, id, confidence, target_logit, decision_logit }
            }
            Self::Device(results) => {
                let RowResult { id, decision_logit, target_logit, .. } = results[row];
                Choice { position, id, confidence, target_logit, decision_logit }
            }
        }
    }
}

/// What the device needs to know of the rows of many canvases.
#[derive(Debug, Default)]
pub(crate) struct DevicePlan {
    /// In the order of the canvases' rows.
    pub(crate) rows: Vec<RowPlan>,
    /// The suppression vectors, one after the other.
    pub(crate) suppressions: Vec<f32>,
    /// Whose they are: guesses, and the texts of one request, share theirs.
    suppressing: Vec<Arc<Steering>>,
    /// Lists of penalised columns.
    pub(crate) columns: Vec<u32>,
}

impl DevicePlan {
    /// The row of the suppression vector of `steering`, if it has one.
    fn suppression(&mut self, steering: &Arc<Steering>) -> Option<u32> {
        let vector = steering.suppression.as_deref()?;
        let known = self.suppressing.iter().position(|other| Arc::ptr_eq(other, steering));
        let row = known.unwrap_or_else(|| {
            self.suppressions.extend(vector);
            self.suppressing.push(steering.clone());
            self.suppressing.len() - 1
        });
        Some(row as u32)
    }

    /// Adds the masked `positions` of `canvas`, whose logits begin at row `first` of the model's; under guidance those of the
    /// unconditional sequence follow. Tokens of the next `steps` steps may be asked for.
    pub(crate) fn push(&mut self, canvas: &Canvas, positions: &[usize], first: usize, steps: usize) {
        let params = canvas.params();
        let special = canvas.special();
        let suppression = canvas.steering().and_then(|steering| self.suppression(steering));
        let columns = self.columns.len() as u32;
        if params.repetition_penalty != 1.0 {
            let ids: std::collections::BTreeSet<u32> = canvas.ids().iter().copied().collect();
            self.columns.extend(ids);
        }
        let penalised = (columns..self.columns.len() as u32, params.repetition_penalty);
        let sampling = Sampler::new(params).on_device();
        let group = self.rows.len() as u32..(self.rows.len() + positions.len()) as u32;
        let drawn = match params.decoding.has_steps() {
            true => (0..=steps).map(|after| canvas.quota_after(after)).sum(),
            false => positions.len(),
        };
        for (i, position) in positions.iter().enumerate() {
            let conditional = (first + i) as u32;
            let guided = params.cfg_scale > 0.0;
            self.rows.push(RowPlan {
                conditional,
                guidance: guided.then(|| (conditional + positions.len() as u32, params.cfg_scale + 1.0)),
                suppression,
                penalised: penalised.clone(),
                banned: [special.eos, special.mask, special.pad],
                sampling,
                uniform: match sampling {
                    Draw::Argmax => 0.0,
                    _ => uniform(params.seed, *position),
                },
                group: group.clone(),
                drawn: drawn as u32,
            });
        }
    }
}
