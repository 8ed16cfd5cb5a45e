//! What clients read: the events of a stream, and the result that ends it or is the whole answer.

use serde::Serialize;
use steerling::canvas::{Commit, Usage};
use steerling::{Outcome, StepUpdate, Tokenizer};
use utoipa::ToSchema;

use super::request::{Head, new_id};
use crate::api::attribution::{Attribution, TokenBody};
use crate::api::seed::Seed;
use crate::engine::{Finished, Timings};

/// Shown for a position that is not decided yet.
const MASKED: char = '░';

/// The first event of a stream.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct StartEvent {
    /// Names the generation.
    pub(crate) id: String,
    /// The model's name.
    pub(crate) model: String,
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Positions to generate.
    pub(crate) max_new_tokens: usize,
    /// Positions of an attention block.
    pub(crate) block_size: usize,
    /// Generation blocks.
    pub(crate) num_blocks: usize,
    /// Denoising steps over all blocks; the most there can be under decoding methods without a number of steps.
    pub(crate) steps: usize,
    /// The seed, given or drawn.
    pub(crate) seed: Seed,
}

/// A block being unmasked, after a denoising step. It shows the whole block: a client keeps no state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BlockEvent {
    /// Generation block, from 0.
    block: usize,
    /// Denoising step, counted over all blocks from 0.
    step: usize,
    /// Absolute position of the block's first id.
    start: usize,
    /// The ids of the block; null is still masked.
    ids: Vec<Option<u32>>,
    /// The same as text; `░` is still masked.
    text: String,
    /// What was committed since the previous event, in order.
    commits: Vec<BlockCommit>,
    /// Text that has become final: the longest committed prefix of the output, cut at a character and before a
    /// possible stop string. All deltas together are the result's `text`.
    delta: String,
    /// Positions of the block still masked.
    masked: usize,
    /// Nothing in this block changes any more.
    r#final: bool,
}

/// A token that was committed.
#[derive(Debug, Serialize, ToSchema)]
struct BlockCommit {
    /// Absolute index in the sequence.
    position: usize,
    /// Token id.
    id: u32,
    /// The token's text.
    text: String,
    /// Largest softmax probability of the position when it was chosen.
    #[schema(minimum = 0, maximum = 1)]
    confidence: f32,
}

impl BlockEvent {
    pub(crate) fn new(update: StepUpdate, tokenizer: &Tokenizer) -> Self {
        let StepUpdate { block, step, start, ids, commits, delta, masked, last, .. } = update;
        let commit = |Commit { position, id, confidence, .. }: Commit| BlockCommit {
            position,
            id,
            text: tokenizer.token_text(id),
            confidence,
        };
        Self {
            block,
            step,
            start,
            text: block_text(&ids, tokenizer),
            ids,
            commits: commits.into_iter().map(commit).collect(),
            delta,
            masked,
            r#final: last,
        }
    }
}

/// Neighbouring tokens are decoded together, because a character may be spread over several.
fn block_text(ids: &[Option<u32>], tokenizer: &Tokenizer) -> String {
    let mut text = String::new();
    for run in ids.chunk_by(|a, b| a.is_some() == b.is_some()) {
        let known: Vec<u32> = run.iter().flatten().copied().collect();
        match known.is_empty() {
            true => text.extend(run.iter().map(|_| MASKED)),
            false => text.push_str(&tokenizer.decode(&known, false)),
        }
    }
    text
}

/// Why the tokens of the `block` event before were committed. Tokens may be committed behind a place at which the text
/// later ends: the result leaves them out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttributionEvent {
    /// In the order of the commits.
    pub(crate) tokens: Vec<TokenBody>,
}

/// A finished generation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GenerateResult {
    /// Names the generation.
    id: String,
    /// The model's name.
    model: String,
    /// The generated text.
    pub(crate) text: String,
    /// The generated ids up to the end or the stop. A token whose text a stop string cuts is the last of them.
    pub(crate) token_ids: Vec<u32>,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// The number of `token_ids`.
    completion_tokens: usize,
    /// Why the text ends where it does.
    pub(crate) finish_reason: FinishReason,
    /// The seed, given or drawn; null for a trace, which holds no draws.
    #[schema(required = true)]
    pub(crate) seed: Option<Seed>,
    /// All commits; null unless `return_trace`.
    #[schema(required = true)]
    trace: Option<Trace>,
    pub(crate) usage: UsageBody,
    pub(crate) timings: TimingsBody,
    /// Why the tokens were committed; null unless asked for.
    #[schema(required = true)]
    attribution: Option<Attribution>,
    /// The server's policies that held for it.
    policies: Vec<String>,
    /// What the client should know: parameters without effect, a model whose text is noise.
    pub(crate) warnings: Vec<String>,
}

/// Why a text ends where it does.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FinishReason {
    /// All positions are filled.
    Length,
    /// The end of the turn.
    Eot,
    /// One of `stop_tokens`.
    StopToken,
    /// One of `stop`.
    StopString,
}

impl From<steerling::FinishReason> for FinishReason {
    fn from(reason: steerling::FinishReason) -> Self {
        match reason {
            steerling::FinishReason::Length => Self::Length,
            steerling::FinishReason::Eot => Self::Eot,
            steerling::FinishReason::StopToken => Self::StopToken,
            steerling::FinishReason::StopString => Self::StopString,
        }
    }
}

