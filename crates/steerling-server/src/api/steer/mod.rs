//! `POST /steer`.

mod controls;
mod effect;
mod request;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use steerling::steer::Steering;
use utoipa::ToSchema;

use super::concept::ConceptBody;
use super::generate::answer::GenerateResult;
use super::lanes::{self, Ended, Opened};
use super::respond::json;
use super::steering::{EpsilonBody, Recipe, ScheduleBody};
use super::{AppState, plan};
use crate::engine::{Model, Ticket, WorkKind};
use crate::error::ApiError;
use crate::extract::{self, Object};
use crate::observe::RequestId;
use crate::openapi::{Compute, Generation, Internal, NotReady, SteerEvent};
use crate::stream::{self, StreamEvent, Tail};

use effect::Effect;
use request::{FIELDS, Kind, Plan, SteerFields, SteerRequest};

/// Tokens of a direction that are shown.
const TOP_TOKENS: usize = 10;
/// Tokens of a direction that count for `top_token_rate`.
const COUNTED_TOKENS: usize = 50;

/// All runs of a request, and what steering did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SteerAnswer {
    /// The steered run.
    steered: GenerateResult,
    /// The same without steering; null unless `compare`.
    #[schema(required = true)]
    default: Option<GenerateResult>,
    /// The same recipe with random concepts.
    controls: Vec<ControlRun>,
    /// The same with targets multiplied.
    sweep: Vec<SweepRun>,
    #[serde(flatten)]
    summary: SteerSummary,
}

/// What was steered by, and what it did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SteerSummary {
    resolved: Resolved,
    effect: Effect,
}

/// A run with random concepts.
#[derive(Debug, Serialize, ToSchema)]
struct ControlRun {
    /// In place of the first concept that the request names.
    concept: ConceptBody,
    /// In place of all concepts that the request names, in its order.
    concepts: Vec<ConceptBody>,
    result: GenerateResult,
}

/// A run with targets multiplied.
#[derive(Debug, Serialize, ToSchema)]
struct SweepRun {
    multiplier: f32,
    result: GenerateResult,
}

/// The steering as the model resolved it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ResolvedSteering)]
struct Resolved {
    /// In the order amplify, suppress, inject.
    injections: Vec<ResolvedInjection>,
    /// Those of `suppress` first.
    suppress_logits: Vec<ResolvedSuppression>,
    set_weights: Vec<ResolvedWeight>,
}

/// A direction.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ResolvedInjection {
    /// The direction is the sum of their embeddings at length 1.
    concepts: Vec<ConceptBody>,
    /// The factor of the direction before its schedule.
    alpha: f32,
    /// Largest alignment of a token's output row with the direction: `alpha * peak` is the logit shift of the most
    /// promoted token.
    peak: f32,
    /// After every layer with at least this number, counted from 1.
    inject_layer: usize,
    schedule: ScheduleBody,
    /// The tokens that the direction promotes most.
    top_tokens: Vec<TopToken>,
}

/// A token that a direction promotes.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct TopToken {
    /// Token id.
    id: u32,
    /// The token's text.
    text: String,
    /// `lm_head . direction`.
    alignment: f32,
}

/// A logit suppression.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ResolvedSuppression {
    concept: ConceptBody,
    strength: f32,
}

/// A concept weight that is set.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ResolvedWeight {
    concept: ConceptBody,
    weight: f32,
    epsilon: EpsilonBody,
}

/// Generates text under steering.
///
/// All runs of a request (`compare`, `controls`, `sweep`) have the same seed and run in one batch: a request of n runs
/// takes n places or is rejected with 429. With `stream: true` every event has a `lane`: `steered`, `default`,
/// `control-0`…, `sweep-0`…; each lane ends with its own `done`, and when all have ended one `summary` (its `lane` is
/// null) has `resolved` and `effect`. An `error` ends all lanes.
#[utoipa::path(post, path = "/steer", tag = "generate", request_body = SteerRequest,
    responses(
        (status = 200, description = "all runs, whole or as a stream", content(
            (SteerAnswer = "application/json"),
            (SteerEvent = "text/event-stream"),
        )),
        Generation, Compute, Internal, NotReady,
    ))]
