//! Concept attribution from a trace alone: the exact snapshots, evaluated again, several a forward.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::trace::{Snapshot, Trace};
use super::{Contributions, TokenAttribution};
use crate::runtime::Evaluation;
use crate::steer::Steering;
use crate::{Model, Result, Runtime};

/// A trace on its way to attributions, a forward at a time.
pub struct ReplayJob {
    snapshots: Vec<Snapshot>,
    steering: Option<Arc<Steering>>,
    evaluation: Evaluation,
    hidden: Vec<Tensor>,
}

impl ReplayJob {
    /// Explains a trace that [`Trace::validate`] has accepted, under the steering it was made with.
    pub fn new(trace: &Trace, steering: Option<Arc<Steering>>, model: &Model) -> Self {
        let snapshots = trace.snapshots(&model.info().config.special);
        let probes = snapshots.iter().map(|snapshot| snapshot.probe(steering.as_ref())).collect();
        Self { snapshots, steering, evaluation: Evaluation::new(probes), hidden: Vec::new() }
    }

    /// One forward; the attributions in the order of the commits once they are complete.
    ///
    /// # Errors
    /// Those of [`Evaluation::advance`] and [`Model::contributions`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<TokenAttribution>>> {
        if let Some(hidden) = self.evaluation.advance(runtime)? {
            self.hidden.push(hidden);
            return Ok(None);
        }
        if self.hidden.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let hidden = Tensor::cat(&std::mem::take(&mut self.hidden), 0)?;
        let edits = self.steering.as_ref().map_or(&[][..], |steering| &steering.set_weights);
        // Rows come by ascending position within a snapshot; commits in their own order.
        let mut targets: Vec<(usize, usize, u32)> = Vec::new();
        for snapshot in &self.snapshots {
            let mut sorted = snapshot.targets.clone();
            sorted.sort_unstable();
            targets.extend(sorted.into_iter().map(|(position, id)| (snapshot.step, position, id)));
        }
        let ids: Vec<u32> = targets.iter().map(|(_, _, id)| *id).collect();
        let contributions = runtime.model().contributions(&hidden, &ids, edits)?;
        let logits = target_logits(runtime.model(), &runtime.model().composed(&hidden, edits)?, &ids)?;
        let mut attributions: Vec<_> = targets
            .into_iter()
            .zip(contributions)
            .zip(logits)
            .map(|(((step, position, id), contributions), target_logit)| {
                attribution(step, (position, id), target_logit, contributions)
            })
            .collect();
        let order: std::collections::HashMap<usize, usize> = self
            .snapshots
            .iter()
            .flat_map(|s| &s.targets)
            .enumerate()
            .map(|(n, (position, _))| (*position, n))
            .collect();
        attributions.sort_by_key(|attribution| order[&attribution.position]);
        Ok(Some(attributions))
    }
}

fn attribution(
    step: usize,
    (position, id): (usize, u32),
    target_logit: f32,
    contributions: Contributions,
) -> TokenAttribution {
    TokenAttribution { position, id, step, target_logit, decision_logit: None, contributions }
}

/// The logit of one token for each row of what the output head reads, `[N, D]`.
pub(super) fn target_logits(model: &Model, composed: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    let rows = model.backbone().lm_head().rows(ids)?.to_dtype(DType::F32)?;
    Ok((composed.to_dtype(DType::F32)? * rows)?.sum(1)?.to_vec1()?)
}
