//! One sequence being unmasked: ids, blocks, commits. Plain data, no tensors, no randomness.
//!
//! A canvas knows what may be committed next and what a commit means (blocks, end of text, stop tokens);
//! how a token is chosen is the business of [`crate::decode`].

mod blocks;
mod commit;
mod output;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::attribute::TokenAttribution;
use crate::config::{Config, SpecialIds};
use crate::params::{EotMode, GenerateParams};
use crate::steer::{Steering, WeightEdit};
use crate::{Error, Result};

pub use blocks::GenerationBlock;
use blocks::generation_blocks;
pub use commit::{Choice, Commit, FinishReason};
pub use output::OutputRules;

/// Names a canvas for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanvasId(u64);

impl CanvasId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a canvas must know of the model that fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanvasSpec {
    /// Positions the model has.
    pub context: usize,
    /// Attention block `S` in positions.
    pub block_size: usize,
    /// Ids are below this.
    pub vocab_size: usize,
    /// Ids with a meaning of their own.
    pub special: SpecialIds,
}

impl CanvasSpec {
    /// What a canvas of this model must know.
    pub fn of(config: &Config) -> Self {
        Self {
            context: config.context,
            block_size: config.diff_block_size,
            vocab_size: config.vocab_size,
            special: config.special,
        }
    }
}

/// What a canvas has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Forward passes this canvas took part in.
    pub forwards: usize,
    /// Rows (positions) computed, the unconditional sequence of guidance included.
    pub rows: usize,
    /// Of those, rows of prompt blocks computed once at the start.
    pub prefill_rows: usize,
    /// Attention blocks whose keys and values came from an earlier request.
    pub cached_blocks: usize,
    /// Guessed steps whose rows were computed beside those of the current state.
    pub drafts: usize,
    /// Of those, steps that turned out as guessed: each spared a forward.
    pub accepted: usize,
}

impl Usage {
    /// Mean number of `commits` of a forward, those for prompts included; 0 without a forward.
    pub fn tokens_per_forward(&self, commits: usize) -> f64 {
        commits as f64 / self.forwards.max(1) as f64
    }
}

/// One sequence being unmasked.
#[derive(Debug, Clone)]
pub struct Canvas {
    id: CanvasId,
    ids: Vec<u32>,
    prompt_len: usize,
    params: GenerateParams,
    special: SpecialIds,
    block_size: usize,
    blocks: Vec<GenerationBlock>,
    block: usize,
    step_in_block: usize,
    masked_at_block_start: usize,
    step: usize,
    commits: Vec<Commit>,
    /// Lowest position that holds a committed `<|eot_id|>`.
    eot_at: Option<usize>,
    finish: Option<FinishReason>,
    steering: Option<Arc<Steering>>,
    /// Commits are to be attributed to concepts.
    attribute: bool,
    attributions: Vec<TokenAttribution>,
    /// What it has cost so far.
    pub usage: Usage,
}

impl Canvas {
    /// A canvas of `prompt` followed by `params.max_new_tokens` masked positions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters or ids out of range, [`Error::ContextLength`] when it does not fit.
    pub fn new(prompt: &[u32], params: GenerateParams, spec: &CanvasSpec) -> Result<Self> {
        params.validate(spec.vocab_size)?;
        if let Some((i, id)) = prompt.iter().enumerate().find(|(_, id)| **id as usize >= spec.vocab_size) {
            return Err(Error::invalid(
                format!("prompt[{i}]"),
                format!("{id} is not below the vocabulary size {}", spec.vocab_size),
            ));
        }
        let prompt_len = prompt.len();
        let total = prompt_len.saturating_add(params.max_new_tokens);
        if total > spec.context {
            return Err(Error::ContextLength {
                prompt: prompt_len,
                max_new_tokens: params.max_new_tokens,
                context: spec.context,
            });
        }
        let mut ids = prompt.to_vec();
        ids.resize(total, spec.special.mask);
        let blocks = generation_blocks(prompt_len, &params, spec.block_size);
        Ok(Self {
            id: CanvasId::next(),
            ids,
            prompt_len,
            special: spec.special,
            block_size: spec.block_size,
            masked_at_block_start: blocks[0].end - blocks[0].start,
            blocks,
            block: 0,
            step_in_block: 0,
            step: 0,
            commits: Vec::with_capacity(params.max_new_tokens),
            eot_at: None,
            finish: None,
            steering: None,
            attribute: false,
            attributions: Vec::new(),
            usage: Usage::default(),
            params,
        })
    }

