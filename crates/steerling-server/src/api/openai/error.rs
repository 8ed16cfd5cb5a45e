//! Refusals as OpenAI's clients read them. [`crate::observe`] writes them under `/v1`.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{ApiError, Code};
use crate::openapi::errors_of;

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
        let (message, param) = (error.message.clone(), error.param.clone());
        Self { error: OpenAiError { message, r#type, param, code: error.code } }
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

impl utoipa::IntoResponses for Refusals {
    fn responses() -> Responses {
        refusals(&[
            (
                "400",
                "`invalid_json`, `invalid_request`, `context_length_exceeded`, `unsupported` (by this checkpoint or \
                 build), `unknown_concept`, `ambiguous_concept`, `not_steerable`: `param` names the field",
            ),
            ("404", "`model_not_found`: another model is served"),
            ("413", "`payload_too_large`: the body has too many bytes"),
            ("415", "`unsupported_media_type`: the body is not `application/json`"),
            ("429", "`overloaded`: all places are taken; see the header `retry-after`"),
            ("500", "`internal`: the server failed; its log says why"),
            ("503", "`not_ready`, `shutting_down`: see the header `retry-after`"),
            ("504", "`deadline_exceeded`: it took longer than the server allows"),
        ])
    }
}

impl utoipa::IntoResponses for NotThere {
    fn responses() -> Responses {
        refusals(&[
            ("404", "`model_not_found`: another model is served"),
            ("500", "`internal`: the server failed; its log says why"),
            ("503", "`not_ready`: the model is being loaded; see the header `retry-after`"),
        ])
    }
}

type Responses = std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>>;

fn refusals(table: &[(&str, &str)]) -> Responses {
    errors_of(&OpenAiErrorBody::name(), table)
}
