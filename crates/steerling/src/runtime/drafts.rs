//! Guessed continuations that ride in the forward of the current state, as rows of their own behind the same cached
//! blocks. What is committed is what the model says in each state; a guess only decides whether that is known already.

use super::lane::push_blocks;
use super::sequence::{Sequence, final_blocks, inject};
use super::worth::{AUTOMATIC, Beside, Worth};
use super::{Plan, Runtime};
use crate::cache::{PageId, PageTable};
use crate::canvas::{Canvas, Choice};
use crate::decode::{Decoding, MAX_DRAFTS};

/// A state of a canvas whose logits a forward yields.
pub(super) struct State {
    /// Index of the canvas in the batch.
    pub(super) canvas: usize,
    /// Positions whose logits it yields: the masked ones of the current block.
    pub(super) masked: Vec<usize>,
    /// The same positions follow for the unconditional sequence.
    pub(super) guided: bool,
    /// How it came about, if it is not the canvas's own state.
    pub(super) draft: Option<Draft>,
}

/// A state that is guessed.
pub(super) struct Draft {
    /// Steps ahead of the canvas, from 1.
    ahead: usize,
    /// What the step before is guessed to commit, in any order.
    guess: Vec<Choice>,
    /// The canvas after it.
    pub(super) canvas: Canvas,
}

impl State {
    /// The canvas in this state.
    pub(super) fn of<'a>(&'a self, batch: &'a [&mut Canvas]) -> &'a Canvas {
        self.draft.as_ref().map_or(&*batch[self.canvas], |draft| &draft.canvas)
    }

    /// Rows whose hidden states it yields, those of the unconditional sequence included.
    pub(super) fn rows(&self) -> usize {
        self.masked.len() * if self.guided { 2 } else { 1 }
    }
}

impl Draft {
    /// Whether the last of the steps of this forward so far is the guessed one; `None` if an earlier guess was wrong.
    pub(super) fn verify(&self, steps: &[Vec<Choice>]) -> Option<bool> {
        let same = |a: &Choice, b: &Choice| (a.position, a.id) == (b.position, b.id);
        let last = steps.last().filter(|_| steps.len() == self.ahead)?;
        let all = self.guess.iter().all(|guess| last.iter().any(|choice| same(guess, choice)));
        Some(all && last.len() == self.guess.len())
    }
}

/// Steps that are guessed after the one that `canvas` takes in `state`, at most.
pub(super) fn wanted(canvas: &Canvas, state: &State, worth: &Worth, beside: Beside) -> usize {
    let Decoding::Lossless { drafts } = canvas.params().decoding else { return 0 };
    if let Some(drafts) = drafts {
        return drafts.min(MAX_DRAFTS);
    }
    let Some(position) = state.masked.first() else { return 0 };
    let rows = rows_from(position / canvas.block_size(), canvas, if state.guided { 2 } else { 1 });
    if worth.is_worth_next(rows, beside) { AUTOMATIC } else { 0 }
}

/// Rows of a guessed state: those of all its sequences from attention block `first` on.
fn rows_from(first: usize, canvas: &Canvas, sequences: usize) -> usize {
    sequences * (canvas.visible_end() - first * canvas.block_size())
}

impl Runtime {
    /// Adds guessed states behind the planned ones, while there is room for their rows and pages and, where the number
    /// is not given, while they are worth it.
    pub(super) fn plan_drafts(&mut self, batch: &mut [&mut Canvas], plan: &mut Plan) {
        let beside = Beside { sequences: plan.states.len(), rows: plan.rows.ids.len() };
        plan.beside = beside;
        let mut room = self.step_rows.saturating_sub(plan.rows.ids.len());
        for n in 0..plan.states.len() {
            let at = plan.states[n].canvas;
            let canvas = &mut *batch[at];
            let Decoding::Lossless { drafts } = canvas.params().decoding else { continue };
            let Some(sequence) = self.sequences.get_mut(&canvas.id()) else { continue };
            let guesses = sequence.take_guesses(canvas.step());
            let mut fork = Fork::new(sequence, canvas);
            for (guess, ahead) in guesses.into_iter().zip(1..) {
                let tip = match plan.states.last() {
                    Some(State { draft: Some(last), .. }) if ahead > 1 => &last.canvas,
                    _ => &*canvas,
                };
                let Some(draft) = tip.ahead(&guess) else { break };
                let Some(first) = fork.first_block(sequence, tip, &draft) else { break };
                let rows = rows_from(first, &draft, fork.pages.len());
                let worth = drafts.is_some() || self.worth.is_worth(ahead, rows, beside);
                if !worth || rows > room || !fork.reserve(first, &mut self.table) {
                    break;
                }
                room -= rows;
                canvas.usage.rows += rows;
                canvas.usage.drafts += 1;
                fork.push(&draft, first, &mut self.table, plan);
                let (masked, guided) = (draft.masked(), fork.pages.len() > 1);
                let draft = Some(Draft { ahead, guess, canvas: draft });
                plan.states.push(State { canvas: at, masked, guided, draft });
            }
        }
    }

    /// The forward is over: the pages of its drafts are free again.
    pub(super) fn drop_drafts(&mut self, plan: &mut Plan) {
        self.table.unreserve(plan.draft_pages.len());
        plan.draft_pages.drain(..).for_each(|page| self.table.release(page));
    }
}

/// Where the keys and values of the last planned state of a canvas are.
struct Fork {
    /// Pages of each of its sequences up to the end of the current block.
    pages: Vec<Vec<PageId>>,
    block_size: usize,
}

impl Fork {
    fn new(sequence: &Sequence, canvas: &Canvas) -> Self {
        let block_size = canvas.block_size();
        let end = canvas.visible_end().div_ceil(block_size);
        let pages = sequence.lanes().map(|lane| lane.pages()[..end].to_vec()).collect();
        Self { pages, block_size }
    }

    /// The first attention block that differs between `tip` and `draft` or whose logits are needed; `None` if blocks that
    /// are computed already would have to be computed again, because they hold masks and the injections change.
    fn first_block(&self, sequence: &Sequence, tip: &Canvas, draft: &Canvas) -> Option<usize> {
        let computed = final_blocks(tip);
        if sequence.lanes().any(|lane| lane.private_from() < computed) && tip.alphas() != draft.alphas() {
            return None;
        }
        // What is masked no more was masked before, and so are the positions whose logits are needed.
        tip.masked().first().map(|position| position / self.block_size)
    }

    /// Sets pages aside for the blocks from `first` on.
    fn reserve(&self, first: usize, table: &mut PageTable) -> bool {
        table.reserve(self.pages.iter().map(|pages| pages.len() - first).sum())
    }

    /// Adds the rows of a draft.
    fn push(&mut self, draft: &Canvas, first: usize, table: &mut PageTable, plan: &mut Plan) {
        let (masked, alphas) = (draft.masked(), draft.alphas());
        let unconditional_ids = (self.pages.len() > 1).then(|| draft.unconditional_ids());
        let ids = [Some(draft.ids()), unconditional_ids.as_deref()];
        for (pages, ids) in self.pages.iter_mut().zip(ids.into_iter().flatten()) {
            for page in &mut pages[first..] {
                *page = table.allocate();
                plan.draft_pages.push(*page);
            }
            let before = plan.rows.ids.len();
            push_blocks(ids, self.block_size, first, pages, &mut plan.rows);
            inject(draft, &alphas, before, &mut plan.rows);
            let row = |position: &usize| (before + position - first * self.block_size) as u32;
            plan.rows.selected.extend(masked.iter().map(row));
        }
    }
}
