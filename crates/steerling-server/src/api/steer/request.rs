//! From a body to the runs of a request.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Recipe;
use super::controls::draw;
use crate::api::generate::request::{GenerateRequest, Prepared};
use crate::api::steering::SteeringRequest;
use crate::engine::Model;
use crate::error::ApiError;
use crate::extract::written_objects_only;
use crate::openapi::extended;

written_objects_only!(Controls);

/// Most runs with random concepts.
const MAX_CONTROLS: usize = 8;
/// Most multipliers.
const MAX_SWEEP: usize = 8;
/// Largest multiplier.
const MAX_MULTIPLIER: f32 = 100.0;
/// The names of [`SteerFields`].
pub(super) const FIELDS: &[&str] = &["compare", "controls", "sweep"];

/// A generation under steering; `steering` is required.
pub(crate) struct SteerRequest {
    pub(super) request: GenerateRequest,
    pub(super) fields: SteerFields,
    /// The body has `controls`, but none.
    pub(super) names_no_controls: bool,
}

/// Other runs beside the steered one.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SteerFields {
    /// Also the unsteered run, with the same seed.
    #[schema(default = false)]
    compare: bool,
    /// Runs that tell the concept's effect from that of any push.
    pub(super) controls: Controls,
    /// Multipliers of the targets, each a run.
    #[schema(max_items = 8, value_type = Vec<Multiplier>)]
    sweep: Vec<f32>,
}

/// A factor of all targets.
#[derive(ToSchema)]
#[schema(minimum = -100, maximum = 100)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Multiplier(f32);

/// Runs that tell the concept's effect from that of any push.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub(super) struct Controls {
    /// Runs of the same recipe with random steerable known concepts, which follow from the seed. None of them is a concept
    /// that the request or a policy acts on.
    #[schema(default = 0, maximum = 8)]
    pub(super) random_concepts: usize,
}

impl PartialSchema for SteerRequest {
    fn schema() -> RefOr<Schema> {
        let mut schema = extended(GenerateRequest::schema(), SteerFields::schema(), &["steering"]);
        if let RefOr::T(Schema::Object(object)) = &mut schema {
            let steering = Ref::new(format!("#/components/schemas/{}", SteeringRequest::name()));
            object.properties.insert("steering".to_owned(), RefOr::Ref(steering));
        }
        schema
    }
}

impl ToSchema for SteerRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        GenerateRequest::schemas(schemas);
        SteerFields::schemas(schemas);
    }
}

/// What a run is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Steered,
    Default,
    /// With these concepts in place of those named.
    Control(Vec<u32>),
    /// With targets multiplied.
    Sweep(f32),
}

/// The runs of a request; the steered one is the first.
pub(super) struct Plan {
    pub(super) recipe: Recipe,
    pub(super) kinds: Vec<Kind>,
    pub(super) lanes: Vec<(Option<String>, Prepared)>,
}

impl SteerRequest {
    /// Checks everything that can be checked before the model is asked. No control steers a concept that is `governed`.
    pub(super) fn plan(self, model: &Arc<Model>, governed: &BTreeSet<u32>) -> Result<Plan, ApiError> {
        let SteerFields { compare, controls: Controls { random_concepts }, sweep } = self.fields;
        if random_concepts > MAX_CONTROLS {
            let message = format!("{random_concepts} is outside 0..={MAX_CONTROLS}");
            return Err(ApiError::invalid("controls.random_concepts", message));
        }
        if sweep.len() > MAX_SWEEP {
            return Err(ApiError::invalid("sweep", format!("{} multipliers, at most {MAX_SWEEP}", sweep.len())));
        }
        let sane = |multiplier: &f32| multiplier.abs() <= MAX_MULTIPLIER;
        if let Some((i, multiplier)) = sweep.iter().enumerate().find(|(_, multiplier)| !sane(multiplier)) {
            let message = format!("{multiplier} is outside {}..={MAX_MULTIPLIER}", -MAX_MULTIPLIER);
            return Err(ApiError::invalid(format!("sweep[{i}]"), message));
        }
        if self.request.steering.is_none() {
            return Err(ApiError::invalid("steering", "steering is needed; /generate does without"));
        }
        let mut steered = self.request.prepare(model)?;
        let recipe = steered.recipe.clone().ok_or_else(ApiError::internal)?;
        let warnings = &mut steered.head.warnings;
        if random_concepts > 0 {
            // The concepts of the controls are drawn by it.
            warnings.retain(|warning| !warning.starts_with("`seed`"));
        }
        if !sweep.is_empty() && !recipe.has_targets() {
            warnings.push("`sweep` has no effect: it multiplies targets, and this steering has none".to_owned());
        }
        if self.names_no_controls {
            warnings.push("`controls` has no effect: it asks for 0 runs".to_owned());
        }
        let mut kinds = vec![Kind::Steered];
        let mut lanes = vec![(Some("steered".to_owned()), steered.clone())];
        let mut add = |kind: Kind, name: String, recipe: Option<Recipe>| {
            kinds.push(kind);
            lanes.push((Some(name), steered.with_recipe(recipe)));
        };
        if compare {
            add(Kind::Default, "default".to_owned(), None);
        }
        let named = recipe.named();
        let drawn = draw(&model.catalog, &recipe, governed, (random_concepts, steered.head.start.seed.key()))?;
        for (i, concepts) in drawn.into_iter().enumerate() {
            let by: HashMap<u32, u32> = named.iter().copied().zip(concepts.iter().copied()).collect();
            add(Kind::Control(concepts), format!("control-{i}"), Some(recipe.replaced(&by)));
        }
        for (i, multiplier) in sweep.into_iter().enumerate() {
            add(Kind::Sweep(multiplier), format!("sweep-{i}"), Some(recipe.scaled(multiplier)));
        }
        Ok(Plan { recipe, kinds, lanes })
    }
}
