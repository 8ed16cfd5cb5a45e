//! `GET /v1/models` and `GET /v1/models/{model}`.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::NotThere;
use crate::api::AppState;
use crate::engine::Model;
use crate::error::{ApiError, Code};

/// A name for whatever is served, so that a script need not know the checkpoint.
const ALIAS: &str = "steerling";

/// The models: the one that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    #[schema(example = "list")]
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    /// Its name; `steerling` names it as well.
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// When this process first told of it, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// Positions of prompt and generated text together.
    max_model_len: usize,
}

impl From<&Model> for ModelEntry {
    fn from(model: &Model) -> Self {
        static FIRST: LazyLock<u64> = LazyLock::new(now);
        Self {
            id: model.info.name.clone(),
            object: "model",
            created: *FIRST,
            owned_by: "steerling",
            max_model_len: model.limits.canvas.context,
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Refuses a request for another model.
pub(super) fn check(model: &Model, name: &str) -> Result<(), ApiError> {
    let served = &model.info.name;
    if name == served || name == ALIAS {
        return Ok(());
    }
    let message = format!("there is no model `{name}`: this server has `{served}`, also called `{ALIAS}`");
    Err(ApiError::new(Code::ModelNotFound, message).or_param("model"))
}

/// The models that requests may name.
///
/// There is one: the model that is served.
#[utoipa::path(get, path = "/v1/models", tag = "openai", operation_id = "list_models",
    responses((status = 200, description = "the model that is served", body = ModelList), NotThere))]
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list", data: vec![ModelEntry::from(&*state.model()?)] }))
}

/// One model.
///
/// By its name, or by the name `steerling`. A name may have slashes in it, escaped or not.
#[utoipa::path(get, path = "/v1/models/{*model}", tag = "openai", operation_id = "retrieve_model",
    params(("model" = String, Path, description = "the model's name, or `steerling`")),
    responses((status = 200, description = "the model", body = ModelEntry), NotThere))]
pub(crate) async fn show(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<ModelEntry>, ApiError> {
    let model = state.model()?;
    check(&model, &name)?;
    Ok(Json(ModelEntry::from(&*model)))
}
