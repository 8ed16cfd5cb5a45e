//! What the commands share with the endpoints: steering as requests write it, attributions as answers show them.

use std::sync::Arc;

use serde_json::Value;
use steerling::steer::SteeringSpec;
use steerling::{Canvas, Denoiser, Outcome, Runtime};

use crate::api::attribution::{Attribution, AttributionRequest};
use crate::api::steering::SteeringRequest;
use crate::body;
use crate::engine::Model;
use crate::extract;

/// A loaded model as the endpoints know it.
pub fn model_of(runtime: &Runtime) -> Model {
    Model {
        info: runtime.info().clone(),
        tokenizer: runtime.tokenizer().clone(),
        catalog: Arc::clone(runtime.catalog()),
        limits: runtime.limits(),
    }
}

/// The field `steering` of a request, its concepts found.
///
/// # Errors
/// What the endpoint would say, naming the field.
pub fn steering(mut request: Value, model: &Model) -> Result<SteeringSpec, String> {
    let checked = body::check::<SteeringRequest>(&mut request).and_then(|()| extract::read::<SteeringRequest>(request));
    let recipe = checked.map_err(|error| error.within("steering")).and_then(|request| request.recipe(model));
    recipe.map(|recipe| recipe.spec()).map_err(|error| error.to_string())
}

/// The tokens, chunks and check of a finished canvas that was attributed, as `POST /attribute` answers.
/// `[top_known, top_unknown]`: how many concepts of each head are told of a token.
pub fn attribution(canvas: &Canvas, outcome: &Outcome, model: &Model, top: [usize; 2]) -> Value {
    let [top_known, top_unknown] = top;
    let top = AttributionRequest { top_known, top_unknown };
    serde_json::to_value(Attribution::of(canvas, outcome, model, top)).unwrap_or_default()
}
