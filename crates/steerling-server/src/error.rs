//! Every refusal has one shape: `{"error":{"code","message","param","request_id","details"?}}`.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Scope;
use crate::engine::{Failure, Fault, NotReady, SubmitError};

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ErrorCode)]
pub(crate) enum Code {
    InvalidJson,
    Unauthorized,
    Forbidden,
    NotFound,
    ModelNotFound,
    MethodNotAllowed,
    RequestTimeout,
    PayloadTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    ContextLengthExceeded,
    UnknownConcept,
    AmbiguousConcept,
    NotSteerable,
    RefusedByPolicy,
    Overloaded,
    Internal,
    Unsupported,
    NotReady,
    ShuttingDown,
    DeadlineExceeded,
}

impl Code {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::InvalidJson => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidRequest
            | Self::ContextLengthExceeded
            | Self::UnknownConcept
            | Self::AmbiguousConcept
            | Self::NotSteerable
            | Self::RefusedByPolicy => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::NotReady | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// A refusal on its way to the client.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    /// Boxed, because refusals are passed on by value everywhere.
    details: Option<Box<serde_json::Value>>,
    retry_after: Option<Duration>,
    /// The encoding of the body is at fault: the answer names those that are supported.
    bad_encoding: bool,
    status: StatusCode,
}

/// The body of every answer with a status of 400 or above, and of the `error` event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

