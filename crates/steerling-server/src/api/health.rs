//! For load balancers and orchestrators. Neither waits behind users.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::error::ApiError;
use crate::openapi::{Internal, NotReady};

/// Where the service stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `live` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
}

/// The process answers. It may still be loading the model.
#[utoipa::path(get, path = "/health/live", tag = "state",
    responses((status = 200, description = "the process answers", body = Health), Internal))]
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "live" })
}

/// Generations are taken: the model is loaded, has taken a step, and the server is not shutting down.
#[utoipa::path(get, path = "/health/ready", tag = "state",
    responses((status = 200, description = "generations are taken", body = Health), Internal, NotReady))]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    if state.engine.is_ready() {
        Ok(Json(Health { status: "ready" }))
    } else if state.engine.is_draining() {
        Err(ApiError::shutting_down())
    } else {
        Err(ApiError::not_ready())
    }
}