pub(crate) async fn steer(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    body: Object,
) -> Result<Response, ApiError> {
    let model = state.model()?;
    let body = body.checked::<SteerRequest>()?;
    let names_controls = body.contains_key("controls");
    let (fields, request): (SteerFields, _) = extract::split(body, FIELDS)?;
    let names_no_controls = names_controls && fields.controls.random_concepts == 0;
    let request = SteerRequest { request, fields, names_no_controls };
    let ticket = state.admit(request.request.timeout_ms)?;
    let streamed = request.request.stream;
    let governed = state.options.guard.policies.governed(request.request.policy.as_deref())?;
    let Plan { recipe, kinds, lanes } = {
        let model = model.clone();
        plan(&ticket, move || request.plan(&model, &governed)).await?
    };
    let Opened { lanes, steerings } = lanes::open(&state, &ticket, lanes).await?;
    let steered = steerings.into_iter().next().flatten().ok_or_else(ApiError::internal)?;
    let permit = ticket.permit();
    let job = Summarising { model, recipe, kinds, steered, ticket };
    if streamed {
        let last = move |ended: Vec<Ended>| -> futures::future::BoxFuture<'static, _> {
            Box::pin(async move { Ok(StreamEvent::Summary(Box::new(job.summary(&ended).await?))) })
        };
        return Ok(stream::answer(lanes, Tail { each: true, last: Some(Box::new(last)), permit }, request_id));
    }
    let ended = lanes::fold(lanes).await?;
    let summary = job.summary(&ended).await?;
    let answer = job.answer(&ended, summary)?;
    json(job.ticket, move || Ok(answer)).await
}

/// What is needed when all runs have ended.
struct Summarising {
    model: Arc<Model>,
    recipe: Recipe,
    kinds: Vec<Kind>,
    steered: Arc<Steering>,
    ticket: Ticket,
}

impl Summarising {
    async fn summary(&self, ended: &[Ended]) -> Result<SteerSummary, ApiError> {
        let tokens = self.top_tokens().await?;
        let effect = effect::measure(self, ended, &tokens).await?;
        Ok(SteerSummary { resolved: self.resolved(&tokens), effect })
    }

    /// The tokens that each direction promotes most, one direction a slice.
    async fn top_tokens(&self) -> Result<Vec<Vec<(u32, f32)>>, ApiError> {
        // Those of the request come first; a policy's follow.
        let (steering, own) = (self.steered.clone(), self.recipe.directions().len());
        let mut found = Vec::new();
        let work = self.ticket.run(WorkKind::Steer, own, move |runtime| {
            let Some(injection) = steering.injections[..own].get(found.len()) else {
                return Ok(Some(std::mem::take(&mut found)));
            };
            found.push(runtime.model().top_tokens(&injection.direction, COUNTED_TOKENS, false)?);
            Ok(None)
        })?;
        Ok(work.await?)
    }

    fn concept(&self, id: u32) -> Option<ConceptBody> {
        self.model.catalog.get(id).map(ConceptBody::from)
    }

    fn resolved(&self, tokens: &[Vec<(u32, f32)>]) -> Resolved {
        let directions = self.recipe.directions();
        let injections = self.steered.injections.iter().zip(directions).zip(tokens);
        let top = |(id, alignment): &(u32, f32)| TopToken {
            id: *id,
            text: self.model.tokenizer.token_text(*id),
            alignment: *alignment,
        };
        Resolved {
            injections: injections
                .map(|((injection, concepts), tokens)| ResolvedInjection {
                    concepts: concepts.iter().filter_map(|id| self.concept(*id)).collect(),
                    alpha: injection.alpha,
                    peak: injection.peak,
                    inject_layer: injection.inject_layer,
                    schedule: injection.schedule.into(),
                    top_tokens: tokens.iter().take(TOP_TOKENS).map(top).collect(),
                })
                .collect(),
            suppress_logits: self
                .recipe
                .suppress_logits()
                .iter()
                .filter_map(|(id, strength)| {
                    Some(ResolvedSuppression { concept: self.concept(*id)?, strength: *strength })
                })
                .collect(),
            set_weights: self
                .recipe
                .set_weights()
                .iter()
                .filter_map(|(id, weight, epsilon)| {
                    Some(ResolvedWeight { concept: self.concept(*id)?, weight: *weight, epsilon: (*epsilon).into() })
                })
                .collect(),
        }
    }

    fn answer(&self, ended: &[Ended], summary: SteerSummary) -> Result<SteerAnswer, ApiError> {
        let (mut steered, mut default, mut controls, mut sweep) = (None, None, Vec::new(), Vec::new());
        for (kind, ended) in self.kinds.iter().zip(ended) {
            let result = GenerateResult::new(&ended.head, &ended.finished);
            match kind {
                Kind::Steered => steered = Some(result),
                Kind::Default => default = Some(result),
                Kind::Control(ids) => {
                    let concepts: Vec<ConceptBody> = ids.iter().filter_map(|id| self.concept(*id)).collect();
                    let concept = concepts.first().cloned().ok_or_else(ApiError::internal)?;
                    controls.push(ControlRun { concept, concepts, result });
                }
                Kind::Sweep(multiplier) => sweep.push(SweepRun { multiplier: *multiplier, result }),
            }
        }
        let steered = steered.ok_or_else(ApiError::internal)?;
        Ok(SteerAnswer { steered, default, controls, sweep, summary })
    }
}
