//! Occlusion: what the logit loses when a token is masked.

use std::sync::Arc;

use super::InputAttribution;
use crate::attribute::Snapshot;
use crate::attribute::replay::target_logits;
use crate::runtime::Evaluation;
use crate::steer::Steering;
use crate::{Result, Runtime};

/// Occlusion of all targets of one snapshot: one sequence for each masked-out position, and one with all of them.
pub(super) struct Occlusion {
    snapshot: Snapshot,
    /// The targets in the order of their hidden states.
    sorted: Vec<(usize, u32)>,
    /// Positions that are not masked and that some target sees.
    occluded: Vec<usize>,
    evaluation: Evaluation,
    /// Of every target in the sequences so far: the unchanged one, each with one position masked, and that with all masked.
    logits: Vec<f32>,
}

impl Occlusion {
    pub(super) fn new(snapshot: Snapshot, steering: Option<&Arc<Steering>>, runtime: &Runtime) -> Self {
        let config = &runtime.model().info().config;
        let (s, mask) = (config.diff_block_size, config.special.mask);
        let sorted = snapshot.sorted_targets();
        let last = sorted.last().map_or(0, |(position, _)| *position);
        let end = ((last / s + 1) * s).min(snapshot.ids.len());
        let occluded: Vec<usize> = (0..end).filter(|i| snapshot.ids[*i] != mask).collect();
        let whole = snapshot.clone().probe(steering);
        let with_masked = move |positions: &[usize]| {
            let mut probe = whole.clone();
            positions.iter().for_each(|position| probe.ids[*position] = mask);
            probe
        };
        let all = occluded.clone();
        let probes = (0..all.len() + 2).map(move |n| match n.checked_sub(1) {
            None => with_masked(&[]),
            Some(n) => with_masked(all.get(n..=n).unwrap_or(&all)),
        });
        Self { snapshot, sorted, occluded, evaluation: Evaluation::of(probes), logits: Vec::new() }
    }

    pub(super) fn advance(
        &mut self,
        runtime: &mut Runtime,
        steering: Option<&Steering>,
        rows: &mut [usize; 2],
    ) -> Result<Option<Vec<InputAttribution>>> {
        let before = self.evaluation.cost().0;
        let Some(hidden) = self.evaluation.advance(runtime)? else {
            return Ok(Some(self.attributions(runtime.model().info().config.diff_block_size)));
        };
        rows[0] += self.evaluation.cost().0 - before;
        let edits = steering.map_or(&[][..], |steering| &steering.set_weights);
        let targets = self.sorted.iter().cycle().skip(self.logits.len() % self.sorted.len());
        let ids: Vec<u32> = targets.map(|(_, id)| *id).take(hidden.dim(0)?).collect();
        let composed = runtime.model().composed(&hidden, edits)?;
        self.logits.extend(target_logits(runtime.model(), &composed, &ids)?);
        Ok(None)
    }

    /// The scores of all targets, in the order of the commits; attention blocks have `s` positions.
    fn attributions(&self, s: usize) -> Vec<InputAttribution> {
        let logit = |probe: usize, target: usize| self.logits[probe * self.sorted.len() + target];
        let attributions = self.snapshot.targets.iter().map(|(position, id)| {
            let target = self.sorted.binary_search(&(*position, *id)).expect("sorted holds the same targets");
            let mut scores = vec![0.0; ((position / s + 1) * s).min(self.snapshot.ids.len())];
            for (n, occluded) in self.occluded.iter().enumerate() {
                if let Some(score) = scores.get_mut(*occluded) {
                    *score = logit(0, target) - logit(n + 1, target);
                }
            }
            let logit_delta = logit(0, target) - logit(self.occluded.len() + 1, target);
            InputAttribution { position: *position, id: *id, step: self.snapshot.step, scores, logit_delta }
        });
        attributions.collect()
    }
}
