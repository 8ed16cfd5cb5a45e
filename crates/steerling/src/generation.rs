//! A canvas and its text: turns commits into updates that a reader can show.

use crate::Tokenizer;
use crate::attribute::TokenAttribution;
use crate::canvas::{Canvas, Commit, FinishReason};
use crate::tokenizer::StreamDecoder;

/// What one denoising step changed; self-sufficient for showing the block.
#[derive(Debug, Clone, PartialEq)]
pub struct StepUpdate {
    /// Generation block, from 0.
    pub block: usize,
    /// Denoising step, counted over all blocks from 0.
    pub step: usize,
    /// Absolute position of the block's first id.
    pub start: usize,
    /// The ids of the whole block; `None` is still masked.
    pub ids: Vec<Option<u32>>,
    /// The commits of this step, in order.
    pub commits: Vec<Commit>,
    /// Their attributions, in the same order, if they are wanted.
    pub attributions: Vec<TokenAttribution>,
    /// Text that became final.
    pub delta: String,
    /// Positions of the block still masked.
    pub masked: usize,
    /// The block is complete, or the generation ended in it.
    pub last: bool,
}

/// The end of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The generated text.
    pub text: String,
    /// Text that became final with the end: `text` is the concatenation of all deltas and this.
    pub delta: String,
    /// The generated ids up to the end or the stop.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A canvas together with its text.
pub struct Generation {
    /// The sequence being unmasked.
    pub canvas: Canvas,
    tokenizer: Tokenizer,
    text: StreamDecoder,
    sent: String,
    seen_commits: usize,
    seen_ids: usize,
}

impl Generation {
    /// Starts following `canvas`, which nothing has been committed to yet.
    pub fn new(canvas: Canvas, tokenizer: &Tokenizer) -> Self {
        let text = StreamDecoder::new(tokenizer.clone(), canvas.params().stop.clone());
        Self { canvas, tokenizer: tokenizer.clone(), text, sent: String::new(), seen_commits: 0, seen_ids: 0 }
    }

    /// After a step: what it changed, or `None` if it committed nothing (part of a long prompt was computed).
    /// Ends the canvas when a stop string stands in the final text.
    pub fn update(&mut self) -> Option<StepUpdate> {
        let commits = self.canvas.commits()[self.seen_commits..].to_vec();
        let attributions = self.canvas.attributions().get(self.seen_commits..).unwrap_or_default().to_vec();
        let step = commits.last()?.step;
        self.seen_commits += commits.len();
        let prefix = self.canvas.final_prefix();
        let delta = self.text.push(&prefix[self.seen_ids..]);
        self.seen_ids = prefix.len();
        self.sent.push_str(&delta);
        if self.text.stopped().is_some() && self.canvas.finish_reason().is_none() {
            self.canvas.stop_at_string();
        }
        // The canvas may have moved on to the next block: show the one that was written.
        let index = commits.last()?.block;
        let block = self.canvas.blocks()[index];
        let ids: Vec<Option<u32>> =
            (block.start..block.end).map(|p| (!self.canvas.is_masked(p)).then(|| self.canvas.ids()[p])).collect();
        let masked = ids.iter().filter(|id| id.is_none()).count();
        let last = masked == 0 || self.canvas.finish_reason().is_some();
        Some(StepUpdate { block: index, step, start: block.start, ids, commits, attributions, delta, masked, last })
    }

    /// The result, once the canvas has finished and the last step was taken with [`Self::update`].
    pub fn outcome(&mut self) -> Option<Outcome> {
        let mut finish_reason = self.canvas.finish_reason()?;
        let mut ids = self.canvas.output_ids();
        let mut delta = String::new();
        if self.text.stopped().is_none() {
            // Positions that were waiting behind one that was never filled are final now.
            delta = self.text.push(&ids[self.seen_ids.min(ids.len())..]);
            delta.push_str(&self.text.finish());
            self.sent.push_str(&delta);
        }
        if self.text.stopped().is_some() {
            finish_reason = FinishReason::StopString;
            ids.truncate(self.ids_of(&ids, self.sent.len()));
        }
        Some(Outcome { text: self.sent.clone(), delta, token_ids: ids, finish_reason })
    }

    /// How many of `ids` it takes to decode to at least `bytes` bytes.
    fn ids_of(&self, ids: &[u32], bytes: usize) -> usize {
        let counts: Vec<usize> = (0..=ids.len()).collect();
        counts.partition_point(|n| self.tokenizer.decode(&ids[..*n], true).len() < bytes).min(ids.len())
    }
}
