//! The field `steering` of a request: from names to a recipe, from a recipe to what the model resolves.

mod unheeded;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use steerling::Config;
use steerling::catalog::{Catalog, ConceptRef, Head};
use steerling::steer::{ConceptKey, EpsilonMode, InjectionSpec, SUPPRESS_STRENGTH, Schedule, SteeringSpec, WeightEdit};
use utoipa::ToSchema;

use super::concept::ConceptName;
use crate::engine::Model;
use crate::error::ApiError;
use crate::extract::written_objects_only;

written_objects_only!(SteeringRequest, Amplify, Suppress, Inject, SuppressLogits, SetWeight, ScheduleBody);

/// Largest target, strength or weight: beyond it a float16 model would overflow rather than follow.
const MAX_STRENGTH: f32 = 1e4;
/// Most entries of one list, and most concepts of one injection.
const MAX_ENTRIES: usize = 64;
/// Most searches of one request: each reads the whole catalogue.
const MAX_SEARCHES: usize = 64;

/// What is added to the model's computation. All entries add up.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schema(as = Steering)]
pub(crate) struct SteeringRequest {
    /// Concepts to bring out, by the reference package's preset `injection`.
    #[schema(max_items = 64)]
    amplify: Vec<Amplify>,
    /// Concepts to keep away, by the reference package's preset `injection_relu`.
    #[schema(max_items = 64)]
    suppress: Vec<Suppress>,
    /// Directions with all their settings.
    #[schema(max_items = 64)]
    inject: Vec<Inject>,
    /// Concepts whose promoted tokens lose logits.
    #[schema(max_items = 64)]
    suppress_logits: Vec<SuppressLogits>,
    /// Concepts whose weight is set.
    #[schema(max_items = 64)]
    set_weights: Vec<SetWeight>,
    /// Also steer concepts that the catalogue marks as not steerable.
    #[schema(default = false)]
    force: bool,
}

/// A concept to bring out.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct Amplify {
    #[schema(value_type = ConceptName)]
    concept: ConceptRef,
    /// Shift of the most promoted token's logit. Null: 8.
    #[schema(minimum = -10000, maximum = 10000)]
    target: Option<f32>,
    /// Together with the rest of the concept's group. Null: no.
    group: Option<bool>,
    /// After every layer with at least this number, counted from 1. Null: a quarter of the layers.
    #[schema(minimum = 1)]
    inject_layer: Option<usize>,
    /// Committed tokens after which it ends. Null: 32.
    cutoff_tokens: Option<usize>,
}

/// A concept to keep away.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct Suppress {
    #[schema(value_type = ConceptName)]
    concept: ConceptRef,
    /// Raw factor of the direction. Null: -7.
    #[schema(minimum = -10000, maximum = 10000)]
    target: Option<f32>,
    /// Together with the rest of the concept's group. Null: yes.
    group: Option<bool>,
    /// After every layer with at least this number, counted from 1. Null: half of the layers.
    #[schema(minimum = 1)]
    inject_layer: Option<usize>,
    /// Strength of the logit suppression of the concept itself. Null: 20.
    #[schema(minimum = -10000, maximum = 10000)]
    strength: Option<f32>,
}

/// One direction with all its settings.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct Inject {
    /// The direction is the sum of their embeddings at length 1.
    #[schema(value_type = Vec<ConceptName>, min_items = 1, max_items = 64)]
    concepts: Vec<ConceptRef>,
    /// In logits of the most promoted token if `normalize`, else the raw factor.
    #[schema(minimum = -10000, maximum = 10000)]
    target: f32,
    /// Divide `target` by the direction's peak alignment with the output head. Null: yes.
    normalize: Option<bool>,
    /// After every layer with at least this number, counted from 1. Null: half of the layers.
    #[schema(minimum = 1)]
    inject_layer: Option<usize>,
    /// How the strength develops. Null: fixed.
    schedule: Option<ScheduleBody>,
}

