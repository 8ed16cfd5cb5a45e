//! Input attribution: which tokens that the model saw made it commit a token. MODEL.md section 6.

mod budget;
mod occlusion;
mod path;
mod rule;

use std::collections::VecDeque;
use std::sync::Arc;

use super::trace::{Snapshot, Snapshots, Trace};
use crate::steer::Steering;
use crate::{Error, Model, Result, Runtime};

pub use budget::{GradientBudget, GradientShare};
use occlusion::Occlusion;
use path::Path;
pub use rule::PathRule;

/// Most points of a path.
pub const MAX_N_STEPS: usize = 512;

/// How input attributions are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputMethod {
    /// Gradients along the straight path from the mask embedding to the token embeddings.
    IntegratedGradients {
        /// Points on the path.
        n_steps: usize,
        /// Where they lie.
        rule: PathRule,
    },
    /// The gradient at the end of that path, times its length.
    InputXGradient,
    /// How much the logit falls when a token is masked; no gradients.
    Occlusion,
}

/// A committed token and what each input position did for its logit.
#[derive(Debug, Clone, PartialEq)]
pub struct InputAttribution {
    /// Absolute index of the token in the sequence.
    pub position: usize,
    /// Its id.
    pub id: u32,
    /// Denoising step that committed it.
    pub step: usize,
    /// One score a position, up to the end of the attention block of `position`; masked positions score 0. In logits.
    pub scores: Vec<f32>,
    /// The token's logit, less that with all inputs masked.
    pub logit_delta: f32,
}

impl InputAttribution {
    /// Sum of the scores.
    pub fn sum(&self) -> f32 {
        self.scores.iter().sum()
    }

    /// `|sum - logit_delta| / max(|logit_delta|, 1)`: 0 for an attribution that accounts for all of the logit. Below a
    /// difference of one logit it is in logits, because a part of next to nothing would measure rounding alone.
    pub fn completeness_error(&self) -> f32 {
        (self.sum() - self.logit_delta).abs() / self.logit_delta.abs().max(1.0)
    }
}

/// Input attributions of the tokens of a trace, computed in slices.
pub struct InputJob {
    method: InputMethod,
    steering: Option<Arc<Steering>>,
    /// Snapshots that are still to be explained.
    snapshots: Snapshots,
    /// The targets that are wanted; `None` is all of them.
    positions: Option<Vec<usize>>,
    /// The next snapshots, made already: one whose targets do not fit at once is several.
    waiting: VecDeque<Snapshot>,
    open: Option<Open>,
    done: Vec<InputAttribution>,
    /// Rows computed forward, and rows that gradients were taken through.
    pub rows: [usize; 2],
}

/// A snapshot being explained.
enum Open {
    Path(Path),
    Occlusion(Occlusion),
}

impl InputJob {
    /// Explains the tokens that a trace (accepted by [`Trace::validate`]) committed at `positions`, or all of them,
    /// under the steering it was made with.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a position without a commit or a number of steps out of range.
    pub fn new(
        trace: &Trace,
        positions: Option<&[usize]>,
        method: InputMethod,
        steering: Option<Arc<Steering>>,
        model: &Model,
    ) -> Result<Self> {
        if let InputMethod::IntegratedGradients { n_steps, .. } = method
            && !(1..=MAX_N_STEPS).contains(&n_steps)
        {
            return Err(Error::invalid("inputs.n_steps", format!("{n_steps} is outside 1..={MAX_N_STEPS}")));
        }
        for (i, position) in positions.into_iter().flatten().enumerate() {
            if !trace.commits.iter().any(|commit| commit.position == *position) {
                let why = format!("no token was committed at position {position}");
                return Err(Error::invalid(format!("inputs.positions[{i}]"), why));
            }
        }
        let snapshots = trace.snapshots(&model.info().config.special);
        let positions = positions.map(<[usize]>::to_vec);
        let (waiting, open, done) = (VecDeque::new(), None, Vec::new());
        Ok(Self { method, steering, snapshots, positions, waiting, open, done, rows: [0; 2] })
    }

