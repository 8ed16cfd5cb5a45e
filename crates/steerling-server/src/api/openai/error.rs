//! Refusals as OpenAI's clients read them. [`crate::observe`] writes them under `/v1`.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoResponses, ToSchema};

use crate::error::{ApiError, Code};
use crate::openapi::refusals::{Family, Refusal, Responses, of_any, of_generations, of_work, without_model};

/// The body of every answer under `/v1` with a status of 400 or above, and the last event of a stream that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    error: OpenAiError,
}

/// One refusal.
#[derive(Debug, Serialize, ToSchema)]
struct OpenAiError {
    /// What went wrong, for people: the value found and the limit.
    message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[schema(example = "invalid_request_error")]
    r#type: &'static str,
    /// The request field that is at fault.
    param: Option<String>,
    /// What went wrong, for programs.
    code: Code,
}

impl OpenAiErrorBody {
    /// 400 for whatever the client has to change: OpenAI's clients know no 422, and would try again after a 501.
    pub(crate) fn status(status: StatusCode) -> StatusCode {
        match status {
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_IMPLEMENTED => StatusCode::BAD_REQUEST,
            other => other,
        }
    }
}

impl From<&ApiError> for OpenAiErrorBody {
    fn from(error: &ApiError) -> Self {
        let status = Self::status(error.code.status());
        let r#type = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            _ if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let (message, param) = (message(error), error.param.clone());
        Self { error: OpenAiError { message, r#type, param, code: error.code } }
    }
}

/// What went wrong. Clients with other models to fall back on look for OpenAI's words where a context is too short.
fn message(error: &ApiError) -> String {
    let length = |name: &str| error.details().and_then(|details| details[name].as_u64());
    match (error.code, length("context"), length("prompt_tokens"), length("max_new_tokens")) {
        (Code::ContextLengthExceeded, Some(context), Some(prompt), Some(new)) => format!(
            "This model's maximum context length is {context} tokens. However, you requested {} tokens ({prompt} in the \
             prompt, {new} to generate). Please reduce the length of the prompt or the number of tokens to generate.",
            prompt.saturating_add(new)
        ),
        (Code::ContextLengthExceeded, Some(context), Some(prompt), None) => format!(
            "This model's maximum context length is {context} tokens. However, your input has {prompt} tokens. Please \
             reduce its length."
        ),
        _ => error.message.clone(),
    }
}

/// Whether whoever asks for `path` expects OpenAI's shapes.
pub(crate) fn is_openai(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// Refusals of an operation with a body.
pub(crate) struct Refusals;
/// Refusals of an operation that only looks.
pub(crate) struct NotThere;

/// As OpenAI's clients expect it.
pub(crate) const OPENAI: Family = Family {
    schema: OpenAiErrorBody::name,
    status: |error| OpenAiErrorBody::status(error.status()),
    body: |error| json!(OpenAiErrorBody::from(error)),
};

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        let parts = [of_generations(), other_model(), of_work(), without_model(), of_any()];
        OPENAI.responses(parts.into_iter().flatten().collect())
    }
}

impl IntoResponses for NotThere {
    fn responses() -> Responses {
        OPENAI.responses([other_model(), without_model(), of_any()].into_iter().flatten().collect())
    }
}

fn other_model() -> Vec<Refusal> {
    let error = ApiError::new(Code::ModelNotFound, "there is no model `gpt-5`: this server has `steerling-demo`");
    vec![("another model is served", error.or_param("model"))]
}
