//! From a body to what is to be explained, and how.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use steerling::GenerateParams;
use steerling::attribute::inputs::{InputMethod, MAX_N_STEPS, PathRule};
use steerling::attribute::{Trace, TraceCommit};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::replay::{Replay, Stops};
use crate::api::attribution::{AttributionRequest, check_guidance};
use crate::api::generate::request::{GenerateRequest, Prepared};
use crate::api::steering::Recipe;
use crate::engine::Model;
use crate::error::ApiError;
use crate::extract::written_objects_only;
use crate::openapi::{NonEmpty, extended};

written_objects_only!(TraceRequest, TraceCommitRequest, InputsRequest);

/// Positions that are generated unless the request says otherwise.
const MAX_NEW_TOKENS: usize = 128;
/// The names of [`AttributeFields`].
pub(super) const FIELDS: &[&str] = &["trace", "concepts", "inputs", "chunks", "format"];
/// Generation fields that a trace leaves a meaning to.
const WITH_TRACE: &[&str] = &["steering", "stop", "stop_tokens", "cfg_scale", "timeout_ms", "stream"];

/// A generation to explain.
pub(crate) struct AttributeRequest {
    pub(super) request: GenerateRequest,
    pub(super) fields: AttributeFields,
}

/// What is explained, and how.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AttributeFields {
    /// The trace of an earlier result, which is explained instead of generating; `steering` must be that of the
    /// generation. The trace says which stop strings, stop tokens and policies held; `stop` and `stop_tokens` of the
    /// request replace the first two. Of the other generation fields only `stream` and `timeout_ms` have an effect.
    trace: Option<TraceRequest>,
    /// Attribution to concepts; null to skip it.
    concepts: Option<AttributionRequest>,
    /// Attribution to the tokens that the model saw; null to skip it.
    inputs: Option<InputsRequest>,
    /// Score the concepts of each chunk of the text.
    #[schema(default = true)]
    chunks: bool,
    /// The form of the answer.
    pub(super) format: Format,
}

impl Default for AttributeFields {
    fn default() -> Self {
        let concepts = Some(AttributionRequest::default());
        Self { trace: None, concepts, inputs: None, chunks: true, format: Format::Json }
    }
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AttributeFormat)]
pub(super) enum Format {
    /// Everything.
    Json,
    /// A table as text.
    Csv,
    /// A table as an Apache Parquet file.
    Parquet,
}

/// The trace of a result, as it was returned.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct TraceRequest {
    /// The ids of the prompt.
    prompt_ids: Vec<u32>,
    /// Positions of prompt and generation together.
    seq_length: usize,
    /// The strings that end the text.
    #[serde(default)]
    #[schema(max_items = 8, value_type = Vec<NonEmpty>)]
    stop: Vec<String>,
    /// The ids that end the text.
    #[serde(default)]
    #[schema(max_items = 64)]
    stop_tokens: Vec<u32>,
    /// The server's policies that held for the generation, and that steer the replay as they steered it.
    #[serde(default)]
    policies: Vec<String>,
    /// Commits in order, those behind the end of the text included.
    commits: Vec<TraceCommitRequest>,
}

/// A commit of a trace; what else a result tells of it is optional.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct TraceCommitRequest {
    /// Denoising step, counted over all blocks from 0.
    step: usize,
    /// Absolute index in the sequence.
    position: usize,
    /// Token id.
    id: u32,
    /// Not used.
    block: Option<usize>,
    /// Not used.
    text: Option<String>,
    /// Not used.
    confidence: Option<f32>,
    /// The model's logit. If given, a trace whose logits this model does not reproduce is refused.
    target_logit: Option<f32>,
}

/// Attribution to the tokens that the model saw.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(super) struct InputsRequest {
    pub(super) method: MethodBody,
    /// Points of the path of `integrated_gradients`. Null: 32.
    #[schema(minimum = 1, maximum = 512)]
    n_steps: Option<usize>,
    /// Where the points lie. Null: `right`.
    rule: Option<RuleBody>,
    /// Absolute positions of the targets, behind the prompt. Those at which no token is returned are left out, with a
    /// warning. Null: every returned token.
    pub(super) positions: Option<Vec<usize>>,
}

/// How inputs are attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = InputMethod)]
pub(super) enum MethodBody {
    /// Gradients along the straight path from the mask embedding to the token embeddings.
    IntegratedGradients,
    /// The gradient at the end of that path, times its length.
    InputXGradient,
    /// How much the logit falls when a token is masked.
    Occlusion,
}

