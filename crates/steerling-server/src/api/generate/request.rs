//! From a body to a generation that can only fail for reasons of the server.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steerling::params::EotMode;
use steerling::steer::Steering;
use steerling::tokenizer::Message;
use steerling::{Canvas, GenerateParams, Generation, Tokenizer};
use utoipa::ToSchema;

use super::answer::StartEvent;
use super::decoding::{AlignRequest, DecodingRequest};
use crate::api::attribution::AttributionRequest;
use crate::api::seed::Seed;
use crate::api::steering::{Recipe, SteeringRequest};
use crate::engine::{Model, Priority};
use crate::error::ApiError;
use crate::extract::written_objects_only;
use crate::openapi::NonEmpty;

written_objects_only!(GenerateRequest, ChatMessage);

/// A generation. Exactly one of `prompt` and `messages` is given.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub(crate) struct GenerateRequest {
    /// A text, or ids. Ids may be special ones, but not the mask.
    pub(crate) prompt: Option<Prompt>,
    /// A conversation, for checkpoints with the chat tokens.
    pub(crate) messages: Option<Vec<ChatMessage>>,
    /// Positions to generate; with the prompt they fit into the context. Null: 1024, or as many as the context has room
    /// for.
    #[schema(minimum = 1)]
    pub(crate) max_new_tokens: Option<usize>,
    /// Denoising steps, up to `max_new_tokens`, split over the blocks as evenly as possible. Null: one token a step. Only
    /// for decoding methods that have a number of steps: `confidence` and `lossless`.
    #[schema(minimum = 1)]
    pub(crate) steps: Option<usize>,
    /// Divides the logits when entropy sampling is off; 0 is argmax. Null: 1.2.
    #[schema(minimum = 0, maximum = 100)]
    pub(crate) temperature: Option<f32>,
    /// Nucleus mass.
    #[schema(default = 0.8, minimum = 0, maximum = 1)]
    pub(crate) top_p: f32,
    /// Positive logits of ids already present are divided by this, others multiplied.
    #[schema(default = 1.1, minimum = 0.01, maximum = 100)]
    pub(crate) repetition_penalty: f32,
    /// Take the temperature from the entropy of the prediction; `temperature` has no effect then.
    #[schema(default = true)]
    pub(crate) use_entropy_sampling: bool,
    /// Classifier-free guidance; 0 is off, otherwise twice the work.
    #[schema(default = 0.0, minimum = 0, maximum = 100)]
    pub(crate) cfg_scale: f32,
    /// Same seed, same text, whatever else the server does. Null: drawn, and returned.
    pub(crate) seed: Option<Seed>,
    /// Generation ends after the block in which one of these ids stands; the text ends before it.
    #[schema(max_items = 64)]
    pub(crate) stop_tokens: Vec<u32>,
    /// The text ends before the first of these strings.
    #[schema(max_items = 8, value_type = Vec<NonEmpty>)]
    pub(crate) stop: Vec<String>,
    /// Which positions a step commits.
    pub(crate) decoding: DecodingRequest,
    /// Where generation blocks are cut.
    pub(crate) align: AlignRequest,
    /// What a committed `<|eot_id|>` does to masked positions before it.
    pub(crate) eot: EotRequest,
    /// What is added to the model's computation; null for nothing.
    pub(crate) steering: Option<SteeringRequest>,
    /// Attribute every token to concepts while it is committed; null for none.
    pub(crate) attribution: Option<AttributionRequest>,
    /// A policy of the server that is to hold for this generation, beside the one that holds for all; null for none.
    pub(crate) policy: Option<String>,
    /// Return all commits, in order.
    #[schema(default = false)]
    pub(crate) return_trace: bool,
    /// Who waits for whom in the queue.
    pub(crate) priority: PriorityRequest,
    /// Milliseconds from the request to the end of the answer, at most what the server allows (`limits.timeout_seconds`
    /// of `/info`). Null: that.
    #[schema(minimum = 1)]
    pub(crate) timeout_ms: Option<u64>,
    /// Answer with server-sent events.
    #[schema(default = false)]
    pub(crate) stream: bool,
    /// Send a `block` event every so many steps, and always when a block is final.
    #[schema(default = 1, minimum = 1)]
    pub(crate) stream_every: usize,
}

