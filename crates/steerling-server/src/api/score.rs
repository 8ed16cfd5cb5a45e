//! `POST /score`.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use steerling::score::{Score, ScoreItem, ScoreJob, ScoreMethod, ScoreParams, encode_pair};
use utoipa::ToSchema;

use super::respond;
use super::seed::Seed;
use super::states::{check_count, check_length};
use super::{AppState, plan};
use crate::engine::{Model, WorkKind};
use crate::error::ApiError;
use crate::extract::{Json, objects_only};
use crate::openapi::{Body, Compute, Internal, NotReady};

objects_only!(ScoreRequest, Item);

/// Most items of one request.
const MAX_ITEMS: usize = 1024;
/// As for generations.
const MAX_CFG: f32 = 100.0;

/// Continuations whose likelihood is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct ScoreRequest {
    /// Each is scored on its own.
    #[schema(min_items = 1, max_items = 1024)]
    items: Vec<Item>,
    /// How a likelihood is computed.
    #[serde(default)]
    method: Method,
    /// Rows of a Monte-Carlo estimate; `exact` is the expectation of the estimate with these numbers.
    #[serde(default = "samples")]
    #[schema(default = 128, minimum = 1, maximum = 4096)]
    samples: usize,
    /// Rows of an estimate whose numbers of masked tokens are spread evenly.
    #[serde(default = "batch")]
    #[schema(default = 32, minimum = 1)]
    batch: usize,
    /// Classifier-free guidance with the context masked; 0 is off, otherwise twice the work.
    #[serde(default)]
    #[schema(default = 0.0, minimum = 0, maximum = 100)]
    cfg_scale: f32,
    /// Same seed, same masks, whatever else is scored.
    #[serde(default = "zero")]
    #[schema(default = 0)]
    seed: Seed,
    /// Milliseconds from the request to the end of the answer, at most what the server allows (`limits.timeout_seconds`
    /// of `/info`). Null: that.
    #[schema(minimum = 1)]
    timeout_ms: Option<u64>,
}

/// A context and its continuation.
///
/// Space at the end of the context counts to the continuation; curly quotes, long dashes and the ellipsis character
/// become ASCII, as in the reference package.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schema(as = ScoreItem)]
struct Item {
    /// May be empty.
    context: String,
    /// May be empty: its log-likelihood is 0.
    continuation: String,
}

/// How a likelihood is computed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ScoreMethod)]
enum Method {
    /// `exact` up to 7 tokens, else `monte_carlo`.
    #[default]
    Auto,
    /// The mean over random masks.
    MonteCarlo,
    /// The expectation of the Monte-Carlo estimate, from all masks: up to 7 tokens.
    Exact,
    /// The sum of `log p` of each token after those before it, with the rest of its attention block masked (the whole
    /// block, also behind the continuation, so that the parts of a text add up).
    LeftToRight,
}

/// The likelihoods, in the order of the items.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScoreResult {
    results: Vec<ItemScore>,
    /// What the client should know: parameters without effect.
    warnings: Vec<String>,
}

/// The likelihood of one continuation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Score)]
struct ItemScore {
    /// In nats.
    loglikelihood: f64,
    /// Of a Monte-Carlo estimate: the standard deviation of its batches' means (of one batch: of its rows) divided by
    /// the root of their number; null for a single row. 0 for the other methods.
    #[schema(required = true)]
    standard_error: Option<f64>,
    /// Tokens of the continuation; 0 if it merges into the last token of the context.
    tokens: usize,
    /// `loglikelihood / tokens`; null without tokens.
    #[schema(required = true)]
    per_token: Option<f64>,
    /// Every token is the likeliest one after those before it, the rest of its attention block masked: the same
    /// question for every method. True without tokens.
    is_greedy: bool,
    /// Never `auto`.
    method: Method,
    /// Forwards in which this item took part, those for `is_greedy` included; items share forwards.
    forwards: usize,
}

fn zero() -> Seed {
    Seed::from(0)
}

fn samples() -> usize {
    ScoreParams::default().samples
}

fn batch() -> usize {
    ScoreParams::default().batch
}

