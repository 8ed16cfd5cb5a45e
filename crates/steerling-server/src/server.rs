//! From a listener to the end of the last answer.

use std::time::Duration;

use steerling::Denoiser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, AppState};
use crate::config::ServiceOptions;
use crate::engine::{EngineHandle, Loaded, Phase};

/// For the last bytes of answers that have ended; a reader that has stalled does not keep the process.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Why the server ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The model could not be loaded, at the start or again after a failure.
    #[error("the model could not be loaded: {0}")]
    Load(String),
    /// The worker thread has ended without being told to.
    #[error("the worker thread has ended unexpectedly")]
    Worker,
    /// The operating system refused a thread or the socket.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Serves until `shutdown`, then lets open generations finish within the grace of `options`. The model is built by
/// `build` on the worker thread while the server already answers; it is built again after a failed step.
///
/// # Errors
/// When the model cannot be loaded or the socket fails.
pub async fn run<D, B>(
    listener: TcpListener,
    options: ServiceOptions,
    build: B,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    D: Denoiser + 'static,
    B: Fn() -> steerling::Result<Loaded<D>> + Send + 'static,
{
    let engine = EngineHandle::spawn(options.engine(), build)?;
    let app = api::router(AppState::new(engine.clone(), options.clone()));
    let close = CancellationToken::new();
    let server = axum::serve(listener, app).with_graceful_shutdown(close.clone().cancelled_owned());
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
