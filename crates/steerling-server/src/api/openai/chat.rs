//! `POST /v1/chat/completions`.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::choices::{Choice, Order, Plan};
use super::common::{self, ChoiceExtra, Common, Head, RequestExtra, Usage};
use super::error::Refusals;
use super::logprobs::ChatLogprobs;
use super::messages::{self, ChatTurn, Turn};
use super::stream::{self, Piece};
use super::{models, neutral};
use crate::api::generate::request::{ChatMessage, GenerateRequest, new_id};
use crate::api::respond::json;
use crate::api::{self, AppState};
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::observe::RequestId;
use crate::openapi::extended;

/// As OpenAI's.
const MAX_LOGPROBS: usize = 20;

/// A request for chat completions, with all fields of OpenAI's.
pub(crate) struct ChatBody;

/// The fields that mean something here, beside the common ones.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "steerling", "messages": [{"role": "user", "content": "Tell me a story."}]}))]
struct ChatRequest {
    /// The conversation so far.
    #[schema(value_type = Vec<ChatTurn>, min_items = 1)]
    messages: Vec<Turn>,
    /// Positions to generate. Left out, 1024 or as many as the context has room for.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<usize>,
    /// The old name of `max_completion_tokens`; not both.
    #[schema(minimum = 1)]
    max_tokens: Option<usize>,
    /// Tell how likely the tokens of the message are from left to right. Not with `stream`.
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// So many of the likeliest tokens in their places; only with `logprobs`.
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,
}

impl PartialSchema for ChatBody {
    fn schema() -> RefOr<Schema> {
        let about = "A request for chat completions. Other fields are refused.";
        let common = extended(neutral::schema(neutral::CHAT, about), Common::schema(), &["model"]);
        extended(common, ChatRequest::schema(), &["messages"])
    }
}

impl ToSchema for ChatBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Common::schemas(schemas);
        ChatRequest::schemas(schemas);
    }
}

/// Chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<ChatChoice>,
    usage: Usage,
    /// Beyond OpenAI.
    steerling: RequestExtra,
}

/// A choice.
#[derive(Debug, Serialize, ToSchema)]
struct ChatChoice {
    index: usize,
    message: ChatAnswer,
    logprobs: Option<ChatLogprobs>,
    /// `length`, or `stop` at the end of the turn or a stop string.
    finish_reason: &'static str,
    /// Beyond OpenAI.
    steerling: Option<ChoiceExtra>,
}

/// The assistant's turn.
#[derive(Debug, Serialize, ToSchema)]
struct ChatAnswer {
    #[schema(example = "assistant")]
    role: &'static str,
    content: String,
    /// Always null.
    refusal: Option<String>,
}

/// A piece of chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletionChunk {
    #[serde(flatten)]
    head: Head,
    /// One; none in a chunk with usage.
    choices: Vec<ChatChunkChoice>,
    /// Only with `include_usage`, and null but in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// Beyond OpenAI; in chunks with a `finish_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    steerling: Option<RequestExtra>,
}

/// A piece of a choice.
#[derive(Debug, Serialize, ToSchema)]
struct ChatChunkChoice {
    index: usize,
    delta: ChatDelta,
    /// Always null.
    logprobs: Option<ChatLogprobs>,
    /// As of a choice; null in chunks before the last.
    finish_reason: Option<&'static str>,
    /// Beyond OpenAI; in the last chunk of the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    steerling: Option<ChoiceExtra>,
}

/// What a chunk adds to the assistant's turn.
#[derive(Debug, Default, Serialize, ToSchema)]
struct ChatDelta {
    /// In the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Text that has become final.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Goes on with conversations, as OpenAI does. Only for checkpoints with the chat tokens.
///
/// With `stream: true` the answer is `text/event-stream`: chunks with text that is final, for all choices as it comes,
/// then `data: [DONE]`, or an error without it.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", operation_id = "create_chat_completion",
    request_body = ChatBody,
    responses(
        (status = 200, description = "the completions, whole or as a stream", content(
            (ChatCompletion = "application/json"),
            (ChatCompletionChunk = "text/event-stream"),
        )),
        Refusals,
    ))]