    /// The same canvas, steered.
    #[must_use]
    pub fn steered(mut self, steering: Arc<Steering>) -> Self {
        self.steering = Some(steering);
        self
    }

    /// The same canvas, every commit of which is attributed to concepts.
    ///
    /// # Errors
    /// [`Error::Unsupported`] under guidance: the token then comes from two forward passes, and the decomposition of
    /// one of them would not explain it.
    pub fn attributed(mut self) -> Result<Self> {
        if self.params.cfg_scale > 0.0 {
            return Err(Error::Unsupported("attribution of tokens chosen under classifier-free guidance".into()));
        }
        self.attribute = true;
        Ok(self)
    }

    /// What it is steered by.
    pub fn steering(&self) -> Option<&Arc<Steering>> {
        self.steering.as_ref()
    }

    /// The factor of each injected direction in the next step.
    pub fn alphas(&self) -> Vec<f32> {
        let Some(steering) = &self.steering else { return Vec::new() };
        let masked = self.ids.iter().filter(|id| **id == self.special.mask).count();
        steering.alphas(self.params.max_new_tokens as i64 - masked as i64)
    }

    /// Whether commits are to be attributed to concepts.
    pub fn wants_attribution(&self) -> bool {
        self.attribute
    }

    /// The attributions of the commits, in the same order, if they are wanted.
    pub fn attributions(&self) -> &[TokenAttribution] {
        &self.attributions
    }

    /// Adds the attribution of the next commit that has none yet.
    pub fn attribute(&mut self, attribution: TokenAttribution) {
        self.attributions.push(attribution);
    }

    /// The concept weights that are set.
    pub fn set_weights(&self) -> &[WeightEdit] {
        self.steering.as_ref().map_or(&[], |steering| &steering.set_weights)
    }

    /// The canvas's name.
    pub fn id(&self) -> CanvasId {
        self.id
    }