/// A text, or token ids.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "neither a string nor a list of token ids")]
pub(crate) enum Prompt {
    /// Any text. Names of special tokens in it are plain text.
    Text(String),
    /// Ids below the vocabulary size.
    Ids(Vec<u32>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// `system`, `user` or `assistant`.
    #[schema(example = "user")]
    pub(crate) role: String,
    /// The text of the turn.
    pub(crate) content: String,
}

/// Who waits for whom in the queue.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Priority)]
pub(crate) enum PriorityRequest {
    /// First come, first served.
    #[default]
    Normal,
    /// Behind all that is `normal`, though not for ever: for work that nobody waits for, such as evaluations.
    Low,
}

/// What a committed `<|eot_id|>` does to masked positions before it.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Eot)]
pub(crate) enum EotRequest {
    /// They are still filled.
    Fill,
    /// Generation stops at once, as in the reference package.
    Reference,
}

impl Default for GenerateRequest {
    fn default() -> Self {
        let params = GenerateParams::default();
        Self {
            prompt: None,
            messages: None,
            max_new_tokens: None,
            steps: params.steps,
            temperature: None,
            top_p: params.top_p,
            repetition_penalty: params.repetition_penalty,
            use_entropy_sampling: params.use_entropy_sampling,
            cfg_scale: params.cfg_scale,
            seed: None,
            stop_tokens: params.stop_tokens,
            stop: params.stop,
            decoding: DecodingRequest::Confidence {},
            align: AlignRequest::Reference,
            eot: EotRequest::Fill,
            steering: None,
            attribution: None,
            policy: None,
            return_trace: false,
            priority: PriorityRequest::Normal,
            timeout_ms: None,
            stream: false,
            stream_every: 1,
        }
    }
}

/// A generation that can only be refused for lack of room.
#[derive(Clone)]
pub(crate) struct Prepared {
    prompt: Vec<u32>,
    params: GenerateParams,
    /// What it is steered by, before the model has resolved it.
    pub(crate) recipe: Option<Recipe>,
    pub(crate) priority: Priority,
    pub(crate) head: Head,
}

/// What the answer needs to know beside what the engine gives back.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) start: StartEvent,
    pub(crate) model: Arc<Model>,
    pub(crate) return_trace: bool,
    pub(crate) stream_every: usize,
    pub(crate) warnings: Vec<String>,
    /// The policy that the request names.
    pub(crate) policy: Option<String>,
    /// The policies that hold.
    pub(crate) policies: Vec<String>,
    /// How attributions are reported, if they are wanted.
    pub(crate) attribution: Option<AttributionRequest>,
}

impl Prepared {
    /// The same generation under another steering and a name of its own.
    pub(crate) fn with_recipe(&self, recipe: Option<Recipe>) -> Self {
        let mut other = Self { recipe, ..self.clone() };
        other.head.start.id = new_id();
        other
    }

    /// The same generation with other draws and a name of its own.
    pub(crate) fn with_seed(&self, seed: Seed) -> Self {
        let mut other = self.clone();
        other.params.seed = seed.key();
        other.head.start.seed = seed;
        other.head.start.id = new_id();
        other
    }

    /// The generation for the engine.
    pub(crate) fn generation(&self, steering: Option<Arc<Steering>>) -> Result<Generation, ApiError> {
        let mut canvas = Canvas::new(&self.prompt, self.params.clone(), &self.head.model.limits.canvas)?;
        if let Some(steering) = steering {
            canvas = canvas.steered(steering);
        }
        if self.head.attribution.is_some() {
            canvas = canvas.attributed()?;
        }
        Ok(Generation::new(canvas, &self.head.model.tokenizer))
    }

    /// The prompt's ids.
    pub(crate) fn prompt(&self) -> &[u32] {
        &self.prompt
    }
}

/// Names a generation.
pub(crate) fn new_id() -> String {
    format!("gen-{:032x}", rand::random::<u128>())
}

impl GenerateRequest {
    /// What it is steered by, its concepts found.
    pub(crate) fn recipe(&self, model: &Model) -> Result<Option<Recipe>, ApiError> {
        self.steering.as_ref().map(|steering| steering.recipe(model)).transpose()
    }

    /// Checks everything that can be checked before the model is asked.
    pub(crate) fn prepare(self, model: &Arc<Model>) -> Result<Prepared, ApiError> {
        let recipe = self.recipe(model)?;
        self.prepare_steered(model, recipe)
    }

