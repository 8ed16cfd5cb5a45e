//! The routes. The router is the OpenAPI document: a route that is not described does not exist.

pub(crate) mod attribute;
pub(crate) mod attribution;
pub(crate) mod concept;
mod concepts;
pub(crate) mod embed;
pub(crate) mod generate;
mod headers;
mod health;
mod info;
pub(crate) mod lanes;
pub(crate) mod openai;
mod playground;
pub(crate) mod respond;
mod score;
pub(crate) mod seed;
pub(crate) mod states;
pub(crate) mod steer;
pub(crate) mod steering;
mod text;
pub(crate) mod verify;

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Audit;
use crate::auth::{self, Hosts, authorize, check_host};
use crate::config::ServiceOptions;
use crate::engine::{EngineHandle, Model, NotReady, Ticket};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::observe::{answer_errors, observe};

use headers::{cors, secure};

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) engine: EngineHandle,
    pub(crate) options: Arc<ServiceOptions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Option<Audit>,
}

impl AppState {
    /// # Errors
    /// If the audit log cannot be opened.
    pub(crate) fn new(engine: EngineHandle, options: ServiceOptions, metrics: Arc<Metrics>) -> io::Result<Self> {
        let guard = &options.guard;
        let audit = guard.audit_log.clone().map(|path| Audit::start(path, guard.audit_prompts, metrics.audit.clone()));
        Ok(Self { engine, audit: audit.transpose()?, options: Arc::new(options), metrics })
    }

    /// The model, or the reason why it cannot be used.
    fn model(&self) -> Result<Arc<Model>, ApiError> {
        self.engine.model().ok_or_else(|| ApiError::not_ready(NotReady::Loading))
    }

    /// How many generations are held at a time, those that wait included.
    fn places(&self) -> usize {
        self.options.max_batch + self.options.max_queue
    }

    /// When the answer to the request must have ended. Its time begins with its arrival, not when its body was read.
    ///
    /// # Errors
    /// If the request asks for more time than it may have.
    fn deadline(&self, timeout_ms: Option<u64>) -> Result<Instant, ApiError> {
        let most = self.options.timeout;
        let timeout = match timeout_ms.map(Duration::from_millis) {
            Some(timeout) if timeout.is_zero() || timeout > most => {
                let message = format!("{} is outside 1..={}", timeout.as_millis(), most.as_millis());
                return Err(ApiError::invalid("timeout_ms", message));
            }
            timeout => timeout.unwrap_or(most),
        };
        Ok(auth::deadline(timeout))
    }

    /// Admits a request that comes now, before anything is done for it.
    ///
    /// # Errors
    /// If it asks for more time than it may have, no slot is free, or no work is taken.
    fn admit(&self, timeout_ms: Option<u64>) -> Result<Ticket, ApiError> {
        Ok(self.engine.admit(self.deadline(timeout_ms)?)?)
    }

    /// As [`Self::admit`], for a request that the catalogue or the tokenizer answers.
    fn admit_planning(&self) -> Result<Ticket, ApiError> {
        Ok(self.engine.admit_planning(self.deadline(None)?)?)
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
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::show))
        .routes(routes!(openai::completions::completions))
        .routes(routes!(openai::chat::chat_completions))
        .routes(routes!(openai::embeddings::embeddings))
        .routes(routes!(info::info))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .merge(files())
}

/// What is the same for everyone, compressed for whoever takes that.
fn files() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(playground::page))
        .routes(routes!(playground::asset))
        .routes(routes!(crate::openapi::page::docs))
        .routes(routes!(crate::openapi::page::docs_asset))
        .routes(routes!(crate::openapi::openapi_json))
        .layer(CompressionLayer::new())
}

/// Work that takes a while, such as tokenizing a long text: on a thread for planning, not on one that others wait for.
pub(crate) async fn plan<T: Send + 'static>(
    ticket: &Ticket,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    ticket.plan(work).await?
}

/// The whole service.
pub(crate) fn router(state: AppState) -> Router {
    let (router, _) = routes().split_for_parts();
    let guard = &state.options.guard;
    let (cors, hosts) = (cors(&guard.cors_origins), Hosts::of(guard, !guard.keys.is_empty()));
    router
        .fallback(|| async { ApiError::from_status(StatusCode::NOT_FOUND) })
        .layer(CatchPanicLayer::custom(answer_to_panic))
        .layer(middleware::from_fn_with_state(state.clone(), authorize))
        .layer(middleware::from_fn_with_state(hosts, check_host))
        .layer(option_layer(cors))
        .layer(middleware::map_response(secure))
        .layer(middleware::from_fn_with_state(state.metrics.clone(), observe))
        .with_state(state)
}

/// What operators ask, for a port of their own. No key protects it, whatever the main port has.
pub(crate) fn admin_router(state: AppState) -> Router {
    let hosts = Hosts::of(&state.options.guard, false);
    let (router, _) = OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .split_for_parts();
    router
        .fallback(|| async { ApiError::from_status(StatusCode::NOT_FOUND) })
        .layer(CatchPanicLayer::custom(answer_to_panic))
        .layer(middleware::from_fn_with_state(hosts, check_host))
        .layer(middleware::from_fn(answer_errors))
        .with_state(state)
}

/// The paths of all routes.
pub(crate) fn paths() -> Vec<String> {
    routes().into_openapi().paths.paths.into_keys().collect()
}

fn answer_to_panic(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has written the message and the place.
    tracing::error!("a handler panicked");
    ApiError::internal().into_response()
}
