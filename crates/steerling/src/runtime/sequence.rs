//! The pages of an admitted canvas, and which of its blocks a step must compute.

use super::lane::{Lane, inject_at_masks};
use crate::backbone::PagedBatch;
use crate::cache::{ChainKey, PageTable};
use crate::canvas::{Canvas, Choice};
use crate::pages_needed;

/// Blocks of prompts that one step computes at most.
pub(super) const PREFILL_BLOCKS: usize = 16;
/// Blocks of prompts that one step computes for each sequence that is past its own: about as many as such a sequence
/// computes itself, so that a long prompt makes its steps at most about twice as long.
const PREFILL_BLOCKS_BESIDE: usize = 2;

/// Blocks of prompts that a step may still take in.
pub(super) struct Prefill(usize);

impl Prefill {
    /// In a step of `batch`.
    pub(super) fn beside(batch: &[&mut Canvas]) -> Self {
        match batch.iter().filter(|canvas| !canvas.commits().is_empty()).count() {
            0 => Self(PREFILL_BLOCKS),
            running => Self(PREFILL_BLOCKS.min(running * PREFILL_BLOCKS_BESIDE)),
        }
    }

    /// `canvas` takes in so many blocks of each of its sequences.
    pub(super) fn spend(&mut self, canvas: &Canvas, blocks: usize) {
        if canvas.commits().is_empty() {
            self.0 = self.0.saturating_sub(blocks * sequences_of(canvas));
        }
    }
}

/// Sequences of a canvas.
fn sequences_of(canvas: &Canvas) -> usize {
    if canvas.params().cfg_scale > 0.0 { 2 } else { 1 }
}

/// An admitted canvas: its own sequence, and under guidance the one with the masked prompt.
#[derive(Debug)]
pub(super) struct Sequence {
    conditional: Lane,
    unconditional: Option<Lane>,
    reserved: usize,
    block_size: usize,
    /// What the steps from this one on are guessed to commit.
    guesses: (usize, Vec<Vec<Choice>>),
}

/// What a step computes for one canvas.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// Blocks `done..final_end` of each lane become final with this step.
    final_ends: [usize; 2],
}

impl Sequence {
    /// Starts from whatever leading blocks of the prompt are cached.
    pub(super) fn start(canvas: &mut Canvas, table: &mut PageTable) -> Self {
        let guided = canvas.params().cfg_scale > 0.0;
        let sequence = Self {
            conditional: lane(canvas.ids(), canvas, table),
            unconditional: guided.then(|| lane(&canvas.unconditional_ids(), canvas, table)),
            reserved: pages_needed(canvas),
            block_size: canvas.block_size(),
            guesses: (0, Vec::new()),
        };
        canvas.usage.cached_blocks = sequence.lanes().map(Lane::done).sum();
        sequence
    }