/// How the text came about, with all that a replay needs to know beside the steering.
#[derive(Debug, Serialize, ToSchema)]
struct Trace {
    /// The ids of the prompt.
    prompt_ids: Vec<u32>,
    /// Positions of prompt and generation together.
    seq_length: usize,
    /// The strings that end the text.
    stop: Vec<String>,
    /// The ids that end the text.
    stop_tokens: Vec<u32>,
    /// The server's policies that held for it.
    policies: Vec<String>,
    /// Commits in order, those behind the end of the text included: the model saw them.
    commits: Vec<TraceCommit>,
}

/// A commit of a trace.
#[derive(Debug, Serialize, ToSchema)]
struct TraceCommit {
    /// Denoising step, counted over all blocks from 0.
    step: usize,
    /// Generation block, from 0.
    block: usize,
    /// Absolute index in the sequence.
    position: usize,
    /// Token id.
    id: u32,
    /// The token's text.
    text: String,
    /// Largest softmax probability of the position when it was chosen.
    #[schema(minimum = 0, maximum = 1)]
    confidence: f32,
    /// The model's logit of the token, before suppression, penalty and bans.
    target_logit: f32,
}

/// What it cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GenerationUsage)]
pub(crate) struct UsageBody {
    /// Forward passes.
    forwards: usize,
    /// Rows (positions) computed over all forward passes.
    rows: usize,
    /// Attention blocks whose keys and values came from an earlier request.
    cached_blocks: usize,
    /// Tokens committed for each forward pass, those that only computed a part of a long prompt included.
    tokens_per_forward: f64,
    /// Guessed steps that rode in the forward passes (decoding method `lossless`).
    drafts: usize,
    /// Of those, steps that turned out as guessed: each spared a forward pass.
    drafts_accepted: usize,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GenerationTimings)]
pub(crate) struct TimingsBody {
    /// Waiting for a place in the batch.
    queue_ms: u64,
    /// From there to the first token.
    prefill_ms: u64,
    /// From there to the end.
    decode_ms: u64,
    /// From submission to the end.
    total_ms: u64,
}

impl UsageBody {
    fn new(usage: &Usage, commits: usize) -> Self {
        let Usage { forwards, rows, cached_blocks, drafts, accepted, .. } = *usage;
        let tokens_per_forward = usage.tokens_per_forward(commits);
        Self { forwards, rows, cached_blocks, tokens_per_forward, drafts, drafts_accepted: accepted }
    }
}

impl GenerateResult {
    pub(crate) fn new(head: &Head, finished: &Finished) -> Self {
        let Head { start, model, return_trace, warnings, attribution, policies, .. } = head;
        let Finished { outcome, canvas, timings: Timings { queue_ms, prefill_ms, decode_ms, total_ms } } = finished;
        let (queue_ms, prefill_ms, decode_ms, total_ms) = (*queue_ms, *prefill_ms, *decode_ms, *total_ms);
        let commits = canvas.commits();
        let usage = UsageBody::new(&canvas.usage, commits.len());
        let attribution = attribution.map(|top| Attribution::of(canvas, outcome, model, top));
        tracing::info!(
            id = %start.id, prompt_tokens = start.prompt_tokens, completion_tokens = outcome.token_ids.len(),
            finish_reason = outcome.finish_reason.as_str(), forwards = usage.forwards, rows = usage.rows, queue_ms,
            total_ms, "generated"
        );
        Self {
            trace: return_trace.then(|| Trace {
                prompt_ids: canvas.ids()[..canvas.prompt_len()].to_vec(),
                seq_length: canvas.ids().len(),
                stop: canvas.params().stop.clone(),
                stop_tokens: canvas.params().stop_tokens.clone(),
                policies: policies.clone(),
                commits: commits.iter().map(|commit| TraceCommit::new(commit, &model.tokenizer)).collect(),
            }),
            usage,
            timings: TimingsBody { queue_ms, prefill_ms, decode_ms, total_ms },
            id: start.id.clone(),
            model: start.model.clone(),
            completion_tokens: outcome.token_ids.len(),
            text: outcome.text.clone(),
            token_ids: outcome.token_ids.clone(),
            prompt_tokens: start.prompt_tokens,
            finish_reason: outcome.finish_reason.into(),
            seed: Some(start.seed),
            attribution,
            policies: policies.clone(),
            warnings: warnings.clone(),
        }
    }
}

/// A generation that was made earlier and is only explained now.
pub(crate) struct Replayed {
    pub(crate) model: String,
    pub(crate) outcome: Outcome,
    pub(crate) prompt_tokens: usize,
    pub(crate) policies: Vec<String>,
    pub(crate) total_ms: u64,
    pub(crate) warnings: Vec<String>,
}

impl GenerateResult {
    /// What is known of an earlier generation.
    pub(crate) fn replayed(replayed: Replayed) -> Self {
        let Replayed { model, outcome, prompt_tokens, policies, total_ms, warnings } = replayed;
        Self {
            id: new_id(),
            model,
            completion_tokens: outcome.token_ids.len(),
            text: outcome.text,
            token_ids: outcome.token_ids,
            prompt_tokens,
            finish_reason: outcome.finish_reason.into(),
            seed: None,
            trace: None,
            usage: UsageBody::new(&Usage::default(), 0),
            timings: TimingsBody { queue_ms: 0, prefill_ms: 0, decode_ms: 0, total_ms },
            attribution: None,
            policies,
            warnings,
        }
    }

    /// Takes the attribution out, for an answer that shows it elsewhere.
    pub(crate) fn take_attribution(&mut self) -> Option<Attribution> {
        self.attribution.take()
    }

    /// Names the generation.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl TraceCommit {
    fn new(commit: &Commit, tokenizer: &Tokenizer) -> Self {
        let Commit { step, block, position, id, confidence, target_logit, .. } = *commit;
        Self { step, block, position, id, text: tokenizer.token_text(id), confidence, target_logit }
    }
}