    /// All ids, prompt first; undecided positions hold the mask id.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Positions of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &GenerateParams {
        &self.params
    }

    /// Ids with a meaning of their own.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// All generation blocks, in order.
    pub fn blocks(&self) -> &[GenerationBlock] {
        &self.blocks
    }

    /// Index of the block being unmasked; the last one once finished.
    pub fn block_index(&self) -> usize {
        self.block
    }

    /// The block being unmasked; the last one once finished.
    pub fn block(&self) -> GenerationBlock {
        self.blocks[self.block]
    }

    /// Denoising steps taken so far.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Commits in order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// Why it ended, once it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Whether `position` awaits a token. Mask ids inside a prompt do not.
    pub fn is_masked(&self, position: usize) -> bool {
        position >= self.prompt_len && self.ids[position] == self.special.mask
    }

    /// Positions of the current block that await a token, ascending.
    pub fn masked(&self) -> Vec<usize> {
        let block = self.block();
        (block.start..block.end).filter(|p| self.is_masked(*p)).collect()
    }

    /// How many positions the next step commits, under methods that have a number of steps.
    pub fn quota(&self) -> usize {
        self.quota_after(0)
    }

    /// The same of the step that follows `steps` later in this block.
    pub fn quota_after(&self, steps: usize) -> usize {
        self.block().quota(self.masked_at_block_start, self.step_in_block + steps)
    }

    /// The canvas as it would be after a step with these choices, without its history; `None` if that would end the
    /// text, the block or the generation.
    pub(crate) fn ahead(&self, choices: &[Choice]) -> Option<Self> {
        let ends = |choice: &Choice| self.special.chat.is_some_and(|chat| chat.eot == choice.id);
        if choices.iter().any(ends) {
            return None;
        }
        let mut ahead = Self {
            ids: self.ids.clone(),
            params: self.params.clone(),
            blocks: self.blocks.clone(),
            commits: Vec::new(),
            attributions: Vec::new(),
            steering: self.steering.clone(),
            ..*self
        };
        ahead.commit(choices);
        (ahead.finish.is_none() && ahead.block == self.block).then_some(ahead)
    }

    /// Attention block `S` in positions.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Attention blocks of the whole canvas.
    pub fn num_attention_blocks(&self) -> usize {
        self.ids.len().div_ceil(self.block_size)
    }

    /// Whether attention block `index` can no longer change.
    pub fn attention_block_is_final(&self, index: usize) -> bool {
        let start = index * self.block_size;
        let end = (start + self.block_size).min(self.ids.len());
        (start..end).all(|p| !self.is_masked(p))
    }

    /// One past the last position that can influence the current generation block: the end of the last attention
    /// block that it touches.
    pub fn visible_end(&self) -> usize {
        self.block().end.next_multiple_of(self.block_size).min(self.ids.len())
    }

    /// The ids of the second sequence of classifier-free guidance: the same with every prompt position masked.
    pub fn unconditional_ids(&self) -> Vec<u32> {
        let mut ids = self.ids.clone();
        ids[..self.prompt_len].fill(self.special.mask);
        ids
    }

    /// Writes the tokens of one step, in order, and moves on to the next step, block or end.
    ///
    /// Choices that fall behind an `<|eot_id|>` committed earlier in the same step are dropped.
    ///
    /// # Panics
    /// If a choice names a position that is not masked in the current block, or the mask as its token: the caller
    /// would break what every reader of the canvas relies on.
    pub fn commit(&mut self, choices: &[Choice]) {
        assert!(self.finish.is_none(), "commit on a finished canvas");
        let block = self.block();
        for choice in choices {
            if self.eot_at.is_some_and(|eot| choice.position > eot) {
                continue;
            }
            assert!(
                (block.start..block.end).contains(&choice.position) && self.is_masked(choice.position),
                "position {} is not masked in block {}..{}",
                choice.position,
                block.start,
                block.end
            );
            assert_ne!(choice.id, self.special.mask, "the mask is not a token");
            self.write(choice);
            if self.eot_at.is_some() && self.params.eot == EotMode::Reference {
                break;
            }
        }
        self.step += 1;
        self.step_in_block += 1;
        self.advance(block);
    }

    fn write(&mut self, choice: &Choice) {
        let Choice { position, id, confidence, target_logit, decision_logit } = *choice;
        self.ids[position] = id;
        let (step, block) = (self.step, self.block);
        self.commits.push(Commit { step, block, position, id, confidence, target_logit, decision_logit });
        if self.special.chat.is_some_and(|chat| chat.eot == id) {
            self.ids[position + 1..].fill(self.special.eos);
            self.eot_at = Some(position);
        }
    }

    fn advance(&mut self, block: GenerationBlock) {
        if self.eot_at.is_some() && (self.params.eot == EotMode::Reference || self.masked().is_empty()) {
            self.finish = Some(self.terminal_reason(FinishReason::Eot));
            return;
        }
        if !self.masked().is_empty() {
            return;
        }
        let stopped = self.ids[self.prompt_len..block.end].iter().any(|id| self.params.stop_tokens.contains(id));
        if stopped || self.block + 1 == self.blocks.len() {
            self.finish = Some(self.terminal_reason(FinishReason::Length));
            return;
        }
        self.block += 1;
        self.step_in_block = 0;
        self.masked_at_block_start = self.masked().len();
    }

    /// Ends the generation because a stop string stands in the text.
    pub fn stop_at_string(&mut self) {
        self.finish = Some(FinishReason::StopString);
    }

    fn terminal_reason(&self, otherwise: FinishReason) -> FinishReason {
        self.output_rules().terminal(&self.ids[self.prompt_len..]).map_or(otherwise, |(_, reason)| reason)
    }

    /// What of the generated ids is returned.
    pub fn output_rules(&self) -> OutputRules<'_> {
        OutputRules { special: &self.special, stop_tokens: &self.params.stop_tokens }
    }

    /// The generated ids: mask and EOS dropped, cut before the first stop token or `<|eot_id|>`.
    pub fn output_ids(&self) -> Vec<u32> {
        self.output_rules().output(&self.ids[self.prompt_len..]).map(|(_, id)| id).collect()
    }

    /// The longest prefix of [`Self::output_ids`] that can no longer change.
    pub fn final_prefix(&self) -> &[u32] {
        let (generated, rules) = (&self.ids[self.prompt_len..], self.output_rules());
        let end = generated
            .iter()
            .position(|id| *id == self.special.mask || *id == self.special.eos || rules.is_terminal(*id))
            .unwrap_or(generated.len());
        &generated[..end]
    }
}
