//! Occlusion: what the logit loses when a token is masked.

use std::sync::Arc;

use candle_core::Tensor;

use super::InputAttribution;
use crate::attribute::Snapshot;
use crate::attribute::replay::target_logits;
use crate::runtime::{Evaluation, Probe};
use crate::steer::Steering;
use crate::{Result, Runtime};

/// Occlusion of all targets of one snapshot: one sequence for each masked-out position, and one with all of them.
pub(super) struct Occlusion {
    snapshot: Snapshot,
    /// Positions that are not masked and that some target sees.
    occluded: Vec<usize>,
    evaluation: Evaluation,
    hidden: Vec<Tensor>,
}

impl Occlusion {
    pub(super) fn new(snapshot: Snapshot, steering: Option<&Arc<Steering>>, runtime: &Runtime) -> Self {
        let config = &runtime.model().info().config;
        let (s, mask) = (config.diff_block_size, config.special.mask);
        let last = snapshot.targets.iter().map(|(position, _)| *position).max().unwrap_or(0);
        let end = ((last / s + 1) * s).min(snapshot.ids.len());
        let occluded: Vec<usize> = (0..end).filter(|i| snapshot.ids[*i] != mask).collect();
        // The unchanged sequence, each with one position masked, and the one with all masked.
        let whole = snapshot.probe(steering);
        let with_masked = |positions: &[usize]| {
            let mut probe = whole.clone();
            for position in positions {
                probe.ids[*position] = mask;
            }
            probe
        };
        let mut probes: Vec<Probe> = vec![with_masked(&[])];
        probes.extend(occluded.iter().map(|position| with_masked(&[*position])));
        probes.push(with_masked(&occluded));
        Self { snapshot, occluded, evaluation: Evaluation::new(probes), hidden: Vec::new() }
    }

    pub(super) fn advance(
        &mut self,
        runtime: &mut Runtime,
        steering: Option<&Steering>,
        rows: &mut [usize; 2],
    ) -> Result<Option<Vec<InputAttribution>>> {
        let before = self.evaluation.cost().0;
        if let Some(hidden) = self.evaluation.advance(runtime)? {
            rows[0] += self.evaluation.cost().0 - before;
            self.hidden.push(hidden);
            return Ok(None);
        }
        let model = runtime.model();
        let edits = steering.map_or(&[][..], |steering| &steering.set_weights);
        let hidden = Tensor::cat(&std::mem::take(&mut self.hidden), 0)?;
        let composed = model.composed(&hidden, edits)?;
        let mut sorted = self.snapshot.targets.clone();
        sorted.sort_unstable();
        let probes = self.occluded.len() + 2;
        let ids: Vec<u32> = (0..probes).flat_map(|_| sorted.iter().map(|(_, id)| *id)).collect();
        let logits = target_logits(model, &composed, &ids)?;
        let s = model.info().config.diff_block_size;
        let logit = |probe: usize, target: usize| logits[probe * sorted.len() + target];
        let attributions = self.snapshot.targets.iter().map(|(position, id)| {
            let target = sorted.binary_search(&(*position, *id)).expect("sorted holds the same targets");
            let mut scores = vec![0.0; ((position / s + 1) * s).min(self.snapshot.ids.len())];
            for (n, occluded) in self.occluded.iter().enumerate() {
                if let Some(score) = scores.get_mut(*occluded) {
                    *score = logit(0, target) - logit(n + 1, target);
                }
            }
            let logit_delta = logit(0, target) - logit(probes - 1, target);
            InputAttribution { position: *position, id: *id, step: self.snapshot.step, scores, logit_delta }
        });
        Ok(Some(attributions.collect()))
    }
}
