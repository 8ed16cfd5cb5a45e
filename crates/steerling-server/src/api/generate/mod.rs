//! `POST /generate`.

pub(crate) mod answer;
pub(crate) mod decoding;
pub(crate) mod request;
pub(crate) mod warnings;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::lanes::{self, Opened};
use super::respond::json;
use super::{AppState, plan};
use crate::error::ApiError;
use crate::extract::Json;
use crate::observe::RequestId;
use crate::openapi::{Compute, GenerateEvent, Generation, Internal, NotReady};
use crate::stream::{self, Tail};

use answer::GenerateResult;
use request::GenerateRequest;

/// Generates text.
///
/// With `stream: true` the answer is `text/event-stream`: one `start`, a `block` for each denoising step (every
/// `stream_every`, and always when `final`; steps of one block are merged for a reader that falls behind), an
/// `attribution` after each `block` if asked for, and exactly one `done` or `error`. `id:` counts up from 0; a comment is sent every 15 s. The answer's head is sent when
/// the generation leaves the queue, so a refusal always has its own status.
#[utoipa::path(post, path = "/generate", tag = "generate", request_body = GenerateRequest,
    responses(
        (status = 200, description = "the generation, whole or as a stream", content(
            (GenerateResult = "application/json"),
            (GenerateEvent = "text/event-stream"),
        )),
        Generation, Compute, Internal, NotReady,
    ))]
pub(crate) async fn generate(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let ticket = state.admit(request.timeout_ms)?;
    let model = state.model()?;
    let streamed = request.stream;
    let prepared = plan(&ticket, move || request.prepare(&model)).await?;
    let Opened { lanes, .. } = lanes::open(&state, &ticket, vec![(None, prepared)]).await?;
    if streamed {
        return Ok(stream::answer(lanes, Tail::results(ticket.into_permit()), request_id));
    }
    let ended = lanes::fold(lanes).await?;
    json(ticket, move || {
        let result = ended.first().map(|ended| GenerateResult::new(&ended.head, &ended.finished));
        result.ok_or_else(ApiError::internal)
    })
    .await
}