/// How the strength of a direction develops over a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = Schedule)]
pub(crate) enum ScheduleBody {
    /// Full strength throughout.
    Fixed {},
    /// Full strength until this many tokens are committed, then none.
    HardCutoff {
        /// Committed tokens.
        tokens: usize,
    },
    /// Falls in proportion to committed tokens, to none at this many.
    LinearDecay {
        /// Committed tokens.
        tokens: usize,
    },
}

/// A concept whose promoted tokens lose `strength * relu(lm_head . e)` logits.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct SuppressLogits {
    #[schema(value_type = ConceptName)]
    concept: ConceptRef,
    /// Null: 20.
    #[schema(minimum = -10000, maximum = 10000)]
    strength: Option<f32>,
}

/// A concept whose weight is set.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
struct SetWeight {
    #[schema(value_type = ConceptName)]
    concept: ConceptRef,
    /// The model itself uses 0 to 1.
    #[schema(minimum = -10000, maximum = 10000)]
    weight: f32,
    /// What becomes of the part that no concept explains. Null: `keep`.
    epsilon: Option<EpsilonBody>,
}

/// What setting a weight does to the part of the hidden state that no concept explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Epsilon)]
pub(crate) enum EpsilonBody {
    /// It stays: `h + (value - weight) e`.
    Keep,
    /// It goes: the reference package's recomposition from concepts alone.
    Drop,
}

/// A direction of a recipe.
#[derive(Debug, Clone, PartialEq)]
struct Ingredient {
    /// Global ids as named.
    concepts: Vec<u32>,
    /// With the group of each.
    group: bool,
    /// All but the concepts.
    spec: InjectionSpec,
}

/// A request's steering with its concepts found: plain data, from which variations are made.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    catalog: Arc<Catalog>,
    injections: Vec<Ingredient>,
    suppress_logits: Vec<(u32, f32)>,
    set_weights: Vec<(u32, f32, EpsilonMode)>,
    /// What the request says without effect.
    unheeded: Vec<String>,
}

impl SteeringRequest {
    /// Finds the concepts and checks every number; errors name the field.
    pub(crate) fn recipe(&self, model: &Model) -> Result<Recipe, ApiError> {
        self.recipe_for(&model.info.config, &model.catalog)
    }