    /// The next snapshot with its wanted targets, or with as many of them as are explained at once.
    fn next_snapshot(&mut self, runtime: &Runtime) -> Result<Option<Snapshot>> {
        while self.waiting.is_empty() {
            let Some(mut snapshot) = self.snapshots.next() else { return Ok(None) };
            if let Some(positions) = &self.positions {
                snapshot.targets.retain(|(position, _)| positions.contains(position));
            }
            match self.method {
                InputMethod::Occlusion if snapshot.targets.is_empty() => {}
                InputMethod::Occlusion => self.waiting.push_back(snapshot),
                _ => self.waiting.extend(Path::split(snapshot, runtime)?),
            }
        }
        Ok(self.waiting.pop_front())
    }

    /// One slice; the attributions in the order of the commits once they are complete.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the gradient of one target through one point does not fit the budget of the runtime; see
    /// [`GradientBudget::check`], which tells before. [`Error::Device`], and those of [`crate::Evaluation::advance`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<InputAttribution>>> {
        if self.open.is_none() {
            let Some(snapshot) = self.next_snapshot(runtime)? else { return Ok(Some(std::mem::take(&mut self.done))) };
            self.open = Some(match self.method {
                InputMethod::Occlusion => Open::Occlusion(Occlusion::new(snapshot, self.steering.as_ref(), runtime)),
                InputMethod::InputXGradient => Open::Path(Path::new(snapshot, PathRule::Right.points(1), runtime)?),
                InputMethod::IntegratedGradients { n_steps, rule } => {
                    Open::Path(Path::new(snapshot, rule.points(n_steps), runtime)?)
                }
            });
        }
        let finished = match &mut self.open {
            Some(Open::Path(path)) => {
                let (steering, rows) = (self.steering.as_deref(), &mut self.rows);
                runtime.in_pool(|runtime| path.advance(runtime.model(), steering, rows))?
            }
            Some(Open::Occlusion(occlusion)) => occlusion.advance(runtime, self.steering.as_deref(), &mut self.rows)?,
            None => None,
        };
        if let Some(attributions) = finished {
            self.done.extend(attributions);
            self.open = None;
        }
        Ok(None)
    }
}

/// Ranks input positions over all targets: each target's scores at `positions` are divided by their absolute sum,
/// then averaged; largest first, by size when not `signed`.
pub fn ranking(targets: &[InputAttribution], positions: &[usize], signed: bool) -> Vec<(usize, f32)> {
    let mut sums = vec![0f32; positions.len()];
    for target in targets {
        let score = |position: &usize| target.scores.get(*position).copied().unwrap_or(0.0);
        let mass = positions.iter().map(|p| score(p).abs()).sum::<f32>().max(1e-8);
        for (sum, position) in sums.iter_mut().zip(positions) {
            let share = score(position) / mass;
            *sum += if signed { share } else { share.abs() };
        }
    }
    let n = targets.len().max(1) as f32;
    let mut ranked: Vec<(usize, f32)> = positions.iter().copied().zip(sums.into_iter().map(|sum| sum / n)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completeness_is_relative_above_one_logit_and_absolute_below() {
        let error = |scores: &[f32], logit_delta: f32| {
            let scores = scores.to_vec();
            InputAttribution { position: 0, id: 0, step: 0, scores, logit_delta }.completeness_error()
        };
        assert!((error(&[6.0, 3.0], 10.0) - 0.1).abs() < 1e-6);
        assert!((error(&[6.0, 3.0], -10.0) - 1.9).abs() < 1e-6);
        // Rounding of large scores that cancel is no miss, a difference of half a logit is one.
        for logit_delta in [0.0, 1e-7, -1e-7, 1e-3] {
            assert!(error(&[5.0, -5.000_01], logit_delta) < 2e-3);
            assert!(error(&[5.0, -4.5], logit_delta) > 0.4);
        }
        assert!(error(&[f32::NAN], 1.0).is_nan());
    }
}