pub(crate) async fn chat_completions(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    mut body: Object,
) -> Result<Response, ApiError> {
    neutral::strip(body.fields(), neutral::CHAT)?;
    messages::strip(body.fields())?;
    let body = body.checked::<ChatBody>()?;
    let (common, request): (Common, ChatRequest) = extract::split(body, common::FIELDS)?;
    let ticket = state.admit(None)?;
    let model = state.model()?;
    models::check(&model, &common.model)?;
    let (stream, include_usage) = common.streaming()?;
    let order = request.order(common, stream)?;
    let places = state.places();
    let mut plan = api::plan(&ticket, move || order.plan(&model, places)).await?;
    if stream {
        let lanes = plan.open(&state, &ticket).await?.lanes;
        let usage = Usage::new(plan.prompt_tokens(), 0);
        let chunks = chunks(plan, include_usage);
        return Ok(stream::answer((lanes, ticket.into_permit()), (usage, include_usage), request_id, chunks));
    }
    let (choices, usage) = plan.choices(&state, &ticket).await?;
    json(ticket, move || {
        let choice = |Choice { index, text, finish_reason, extra, tokens, .. }: Choice| ChatChoice {
            index,
            message: ChatAnswer { role: "assistant", content: text, refusal: None },
            logprobs: plan.logprobs.map(|_| ChatLogprobs::new(&tokens, &plan.model.tokenizer)),
            finish_reason,
            steerling: extra,
        };
        let choices = choices.into_iter().map(choice).collect();
        let Plan { head, extra, .. } = plan;
        Ok(ChatCompletion { head, choices, usage, steerling: extra })
    })
    .await
}

impl ChatRequest {
    fn order(self, common: Common, stream: bool) -> Result<Order, ApiError> {
        let Self { messages, max_completion_tokens, max_tokens, logprobs, top_logprobs } = self;
        if max_completion_tokens.is_some() && max_tokens.is_some() {
            return Err(ApiError::invalid("max_tokens", "either this or `max_completion_tokens`, not both"));
        }
        let logprobs = logprobs.unwrap_or(false);
        if let Some(top) = top_logprobs.filter(|top| *top > MAX_LOGPROBS) {
            return Err(ApiError::invalid("top_logprobs", format!("{top} is outside 0..={MAX_LOGPROBS}")));
        }
        if top_logprobs.is_some_and(|top| top > 0) && !logprobs {
            return Err(ApiError::invalid("top_logprobs", "only with `logprobs: true`"));
        }
        if stream && logprobs {
            return Err(ApiError::unsupported("logprobs", "not with `stream: true`: they are read off the whole text"));
        }
        let messages = messages.into_iter().map(ChatMessage::from).collect();
        let shared = common.request(max_completion_tokens.or(max_tokens));
        Ok(Order {
            id: new_id().replace("gen-", "chatcmpl-"),
            object: if stream { "chat.completion.chunk" } else { "chat.completion" },
            requests: vec![GenerateRequest { messages: Some(messages), ..shared }],
            is_list: false,
            common,
            max_tokens: if max_tokens.is_some() { "max_tokens" } else { "max_completion_tokens" },
            generates: true,
            echo: false,
            logprobs: logprobs.then(|| top_logprobs.unwrap_or(0)),
        })
    }
}

/// Makes the chunks of a stream.
fn chunks(plan: Plan, include_usage: bool) -> impl FnMut(Piece) -> Option<ChatCompletionChunk> {
    let Plan { head, extra, .. } = plan;
    move |piece| {
        let mut chunk = ChatCompletionChunk {
            head: head.clone(),
            choices: Vec::new(),
            usage: include_usage.then_some(None),
            steerling: None,
        };
        let mut add = |index, role, content| {
            let delta = ChatDelta { role, content };
            chunk.choices.push(ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, steerling: None });
        };
        match piece {
            Piece::Opening(index) => add(index, Some("assistant"), Some(String::new())),
            Piece::Text(index, text) => add(index, None, Some(text)),
            Piece::End(index, of_choice) => {
                let finish_reason = Some(of_choice.finish_reason());
                let delta = ChatDelta::default();
                let steerling = Some(*of_choice);
                chunk.choices.push(ChatChunkChoice { index, delta, logprobs: None, finish_reason, steerling });
                chunk.steerling = Some(extra.clone());
            }
            Piece::Usage(usage) => chunk.usage = Some(Some(usage)),
        }
        Some(chunk)
    }
}
