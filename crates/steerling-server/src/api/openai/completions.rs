//! `POST /v1/completions`.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::choices::{Choice, Order, Plan};
use super::common::{self, ChoiceExtra, Common, Head, Input, RequestExtra, Usage};
use super::error::Refusals;
use super::logprobs::CompletionLogprobs;
use super::stream::{self, Piece};
use super::{models, neutral};
use crate::api::generate::request::{GenerateRequest, Prompt, new_id};
use crate::api::respond::json;
use crate::api::{self, AppState};
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::observe::RequestId;
use crate::openapi::extended;

/// OpenAI's default.
const MAX_TOKENS: usize = 16;
/// As OpenAI's.
const MAX_LOGPROBS: usize = 5;

/// A request for completions, with all fields of OpenAI's.
pub(crate) struct CompletionBody;

/// The fields that mean something here, beside the common ones.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "steerling-demo", "prompt": "The chef stirred the", "max_tokens": 16, "seed": 1}))]
struct CompletionRequest {
    /// A text, a list of texts, token ids, or a list of lists of token ids. Ids may be special ones, but not the mask.
    prompt: Input,
    /// Positions to generate. 0 only with `echo`: nothing is generated.
    #[schema(default = 16)]
    max_tokens: Option<usize>,
    /// The text begins with the prompt.
    #[schema(default = false)]
    echo: Option<bool>,
    /// How likely the tokens of the text are from left to right, and so many of the likeliest ones in their places. Not
    /// with `stream`.
    logprobs: Option<TopLogprobs>,
    /// Only as many as `n`.
    best_of: Option<usize>,
}

/// A number of tokens, or `false` for no log-probabilities, as some clients of chats send it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum TopLogprobs {
    Tokens(usize),
    Wanted(bool),
}

impl TopLogprobs {
    fn tokens(self) -> Option<usize> {
        match self {
            Self::Tokens(n) => Some(n),
            Self::Wanted(wanted) => wanted.then_some(0),
        }
    }
}

impl PartialSchema for TopLogprobs {
    fn schema() -> RefOr<Schema> {
        let schema = json!({
            "description": "So many of the likeliest tokens in each place; `false`, as null, for no log-probabilities.",
            "oneOf": [{"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS}, {"type": "boolean", "enum": [false]}],
        });
        RefOr::T(serde_json::from_value(schema).expect("it is a schema"))
    }
}

impl ToSchema for TopLogprobs {}

impl PartialSchema for CompletionBody {
    fn schema() -> RefOr<Schema> {
        let about = "A request for completions. Other fields are refused.";
        let common = extended(neutral::schema(neutral::COMPLETION, about), Common::schema(), &["model"]);
        extended(common, CompletionRequest::schema(), &["prompt"])
    }
}

impl ToSchema for CompletionBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Common::schemas(schemas);
        CompletionRequest::schemas(schemas);
    }
}

/// Completions, or a chunk of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    #[serde(flatten)]
    head: Head,
    /// By prompt, then by choice; one in a chunk, none in a chunk with usage.
    choices: Vec<CompletionChoice>,
    /// In a chunk only with `include_usage`, and null but in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// Beyond OpenAI; in chunks with a `finish_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    steerling: Option<RequestExtra>,
}

/// A choice, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
struct CompletionChoice {
    /// Its place among all choices.
    index: usize,
    /// In a chunk, the text that has become final since the one before.
    text: String,
    logprobs: Option<CompletionLogprobs>,
    /// `length`, or `stop` at a stop string or the end of the turn; null in chunks before the last.
    finish_reason: Option<&'static str>,
    /// Beyond OpenAI.
    #[serde(skip_serializing_if = "Option::is_none")]
    steerling: Option<ChoiceExtra>,
}

impl CompletionChoice {
    fn of_text(index: usize, text: String) -> Self {
        Self { index, text, logprobs: None, finish_reason: None, steerling: None }
    }
}

/// What is asked for beside generations.
struct Form {
    stream: bool,
    include_usage: bool,
    logprobs: Option<usize>,
    /// The texts of the prompts, as far as they are echoed and were given as texts.
    echo: Option<Vec<Option<String>>>,
}

/// Completes texts, as OpenAI does.
///
/// With `stream: true` the answer is `text/event-stream`: chunks with text that is final, for all choices as it comes,
/// then `data: [DONE]`, or an error without it. `echo` with `logprobs` gives the left-to-right likelihood of the prompt.
#[utoipa::path(post, path = "/v1/completions", tag = "openai", operation_id = "create_completion",
    request_body = CompletionBody,
    responses(
        (status = 200, description = "the completions, whole or as a stream", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        )),
        Refusals,
    ))]
