//! `POST /attribute`.

mod export;
mod inputs;
mod replay;
mod request;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use steerling::attribute::Trace;
use steerling::steer::Steering;
use utoipa::ToSchema;

use super::attribution::{Attribution, ChunkBody, TokenBody};
use super::generate::answer::GenerateResult;
use super::lanes::{self, Ended, Opened};
use super::respond::{hold, json};
use super::verify::Verify;
use super::{AppState, plan};
use crate::auth::{self, Scope};
use crate::engine::{Model, Ticket};
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::observe::RequestId;
use crate::openapi::{AttributeEvent, Compute, Generation, Internal, NotReady};
use crate::policy;
use crate::stream::{self, StreamEvent, Tail};

use inputs::Inputs;
use replay::Explained;
use request::{AttributeRequest, FIELDS, Format, InputsRequest, Wanted};

/// A generation and why its tokens were committed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttributeAnswer {
    #[serde(flatten)]
    result: GenerateResult,
    /// One for each of `token_ids`, in the same order; null without `concepts`.
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
/// a token and concept, or, with `inputs`, one row a target and input position. In a CSV table a text that a spreadsheet
/// would take for a formula begins with a single quote.
///
/// A key needs the scope `explain`, and without `trace` also `generate`, because text is generated.
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
    mut body: Object,
) -> Result<Response, ApiError> {
    if body.fields().get("trace").is_none_or(|trace| trace.is_null()) {
        // Text is written.
        auth::require(&state.options.guard.keys, Scope::Generate)?;
    }
    let model = state.model()?;
    let mut body = body.checked::<AttributeRequest>()?;
    let given: Vec<String> = body.keys().filter(|name| !FIELDS.contains(&name.as_str())).cloned().collect();
    request::set_defaults(&mut body);
    let (fields, request) = extract::split(body, FIELDS)?;
    let request = AttributeRequest { request, fields };
    let ticket = state.admit(request.request.timeout_ms)?;
    let (streamed, format) = (request.request.stream, request.fields.format);
    let wanted = {
        let model = model.clone();
        plan(&ticket, move || request.check(&model, &given)).await?
    };
    match wanted {
        Wanted::Generation(prepared, ask) => {
            let Opened { lanes, steerings } = lanes::open(&state, &ticket, vec![(None, *prepared)]).await?;
            let steering = steerings.into_iter().next().flatten();
            let permit = ticket.permit();
            let job = Explaining { model, inputs: ask.inputs, chunks: ask.chunks, steering, ticket };
            if streamed {
                let last = move |ended: Vec<Ended>| -> futures::future::BoxFuture<'static, _> {
                    Box::pin(async move { Ok(StreamEvent::Attributed(Box::new(job.explain(ended).await?))) })
                };
                let tail = Tail { each: false, last: Some(Box::new(last)), permit };
                return Ok(stream::answer(lanes, tail, request_id));
            }
            let ended = lanes::fold(lanes).await?;
            let answer = job.explain(ended).await?;
            respond(job.ticket, answer, format).await
        }
        Wanted::Replay(replay, ask) => {
            let policies = &state.options.guard.policies;
            let recipe = policy::replayed(policies, &replay.policies, replay.recipe.as_ref())?;
            let specs = vec![recipe.map(|recipe| recipe.spec())];
            let steering = lanes::resolve(&ticket, specs).await?.into_iter().next().flatten();
            let permit = ticket.permit();
            let job = Explaining { model, inputs: ask.inputs, chunks: ask.chunks, steering, ticket };
            // A trace that this model cannot have left shows only here: still before anything is sent.
            let Explained { result, attribution, end } = replay.run(&job).await?;
            if streamed {
                let last = move |_| -> futures::future::BoxFuture<'static, _> {
                    Box::pin(async move {
                        let inputs = job.attribute_inputs((&replay.trace, end)).await?;
                        let answer = job.answer(result, attribution, inputs);
                        Ok(StreamEvent::Attributed(Box::new(answer)))
                    })
                };
                let tail = Tail { each: false, last: Some(Box::new(last)), permit };
                return Ok(stream::answer(Vec::new(), tail, request_id));
            }
            let inputs = job.attribute_inputs((&replay.trace, end)).await?;
            let answer = job.answer(result, attribution, inputs);
            respond(job.ticket, answer, format).await
        }
    }
}

async fn respond(ticket: Ticket, answer: AttributeAnswer, format: Format) -> Result<Response, ApiError> {
    match format {
        Format::Json => json(ticket, move || Ok(answer)).await,
        Format::Csv | Format::Parquet => {
            let table = plan(&ticket, move || export::response(&answer, format)).await?;
            Ok(hold(ticket, table))
        }
    }
}

/// What is needed to explain a generation.
pub(super) struct Explaining {
    model: Arc<Model>,
    inputs: Option<InputsRequest>,
    chunks: bool,
    steering: Option<Arc<Steering>>,
    ticket: Ticket,
}

impl Explaining {
    async fn explain(&self, ended: Vec<Ended>) -> Result<AttributeAnswer, ApiError> {
        let ended = ended.first().ok_or_else(ApiError::internal)?;
        let mut result = GenerateResult::new(&ended.head, &ended.finished);
        let attribution = result.take_attribution();
        let (trace, end) = (Trace::of(&ended.finished.canvas), ended.finished.outcome.end);
        result.warnings.extend(self.inputs.as_ref().and_then(|inputs| inputs::left_out(inputs, &trace, end)));
        let inputs = self.attribute_inputs((&trace, end)).await?;
        Ok(self.answer(result, attribution, inputs))
    }

    /// Of the tokens before a position, if that is asked for.
    async fn attribute_inputs(&self, trace: (&Trace, usize)) -> Result<Option<Inputs>, ApiError> {
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
