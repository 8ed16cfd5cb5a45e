//! Gradients along the path from the mask embedding to the token embeddings.

use std::collections::VecDeque;

use candle_core::{DType, Tensor, Var};

use super::{GradientShare, InputAttribution};
use crate::attribute::Snapshot;
use crate::attribute::replay::target_logits;
use crate::backbone::RowInjection;
use crate::config::Config;
use crate::steer::Steering;
use crate::{Model, Result, Runtime};

/// Rows of the points whose gradients are summed before they are added to those of other points, unless one point needs
/// more. They are computed in one forward pass if that fits the budget, which bounds memory; this bounds a slice's time.
const PATH_ROWS: usize = 512;

/// Path gradients of all targets of one snapshot.
pub(super) struct Path {
    snapshot: Snapshot,
    /// The ids that its targets see.
    ids: Vec<u32>,
    /// Points still to come, in the order of the additions: each group from its last point to its first.
    points: VecDeque<(f64, f64)>,
    /// Points whose gradients are summed before they are added to the others.
    group: usize,
    /// Points of a forward pass at most, and of the group that is under way.
    most: usize,
    left: usize,
    /// Points whose forward is done, waiting for the gradients of their targets.
    forward: Option<PathForward>,
    /// Of each target.
    gradients: Vec<Sum>,
}

/// Weighted gradients of a target. The order of the additions does not depend on how many points a forward pass takes in.
#[derive(Clone, Default)]
struct Sum {
    /// Over the groups of points so far, `[T, D]`.
    groups: Option<Tensor>,
    /// Over the points of the group so far, `[T, D]`.
    group: Option<Tensor>,
}

impl Sum {
    /// Adds the gradients at some points, `[n, T, D]`; they are the last ones of their group if it `ends`.
    fn add(&mut self, gradients: &Tensor, ends: bool) -> Result<()> {
        let group = match self.group.take() {
            None => gradients.sum(0)?,
            Some(mut sum) => {
                for point in 0..gradients.dim(0)? {
                    sum = (sum + gradients.get(point)?)?;
                }
                sum
            }
        };
        if !ends {
            self.group = Some(group);
            return Ok(());
        }
        self.groups = Some(match self.groups.take() {
            Some(sum) => (sum + group)?,
            None => group,
        });
        Ok(())
    }
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
    pub(super) fn new(snapshot: Snapshot, mut points: Vec<(f64, f64)>, runtime: &Runtime) -> Result<Self> {
        let config = &runtime.model().info().config;
        let ids = snapshot.ids[..visible(&snapshot, config)].to_vec();
        let (targets, group) = (snapshot.targets.len(), (PATH_ROWS / ids.len()).clamp(1, points.len()));
        let most = runtime.gradients().share(config, ids.len(), GradientShare { points: group, targets })?.points;
        points.chunks_mut(group).for_each(<[_]>::reverse);
        Ok(Self {
            gradients: vec![Sum::default(); targets],
            snapshot,
            ids,
            points: points.into(),
            group,
            most,
            left: 0,
            forward: None,
        })
    }

    /// The snapshot with as many of its targets at a time as fit the budget.
    pub(super) fn split(snapshot: Snapshot, runtime: &Runtime) -> Result<Vec<Snapshot>> {
        if snapshot.targets.is_empty() {
            return Ok(Vec::new());
        }
        let config = &runtime.model().info().config;
        let wanted = GradientShare { points: 1, targets: snapshot.targets.len() };
        let most = runtime.gradients().share(config, visible(&snapshot, config), wanted)?.targets;
        if most == snapshot.targets.len() {
            return Ok(vec![snapshot]);
        }
        let part = |targets: &[(usize, u32)]| Snapshot { targets: targets.to_vec(), ..snapshot.clone() };
        Ok(snapshot.targets.chunks(most).map(part).collect())
    }

    /// One forward of some points, or one gradient of one target through them.
    pub(super) fn advance(
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
        if self.left == 0 {
            self.left = self.group.min(self.points.len());
        }
        let n = self.left.min(self.most);
        self.left -= n;
        let points: Vec<(f64, f64)> = self.points.drain(..n).collect();
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
            self.gradients[*target].add(gradient, self.left == 0)?;
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
        // One after the other: without gradients, but each is a whole sequence.
        let injections = self.injections(model, steering, 1);
        let plain = |end: Tensor| model.backbone().forward_plain(&end.unsqueeze(0)?, &injections, &mut |_, _| ());
        let [masked, whole] = ends;
        let hidden = Tensor::cat(&[plain(masked)?, plain(whole)?], 0)?; // [2, T, D]
        rows[0] += 2 * self.ids.len();
        let targets = self.snapshot.targets.iter().zip(&self.gradients);
        targets
            .map(|((position, id), gradient)| {
                let ends = hidden.narrow(1, *position, 1)?.squeeze(1)?; // [2, D]
                let logits = target_logits(model, &ends, &[*id, *id])?;
                let scores = match &gradient.groups {
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

/// Positions up to the end of the last target's attention block: nothing behind it has a gradient.
fn visible(snapshot: &Snapshot, config: &Config) -> usize {
    let s = config.diff_block_size;
    let last = snapshot.targets.iter().map(|(position, _)| *position).max().unwrap_or(0);
    (last / s + 1).saturating_mul(s).min(snapshot.ids.len())
}