    /// Its lanes: the canvas's own, and the unconditional one under guidance.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &Lane> {
        std::iter::once(&self.conditional).chain(&self.unconditional)
    }

    /// Keeps what the steps from `step` on are guessed to commit.
    pub(super) fn guess(&mut self, step: usize, guesses: Vec<Vec<Choice>>) {
        self.guesses = (step, guesses);
    }

    /// What the steps from `step` on are guessed to commit.
    pub(super) fn take_guesses(&mut self, step: usize) -> Vec<Vec<Choice>> {
        let (from, guesses) = std::mem::take(&mut self.guesses);
        if from == step { guesses } else { Vec::new() }
    }

    /// Takes over blocks that another sequence has finished in the meantime, and returns how many blocks that can no
    /// longer change each lane may compute in the next step at most; `None` if the step has no room for any.
    pub(super) fn take_turn(&mut self, canvas: &mut Canvas, table: &mut PageTable, room: &Prefill) -> Option<usize> {
        let final_blocks = final_blocks(canvas);
        let unconditional_ids = self.unconditional.is_some().then(|| canvas.unconditional_ids());
        let lanes = [
            Some((&mut self.conditional, canvas.ids())),
            self.unconditional.as_mut().zip(unconditional_ids.as_deref()),
        ];
        let (mut cached, mut left) = (0, 0);
        for (lane, ids) in lanes.into_iter().flatten() {
            let done = lane.done();
            lane.adopt(ids, final_blocks, table);
            cached += lane.done() - done;
            left = left.max(final_blocks.saturating_sub(lane.done()));
        }
        canvas.usage.cached_blocks += cached;
        if !canvas.commits().is_empty() {
            // Of its own accord it has one such block at most, but injections may change their factors.
            return Some(PREFILL_BLOCKS);
        }
        if left == 0 {
            return Some(0);
        }
        let room = room.0 / sequences_of(canvas);
        (room > 0).then_some(left.min(room))
    }

    /// The keys of the blocks that it finishes if the next step computes `blocks` of each lane.
    pub(super) fn pending_keys(&self, canvas: &Canvas, table: &PageTable, blocks: usize) -> Vec<ChainKey> {
        let final_blocks = final_blocks(canvas);
        let keys = |lane: &Lane, ids: &[u32]| lane.pending_keys(ids, final_blocks.min(lane.done() + blocks), table);
        let mut found = keys(&self.conditional, canvas.ids());
        if let Some(lane) = &self.unconditional {
            found.extend(keys(lane, &canvas.unconditional_ids()));
        }
        found
    }

    /// Adds the rows of the next step of `canvas` to `batch`: `blocks` of those that can no longer change, and those
    /// that still can if these are all. Returns the positions whose logits the step yields: the masked ones of the
    /// current block, or none while the prompt is not computed yet.
    pub(super) fn plan(
        &mut self,
        canvas: &mut Canvas,
        table: &mut PageTable,
        batch: &mut PagedBatch,
        blocks: usize,
    ) -> (Span, Vec<usize>) {
        let mut span = Span::default();
        let alphas = canvas.alphas();
        for lane in [Some(&mut self.conditional), self.unconditional.as_mut()].into_iter().flatten() {
            lane.use_alphas(&alphas);
        }
        let final_blocks = final_blocks(canvas);
        let ready = self.lanes().all(|lane| final_blocks.saturating_sub(lane.done()) <= blocks);
        let masked = if ready { canvas.masked() } else { Vec::new() };
        canvas.usage.forwards += 1;
        let end_block = canvas.visible_end().div_ceil(self.block_size);
        let unconditional_ids = self.unconditional.is_some().then(|| canvas.unconditional_ids());
        let lanes = [
            Some((&mut self.conditional, canvas.ids())),
            self.unconditional.as_mut().zip(unconditional_ids.as_deref()),
        ];
        let mut usage = canvas.usage;
        for (final_end, lane) in span.final_ends.iter_mut().zip(lanes) {
            let Some((lane, ids)) = lane else { continue };
            let prefilling = final_blocks.saturating_sub(lane.done()).min(blocks);
            *final_end = lane.done() + prefilling;
            let last = if ready { end_block } else { *final_end };
            let before = batch.ids.len();
            lane.push_rows(ids, last, table, batch);
            inject(canvas, &alphas, before, batch);
            let rows = batch.ids.len() - before;
            usage.rows += rows;
            if canvas.commits().is_empty() {
                usage.prefill_rows += prefilling * self.block_size;
            }
            batch.selected.extend(masked.iter().map(|position| {
                // Blocks before `done` have no rows: the first row of the lane is position `done * S`.
                (before + position - lane.done() * self.block_size) as u32
            }));
        }
        canvas.usage = usage;
        (span, masked)
    }

    /// After the forward of a step: the blocks that were final in it are finished and may be shared.
    pub(super) fn finish_blocks(&mut self, canvas: &Canvas, table: &mut PageTable, span: &Span) {
        let [conditional, unconditional] = span.final_ends;
        self.conditional.finish(canvas.ids(), conditional, table);
        if let Some(lane) = &mut self.unconditional {
            lane.finish(&canvas.unconditional_ids(), unconditional, table);
        }
    }

    /// Gives everything back.
    pub(super) fn release(self, table: &mut PageTable) {
        for lane in [Some(self.conditional), self.unconditional].into_iter().flatten() {
            lane.release(table);
        }
        table.unreserve(self.reserved);
    }
}

/// Adds the injections of `canvas` at the masked rows from `first` on.
pub(super) fn inject(canvas: &Canvas, alphas: &[f32], first: usize, batch: &mut PagedBatch) {
    let Some(steering) = canvas.steering() else { return };
    for (injection, alpha) in steering.injections.iter().zip(alphas).filter(|(_, alpha)| **alpha != 0.0) {
        let vector = injection.direction.iter().map(|d| alpha * d).collect();
        inject_at_masks(batch, first, canvas.special().mask, injection.inject_layer, vector);
    }
}

/// A lane for `ids`, the canvas's own or its unconditional ones.
fn lane(ids: &[u32], canvas: &Canvas, table: &mut PageTable) -> Lane {
    let injected = canvas.steering().is_some_and(|steering| !steering.injections.is_empty());
    let prompt = &ids[..canvas.prompt_len()];
    let private_from = if injected { first_masked_block(prompt, canvas) } else { usize::MAX };
    let mut lane = Lane::new(private_from, canvas.block_size(), canvas.alphas());
    lane.adopt(ids, final_blocks(canvas), table);
    lane
}

/// The block of the first mask id of a prompt, beyond all blocks if there is none.
fn first_masked_block(prompt: &[u32], canvas: &Canvas) -> usize {
    let mask = canvas.special().mask;
    prompt.iter().position(|id| *id == mask).map_or(usize::MAX, |position| position / canvas.block_size())
}

/// Leading attention blocks that can no longer change.
pub(super) fn final_blocks(canvas: &Canvas) -> usize {
    (0..canvas.num_attention_blocks()).take_while(|b| canvas.attention_block_is_final(*b)).count()
}