pub(crate) async fn completions(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    mut body: Object,
) -> Result<Response, ApiError> {
    neutral::strip(body.fields(), neutral::COMPLETION)?;
    let body = body.checked::<CompletionBody>()?;
    let (common, request): (Common, CompletionRequest) = extract::split(body, common::FIELDS)?;
    let ticket = state.admit(None)?;
    let model = state.model()?;
    models::check(&model, &common.model)?;
    let (order, form) = request.order(common)?;
    let places = state.places();
    let mut plan = api::plan(&ticket, move || order.plan(&model, places)).await?;
    let echoes = form.echoes(&plan);
    if form.stream {
        let lanes = plan.open(&state, &ticket).await?.lanes;
        let usage = Usage::new(plan.prompt_tokens(), 0);
        let chunk = chunks(plan, echoes, form.include_usage);
        return Ok(stream::answer((lanes, ticket.into_permit()), (usage, form.include_usage), request_id, chunk));
    }
    let (choices, usage) = plan.choices(&state, &ticket).await?;
    json(ticket, move || {
        let choices = choices.into_iter().map(|choice| form.choice(choice, &plan, &echoes)).collect();
        let Plan { head, extra, .. } = plan;
        Ok(Completion { head, choices, usage: Some(Some(usage)), steerling: Some(extra) })
    })
    .await
}

impl CompletionRequest {
    fn order(self, common: Common) -> Result<(Order, Form), ApiError> {
        let Self { prompt, max_tokens, echo, logprobs, best_of } = self;
        let (n, (stream, include_usage)) = (common.n()?, common.streaming()?);
        let logprobs = logprobs.and_then(TopLogprobs::tokens);
        let (echo, max_tokens) = (echo.unwrap_or(false), max_tokens.unwrap_or(MAX_TOKENS));
        if best_of.is_some_and(|best_of| best_of != n) {
            return Err(ApiError::unsupported(
                "best_of",
                format!("this server chooses none: leave it out, or send {n} as `n`"),
            ));
        }
        if stream && logprobs.is_some() {
            return Err(ApiError::unsupported("logprobs", "not with `stream: true`: they are read off the whole text"));
        }
        if max_tokens == 0 && (stream || !echo) {
            return Err(ApiError::invalid("max_tokens", "0 only with `echo: true`, and without `stream`"));
        }
        let (prompts, is_list) = match prompt {
            Input::Text(text) => (vec![Prompt::Text(text)], false),
            Input::Ids(ids) => (vec![Prompt::Ids(ids)], false),
            Input::Texts(texts) => (texts.into_iter().map(Prompt::Text).collect(), true),
            Input::Lists(lists) => (lists.into_iter().map(Prompt::Ids).collect(), true),
        };
        if prompts.is_empty() {
            return Err(ApiError::invalid("prompt", "an empty list; at least one prompt is needed"));
        }
        let text = |prompt: &Prompt| match prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Ids(_) => None,
        };
        let echoes = echo.then(|| prompts.iter().map(text).collect());
        let shared = common.request(Some(max_tokens));
        let request = |prompt| GenerateRequest { prompt: Some(prompt), ..shared.clone() };
        let order = Order {
            id: new_id().replace("gen-", "cmpl-"),
            object: "text_completion",
            requests: prompts.into_iter().map(request).collect(),
            is_list,
            common,
            max_tokens: "max_tokens",
            generates: max_tokens > 0,
            echo,
            logprobs,
        };
        Ok((order, Form { stream, include_usage, logprobs, echo: echoes }))
    }
}

impl Form {
    /// What the text of each prompt's choices begins with.
    fn echoes(&self, plan: &Plan) -> Vec<String> {
        let decode = |(text, ids): (&Option<String>, &Vec<u32>)| {
            text.clone().unwrap_or_else(|| plan.model.tokenizer.decode(ids, true))
        };
        match &self.echo {
            Some(texts) => texts.iter().zip(&plan.prompts).map(decode).collect(),
            None => vec![String::new(); plan.prompts.len()],
        }
    }

    fn choice(&self, choice: Choice, plan: &Plan, echoes: &[String]) -> CompletionChoice {
        let Choice { index, prompt, text, finish_reason, extra, tokens } = choice;
        let echo = &echoes[prompt];
        let echoed = if self.echo.is_some() { plan.prompts[prompt].len() } else { 0 };
        let logprobs = |top| CompletionLogprobs::new(&tokens, top, (echoed, echo), &plan.model.tokenizer);
        CompletionChoice {
            index,
            text: format!("{echo}{text}"),
            logprobs: self.logprobs.map(logprobs),
            finish_reason: Some(finish_reason),
            steerling: extra,
        }
    }
}

/// Makes the chunks of a stream.
fn chunks(plan: Plan, echoes: Vec<String>, include_usage: bool) -> impl FnMut(Piece) -> Option<Completion> {
    let Plan { head, extra, n, .. } = plan;
    move |piece| {
        let chunk = |choice: Option<CompletionChoice>, usage: Option<Usage>| Completion {
            head: head.clone(),
            steerling: choice.as_ref().and_then(|choice| choice.finish_reason).map(|_| extra.clone()),
            choices: choice.into_iter().collect(),
            usage: include_usage.then_some(usage),
        };
        match piece {
            Piece::Opening(index) => {
                let echo = &echoes[index / n];
                (!echo.is_empty()).then(|| chunk(Some(CompletionChoice::of_text(index, echo.clone())), None))
            }
            Piece::Text(index, text) => Some(chunk(Some(CompletionChoice::of_text(index, text)), None)),
            Piece::End(index, extra) => {
                let last = CompletionChoice {
                    finish_reason: Some(extra.finish_reason()),
                    steerling: Some(*extra),
                    ..CompletionChoice::of_text(index, String::new())
                };
                Some(chunk(Some(last), None))
            }
            Piece::Usage(usage) => Some(chunk(None, Some(usage))),
        }
    }
}
