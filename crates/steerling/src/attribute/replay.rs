//! Concept attribution from a trace alone: the exact snapshots, evaluated again, several a forward.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::TokenAttribution;
use super::trace::Trace;
use crate::runtime::Evaluation;
use crate::steer::Steering;
use crate::{Model, Result, Runtime, scratch};

/// A trace on its way to attributions, a forward at a time.
pub struct ReplayJob {
    /// Step, position and id of the targets in the order of their hidden states: by position within a step.
    targets: Vec<(usize, usize, u32)>,
    /// Index of the commit of each position.
    order: HashMap<usize, usize>,
    steering: Option<Arc<Steering>>,
    evaluation: Evaluation,
    done: Vec<TokenAttribution>,
}

impl ReplayJob {
    /// Explains a trace that [`Trace::validate`] has accepted, under the steering it was made with.
    pub fn new(trace: &Trace, steering: Option<Arc<Steering>>, model: &Model) -> Self {
        let mut targets: Vec<_> = trace.commits.iter().map(|c| (c.step, c.position, c.id)).collect();
        targets.sort_unstable();
        let order = trace.commits.iter().enumerate().map(|(n, commit)| (commit.position, n)).collect();
        let snapshots = trace.snapshots(&model.info().config.special);
        let of_steering = steering.clone();
        let probes = snapshots.map(move |snapshot| snapshot.probe(of_steering.as_ref()));
        Self { targets, order, steering, evaluation: Evaluation::of(probes), done: Vec::new() }
    }

    /// One forward, whose hidden states are taken apart at once; the attributions in the order of the commits once they
    /// are complete.
    ///
    /// # Errors
    /// Those of [`Evaluation::advance`] and [`Model::contributions`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<TokenAttribution>>> {
        let Some(hidden) = self.evaluation.advance(runtime)? else {
            let mut done = std::mem::take(&mut self.done);
            done.sort_by_key(|attribution| self.order[&attribution.position]);
            return Ok(Some(done));
        };
        let first = self.done.len();
        let targets = &self.targets[first..first + hidden.dim(0)?];
        let edits = self.steering.as_ref().map_or(&[][..], |steering| &steering.set_weights);
        let ids: Vec<u32> = targets.iter().map(|(_, _, id)| *id).collect();
        let contributions = runtime.model().contributions(&hidden, &ids, edits)?;
        let logits = target_logits(runtime.model(), &runtime.model().composed(&hidden, edits)?, &ids)?;
        let parts = targets.iter().zip(contributions).zip(logits);
        self.done.extend(parts.map(|(((step, position, id), contributions), target_logit)| TokenAttribution {
            position: *position,
            id: *id,
            step: *step,
            target_logit,
            decision_logit: None,
            contributions,
        }));
        Ok(None)
    }
}

/// The logit of one token for each row of what the output head reads, `[N, D]`, a chunk of rows at a time.
pub(super) fn target_logits(model: &Model, composed: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    let logits = scratch::in_chunks(composed, scratch::CHUNK_ROWS, |composed, chunk| {
        let rows = model.backbone().lm_head().rows(&ids[chunk])?.to_dtype(DType::F32)?;
        Ok((composed.to_dtype(DType::F32)? * rows)?.sum(1)?.to_vec1::<f32>()?)
    })?;
    Ok(logits.concat())
}
