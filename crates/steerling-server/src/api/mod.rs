//! The routes. The router is the OpenAPI document: a route that is not described does not exist.

pub(crate) mod attribute;
pub(crate) mod attribution;
pub(crate) mod concept;
mod concepts;
mod embed;
pub(crate) mod generate;
mod health;
mod info;
pub(crate) mod lanes;
mod score;
mod states;
pub(crate) mod steer;
pub(crate) mod steering;
mod text;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::ServiceOptions;
use crate::engine::{EngineHandle, Model};
use crate::error::ApiError;
use crate::observe::observe;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) engine: EngineHandle,
    pub(crate) options: Arc<ServiceOptions>,
}

impl AppState {
    pub(crate) fn new(engine: EngineHandle, options: ServiceOptions) -> Self {
        Self { engine, options: Arc::new(options) }
    }

    /// The model, or the reason why it cannot be used.
    fn model(&self) -> Result<Arc<Model>, ApiError> {
        self.engine.model().ok_or_else(ApiError::not_ready)
    }
}

/// All described routes.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(crate::openapi::base())
        .routes(routes!(generate::generate))
        .routes(routes!(steer::steer))
        .routes(routes!(attribute::attribute))
        .routes(routes!(score::score))
        .routes(routes!(embed::embed))
        .routes(routes!(concepts::list))
        .routes(routes!(concepts::show))
        .routes(routes!(concepts::group))
        .routes(routes!(concepts::tokens))
        .routes(routes!(concepts::neighbors))
        .routes(routes!(concepts::texts::detect))
        .routes(routes!(concepts::texts::contrast))
        .routes(routes!(text::tokenize))
        .routes(routes!(text::detokenize))
        .routes(routes!(info::info))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(crate::openapi::openapi_json))
}

/// Work that takes a while, such as tokenizing a long text: not on a thread that others wait for.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())?
}

/// The whole service.
pub(crate) fn router(state: AppState) -> Router {
    let body_limit = DefaultBodyLimit::max(state.options.max_body_bytes);
    let (router, _) = routes().split_for_parts();
    router
        .fallback(|| async { ApiError::from_status(StatusCode::NOT_FOUND) })
        .layer(body_limit)
        .layer(CatchPanicLayer::custom(answer_to_panic))
        .layer(middleware::from_fn(observe))
        .with_state(state)
}

fn answer_to_panic(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has written the message and the place.
    tracing::error!("a handler panicked");
    ApiError::internal().into_response()
}