    /// As [`Self::prepare`], for a request whose concepts have been found.
    pub(crate) fn prepare_steered(self, model: &Arc<Model>, recipe: Option<Recipe>) -> Result<Prepared, ApiError> {
        if self.stream_every == 0 {
            return Err(ApiError::invalid("stream_every", "0 is below the minimum of 1"));
        }
        if let Some(attribution) = &self.attribution {
            attribution.check("attribution", model, self.cfg_scale)?;
        }
        let spec = &model.limits.canvas;
        let seed = self.seed.unwrap_or_else(Seed::draw);
        let prompt = self.prompt_ids(&model.tokenizer)?;
        let params = self.params(seed.key(), spec.context.saturating_sub(prompt.len()));
        let canvas = Canvas::new(&prompt, params.clone(), spec)?;
        let start = StartEvent {
            id: new_id(),
            model: model.info.name.clone(),
            prompt_tokens: prompt.len(),
            max_new_tokens: params.max_new_tokens,
            block_size: spec.block_size,
            num_blocks: canvas.blocks().len(),
            steps: canvas.blocks().iter().map(|block| block.steps).sum(),
            seed,
        };
        let mut warnings = self.warnings(model, &start);
        warnings.extend(recipe.iter().flat_map(Recipe::unheeded).cloned());
        let head = Head {
            warnings,
            start,
            model: model.clone(),
            return_trace: self.return_trace,
            stream_every: self.stream_every,
            attribution: self.attribution,
            policy: self.policy,
            policies: Vec::new(),
        };
        let priority = match self.priority {
            PriorityRequest::Normal => Priority::Normal,
            PriorityRequest::Low => Priority::Low,
        };
        Ok(Prepared { prompt, params, recipe, priority, head })
    }

    /// The ids of what is given, whichever it is.
    pub(crate) fn prompt_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, ApiError> {
        match (&self.prompt, &self.messages) {
            (Some(Prompt::Text(text)), None) => {
                tokenizer.encode(text).map_err(|error| ApiError::of_field(error, "prompt"))
            }
            (Some(Prompt::Ids(ids)), None) => {
                let mask = tokenizer.special().mask;
                match ids.iter().position(|id| *id == mask) {
                    Some(i) => Err(ApiError::invalid(
                        format!("prompt[{i}]"),
                        format!("{mask} is the mask, which stands for a position that is not decided yet"),
                    )),
                    None => Ok(ids.clone()),
                }
            }
            (None, Some(messages)) => {
                let turn = |ChatMessage { role, content }: &ChatMessage| Message {
                    role: role.clone(),
                    content: content.clone(),
                };
                let messages: Vec<Message> = messages.iter().map(turn).collect();
                tokenizer.chat(&messages).map_err(|error| match error {
                    steerling::Error::Unsupported(message) => ApiError::unsupported("messages", message),
                    other => ApiError::of_field(other, "messages"),
                })
            }
            (Some(_), Some(_)) => Err(ApiError::invalid("messages", "either a prompt or messages, not both")),
            (None, None) => Err(ApiError::invalid("prompt", "a prompt or messages are needed")),
        }
    }

    /// `room`: positions that the prompt leaves.
    fn params(&self, seed: u64, room: usize) -> GenerateParams {
        let usual = GenerateParams::default();
        GenerateParams {
            // At least one, so that a prompt that fills the context is refused for that.
            max_new_tokens: self.max_new_tokens.unwrap_or(usual.max_new_tokens.min(room).max(1)),
            steps: self.steps,
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            use_entropy_sampling: self.use_entropy_sampling,
            cfg_scale: self.cfg_scale,
            seed,
            stop_tokens: self.stop_tokens.clone(),
            stop: self.stop.clone(),
            decoding: self.decoding.into(),
            align: self.align.into(),
            eot: match self.eot {
                EotRequest::Fill => EotMode::Fill,
                EotRequest::Reference => EotMode::Reference,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_omitted_field_has_the_default_of_the_library() {
        let request: GenerateRequest = serde_json::from_str(r#"{"prompt":"x"}"#).expect("a request");
        let usual = GenerateParams { seed: 7, ..GenerateParams::default() };
        assert_eq!(request.params(7, 1024), usual);
        assert_eq!(request.params(7, 500), GenerateParams { max_new_tokens: 500, ..usual });
    }
}
