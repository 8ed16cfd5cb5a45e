//! `POST /attribute`.

mod export;
mod inputs;
mod replay;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use steerling::attribute::Trace;
use steerling::steer::Steering;
use utoipa::ToSchema;

use super::AppState;
use super::attribution::{Attribution, ChunkBody, TokenBody, Verify};
use super::generate::answer::GenerateResult;
use super::lanes::{self, Ended, Opened};
use crate::engine::{Model, Places};
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::observe::RequestId;
use crate::openapi::{AttributeEvent, Compute, Generation, Internal, NotReady};
use crate::stream::{self, StreamEvent, Tail};

use inputs::Inputs;
use request::{AttributeRequest, FIELDS, Format, InputsRequest, Wanted};

/// A generation and why its tokens were committed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttributeAnswer {
    #[serde(flatten)]
    result: GenerateResult,
    /// Every committed token, by position; null without `concepts`.
    #[schema(required = true)]
    tokens: Option<Vec<TokenBody>>,
    /// The text cut at `<|endofchunk|>`; null without `concepts` or `chunks`.
    #[schema(required = true)]
    chunks: Option<Vec<ChunkBody>>,
    /// Whether the parts of each logit add up; null without `concepts`.
    #[schema(required = true)]
    verify: Option<Verify>,
    /// What each token that the model saw did; null unless asked for.
    #[schema(required = true)]
    inputs: Option<Inputs>,
}

/// Explains a generation, a new one or an earlier one from its trace.
///
/// Concepts are attributed in the forward pass that committed the token. `inputs` follow when the text is complete, in
/// slices between the steps of other generations. With `stream: true` the events are those of `/generate`, with an
/// `attribution` after each `block`, and the whole answer as `done`. `format` `csv` or `parquet` gives a table: one row
/// a token and concept, or, with `inputs`, one row a target and input position.
#[utoipa::path(post, path = "/attribute", tag = "explain", request_body = AttributeRequest,
    responses(
        (status = 200, description = "the generation and its attribution, whole, as a stream, or as a table", content(
            (AttributeAnswer = "application/json"),
            (AttributeEvent = "text/event-stream"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.parquet"),
        )),
        Generation, Compute, Internal, NotReady,
    ))]
pub(crate) async fn attribute(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    body: Object,
) -> Result<Response, ApiError> {
    let model = state.model()?;
    let mut body = body.checked::<AttributeRequest>()?;
    let given: Vec<String> = body.keys().filter(|name| !FIELDS.contains(&name.as_str())).cloned().collect();
    request::set_defaults(&mut body);
    let (fields, request) = extract::split(body, FIELDS)?;
    let request = AttributeRequest { request, fields };
    let deadline = state.deadline(request.request.timeout_ms)?;
    let (streamed, format) = (request.request.stream, request.fields.format);
    let wanted = {
        let model = model.clone();
        let wanted = tokio::task::spawn_blocking(move || request.check(&model, &given));
        wanted.await.map_err(|_| ApiError::internal())??
    };
    match wanted {
        Wanted::Generation(prepared, ask) => {
            let opened = lanes::open(&state, deadline, vec![(None, *prepared)]).await?;
            let Opened { lanes, steerings, places } = opened;
            let steering = steerings.into_iter().next().flatten();
            let job = Explaining { model, inputs: ask.inputs, chunks: ask.chunks, steering, places, deadline };
            if streamed {
                let last = move |ended: Vec<Ended>| -> futures::future::BoxFuture<'static, _> {
                    Box::pin(async move { Ok(Some(StreamEvent::Attributed(Box::new(job.explain(ended).await?)))) })
                };
                return Ok(stream::answer(lanes, Tail { each: false, last: Box::new(last) }, request_id));
            }
            let ended = lanes::fold(lanes).await?;
            respond(job.explain(ended).await?, format)
        }
        Wanted::Replay(replay, ask) => {
            let places = state.engine.reserve(1)?;
            let specs = vec![replay.recipe.as_ref().map(|recipe| recipe.spec())];
            let steering = lanes::resolve(&places, deadline, specs).await?.into_iter().next().flatten();
            let job = Explaining { model, inputs: ask.inputs, chunks: ask.chunks, steering, places, deadline };
            // A trace that this model cannot have left shows only here: still before anything is sent.
            let (result, attribution) = replay.run(&job).await?;
            if streamed {
                let last = move |_| -> futures::future::BoxFuture<'static, _> {
                    Box::pin(async move {
                        let inputs = job.attribute_inputs(&replay.trace).await?;
                        let answer = job.answer(result, attribution, inputs);
                        Ok(Some(StreamEvent::Attributed(Box::new(answer))))
                    })
                };
                return Ok(stream::answer(Vec::new(), Tail { each: false, last: Box::new(last) }, request_id));
            }
            let inputs = job.attribute_inputs(&replay.trace).await?;
            respond(job.answer(result, attribution, inputs), format)
        }
    }
}

fn respond(answer: AttributeAnswer, format: Format) -> Result<Response, ApiError> {
    match format {
        Format::Json => Ok(Answer(answer).into_response()),
        Format::Csv | Format::Parquet => export::response(&answer, format),
    }
}

/// What is needed to explain a generation.
pub(super) struct Explaining {
    model: Arc<Model>,
    inputs: Option<InputsRequest>,
    chunks: bool,
    steering: Option<Arc<Steering>>,
    places: Places,
    deadline: Instant,
}

impl Explaining {
    async fn explain(&self, ended: Vec<Ended>) -> Result<AttributeAnswer, ApiError> {
        let ended = ended.first().ok_or_else(ApiError::internal)?;
        let mut result = GenerateResult::new(&ended.head, &ended.finished);
        let attribution = result.take_attribution();
        let inputs = self.attribute_inputs(&Trace::of(&ended.finished.canvas)).await?;
        Ok(self.answer(result, attribution, inputs))
    }

    async fn attribute_inputs(&self, trace: &Trace) -> Result<Option<Inputs>, ApiError> {
        match &self.inputs {
            Some(request) => inputs::attribute(self, request, trace).await.map(Some),
            None => Ok(None),
        }
    }

    fn answer(
        &self,
        result: GenerateResult,
        attribution: Option<Attribution>,
        inputs: Option<Inputs>,
    ) -> AttributeAnswer {
        let (tokens, chunks, verify) = match attribution {
            Some(Attribution { tokens, chunks, verify }) => (Some(tokens), self.chunks.then_some(chunks), Some(verify)),
            None => (None, None, None),
        };
        AttributeAnswer { result, tokens, chunks, verify, inputs }
    }
}