impl ScoreRequest {
    /// The fields that only a Monte-Carlo estimate has a use for, as far as they are not as usual.
    fn drawn(&self) -> Vec<&'static str> {
        let changed =
            [("samples", self.samples != samples()), ("batch", self.batch != batch()), ("seed", self.seed != zero())];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }

    /// The job and the token positions that it needs, at most `most`.
    fn prepare(self, model: &Model, most: u64) -> Result<(ScoreJob, usize), ApiError> {
        check_count(self.items.len(), MAX_ITEMS, "items")?;
        if !(0.0..=MAX_CFG).contains(&self.cfg_scale) {
            return Err(ApiError::invalid("cfg_scale", format!("{} is outside 0..={MAX_CFG}", self.cfg_scale)));
        }
        let item = |(i, item): (usize, &Item)| {
            let param = format!("items[{i}]");
            let (context, continuation) = encode_pair(&model.tokenizer, &item.context, &item.continuation)
                .map_err(|error| ApiError::of_field(error, &param))?;
            check_length(model, context.len() + continuation.len(), &param)?;
            Ok(ScoreItem { context, continuation })
        };
        let items = self.items.iter().enumerate().map(item).collect::<Result<Vec<_>, ApiError>>()?;
        let params = ScoreParams {
            method: match self.method {
                Method::Auto => ScoreMethod::Auto,
                Method::MonteCarlo => ScoreMethod::MonteCarlo,
                Method::Exact => ScoreMethod::Exact,
                Method::LeftToRight => ScoreMethod::LeftToRight,
            },
            samples: self.samples,
            batch: self.batch,
            cfg_scale: self.cfg_scale,
            seed: self.seed.key(),
        };
        let needed = items.iter().fold(0u64, |sum, item| sum.saturating_add(params.positions(item)));
        let job = ScoreJob::new(items, &params, &model.info.config)?;
        if needed > most {
            let message = format!(
                "this request needs {needed} token positions (rows times length), the server allows {most} \
                 (--max-score-positions): send fewer items, or fewer `samples`"
            );
            let refusal = ApiError::invalid("items", message);
            return Err(refusal.with_details(json!({"needed": needed, "available": most})));
        }
        Ok((job, usize::try_from(needed).unwrap_or(usize::MAX)))
    }
}

impl From<Score> for ItemScore {
    fn from(score: Score) -> Self {
        Self {
            loglikelihood: score.loglikelihood,
            standard_error: score.standard_error,
            tokens: score.tokens,
            per_token: (score.tokens > 0).then(|| score.loglikelihood / score.tokens as f64),
            is_greedy: score.is_greedy,
            method: match score.method {
                ScoreMethod::Auto => Method::Auto,
                ScoreMethod::MonteCarlo => Method::MonteCarlo,
                ScoreMethod::Exact => Method::Exact,
                ScoreMethod::LeftToRight => Method::LeftToRight,
            },
            forwards: score.forwards,
        }
    }
}

/// How likely continuations are.
///
/// A request may need `limits.max_score_positions` of `/info` token positions: for each item the rows of the method and
/// one for each token (for `is_greedy`), times the tokens of context and continuation, twice with `cfg_scale`. One that
/// needs more is rejected with both numbers in `details`. Whatever the method, rows share the context's attention
/// blocks, and generations go on between forward passes.
#[utoipa::path(post, path = "/score", tag = "read", request_body = ScoreRequest,
    responses((status = 200, description = "the likelihoods", body = ScoreResult), Body, Compute, Internal, NotReady))]
pub(crate) async fn score(
    State(state): State<AppState>,
    Json(request): Json<ScoreRequest>,
) -> Result<Response, ApiError> {
    let ticket = state.admit(request.timeout_ms)?;
    let (model, most) = (state.model()?, state.options.max_score_positions);
    let drawn = request.drawn();
    let (mut job, size) = plan(&ticket, move || request.prepare(&model, most)).await?;
    let scores = ticket.run(WorkKind::Score, size, move |runtime| job.advance(runtime))?.await?;
    let estimated = scores.iter().any(|score| score.method == ScoreMethod::MonteCarlo);
    let unheeded = |name: &str| format!("`{name}` has no effect: no likelihood was estimated by `monte_carlo`");
    let warnings = if estimated { Vec::new() } else { drawn.into_iter().map(unheeded).collect() };
    let results = scores.into_iter().map(ItemScore::from).collect();
    respond::json(ticket, move || Ok(ScoreResult { results, warnings })).await
}
