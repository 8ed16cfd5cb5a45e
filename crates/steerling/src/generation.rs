//! A canvas and its text: turns commits into updates that a reader can show.

use crate::Tokenizer;
use crate::attribute::TokenAttribution;
use crate::canvas::{Canvas, Commit, FinishReason, OutputRules};
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
    /// The generated ids up to the end or the stop. A token of which `text` has at least one byte counts.
    pub token_ids: Vec<u32>,
    /// One past the last position that is returned: `token_ids` are the ids before it, mask and EOS left out. Tokens that
    /// were committed behind it are no part of the answer.
    pub end: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl Outcome {
    /// What is returned of a sequence that does not change any more: `ids`, of which the first `prompt_len` are the
    /// prompt's, under the stop tokens of `rules` and these stop strings.
    pub fn of(
        (ids, prompt_len): (&[u32], usize),
        rules: OutputRules<'_>,
        stop: &[String],
        tokenizer: &Tokenizer,
    ) -> Self {
        let generated = &ids[prompt_len..];
        let (mut end, mut finish_reason) = rules.terminal(generated).unwrap_or((generated.len(), FinishReason::Length));
        let (positions, mut token_ids): (Vec<usize>, Vec<u32>) = rules.output(generated).unzip();
        let mut decoder = StreamDecoder::new(tokenizer.clone(), stop.to_vec());
        let mut text = decoder.push(&token_ids);
        text.push_str(&decoder.finish());
        if decoder.stopped().is_some() {
            finish_reason = FinishReason::StopString;
            let n = covering(&token_ids, &text, tokenizer);
            token_ids.truncate(n);
            end = n.checked_sub(1).map_or(0, |last| positions[last] + 1);
        }
        Self { delta: text.clone(), text, token_ids, end: prompt_len + end, finish_reason }
    }
}

/// How many of `ids` it takes to decode to `text`, a prefix of what they all decode to.
fn covering(ids: &[u32], text: &str, tokenizer: &Tokenizer) -> usize {
    let decode = |n: usize| tokenizer.decode(&ids[..n], true);
    let counts: Vec<usize> = (0..=ids.len()).collect();
    let least = counts.partition_point(|n| decode(*n).len() < text.len());
    // The bytes of a character may be spread over several tokens, whose beginnings decode to U+FFFD.
    (least..=ids.len()).find(|n| decode(*n).starts_with(text)).unwrap_or(least.min(ids.len()))
}

/// A canvas together with its text.
pub struct Generation {
    /// The sequence being unmasked.
    pub canvas: Canvas,
    tokenizer: Tokenizer,
    text: StreamDecoder,
    /// Bytes of the text in deltas so far.
    sent: usize,
    seen_commits: usize,
    seen_ids: usize,
}

impl Generation {
    /// Starts following `canvas`, which nothing has been committed to yet.
    pub fn new(canvas: Canvas, tokenizer: &Tokenizer) -> Self {
        let text = StreamDecoder::new(tokenizer.clone(), canvas.params().stop.clone());
        Self { canvas, tokenizer: tokenizer.clone(), text, sent: 0, seen_commits: 0, seen_ids: 0 }
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
        self.sent += delta.len();
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
    pub fn outcome(&self) -> Option<Outcome> {
        let canvas = &self.canvas;
        canvas.finish_reason()?;
        let sequence = (canvas.ids(), canvas.prompt_len());
        let mut outcome = Outcome::of(sequence, canvas.output_rules(), &canvas.params().stop, &self.tokenizer);
        // Positions that were waiting behind one that was never filled are final now.
        outcome.delta = outcome.text.get(self.sent..).unwrap_or_default().to_owned();
        Some(outcome)
    }
}