/// Where the points of a path lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PathRule)]
pub(super) enum RuleBody {
    /// `k/n` for `k = 1..n`, as in the reference package.
    Right,
    /// Gauss-Legendre: fewer points for the same accuracy where the gradient is smooth along the path.
    GaussLegendre,
}

impl PartialSchema for AttributeRequest {
    fn schema() -> RefOr<Schema> {
        let mut schema = extended(GenerateRequest::schema(), AttributeFields::schema(), &[]);
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            object.properties.shift_remove("attribution");
            if let Some(RefOr::T(Schema::Object(field))) = object.properties.get_mut("max_new_tokens") {
                field.default = Some(json!(MAX_NEW_TOKENS));
                field.description =
                    Some("Positions to generate; with the prompt they fit into the context.".to_owned());
            }
        }
        schema
    }
}

impl ToSchema for AttributeRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        GenerateRequest::schemas(schemas);
        AttributeFields::schemas(schemas);
    }
}

/// Fills in what is different from a plain generation.
pub(super) fn set_defaults(body: &mut Map<String, Value>) {
    let new = body.entry("max_new_tokens").or_insert(Value::Null);
    if new.is_null() {
        *new = json!(MAX_NEW_TOKENS);
    }
}

impl InputsRequest {
    pub(super) fn n_steps(&self) -> Option<usize> {
        (self.method == MethodBody::IntegratedGradients).then_some(self.n_steps.unwrap_or(32))
    }

    pub(super) fn rule(&self) -> Option<RuleBody> {
        (self.method == MethodBody::IntegratedGradients).then_some(self.rule.unwrap_or(RuleBody::Right))
    }

    pub(super) fn method(&self) -> InputMethod {
        match self.method {
            MethodBody::IntegratedGradients => InputMethod::IntegratedGradients {
                n_steps: self.n_steps.unwrap_or(32),
                rule: match self.rule {
                    None | Some(RuleBody::Right) => PathRule::Right,
                    Some(RuleBody::GaussLegendre) => PathRule::GaussLegendre,
                },
            },
            MethodBody::InputXGradient => InputMethod::InputXGradient,
            MethodBody::Occlusion => InputMethod::Occlusion,
        }
    }

    /// Rejects gradients that would not fit through a sequence of `len` positions.
    fn check_gradients(&self, model: &Model, len: usize) -> Result<(), ApiError> {
        if self.method == MethodBody::Occlusion {
            return Ok(());
        }
        let limits = &model.limits;
        // Nothing behind the attention block of the last target has a gradient.
        let last = self.positions.as_ref().map_or(Some(len), |positions| positions.iter().max().map(|last| last + 1));
        let Some(end) = last else { return Ok(()) };
        let end = end.next_multiple_of(limits.canvas.block_size).min(len);
        Ok(limits.gradients.check(&model.info.config, end)?)
    }

    /// `generated`: the positions behind the prompt.
    fn check(&self, generated: Range<usize>) -> Result<(), ApiError> {
        if self.method != MethodBody::IntegratedGradients {
            let given = [("n_steps", self.n_steps.is_some()), ("rule", self.rule.is_some())];
            if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
                let message = "only `integrated_gradients` follows a path";
                return Err(ApiError::invalid(format!("inputs.{name}"), message));
            }
        }
        if let Some(n_steps) = self.n_steps.filter(|n| !(1..=MAX_N_STEPS).contains(n)) {
            return Err(ApiError::invalid("inputs.n_steps", format!("{n_steps} is outside 1..={MAX_N_STEPS}")));
        }
        if let Some((i, position)) = self.positions.iter().flatten().enumerate().find(|(_, p)| !generated.contains(p)) {
            let message =
                format!("{position} is outside {}..{}, the generated positions", generated.start, generated.end);
            return Err(ApiError::invalid(format!("inputs.positions[{i}]"), message));
        }
        Ok(())
    }
}

/// What is explained beside concepts.
pub(super) struct Ask {
    pub(super) inputs: Option<InputsRequest>,
    pub(super) chunks: bool,
}

/// What a request wants explained.
pub(super) enum Wanted {
    /// A generation that is still to be made.
    Generation(Box<Prepared>, Ask),
    /// One that was made.
    Replay(Box<Replay>, Ask),
}

