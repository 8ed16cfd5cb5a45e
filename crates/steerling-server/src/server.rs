//! From a listener to the end of the last answer.

use std::sync::Arc;
use std::time::Duration;

use steerling::Denoiser;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{self, AppState};
use crate::auth::AllowedHost;
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

/// Where requests come from. A host name may stand for several addresses, each with a listener.
pub struct Listeners {
    /// Everything.
    pub main: Vec<TcpListener>,
    /// Health and metrics, for those who keep operators and users apart.
    pub admin: Vec<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(main: TcpListener) -> Self {
        Self { main: vec![main], admin: Vec::new() }
    }
}

/// Serves until `shutdown`, then lets open generations finish within the grace of `options`. The model is built by
/// `build` on the worker thread while the server already answers; it is built again after a failed step.
///
/// # Errors
/// When the model cannot be loaded or the socket fails.
pub async fn run<D, B>(
    listeners: impl Into<Listeners>,
    mut options: ServiceOptions,
    build: B,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    D: Denoiser + 'static,
    B: Fn() -> steerling::Result<Loaded<D>> + Send + 'static,
{
    let Listeners { main, admin } = listeners.into();
    // Also the addresses that a name was resolved to are the server's own.
    let addresses = main.iter().chain(&admin).filter_map(|listener| listener.local_addr().ok());
    options.guard.listening_hosts.extend(addresses.map(|address| AllowedHost::from(address.ip())));
    let metrics = Arc::new(Metrics::new(api::paths()));
    let limits = Limits::new(&options);
    let transport = Transport::new(limits, metrics.connections.main.clone()).with_tls(&options).await?;
    let policies = options.guard.policies.clone();
    let engine_options = options.engine();
    let build = move || {
        let loaded = build()?;
        engine_options.check(&loaded.denoiser.limits())?;
        policies.resolve(&loaded.info.config, &loaded.catalog)?;
        Ok(loaded)
    };
    let engine = EngineHandle::spawn(engine_options, metrics.clone(), build)?;
    let state = AppState::new(engine.clone(), options.clone(), metrics.clone())?;
    let audit = state.audit.clone();
    // Both end with this function.
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep(metrics.clone())));
    let operators = Transport::new(limits, metrics.connections.admin.clone());
    let admin = admin.into_iter().map(|listener| {
        let server = operators.clone().serve(listener, api::admin_router(state.clone()));
        AbortOnDropHandle::new(tokio::spawn(server))
    });
    let _admin: Vec<_> = admin.collect();
    let connections = transport.handle();
    let router = api::router(state);
    let mut servers = JoinSet::new();
    for listener in main {
        servers.spawn(transport.clone().serve(listener, router.clone()));
    }
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
        Some(served) = servers.join_next() => return Ok(served.map_err(std::io::Error::other)??),
    };
    connections.graceful_shutdown(None);
    let closed = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_BYTES, closed).await.is_err() {
        tracing::warn!("connections are still open: leaving without them");
    }
    servers.abort_all();
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
