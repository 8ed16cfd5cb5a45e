//! Steering: directions added to the residual stream, logits suppressed, concept weights set.
//!
//! MODEL.md sections 3 and 5. A [`SteeringSpec`] says what is wanted in terms of concepts; [`crate::Model::steering`]
//! resolves it against the weights to a [`Steering`], which is plain data that a canvas carries along.

mod resolve;
mod schedule;

pub use schedule::Schedule;

/// A concept by its head and its index within the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConceptKey {
    /// A known concept, `0..C`; the index is the global id.
    Known(u32),
    /// An unknown (discovered) concept, `0..U`; the global id is `C + index`.
    Unknown(u32),
}

/// One direction to inject.
#[derive(Debug, Clone, PartialEq)]
pub struct InjectionSpec {
    /// The direction is the sum of their embeddings, normalised to length 1.
    pub concepts: Vec<ConceptKey>,
    /// In logits of the most promoted token if `normalize`, else the raw factor of the direction.
    pub target: f32,
    /// Divide `target` by the direction's peak alignment with the output head.
    pub normalize: bool,
    /// After every layer with at least this number, counted from 1; `None` is half of the layers.
    pub inject_layer: Option<usize>,
    /// How the strength develops.
    pub schedule: Schedule,
}

/// What setting a concept's weight does to the part of the hidden state that no concept explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpsilonMode {
    /// It stays: `h + (value - weight) e`, where `weight` is 0 for a concept outside the top-k.
    #[default]
    Keep,
    /// It goes: the reference's recomposition from concepts alone.
    Drop,
}

/// A concept's weight, set to a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightEdit {
    /// The concept.
    pub concept: ConceptKey,
    /// Its weight from now on; the model itself uses 0 to 1.
    pub weight: f32,
    /// What becomes of the rest. If any edit drops it, it is dropped.
    pub epsilon: EpsilonMode,
}

/// What is wanted of a steered generation; entries add up.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SteeringSpec {
    /// Directions.
    pub injections: Vec<InjectionSpec>,
    /// Concepts whose promoted tokens lose `strength * relu(lm_head . e)` logits.
    pub suppress_logits: Vec<(ConceptKey, f32)>,
    /// Weights.
    pub set_weights: Vec<WeightEdit>,
}

/// Preset `injection`: target in logits.
pub const AMPLIFY_TARGET: f32 = 8.0;
/// Preset `injection`: committed tokens after which it ends.
pub const AMPLIFY_CUTOFF: usize = 32;
/// Preset `injection_relu`: raw factor.
pub const SUPPRESS_TARGET: f32 = -7.0;
/// Preset `injection_relu`: strength of the logit suppression.
pub const SUPPRESS_STRENGTH: f32 = 20.0;

impl InjectionSpec {
    /// Preset `injection`: amplify a concept. The layer is 8 of the released model's 32, a quarter of any other's.
    pub fn amplify(concepts: Vec<ConceptKey>, n_layers: usize) -> Self {
        Self {
            concepts,
            target: AMPLIFY_TARGET,
            normalize: true,
            inject_layer: Some((n_layers / 4).max(1)),
            schedule: Schedule::HardCutoff { tokens: AMPLIFY_CUTOFF },
        }
    }

    /// The direction of preset `injection_relu`: suppress a concept; goes with a logit suppression of strength
    /// [`SUPPRESS_STRENGTH`] on the focal concept.
    pub fn suppress(concepts: Vec<ConceptKey>) -> Self {
        Self { concepts, target: SUPPRESS_TARGET, normalize: false, inject_layer: None, schedule: Schedule::Fixed }
    }
}

/// A resolved direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// Unit vector, `[D]`.
    pub direction: Vec<f32>,
    /// Its factor before the schedule.
    pub alpha: f32,
    /// Largest alignment of a token's output row with the direction, at least 1e-6: `alpha * peak` is the logit shift
    /// of the most promoted token.
    pub peak: f32,
    /// After every layer with at least this number, counted from 1.
    pub inject_layer: usize,
    /// How the strength develops.
    pub schedule: Schedule,
}

/// Steering resolved against a model's weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Steering {
    /// Directions.
    pub injections: Vec<Injection>,
    /// What is subtracted from the logits, `[V]`.
    pub suppression: Option<Vec<f32>>,
    /// Weights.
    pub set_weights: Vec<WeightEdit>,
}

impl Steering {
    /// The factor of each direction when `committed` tokens stand (negative while a prompt holds masks).
    pub fn alphas(&self, committed: i64) -> Vec<f32> {
        self.injections.iter().map(|injection| injection.alpha * injection.schedule.factor(committed)).collect()
    }
}
