//! Cross-entropies of tokens in given sequences: logits are reduced as they come and never all held.

use std::collections::VecDeque;
use std::ops::Range;

use candle_core::Tensor;

use crate::kernels::softmax::{RowStats, row_stats};
use crate::kernels::topk::top_k;
use crate::runtime::{Evaluation, Probe};
use crate::{Model, Result, Runtime, scratch};

/// A sequence, and the tokens that are looked for at some of its positions.
pub(super) struct Query {
    /// The sequence, with masks.
    pub(super) ids: Vec<u32>,
    /// Positions, ascending, and the tokens looked for.
    pub(super) targets: Vec<(usize, u32)>,
    /// Leading positions that are masked in the second sequence of classifier-free guidance.
    pub(super) context: usize,
}

/// What became of one target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loss {
    /// `-log p(token)` in nats.
    pub(super) cross_entropy: f64,
    /// No other token is likelier.
    pub(super) is_argmax: bool,
    /// The likeliest tokens with their `log p`, likeliest first; as many as are wanted.
    pub(super) top: Vec<(u32, f64)>,
}

/// The losses of all targets of some queries, a forward at a time.
pub(super) struct Losses {
    evaluation: Evaluation,
    /// Targets of queries that are not done yet, and whether they come twice, with and without context.
    todo: VecDeque<(Vec<u32>, bool)>,
    cfg_scale: f32,
    /// How many of the likeliest tokens are told of each target.
    top: usize,
    /// Hidden states that have come without their query being complete, `[_, D]`.
    rest: Option<Tensor>,
    done: Vec<Vec<Loss>>,
    /// The queries that took part in each forward pass.
    forwards: Vec<Range<usize>>,
    logits: Vec<f32>,
}

impl Losses {
    /// `mask` hides the context for the guidance of scale `cfg_scale`; 0 is none.
    pub(super) fn new(queries: Vec<Query>, cfg_scale: f32, mask: u32) -> Self {
        let mut probes = Vec::new();
        let mut todo = VecDeque::new();
        for query in queries {
            let positions: Vec<usize> = query.targets.iter().map(|(position, _)| *position).collect();
            // Without context both sequences are the same.
            let guided = cfg_scale != 0.0 && query.context > 0;
            if guided {
                let mut ids = query.ids.clone();
                ids[..query.context].fill(mask);
                probes.push(Probe::new(query.ids, positions.clone()));
                probes.push(Probe::new(ids, positions));
            } else {
                probes.push(Probe::new(query.ids, positions));
            }
            todo.push_back((query.targets.into_iter().map(|(_, id)| id).collect(), guided));
        }
        let (done, forwards) = (Vec::with_capacity(todo.len()), Vec::new());
        let evaluation = Evaluation::new(probes);
        Self { evaluation, todo, cfg_scale, top: 0, rest: None, done, forwards, logits: Vec::new() }
    }

    /// The same, with the `top` likeliest tokens at each target.
    pub(super) fn with_top(self, top: usize) -> Self {
        Self { top, ..self }
    }

    /// One forward; whether that was the last.
    ///
    /// # Errors
    /// Those of [`Evaluation::advance`].
    pub(super) fn advance(&mut self, runtime: &mut Runtime) -> Result<bool> {
        let Some(hidden) = self.evaluation.advance(runtime)? else { return Ok(true) };
        let first = self.done.len();
        let hidden = match self.rest.take() {
            Some(rest) => Tensor::cat(&[rest, hidden], 0)?,
            None => hidden,
        };
        let used = self.reduce(runtime.model(), &hidden)?;
        let left = hidden.dim(0)? - used;
        self.rest = if left > 0 { Some(hidden.narrow(0, used, left)?) } else { None };
        // One that is not complete has taken part as well.
        let last = if left > 0 { self.done.len() + 1 } else { self.done.len().max(first + 1) };
        self.forwards.push(first..last);
        Ok(false)
    }

    /// Forward passes so far in which some of these queries took part.
    pub(super) fn forwards_of(&self, queries: &Range<usize>) -> usize {
        self.forwards.iter().filter(|part| part.start < queries.end && queries.start < part.end).count()
    }

    /// The losses of each query.
    pub(super) fn finish(self) -> Vec<Vec<Loss>> {
        self.done
    }

    /// Reduces the queries whose hidden states are complete, and tells how many rows of `hidden` that were.
    fn reduce(&mut self, model: &Model, hidden: &Tensor) -> Result<usize> {
        let rows = hidden.dim(0)?;
        let mut used = 0;
        while let Some((targets, guided)) = self.todo.front() {
            let n = targets.len();
            let needed = if *guided { 2 * n } else { n };
            if used + needed > rows {
                break;
            }
            let mut losses = Vec::with_capacity(n);
            let row = scratch::logit_row(&model.info().config) * if *guided { 2 } else { 1 };
            for rows in scratch::chunks(n, scratch::chunk_rows(row)) {
                let part = |first: usize| hidden.narrow(0, first + rows.start, rows.len());
                let conditional = part(used)?;
                let unconditional = if *guided { Some(part(used + n)?) } else { None };
                logits(model, &conditional, unconditional.as_ref(), self.cfg_scale, &mut self.logits)?;
                losses.extend(of_rows(&self.logits, &targets[rows], self.top));
            }
            self.done.push(losses);
            self.todo.pop_front();
            used += needed;
        }
        Ok(used)
    }
}

/// Logits of hidden states, guided by those without context: `u + (scale + 1) (c - u)`.
fn logits(
    model: &Model,
    conditional: &Tensor,
    unconditional: Option<&Tensor>,
    scale: f32,
    out: &mut Vec<f32>,
) -> Result<()> {
    let Some(unconditional) = unconditional else {
        return model.logits(&model.composed(conditional, &[])?, out);
    };
    let both = Tensor::cat(&[conditional, unconditional], 0)?;
    model.logits(&model.composed(&both, &[])?, out)?;
    let half = out.len() / 2;
    let (c, u) = out.split_at_mut(half);
    c.iter_mut().zip(&*u).for_each(|(c, u)| *c = u + (scale + 1.0) * (*c - u));
    out.truncate(half);
    Ok(())
}

fn of_rows(logits: &[f32], targets: &[u32], top: usize) -> impl Iterator<Item = Loss> {
    let width = logits.len() / targets.len();
    let of = move |((row, stats), target): ((&[f32], RowStats), &u32)| {
        let log_sum = f64::from(stats.max) + f64::from(stats.sum_exp).ln();
        let cross_entropy = |logit: f32| log_sum - f64::from(logit);
        let logit = row[*target as usize];
        Loss {
            cross_entropy: cross_entropy(logit),
            is_argmax: logit >= stats.max,
            top: top_k(row, top).into_iter().map(|(id, logit)| (id, -cross_entropy(logit))).collect(),
        }
    };
    logits.chunks(width).zip(row_stats(logits, width)).zip(targets).map(of)
}
