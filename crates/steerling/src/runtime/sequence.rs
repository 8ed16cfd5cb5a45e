//! The pages of an admitted canvas, and which of its blocks a step must compute.

use super::lane::{Lane, inject_at_masks};
use crate::backbone::PagedBatch;
use crate::cache::{ChainKey, PageTable};
use crate::canvas::{Canvas, Choice};
use crate::denoiser::{pages_needed, sequences_of};

/// Blocks of prompts that one step computes at most, and blocks that one step computes again for one sequence.
const PREFILL_BLOCKS: usize = 16;
/// Blocks of prompts that one step computes for each sequence that is past its own: about as many as such a sequence
/// computes itself, so that a long prompt makes its steps at most about twice as long.
const PREFILL_BLOCKS_BESIDE: usize = 2;

/// What a step may still take in.
#[derive(Debug)]
pub(super) struct Room {
    /// Rows of any kind.
    pub(super) rows: usize,
    /// Blocks of prompts.
    prefill: usize,
}

impl Room {
    /// In a step of `batch` that has at most so many rows.
    pub(super) fn of(rows: usize, batch: &[&mut Canvas]) -> Self {
        let prefill = match batch.iter().filter(|canvas| !canvas.commits().is_empty()).count() {
            0 => PREFILL_BLOCKS,
            running => PREFILL_BLOCKS.min(running * PREFILL_BLOCKS_BESIDE),
        };
        Self { rows, prefill }
    }

    /// `canvas` takes its turn.
    pub(super) fn spend(&mut self, canvas: &Canvas, turn: &Turn) {
        self.rows -= turn.rows;
        if canvas.commits().is_empty() {
            self.prefill = self.prefill.saturating_sub(turn.blocks * sequences_of(canvas));
        }
    }
}

/// What a canvas may do in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Blocks that can no longer change, of each sequence at most.
    pub(super) blocks: usize,
    /// After them, the blocks that still can: the step commits.
    commits: bool,
    /// Rows of all these.
    rows: usize,
}

/// Why a canvas has no part in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// For rows.
    Rows,
    /// For the prompts of others.
    Prompts,
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
    /// Steps in a row that had no room for its rows.
    pub(super) waited: usize,
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
            waited: 0,
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

    /// Takes over blocks that another sequence has finished in the meantime, and returns what the next step may do in
    /// the room that it has.
    pub(super) fn take_turn(&mut self, canvas: &mut Canvas, table: &mut PageTable, room: &Room) -> Result<Turn, Waits> {
        let final_blocks = final_blocks(canvas);
        let alphas = canvas.alphas();
        let unconditional_ids = self.unconditional.is_some().then(|| canvas.unconditional_ids());
        let lanes = [
            Some((&mut self.conditional, canvas.ids())),
            self.unconditional.as_mut().zip(unconditional_ids.as_deref()),
        ];
        let mut cached = 0;
        for (lane, ids) in lanes.into_iter().flatten() {
            let done = lane.done();
            lane.adopt(ids, final_blocks, table);
            cached += lane.done() - done;
            lane.use_alphas(&alphas);
        }
        canvas.usage.cached_blocks += cached;
        // Past its prompt it has one such block at most, but injections that change their factors make more of them.
        let most = if canvas.commits().is_empty() { room.prefill / sequences_of(canvas) } else { PREFILL_BLOCKS };
        self.turn(canvas, most, room.rows)
    }

    /// As many final blocks as there are, at most `most` of each lane, and the open ones behind them, in so many rows.
    fn turn(&self, canvas: &Canvas, most: usize, rows: usize) -> Result<Turn, Waits> {
        let (s, final_blocks) = (self.block_size, final_blocks(canvas));
        let left = |lane: &Lane| final_blocks.saturating_sub(lane.done());
        let all = self.lanes().map(left).max().unwrap_or(0);
        if all > 0 && most == 0 {
            return Err(Waits::Prompts);
        }
        let rows_of = |blocks: usize| self.lanes().map(|lane| left(lane).min(blocks) * s).sum::<usize>();
        let blocks = (0..=all.min(most)).rev().find(|blocks| rows_of(*blocks) <= rows).unwrap_or(0);
        let open = self.lanes().count() * (canvas.visible_end() - final_blocks * s);
        let commits = blocks == all && rows_of(blocks) + open <= rows;
        let rows = rows_of(blocks) + if commits { open } else { 0 };
        if rows > 0 { Ok(Turn { blocks, commits, rows }) } else { Err(Waits::Rows) }
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

    /// Adds the rows of its turn in the next step to `batch`. Returns the positions whose logits the step yields: the
    /// masked ones of the current block, or none while there are blocks to be computed before it.
    pub(super) fn plan(
        &mut self,
        canvas: &mut Canvas,
        table: &mut PageTable,
        batch: &mut PagedBatch,
        turn: Turn,
    ) -> (Span, Vec<usize>) {
        let mut span = Span::default();
        let alphas = canvas.alphas();
        let final_blocks = final_blocks(canvas);
        let masked = if turn.commits { canvas.masked() } else { Vec::new() };
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
            let prefilling = final_blocks.saturating_sub(lane.done()).min(turn.blocks);
            *final_end = lane.done() + prefilling;
            let last = if turn.commits { end_block } else { *final_end };
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