    /// As [`Self::recipe`], for a model that is only being loaded.
    pub(crate) fn recipe_for(&self, config: &Config, catalog: &Arc<Catalog>) -> Result<Recipe, ApiError> {
        if config.concept.is_none() {
            return Err(ApiError::unsupported("steering", "this checkpoint has no concept heads to steer with"));
        }
        self.check_lengths()?;
        let n_layers = config.n_layers;
        self.check_searches()?;
        let finder = Finder { catalog, force: self.force, searched: RefCell::default() };
        let mut injections = Vec::new();
        let mut suppress_logits = Vec::new();
        for (i, entry) in self.amplify.iter().enumerate() {
            let field = |name: &str| format!("steering.amplify[{i}].{name}");
            let preset = InjectionSpec::amplify(Vec::new(), n_layers);
            let spec = InjectionSpec {
                target: number(&field("target"), entry.target.unwrap_or(preset.target))?,
                inject_layer: layer(&field("inject_layer"), entry.inject_layer, n_layers)?.or(preset.inject_layer),
                schedule: entry.cutoff_tokens.map_or(preset.schedule, |tokens| Schedule::HardCutoff { tokens }),
                ..preset
            };
            let concepts = vec![finder.find(&field("concept"), &entry.concept)?];
            injections.push(Ingredient { concepts, group: entry.group.unwrap_or(false), spec });
        }
        for (i, entry) in self.suppress.iter().enumerate() {
            let field = |name: &str| format!("steering.suppress[{i}].{name}");
            let preset = InjectionSpec::suppress(Vec::new());
            let spec = InjectionSpec {
                target: number(&field("target"), entry.target.unwrap_or(preset.target))?,
                inject_layer: layer(&field("inject_layer"), entry.inject_layer, n_layers)?.or(preset.inject_layer),
                ..preset
            };
            let concept = finder.find(&field("concept"), &entry.concept)?;
            injections.push(Ingredient { concepts: vec![concept], group: entry.group.unwrap_or(true), spec });
            let strength = entry.strength.unwrap_or(SUPPRESS_STRENGTH);
            suppress_logits.push((concept, number(&field("strength"), strength)?));
        }
        for (i, entry) in self.inject.iter().enumerate() {
            let field = |name: &str| format!("steering.inject[{i}].{name}");
            if !(1..=MAX_ENTRIES).contains(&entry.concepts.len()) {
                let message = format!("{} concepts, 1 to {MAX_ENTRIES} make a direction", entry.concepts.len());
                return Err(ApiError::invalid(field("concepts"), message));
            }
            let concepts = entry.concepts.iter().enumerate();
            let concepts = concepts.map(|(k, concept)| finder.find(&field(&format!("concepts[{k}]")), concept));
            let spec = InjectionSpec {
                concepts: Vec::new(),
                target: number(&field("target"), entry.target)?,
                normalize: entry.normalize.unwrap_or(true),
                inject_layer: layer(&field("inject_layer"), entry.inject_layer, n_layers)?,
                schedule: entry.schedule.map_or(Schedule::Fixed, Into::into),
            };
            injections.push(Ingredient { concepts: concepts.collect::<Result<_, _>>()?, group: false, spec });
        }
        for (i, entry) in self.suppress_logits.iter().enumerate() {
            let field = |name: &str| format!("steering.suppress_logits[{i}].{name}");
            let strength = number(&field("strength"), entry.strength.unwrap_or(SUPPRESS_STRENGTH))?;
            suppress_logits.push((finder.find(&field("concept"), &entry.concept)?, strength));
        }
        let set_weights = self.weights(&finder)?;
        let unheeded = Vec::new();
        let recipe = Recipe { catalog: catalog.clone(), injections, suppress_logits, set_weights, unheeded };
        Ok(Recipe { unheeded: self.unheeded(&recipe), ..recipe })
    }

    fn weights(&self, finder: &Finder<'_>) -> Result<Vec<(u32, f32, EpsilonMode)>, ApiError> {
        let mut weights: Vec<(u32, f32, EpsilonMode)> = Vec::new();
        for (i, entry) in self.set_weights.iter().enumerate() {
            let field = |name: &str| format!("steering.set_weights[{i}].{name}");
            let concept = finder.find(&field("concept"), &entry.concept)?;
            if weights.iter().any(|(other, ..)| *other == concept) {
                let message = format!("the weight of concept {concept} is set twice");
                return Err(ApiError::invalid(field("concept"), message));
            }
            let epsilon = entry.epsilon.map_or(EpsilonMode::Keep, Into::into);
            weights.push((concept, number(&field("weight"), entry.weight)?, epsilon));
        }
        Ok(weights)
    }

    /// All concepts as they are named.
    fn concepts(&self) -> impl Iterator<Item = &ConceptRef> {
        let amplified = self.amplify.iter().map(|entry| &entry.concept);
        let suppressed = self.suppress.iter().map(|entry| &entry.concept);
        let injected = self.inject.iter().flat_map(|entry| &entry.concepts);
        let logits = self.suppress_logits.iter().map(|entry| &entry.concept);
        let set = self.set_weights.iter().map(|entry| &entry.concept);
        amplified.chain(suppressed).chain(injected).chain(logits).chain(set)
    }

    fn check_searches(&self) -> Result<(), ApiError> {
        let searches = self.concepts().filter(|concept| matches!(concept, ConceptRef::Search(_))).count();
        if searches <= MAX_SEARCHES {
            return Ok(());
        }
        let message = format!(
            "{searches} concepts are named by `search`, a request may search for {MAX_SEARCHES}: name the others by id"
        );
        Err(ApiError::invalid("steering", message))
    }

