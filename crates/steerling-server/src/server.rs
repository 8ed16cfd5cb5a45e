//! From a listener to the end of the last answer.

use std::sync::Arc;
use std::time::Duration;

use axum::serve::{Listener, ListenerExt};
use steerling::Denoiser;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{self, AppState};
use crate::config::ServiceOptions;
use crate::engine::{EngineHandle, Loaded, Phase};
use crate::metrics::{Metrics, UPKEEP};

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
    let engine = EngineHandle::spawn(options.engine(), metrics.clone(), build)?;
    let state = AppState::new(engine.clone(), options.clone(), metrics.clone());
    let close = CancellationToken::new();
    // Both end with this function.
    let _upkeep = AbortOnDropHandle::new(tokio::spawn(upkeep(metrics)));
    let _admin = admin.map(|listener| {
        let server = axum::serve(at_once(listener), api::admin_router(state.clone()));
        AbortOnDropHandle::new(tokio::spawn(server.into_future()))
    });
    let server = axum::serve(at_once(main), api::router(state)).with_graceful_shutdown(close.clone().cancelled_owned());
    let mut server = tokio::spawn(server.into_future());
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
    close.cancel();
    if tokio::time::timeout(LAST_BYTES, &mut server).await.is_err() {
        tracing::warn!("connections are still open: leaving without them");
        server.abort();
    }
    result
}

/// Sends each event when it is written: a step is often shorter than the time that TCP waits for more to send with it.
fn at_once(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = std::net::SocketAddr> {
    listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "events of this connection may arrive late");
        }
    })
}

async fn upkeep(metrics: Arc<Metrics>) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        interval.tick().await;
        metrics.upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_do_not_wait_for_one_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let mut listener = at_once(listener);
        let (client, (connection, _)) = tokio::join!(client, listener.accept());
        client.expect("a connection");
        assert!(connection.nodelay().expect("an option of the socket"));
    }
}
