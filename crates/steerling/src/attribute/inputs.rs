//! Input attribution: which tokens that the model saw made it commit a token. MODEL.md section 6.

use std::sync::Arc;

use candle_core::{DType, Tensor, Var};

use super::replay::target_logits;
use super::trace::{Snapshot, Trace};
use crate::backbone::RowInjection;
use crate::runtime::{Evaluation, Probe};
use crate::steer::Steering;
use crate::{Error, Model, Result, Runtime};

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

/// Where the points of a path lie, and what they weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathRule {
    /// `k/n` for `k = 1..n`, equal weights, as in the reference.
    #[default]
    Right,
    /// Gauss-Legendre: exact for polynomials of degree `2n - 1`.
    GaussLegendre,
}

/// Most points of a path.
pub const MAX_N_STEPS: usize = 512;

impl PathRule {
    /// `(point, weight)` on `[0, 1]`.
    pub fn points(self, n: usize) -> Vec<(f64, f64)> {
        match self {
            Self::Right => (1..=n).map(|k| (k as f64 / n as f64, 1.0 / n as f64)).collect(),
            Self::GaussLegendre => gauss_legendre(n),
        }
    }
}

/// Nodes and weights on `[0, 1]`: roots of the Legendre polynomial by Newton's method.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let legendre = |x: f64| {
        let (mut p0, mut p1) = (1.0, x);
        for k in 2..=n {
            (p0, p1) = (p1, ((2 * k - 1) as f64 * x * p1 - (k - 1) as f64 * p0) / k as f64);
        }
        let value = if n == 0 { p0 } else { p1 };
        (value, n as f64 * (x * p1 - p0) / (x * x - 1.0))
    };
    (1..=n)
        .map(|i| {
            let mut x = (std::f64::consts::PI * (i as f64 - 0.25) / (n as f64 + 0.5)).cos();
            for _ in 0..100 {
                let (value, slope) = legendre(x);
                let step = value / slope;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            let (_, slope) = legendre(x);
            (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
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

    /// `|sum - logit_delta| / |logit_delta|`: 0 for an attribution that accounts for all of the logit.
    pub fn completeness_error(&self) -> f32 {
        (self.sum() - self.logit_delta).abs() / self.logit_delta.abs().max(1e-6)
    }
}

/// Input attributions of the tokens of a trace, computed in slices.
pub struct InputJob {
    method: InputMethod,
    steering: Option<Arc<Steering>>,
    /// Snapshots that are still to be explained, last first, reduced to the wanted targets.
    waiting: Vec<Snapshot>,
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

/// Rows of one differentiated forward, unless one point of a path needs more: bounds memory and the slice's time.
const PATH_ROWS: usize = 512;

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
        let mut waiting = trace.snapshots(&model.info().config.special);
        if let Some(positions) = positions {
            for snapshot in &mut waiting {
                snapshot.targets.retain(|(position, _)| positions.contains(position));
            }
            waiting.retain(|snapshot| !snapshot.targets.is_empty());
        }
        waiting.reverse();
        Ok(Self { method, steering, waiting, open: None, done: Vec::new(), rows: [0; 2] })
    }

    /// One slice; the attributions in the order of the commits once they are complete.
    ///
    /// # Errors
    /// [`Error::Device`], and those of [`Evaluation::advance`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Vec<InputAttribution>>> {
        if self.open.is_none() {
            let Some(snapshot) = self.waiting.pop() else { return Ok(Some(std::mem::take(&mut self.done))) };
            self.open = Some(match self.method {
                InputMethod::Occlusion => Open::Occlusion(Occlusion::new(snapshot, self.steering.as_ref(), runtime)),
                InputMethod::InputXGradient => Open::Path(Path::new(snapshot, PathRule::Right.points(1), runtime)),
                InputMethod::IntegratedGradients { n_steps, rule } => {
                    Open::Path(Path::new(snapshot, rule.points(n_steps), runtime))
                }
            });
        }
        let finished = match &mut self.open {
            Some(Open::Path(path)) => path.advance(runtime.model(), self.steering.as_deref(), &mut self.rows)?,
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

/// Path gradients of all targets of one snapshot.
struct Path {
    snapshot: Snapshot,
    /// Ids up to the end of the last target's attention block: nothing behind it has a gradient.
    ids: Vec<u32>,
    /// Points still to come, last first.
    points: Vec<(f64, f64)>,
    /// Points whose forward is done, waiting for the gradients of their targets.
    forward: Option<PathForward>,
    /// Weighted gradients of each target, summed over the points so far, `[T, D]`.
    gradients: Vec<Option<Tensor>>,
}

/// Some points of a path, computed forward.
struct PathForward {
    /// The embeddings at the points, `[n, T, D]`.
    x: Var,
    /// The hidden states that follow from them, `[n, T, D]`.
    hidden: Tensor,
    /// Weight of each point, `[n, 1]`.
    weights: Tensor,
    /// The target whose gradient is next.
    target: usize,
}

impl Path {
    fn new(snapshot: Snapshot, mut points: Vec<(f64, f64)>, runtime: &Runtime) -> Self {
        let s = runtime.model().info().config.diff_block_size;
        let last = snapshot.targets.iter().map(|(position, _)| *position).max().unwrap_or(0);
        let ids = snapshot.ids[..(last / s + 1).saturating_mul(s).min(snapshot.ids.len())].to_vec();
        points.reverse();
        Self { gradients: vec![None; snapshot.targets.len()], snapshot, ids, points, forward: None }
    }

    /// One forward of some points, or one gradient of one target through them.
    fn advance(
        &mut self,
        model: &Model,
        steering: Option<&Steering>,
        rows: &mut [usize; 2],
    ) -> Result<Option<Vec<InputAttribution>>> {
        if let Some(forward) = self.forward.take() {
            self.forward = self.differentiate(model, forward, rows)?;
            return Ok(None);
        }
        let embeddings = model.backbone().embed(&self.ids)?; // [T, D]
        let mask = model.backbone().embed(&[model.info().config.special.mask])?; // [1, D]
        let difference = embeddings.broadcast_sub(&mask)?;
        let at = |a: f64| -> Result<Tensor> { Ok((&difference * a)?.broadcast_add(&mask)?) };
        if self.points.is_empty() {
            return self.finish(model, steering, &difference, [at(0.0)?, at(1.0)?], rows).map(Some);
        }
        let t = self.ids.len();
        let n = (PATH_ROWS / t).clamp(1, self.points.len());
        let points = self.points.split_off(self.points.len() - n);
        let path = points.iter().map(|(a, _)| at(*a)).collect::<Result<Vec<_>>>()?;
        let x = Var::from_tensor(&Tensor::stack(&path, 0)?)?; // [n, T, D]
        let injections = self.injections(model, steering, n);
        let hidden = model.backbone().forward_plain(x.as_tensor(), &injections, &mut |_, _| ())?;
        rows[0] += n * t;
        let weights: Vec<f64> = points.iter().map(|(_, weight)| *weight).collect();
        let weights = Tensor::new(weights, hidden.device())?.to_dtype(hidden.dtype())?.unsqueeze(1)?; // [n, 1]
        self.forward = Some(PathForward { x, hidden, weights, target: 0 });
        Ok(None)
    }

    /// Adds the gradient of the next target; gives the forward back while there are more.
    fn differentiate(
        &mut self,
        model: &Model,
        mut forward: PathForward,
        rows: &mut [usize; 2],
    ) -> Result<Option<PathForward>> {
        let PathForward { x, hidden, weights, target } = &mut forward;
        let (position, id) = self.snapshot.targets[*target];
        let row = model.backbone().lm_head().rows(&[id])?; // [1, D]
        let logits = hidden.narrow(1, position, 1)?.squeeze(1)?.broadcast_mul(&row)?; // [n, D], summed below
        let gradients = logits.broadcast_mul(weights)?.sum_all()?.backward()?;
        rows[1] += x.dims()[0] * self.ids.len();
        if let Some(gradient) = gradients.get(x.as_tensor()) {
            let gradient = gradient.sum(0)?;
            let sum = &mut self.gradients[*target];
            *sum = Some(match sum.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
        }
        *target += 1;
        Ok((*target < self.snapshot.targets.len()).then_some(forward))
    }

    /// What is injected at the masks, for each of `n` copies of the sequence.
    fn injections(&self, model: &Model, steering: Option<&Steering>, n: usize) -> Vec<RowInjection> {
        let Some(steering) = steering else { return Vec::new() };
        let mask = model.info().config.special.mask;
        let t = self.ids.len();
        let masked = |copy: usize| (0..t).filter(|i| self.ids[*i] == mask).map(move |i| (copy * t + i) as u32);
        let rows: Vec<u32> = (0..n).flat_map(masked).collect();
        let alphas = steering.alphas(self.snapshot.committed);
        let acting = steering.injections.iter().zip(alphas).filter(|(_, alpha)| *alpha != 0.0);
        acting
            .map(|(injection, alpha)| RowInjection {
                inject_layer: injection.inject_layer,
                vector: injection.direction.iter().map(|d| alpha * d).collect(),
                rows: rows.clone(),
            })
            .collect()
    }

    fn finish(
        &self,
        model: &Model,
        steering: Option<&Steering>,
        difference: &Tensor,
        ends: [Tensor; 2],
        rows: &mut [usize; 2],
    ) -> Result<Vec<InputAttribution>> {
        let ends = Tensor::stack(&ends, 0)?;
        let hidden = model.backbone().forward_plain(&ends, &self.injections(model, steering, 2), &mut |_, _| ())?;
        rows[0] += 2 * self.ids.len();
        let targets = self.snapshot.targets.iter().zip(&self.gradients);
        targets
            .map(|((position, id), gradient)| {
                let ends = hidden.narrow(1, *position, 1)?.squeeze(1)?; // [2, D]
                let logits = target_logits(model, &ends, &[*id, *id])?;
                let scores = match gradient {
                    Some(gradient) => (gradient * difference)?.sum(1)?.to_dtype(DType::F32)?.to_vec1()?,
                    None => vec![0.0; self.ids.len()],
                };
                Ok(self.attribution(*position, *id, scores, logits[1] - logits[0], model))
            })
            .collect()
    }

    fn attribution(&self, position: usize, id: u32, scores: Vec<f32>, delta: f32, model: &Model) -> InputAttribution {
        let s = model.info().config.diff_block_size;
        let visible = ((position / s + 1) * s).min(scores.len());
        let scores = scores[..visible].to_vec();
        InputAttribution { position, id, step: self.snapshot.step, scores, logit_delta: delta }
    }
}

/// Occlusion of all targets of one snapshot: one sequence for each masked-out position, and one with all of them.
struct Occlusion {
    snapshot: Snapshot,
    /// Positions that are not masked and that some target sees.
    occluded: Vec<usize>,
    evaluation: Evaluation,
    hidden: Vec<Tensor>,
}

impl Occlusion {
    fn new(snapshot: Snapshot, steering: Option<&Arc<Steering>>, runtime: &Runtime) -> Self {
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

    fn advance(
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