    fn check_lengths(&self) -> Result<(), ApiError> {
        let lists = [
            ("amplify", self.amplify.len()),
            ("suppress", self.suppress.len()),
            ("inject", self.inject.len()),
            ("suppress_logits", self.suppress_logits.len()),
            ("set_weights", self.set_weights.len()),
        ];
        if let Some((name, n)) = lists.iter().find(|(_, n)| *n > MAX_ENTRIES) {
            return Err(ApiError::invalid(format!("steering.{name}"), format!("{n} entries, at most {MAX_ENTRIES}")));
        }
        if lists.iter().all(|(_, n)| *n == 0) {
            return Err(ApiError::invalid("steering", "it names no concept; leave it out to steer nothing"));
        }
        Ok(())
    }
}

/// Looks concepts up.
struct Finder<'a> {
    catalog: &'a Catalog,
    force: bool,
    /// What searches of this request have found: the same words find the same concept.
    searched: RefCell<HashMap<String, u32>>,
}

impl Finder<'_> {
    fn find(&self, field: &str, concept: &ConceptRef) -> Result<u32, ApiError> {
        let words = match concept {
            ConceptRef::Search(words) => Some(words),
            _ => None,
        };
        if let Some(known) = words.and_then(|words| self.searched.borrow().get(words).copied()) {
            return Ok(known);
        }
        let found = self.catalog.resolve_steerable(field, concept, self.force);
        let id = found.map(|concept| concept.id).map_err(|error| ApiError::of_concept(error, self.catalog))?;
        if let Some(words) = words {
            self.searched.borrow_mut().insert(words.clone(), id);
        }
        Ok(id)
    }
}

/// Refuses numbers that no model could follow, infinities and those that are none among them.
fn number(field: &str, value: f32) -> Result<f32, ApiError> {
    if value.abs() <= MAX_STRENGTH {
        return Ok(value);
    }
    Err(ApiError::invalid(field, format!("{value} is outside {}..={MAX_STRENGTH}", -MAX_STRENGTH)))
}

fn layer(field: &str, layer: Option<usize>, n_layers: usize) -> Result<Option<usize>, ApiError> {
    match layer {
        Some(layer) if !(1..=n_layers).contains(&layer) => {
            Err(ApiError::invalid(field, format!("{layer} is outside 1..={n_layers}, the layers of this model")))
        }
        layer => Ok(layer),
    }
}

