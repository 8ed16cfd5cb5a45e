//! Gradients along the path from the mask embedding to the token embeddings.

use candle_core::{DType, Tensor, Var};

use super::InputAttribution;
use crate::attribute::Snapshot;
use crate::attribute::replay::target_logits;
use crate::backbone::RowInjection;
use crate::steer::Steering;
use crate::{Model, Result, Runtime};

/// Rows of one differentiated forward, unless one point of a path needs more: bounds memory and the slice's time.
const PATH_ROWS: usize = 512;

/// Path gradients of all targets of one snapshot.
pub(super) struct Path {
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
    pub(super) fn new(snapshot: Snapshot, mut points: Vec<(f64, f64)>, runtime: &Runtime) -> Self {
        let s = runtime.model().info().config.diff_block_size;
        let last = snapshot.targets.iter().map(|(position, _)| *position).max().unwrap_or(0);
        let ids = snapshot.ids[..(last / s + 1).saturating_mul(s).min(snapshot.ids.len())].to_vec();
        points.reverse();
        Self { gradients: vec![None; snapshot.targets.len()], snapshot, ids, points, forward: None }
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
