//! The layer that asks for the key.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use super::{Access, Key, Keys, Scope, access};
use crate::api::AppState;
use crate::error::ApiError;
use crate::observe::RequestId;

tokio::task_local! {
    /// Who has sent the request that this task answers.
    static CALLER: Caller;
}

/// Who has sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) request_id: String,
    /// The route.
    pub(crate) path: String,
    /// The name of the key; none where no keys are set.
    pub(crate) key: Option<String>,
    /// When its headers were there; its body may have come later.
    arrived: Instant,
}

/// Who has sent the request that the current task answers; handlers run in the task of their request.
pub(crate) fn caller() -> Option<Caller> {
    CALLER.try_with(Clone::clone).ok()
}

/// Refuses the request that the current task answers if its key lacks a scope that only the handler knows it to need.
/// Without keys nothing is refused.
pub(crate) fn require(keys: &Keys, scope: Scope) -> Result<(), ApiError> {
    let Some(name) = caller().and_then(|caller| caller.key) else { return Ok(()) };
    match keys.iter().any(|key| key.name() == name && key.may(scope)) {
        true => Ok(()),
        false => Err(ApiError::forbidden(&name, scope)),
    }
}

/// The end of `time` from the arrival of the request that the current task answers.
pub(crate) fn deadline(time: Duration) -> Instant {
    CALLER.try_with(|caller| caller.arrived).unwrap_or_else(|_| Instant::now()) + time
}

/// Lets a request through if its key opens the path, and counts it against the limit of the key until the last byte of
/// its answer.
pub(crate) async fn authorize(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let mut caller = Caller { request_id, path, key: None, arrived: Instant::now() };
    let permit = match admit(&state, &caller.path, request.headers()) {
        Ok(None) => None,
        Ok(Some((key, permit))) => {
            tracing::Span::current().record("key", key.name());
            caller.key = Some(key.name().to_owned());
            permit
        }
        Err(error) => return error.into_response(),
    };
    let response = CALLER.scope(caller, next.run(request)).await;
    match permit {
        None => response,
        // The body owns the permit: it is back when the body has ended or the client has left.
        Some(permit) => response.map(|body| {
            axum::body::Body::new(body.map_err(move |error| {
                _ = &permit;
                error
            }))
        }),
    }
}

/// The key of the request, if the path wants one, with its place among the key's requests.
fn admit<'a>(
    state: &'a AppState,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<(&'a Key, Option<OwnedSemaphorePermit>)>, ApiError> {
    let keys = &state.options.guard.keys;
    let needs = access(path);
    if keys.is_empty() || needs == Access::Open {
        return Ok(None);
    }
    let key = bearer(headers).and_then(|secret| keys.find(secret)).ok_or_else(ApiError::unauthorized)?;
    if let Access::Needs(scope) = needs
        && !key.may(scope)
    {
        return Err(ApiError::forbidden(key.name(), scope));
    }
    let permit = match key.places() {
        None => None,
        Some(places) => Some(
            places.clone().try_acquire_owned().map_err(|_| ApiError::key_is_busy(key.name(), key.max_concurrent()))?,
        ),
    };
    Ok(Some((key, permit)))
}

/// The secret of `Authorization: Bearer SECRET`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}