impl Recipe {
    /// Both together. Where both set the weight of a concept, `other` does.
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.set_weights.retain(|(concept, ..)| other.set_weights.iter().all(|(theirs, ..)| theirs != concept));
        self.injections.extend_from_slice(&other.injections);
        self.suppress_logits.extend_from_slice(&other.suppress_logits);
        self.set_weights.extend_from_slice(&other.set_weights);
        self
    }

    /// The global ids of all concepts that it acts on, groups included, in ascending order.
    pub(crate) fn edited(&self) -> Vec<u32> {
        let mut edited: Vec<u32> = self.named().into_iter().chain(self.directions().into_iter().flatten()).collect();
        edited.sort_unstable();
        edited.dedup();
        edited
    }

    /// The global ids of all concepts that the request names, each once, in its order.
    pub(crate) fn named(&self) -> Vec<u32> {
        let mut named: Vec<u32> = Vec::new();
        let injected = self.injections.iter().flat_map(|injection| injection.concepts.iter().copied());
        let suppressed = self.suppress_logits.iter().map(|(concept, _)| *concept);
        let set = self.set_weights.iter().map(|(concept, ..)| *concept);
        for concept in injected.chain(suppressed).chain(set) {
            if !named.contains(&concept) {
                named.push(concept);
            }
        }
        named
    }

    /// Whether a direction takes the groups of its concepts along.
    pub(crate) fn takes_groups(&self) -> bool {
        self.injections.iter().any(|injection| injection.group)
    }

    /// What the request says without effect.
    pub(crate) fn unheeded(&self) -> &[String] {
        &self.unheeded
    }

    /// Whether there are targets that can be multiplied.
    pub(crate) fn has_targets(&self) -> bool {
        !self.injections.is_empty()
    }

    /// The same with all targets multiplied.
    pub(crate) fn scaled(&self, multiplier: f32) -> Self {
        let mut recipe = self.clone();
        recipe.injections.iter_mut().for_each(|injection| injection.spec.target *= multiplier);
        recipe
    }

    /// The same with other concepts.
    pub(crate) fn replaced(&self, by: &HashMap<u32, u32>) -> Self {
        let mut recipe = self.clone();
        let replace = |concept: &mut u32| *concept = by.get(concept).copied().unwrap_or(*concept);
        recipe.injections.iter_mut().flat_map(|injection| &mut injection.concepts).for_each(replace);
        recipe.suppress_logits.iter_mut().for_each(|(concept, _)| replace(concept));
        recipe.set_weights.iter_mut().for_each(|(concept, ..)| replace(concept));
        recipe
    }

    /// The concepts of each direction, groups included.
    pub(crate) fn directions(&self) -> Vec<Vec<u32>> {
        let with_group = |injection: &Ingredient| match injection.group {
            true => injection.concepts.iter().flat_map(|concept| self.catalog.group(*concept)).collect(),
            false => injection.concepts.clone(),
        };
        self.injections.iter().map(with_group).collect()
    }

    /// Concepts and strengths of the logit suppression.
    pub(crate) fn suppress_logits(&self) -> &[(u32, f32)] {
        &self.suppress_logits
    }

    /// Concepts, weights and what becomes of the rest.
    pub(crate) fn set_weights(&self) -> &[(u32, f32, EpsilonMode)] {
        &self.set_weights
    }

    /// What the model resolves.
    pub(crate) fn spec(&self) -> SteeringSpec {
        let key = |id: &u32| self.key(*id);
        let injections = self.injections.iter().zip(self.directions());
        SteeringSpec {
            injections: injections
                .map(|(injection, concepts)| InjectionSpec {
                    concepts: concepts.iter().map(key).collect(),
                    ..injection.spec.clone()
                })
                .collect(),
            suppress_logits: self.suppress_logits.iter().map(|(id, strength)| (key(id), *strength)).collect(),
            set_weights: self
                .set_weights
                .iter()
                .map(|(id, weight, epsilon)| WeightEdit { concept: key(id), weight: *weight, epsilon: *epsilon })
                .collect(),
        }
    }

    /// Where the concept is in the model.
    pub(crate) fn key(&self, id: u32) -> ConceptKey {
        match self.catalog.get(id) {
            Some(concept) if concept.head == Head::Unknown => ConceptKey::Unknown(concept.index),
            _ => ConceptKey::Known(id),
        }
    }
}

impl From<ScheduleBody> for Schedule {
    fn from(schedule: ScheduleBody) -> Self {
        match schedule {
            ScheduleBody::Fixed {} => Self::Fixed,
            ScheduleBody::HardCutoff { tokens } => Self::HardCutoff { tokens },
            ScheduleBody::LinearDecay { tokens } => Self::LinearDecay { tokens },
        }
    }
}

impl From<Schedule> for ScheduleBody {
    fn from(schedule: Schedule) -> Self {
        match schedule {
            Schedule::Fixed => Self::Fixed {},
            Schedule::HardCutoff { tokens } => Self::HardCutoff { tokens },
            Schedule::LinearDecay { tokens } => Self::LinearDecay { tokens },
        }
    }
}

impl From<EpsilonBody> for EpsilonMode {
    fn from(epsilon: EpsilonBody) -> Self {
        match epsilon {
            EpsilonBody::Keep => Self::Keep,
            EpsilonBody::Drop => Self::Drop,
        }
    }
}

impl From<EpsilonMode> for EpsilonBody {
    fn from(epsilon: EpsilonMode) -> Self {
        match epsilon {
            EpsilonMode::Keep => Self::Keep,
            EpsilonMode::Drop => Self::Drop,
        }
    }
}
