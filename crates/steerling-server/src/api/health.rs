//! For load balancers, orchestrators and collectors. Nothing here waits behind users.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::engine;
use crate::error::ApiError;
use crate::openapi::{Internal, NotReady};

/// Where the service stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: Status,
}

/// Where the service stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HealthStatus)]
enum Status {
    /// Process and worker are there.
    Live,
    /// Generations are taken.
    Ready,
}

/// Is the process alive?
///
/// It answers and its worker is there. It may still be loading the model.
#[utoipa::path(get, path = "/health/live", tag = "state",
    responses((status = 200, description = "process and worker are alive", body = Health), Internal, NotReady))]
pub(crate) async fn live(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    match state.engine.is_alive() {
        true => Ok(Json(Health { status: Status::Live })),
        false => Err(ApiError::not_ready(engine::NotReady::Stopped)),
    }
}

/// Are generations taken?
///
/// The model is loaded and warmed up, its last step went well, the worker comes round to its
/// work, and the server is not shutting down.
#[utoipa::path(get, path = "/health/ready", tag = "state",
    responses((status = 200, description = "generations are taken", body = Health), Internal, NotReady))]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    if state.engine.is_draining() {
        return Err(ApiError::shutting_down());
    }
    state.engine.readiness().map_err(ApiError::not_ready)?;
    Ok(Json(Health { status: Status::Ready }))
}

/// Counters, gauges and histograms.
///
/// In the text format of Prometheus. All series are there from the start, in seconds and bytes.
#[utoipa::path(get, path = "/metrics", tag = "state",
    responses((status = 200, description = "the metrics", body = String, content_type = "text/plain"), Internal))]
pub(crate) async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.engine.render_metrics())
}