impl AttributeRequest {
    /// Checks everything that can be checked before the model is asked. `given` are the generation fields in the body.
    pub(super) fn check(self, model: &Arc<Model>, given: &[String]) -> Result<Wanted, ApiError> {
        let Self { mut request, fields } = self;
        let AttributeFields { trace, concepts, inputs, chunks, format } = fields;
        if request.attribution.is_some() {
            return Err(ApiError::invalid("attribution", "`concepts` says what is wanted here"));
        }
        if concepts.is_none() && inputs.is_none() {
            return Err(ApiError::invalid("concepts", "`concepts` and `inputs` are both null: nothing to explain"));
        }
        if format != Format::Json && request.stream {
            return Err(ApiError::invalid("format", "a table is not streamed"));
        }
        match &concepts {
            Some(concepts) => concepts.check("concepts", model, request.cfg_scale)?,
            None => check_guidance("inputs", request.cfg_scale)?,
        }
        let mut unheeded = Vec::new();
        if !chunks && concepts.is_none() {
            unheeded.push("`chunks` has no effect without `concepts`".to_owned());
        }
        if inputs.as_ref().and_then(|inputs| inputs.positions.as_ref()).is_some_and(Vec::is_empty) {
            unheeded.push("`inputs.positions` is empty: no token is a target".to_owned());
        }
        let ask = Ask { inputs, chunks };
        if let Some(trace) = trace {
            if let Some(name) = given.iter().find(|name| ["prompt", "messages"].contains(&name.as_str())) {
                return Err(ApiError::invalid(name.clone(), "either a trace or something to generate from, not both"));
            }
            let no_use = given.iter().filter(|name| !WITH_TRACE.contains(&name.as_str()));
            let mut warnings: Vec<String> = no_use.map(|name| format!("`{name}` has no effect with a trace")).collect();
            warnings.append(&mut unheeded);
            let Recorded { trace, target_logits, mut stops, policies } = trace.read();
            trace.validate(&model.limits.canvas)?;
            stops.check(model).map_err(|error| error.within("trace"))?;
            let is_given = |name: &str| given.iter().any(|given| given == name);
            if is_given("stop") {
                stops.strings = request.stop;
            }
            if is_given("stop_tokens") {
                stops.tokens = request.stop_tokens;
            }
            stops.check(model)?;
            if let Some(inputs) = &ask.inputs {
                inputs.check(trace.prompt_ids.len()..trace.seq_length)?;
                inputs.check_gradients(model, trace.seq_length)?;
            }
            let recipe = request.steering.as_ref().map(|steering| steering.recipe(model)).transpose()?;
            warnings.extend(recipe.iter().flat_map(Recipe::unheeded).cloned());
            let replay = Replay { trace, target_logits, recipe, concepts, stops, policies, warnings };
            return Ok(Wanted::Replay(Box::new(replay), ask));
        }
        request.attribution = concepts;
        let mut prepared = request.prepare(model)?;
        prepared.head.warnings.append(&mut unheeded);
        if let Some(inputs) = &ask.inputs {
            let (prompt, new) = (prepared.prompt().len(), prepared.head.start.max_new_tokens);
            inputs.check(prompt..prompt + new)?;
            inputs.check_gradients(model, prompt + new)?;
        }
        Ok(Wanted::Generation(Box::new(prepared), ask))
    }
}

/// A trace as it was sent.
struct Recorded {
    trace: Trace,
    target_logits: Vec<Option<f32>>,
    stops: Stops,
    policies: Vec<String>,
}

impl TraceRequest {
    fn read(self) -> Recorded {
        let Self { prompt_ids, seq_length, stop, stop_tokens, policies, commits } = self;
        let target_logits = commits.iter().map(|commit| commit.target_logit).collect();
        let commits = commits.into_iter();
        let commits = commits.map(|TraceCommitRequest { step, position, id, .. }| TraceCommit { step, position, id });
        let trace = Trace { prompt_ids, seq_length, commits: commits.collect() };
        Recorded { trace, target_logits, stops: Stops { strings: stop, tokens: stop_tokens }, policies }
    }
}

impl Stops {
    /// As for a generation.
    fn check(&self, model: &Model) -> Result<(), ApiError> {
        let (stop, stop_tokens) = (self.strings.clone(), self.tokens.clone());
        let params = GenerateParams { stop, stop_tokens, ..GenerateParams::default() };
        Ok(params.validate(model.limits.canvas.vocab_size)?)
    }
}
