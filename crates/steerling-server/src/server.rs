//! From a listener to the end of the last answer.

use std::sync::Arc;
use std::time::Duration;

use steerling::Denoiser;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{self, AppState};
use crate::config::ServiceOptions;
use crate::engine::{EngineHandle, Loaded, Phase};
use crate::metrics::{Metrics, UPKEEP};
use crate::transport::{Limits, Transport};

/// For the last bytes of answers that have ended; a reader that has stalled does not keep the process.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Why the server ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model could not be loaded, at the start or again after a failed step, or steps failed too often.
    #[error("the model cannot be served: {0}")]
    Load(String),
    /// The worker thread has ended without being told to.
    #[error("the worker thread has ended unexpectedly")]
    Worker,
    /// The operating system refused a thread or the socket.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Where requests come from.
pub struct Listeners {
    /// Everything.
    pub main: TcpListener,
    /// Health and metrics, for those who keep operators and users apart.
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self { main, admin: None }
    }
}

/// Serves until `shutdown`, then lets open generations finish within the grace of `options`. The model is built by
/// `build` on the worker thread while the server already answers; it is built again after a failed step.
///
/// # Errors
/// When the model cannot be loaded or the socket fails.
pub async fn run<D, B>(
    listeners: impl Into<Listeners>,
    options: ServiceOptions,
    build: B,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    D: Denoiser + 'static,
    B: Fn() -> steerling::Result<Loaded<D>> + Send + 'static,
{
    let Listeners { main, admin } = listeners.into();
    let metrics = Arc::new(Metrics::new(api::paths()));
    let limits = Limits::new(&options);
    let transport = Transport::new(limits, metrics.connections.main.clone()).with_tls(&options).await?;
    let policies = options.guard.policies.clone();
    let build = move || {
        let loaded = build()?;
        policies.resolve(&loaded.info.config, &loaded.catalog)?;
        Ok(loaded)
    };
    let engine = EngineHandle::spawn(options.engine(), metrics.clone(), build)?;
    let state = AppState::new(engine.clone(), options.clone(), metrics.clone())?;
    let audit = state.audit.clone();
    // Both end with this function.
    let _admin = admin.map(|listener| {
        let server = Transport::new(limits, metrics.connections.admin.clone());
        AbortOnDropHandle::new(tokio::spawn(server.serve(listener, api::admin_router(state.clone()))))
    });
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep(metrics)));
    let connections = transport.handle();
    let mut server = tokio::spawn(transport.serve(main, api::router(state)));
    let mut phase = engine.phase();
    let ended = async move {
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Stopped)).await;
        match ended.as_deref() {
            Ok(Phase::Failed(message)) => ServeError::Load(message.clone()),
            _ => ServeError::Worker,
        }
    };
    let result = tokio::select! {
        () = shutdown => {
            tracing::info!(active = engine.active(), queued = engine.queued(), "shutting down");
            // The listener stays open, so that new requests are told why they are refused.
            engine.drain(options.drain).await;
            Ok(())
        }
        error = ended => Err(error),
        // Only an error ends it before it is told to.
        served = &mut server => return Ok(served.map_err(std::io::Error::other)??),
    };
    connections.graceful_shutdown(None);
    if tokio::time::timeout(LAST_BYTES, &mut server).await.is_err() {
        tracing::warn!("connections are still open: leaving without them");
        server.abort();
    }
    if let Some(audit) = audit {
        audit.flush(LAST_BYTES);
    }
    result
}

async fn upkeep(metrics: Arc<Metrics>) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.upkeep();
    }
}
