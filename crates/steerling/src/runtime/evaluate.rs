//! Hidden states of given sequences: what embeddings, likelihoods, replays and occlusions are made of.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use candle_core::Tensor;

use super::Runtime;
use super::lane::{Lane, inject_at_masks};
use crate::backbone::PagedBatch;
use crate::steer::Steering;
use crate::{Error, Result};

/// A sequence to look at.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its ids; masks may be among them.
    pub ids: Vec<u32>,
    /// Positions whose hidden states are wanted, ascending.
    pub positions: Vec<usize>,
    /// What is injected at its masks: the steering and the factor of each of its directions.
    pub steering: Option<(Arc<Steering>, Vec<f32>)>,
}

impl Probe {
    /// An unsteered sequence.
    pub fn new(ids: Vec<u32>, positions: Vec<usize>) -> Self {
        Self { ids, positions, steering: None }
    }
}

/// Computes the hidden states of many sequences, a forward of bounded size at a time.
///
/// Leading blocks that sequences have in common, with one another or with earlier requests, are computed once; what
/// stands behind the last wanted position's block is not computed at all.
pub struct Evaluation {
    /// Makes the sequences that are not looked at yet.
    source: Box<dyn Iterator<Item = Probe> + Send>,
    /// Those whose wanted positions are not all delivered, the next one first.
    open: VecDeque<Probe>,
    /// Blocks of the next one whose wanted positions are delivered.
    delivered: usize,
    /// Rows computed so far.
    rows: usize,
    /// Forwards so far.
    forwards: usize,
}

impl Evaluation {
    /// Nothing is computed yet.
    pub fn new(probes: Vec<Probe>) -> Self {
        Self::of(probes.into_iter())
    }

    /// The same for sequences that are made when their turn comes, no more at a time than a forward pass takes in.
    pub fn of(probes: impl Iterator<Item = Probe> + Send + 'static) -> Self {
        Self { source: Box::new(probes), open: VecDeque::new(), delivered: 0, rows: 0, forwards: 0 }
    }

    /// The sequence `at` behind the next one.
    fn probe(&mut self, at: usize) -> Option<&Probe> {
        while self.open.len() <= at {
            self.open.push_back(self.source.next()?);
        }
        self.open.get(at)
    }

    /// Rows and forwards so far.
    pub fn cost(&self) -> (usize, usize) {
        (self.rows, self.forwards)
    }

    /// One forward. Returns the hidden states (after the final norm) of the next wanted positions, sequence by sequence,
    /// `[positions, D]`, possibly none of them; `None` when all have been returned.
    ///
    /// # Errors
    /// [`Error::Busy`] when generations hold all pages, [`Error::Device`].
    pub fn advance(&mut self, runtime: &mut Runtime) -> Result<Option<Tensor>> {
        let mut batch = PagedBatch::default();
        let mut lanes: Vec<(usize, Lane, usize, usize)> = Vec::new();
        let mut pending = HashSet::new();
        let (mut at, mut delivered) = (0, self.delivered);
        let (rows, s) = (runtime.slice_rows, runtime.block_size());
        while lanes.is_empty() || batch.ids.len() + s <= rows {
            let Some(probe) = self.probe(at) else { break };
            let Some(end) = probe.positions.last().map(|last| last / s + 1) else {
                at += 1;
                continue;
            };
            if !runtime.table.reserve(end) {
                break;
            }
            let mut lane = Lane::new(private_from(probe, runtime), s, Vec::new());
            // Blocks before the first wanted one are worth sharing; those behind it differ from probe to probe.
            let first_wanted = probe.positions[0] / s;
            lane.adopt(&probe.ids, first_wanted.max(delivered), &mut runtime.table);
            let keys = lane.pending_keys(&probe.ids, first_wanted, &runtime.table);
            if keys.first().is_some_and(|key| pending.contains(key)) {
                // Another sequence of this forward computes the same block: wait for it.
                lane.release(&mut runtime.table);
                runtime.table.unreserve(end);
                break;
            }
            pending.extend(keys);
            let room = (rows.saturating_sub(batch.ids.len()) / s).max(1);
            // Blocks that cannot be shared are not kept between forwards: such a sequence is not cut.
            let last = if end > lane.private_from() { end } else { end.min(lane.done() + room) };
            let first_row = batch.ids.len();
            let first_position = lane.done() * s;
            lane.push_rows(&probe.ids, last, &mut runtime.table, &mut batch);
            let wanted = probe.positions.iter().filter(|p| (delivered * s..last * s).contains(*p));
            batch.selected.extend(wanted.map(|p| (first_row + p - first_position) as u32));
            for (steering, alphas) in probe.steering.iter() {
                for (injection, alpha) in steering.injections.iter().zip(alphas).filter(|(_, alpha)| **alpha != 0.0) {
                    let vector = injection.direction.iter().map(|d| alpha * d).collect();
                    inject_at_masks(&mut batch, first_row, runtime.mask(), injection.inject_layer, vector);
                }
            }
            let shared = if last < end { last } else { first_wanted };
            lanes.push((at, lane, shared, end));
            if last < end {
                delivered = last;
                break;
            }
            (at, delivered) = (at + 1, 0);
        }
        if lanes.is_empty() {
            self.open.drain(..at);
            self.delivered = delivered;
            return match self.open.is_empty() {
                false => Err(Error::Busy("all pages of keys and values are set aside for running generations".into())),
                true => Ok(None),
            };
        }
        self.rows += batch.ids.len();
        self.forwards += 1;
        let result = runtime.in_pool(|runtime| forward(runtime, batch));
        for (index, mut lane, shared, reserved) in lanes {
            if result.is_ok() {
                lane.finish(&self.open[index].ids, shared, &mut runtime.table);
            }
            lane.release(&mut runtime.table);
            runtime.table.unreserve(reserved);
        }
        let hidden = result?;
        self.open.drain(..at);
        self.delivered = delivered;
        Ok(Some(hidden))
    }
}

/// The hidden states of the selected rows of a batch, `[positions, D]`. A sequence that cannot be cut makes it larger than
/// memory is set aside for: then it is computed in pieces.
fn forward(runtime: &mut Runtime, batch: PagedBatch) -> Result<Tensor> {
    let mut parts = Vec::new();
    for piece in batch.pieces(runtime.most_slice_rows) {
        parts.push(runtime.model.backbone().forward_paged(&piece, &mut runtime.pool)?);
    }
    match parts.len() {
        1 => Ok(parts.swap_remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}

/// The first block of a sequence that depends on what is injected.
fn private_from(probe: &Probe, runtime: &Runtime) -> usize {
    let injected = probe.steering.as_ref().is_some_and(|(_, alphas)| alphas.iter().any(|alpha| *alpha != 0.0));
    let first_mask = probe.ids.iter().position(|id| *id == runtime.mask());
    first_mask.filter(|_| injected).map_or(usize::MAX, |position| position / runtime.block_size())
}
