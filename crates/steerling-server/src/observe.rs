//! Around every request: its id, its span in the log, and a body for every refusal.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::api::openai::error::{OpenAiErrorBody, is_openai};
use crate::error::ApiError;
use crate::metrics::{Measured, Metrics, StreamEnd};
use crate::telemetry;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over from a caller.
const MAX_REQUEST_ID: usize = 128;

/// Names a request in the log, in the answer's header and in error bodies.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// The outermost layer. What it measures and logs ends with the last byte of the answer, or when the client leaves.
pub(crate) async fn observe(State(metrics): State<Arc<Metrics>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!(
        "request", request_id = %id, method = %request.method(), path = %request.uri().path(),
        key = tracing::field::Empty, trace_id = tracing::field::Empty, parent_id = tracing::field::Empty
    );
    telemetry::adopt(&span, request.headers());
    let openai = is_openai(request.uri().path());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let measured = Measured::start(metrics, route.as_ref().map(MatchedPath::as_str), span.clone());
    async {
        let mut response = with_error_body(next.run(request).await, openai, &id);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        let status = response.status();
        tracing::debug!(status = status.as_u16(), "answering");
        let end = response.extensions_mut().remove::<StreamEnd>();
        response.map(|body| measured.follow(status, end, body))
    }
    .instrument(span)
    .await
}

/// The same for requests that nobody measures.
pub(crate) async fn answer_errors(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    with_error_body(next.run(request).await, false, &id)
}

/// The caller's id if it is sane, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    sent.filter(sane).map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned)
}

/// Writes the body of a refusal, whoever refused: a handler, the router or a layer. Its headers stay. To `openai` clients
/// in their shape.
fn with_error_body(response: Response, openai: bool, request_id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let error = parts.extensions.remove::<ApiError>().unwrap_or_else(|| ApiError::from_status(status));
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let body = if openai {
        parts.status = OpenAiErrorBody::status(status);
        Json(OpenAiErrorBody::from(&error)).into_response()
    } else {
        Json(error.body(request_id)).into_response()
    };
    let (body_parts, body) = body.into_parts();
    parts.headers.extend(body_parts.headers);
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_visible_ids_are_taken_over() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(value).expect("a header value"));
            request_id(&headers)
        };
        assert_eq!(with("abc-123"), "abc-123");
        for refused in ["", "a b", &"x".repeat(129)] {
            assert_eq!(with(refused).len(), 32, "{refused:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