/// One refusal.
#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// What went wrong, for programs.
    code: Code,
    /// What went wrong, for people: the value found and the limit.
    message: String,
    /// The request field that is at fault, with its index in a list: `stop_tokens[1]`.
    #[schema(required = true)]
    param: Option<String>,
    /// The same as the header `x-request-id`.
    request_id: String,
    /// More about it, depending on the code: `candidates` of an ambiguous name, the lengths that exceed the context.
    #[schema(value_type = Option<std::collections::HashMap<String, serde_json::Value>>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            message,
            param: None,
            details: None,
            retry_after: None,
            bad_encoding: false,
            status: code.status(),
        }
    }

    /// The client may know no more than this; the reason is in the log.
    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, "an internal error; the server's log says more under this request id")
    }

    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Code::InvalidRequest, message) }
    }

    /// Says nothing about the key that was sent, if one was.
    pub(crate) fn unauthorized() -> Self {
        Self::new(Code::Unauthorized, "this needs a valid API key: `authorization: Bearer KEY`")
    }

    pub(crate) fn forbidden(key: &str, scope: Scope) -> Self {
        let message =
            format!("the API key `{key}` does not have the scope `{}` that this request needs", scope.as_str());
        Self::new(Code::Forbidden, message)
    }

    /// Without keys a browser could be made to ask by a page whose name resolves to this server.
    pub(crate) fn foreign_host(host: &str) -> Self {
        let message = format!(
            "this server has no API keys, and answers requests for localhost and its allowed hosts only, not for \
             `{host}`; add the name to `allowed_hosts` (--allowed-hosts), or set API keys"
        );
        Self::new(Code::Forbidden, message)
    }

    /// `size` says how many bytes the body has.
    pub(crate) fn payload_too_large(size: &str, limit: usize) -> Self {
        let message = format!("{size}, this server accepts at most {limit} (`max_body_bytes`, --max-body-bytes)");
        Self::new(Code::PayloadTooLarge, message)
    }

    pub(crate) fn unsupported_encoding(found: &str) -> Self {
        let message = format!("`content-encoding: {found}` is not supported; supported are gzip and identity");
        Self { bad_encoding: true, ..Self::new(Code::UnsupportedMediaType, message) }
    }

    pub(crate) fn key_is_busy(key: &str, most: usize) -> Self {
        let message = format!("the API key `{key}` has {most} requests under way, as many as it may have");
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(Code::Overloaded, message) }
    }

    pub(crate) fn refused_by_policy(message: String, details: serde_json::Value) -> Self {
        Self::new(Code::RefusedByPolicy, message).with_details(details)
    }

    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.to_owned()), ..Self::new(Code::Unsupported, message) }
    }

    pub(crate) fn not_ready(why: NotReady) -> Self {
        let message = match why {
            NotReady::Loading => "the model is being loaded",
            NotReady::Stalled => "the worker is busy with one step for longer than it should be",
            NotReady::Stopped => "the worker has ended; the process follows",
        };
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(Code::NotReady, message) }
    }

    pub(crate) fn shutting_down() -> Self {
        let retry_after = Some(Duration::from_secs(5));
        Self { retry_after, ..Self::new(Code::ShuttingDown, "the server is shutting down") }
    }

    /// What the client is told about an answer that nobody wrote a body for.
    pub(crate) fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(Code::NotFound, "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                Self::new(Code::MethodNotAllowed, "this path does not take this method; see the header `allow`")
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self::new(Code::UnsupportedMediaType, "the body must be `content-type: application/json`")
            }
            _ if status.is_client_error() => Self::new(Code::InvalidRequest, "the request could not be understood"),
            _ => Self::internal(),
        }
    }

    /// As a model error, its candidates in full instead of their ids.
    pub(crate) fn of_concept(error: steerling::Error, catalog: &steerling::Catalog) -> Self {
        let candidates: Option<Vec<_>> = match &error {
            steerling::Error::AmbiguousConcept { candidates, .. } => {
                Some(candidates.iter().filter_map(|id| catalog.get(*id)).collect())
            }
            _ => None,
        };
        let refusal = Self::from(error);
        match candidates {
            Some(candidates) => refusal.with_details(serde_json::json!({ "candidates": candidates })),
            None => refusal,
        }
    }

    /// As [`Self::of_concept`], for a concept that is named in the path: what is not there is not found.
    pub(crate) fn of_path(error: steerling::Error, catalog: &steerling::Catalog) -> Self {
        let refusal = Self::of_concept(error, catalog);
        match refusal.code {
            Code::UnknownConcept => refusal.with_status(StatusCode::NOT_FOUND),
            _ => refusal,
        }
    }

    /// The same refusal, saying more.
    pub(crate) fn with_details(self, details: serde_json::Value) -> Self {
        Self { details: Some(Box::new(details)), ..self }
    }

    /// The same refusal under another status.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// What it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// A retry makes sense, and the answer says when.
    pub(crate) fn is_temporary(&self) -> bool {
        self.retry_after.is_some()
    }

    /// The same refusal, of this field if it names none.
    pub(crate) fn or_param(mut self, param: &str) -> Self {
        self.param.get_or_insert_with(|| param.to_owned());
        self
    }

    /// The same refusal, of something inside `parent`.
    pub(crate) fn within(mut self, parent: &str) -> Self {
        self.param = Some(self.param.map_or_else(|| parent.to_owned(), |param| format!("{parent}.{param}")));
        self
    }

    /// Names the request field of a model error that does not know it.
    pub(crate) fn of_field(error: steerling::Error, field: &str) -> Self {
        match error {
            steerling::Error::Tokenizer(message) => Self::invalid(field, message),
            other => other.into(),
        }
    }

    /// The same refusal where fields have other names: pairs of ours and theirs.
    pub(crate) fn in_terms(mut self, names: &[(&str, &str)]) -> Self {
        for (ours, theirs) in names {
            let rest = self.param.as_deref().and_then(|param| param.strip_prefix(ours));
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(['[', '.'])) {
                self.param = Some(format!("{theirs}{rest}"));
            }
            self.message = self.message.replace(ours, theirs);
        }
        self
    }

    pub(crate) fn details(&self) -> Option<&serde_json::Value> {
        self.details.as_deref()
    }

    pub(crate) fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                code: self.code,
                message: self.message.clone(),
                param: self.param.clone(),
                request_id: request_id.to_owned(),
                details: self.details.as_deref().cloned(),
            },
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.param {
            Some(param) if !self.message.contains(param) => write!(f, "`{param}`: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl IntoResponse for ApiError {
    /// Status and headers; [`crate::observe`] writes the body, because it knows the request id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.bad_encoding {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, identity"));
        }
        if self.code == Code::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"steerling\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<steerling::Error> for ApiError {
    fn from(error: steerling::Error) -> Self {
        match error {
            steerling::Error::Invalid { field, message } => Self::invalid(field, message),
            steerling::Error::ContextLength { prompt, max_new_tokens, context } => {
                let refusal = Self::new(Code::ContextLengthExceeded, error.to_string()).or_param("max_new_tokens");
                refusal.with_details(serde_json::json!({
                    "prompt_tokens": prompt, "max_new_tokens": max_new_tokens, "context": context
                }))
            }
            steerling::Error::UnknownConcept { field, message } => {
                Self { param: Some(field), ..Self::new(Code::UnknownConcept, message) }
            }
            steerling::Error::AmbiguousConcept { field, message, candidates } => {
                Self::new(Code::AmbiguousConcept, message)
                    .or_param(&field)
                    .with_details(serde_json::json!({ "candidates": candidates }))
            }
            steerling::Error::NotSteerable { ref field, .. } => {
                Self { param: Some(field.clone()), ..Self::new(Code::NotSteerable, error.to_string()) }
            }
            steerling::Error::TooLarge { field, message, needed, available } => Self::invalid(field, message)
                .with_details(serde_json::json!({ "needed": needed, "available": available })),
            steerling::Error::Unsupported(message) => Self::new(Code::Unsupported, message),
            steerling::Error::Tokenizer(message) => Self::new(Code::InvalidRequest, message),
            other => {
                tracing::error!(error = %other, "the model failed");
                Self::internal()
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::NotReady(why) => Self::not_ready(why),
            SubmitError::ShuttingDown => Self::shutting_down(),
            SubmitError::Overloaded { retry_after } => Self {
                retry_after: Some(retry_after),
                ..Self::new(
                    Code::Overloaded,
                    "all slots of the batch and the queue are held: come again when `retry-after` says",
                )
            },
            SubmitError::TooManyPages { needed, available } => Self::invalid(
                "max_new_tokens",
                format!(
                    "this generation needs {needed} blocks of keys and values, the server holds {available} \
                     (--kv-cache-mib)"
                ),
            ),
            SubmitError::TooManyRows { needed, available } => Self::new(
                Code::InvalidRequest,
                format!("a step of this generation computes {needed} rows, the server allows {available} (--max-rows)"),
            ),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Deadline => {
                Self::new(Code::DeadlineExceeded, "it took longer than `timeout_ms`, or than the server allows")
            }
            Failure::ShuttingDown => Self::shutting_down(),
            Failure::Refused(error) => error.into(),
            Failure::Internal => Self::internal(),
            Failure::NonFinite { steered: true } => Self::invalid(
                "steering",
                "under this steering the model's logits are no finite numbers; its targets are too large",
            ),
            Failure::NonFinite { steered: false } => {
                Self::new(Code::Internal, "the model's logits are no finite numbers; its weights may be damaged")
            }
            Failure::Fault(Fault::OutOfMemory) => Self::new(
                Code::Internal,
                "the device ran out of memory in a step of this request; the model is being loaded again, a retry is \
                 safe",
            ),
            Failure::Fault(Fault::Panic | Fault::Device | Fault::NonFinite) => Self::new(
                Code::Internal,
                "a step of this request failed; the model is being loaded again, a retry is safe",
            ),
        }
    }
}
