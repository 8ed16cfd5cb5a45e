//! The body of an answer, given up when its reader has stalled.
//!
//! Over HTTP/1.1 a reader that has stalled blocks its connection, which notices it. Over HTTP/2 it withholds the window of
//! one stream, and the connection has nothing to write. What both have in common is that the body is not asked for more
//! although it had something: so that is what is timed.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::InFlight;

/// Largest piece. The last one counts as taken, so it is small; and a slow reader asks often for the next.
const PIECE: usize = 16 << 10;

/// The reader has taken nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client reads nothing")]
struct Stalled;

/// A body in pieces, with a watch on its reader.
pub(super) struct ResponseBody {
    state: Arc<Mutex<State>>,
    /// None where all of it is one piece.
    _watch: Option<AbortOnDropHandle<()>>,
}

struct State {
    /// None after its reader has stalled.
    body: Option<Body>,
    /// What is left of its last frame.
    rest: Bytes,
    /// Since when a piece has been given, and no other one asked for.
    given: Option<Instant>,
    /// None after the last piece: from then on the deadlines of the connection hold.
    in_flight: Option<Arc<InFlight>>,
}

impl ResponseBody {
    /// The same body, dropped when its reader has taken nothing for `limit`, or up to a quarter more.
    pub(super) fn attach(body: Body, limit: Duration, in_flight: Arc<InFlight>) -> Body {
        let is_small = body.size_hint().upper().is_some_and(|bytes| bytes <= PIECE as u64);
        let state = State { body: Some(body), rest: Bytes::new(), given: None, in_flight: Some(in_flight) };
        let state = Arc::new(Mutex::new(state));
        let watch = (!is_small).then(|| AbortOnDropHandle::new(tokio::spawn(watch(state.clone(), limit))));
        Body::new(Self { state, _watch: watch })
    }
}

/// Drops the body when its reader has stalled.
async fn watch(state: Arc<Mutex<State>>, limit: Duration) {
    loop {
        let now = Instant::now();
        let next = {
            let mut state = lock(&state);
            match state.given.map(|given| given + limit) {
                Some(deadline) if deadline <= now => {
                    (state.body, state.rest, state.in_flight) = (None, Bytes::new(), None);
                    tracing::debug!("a client reads nothing: its answer is given up");
                    return;
                }
                Some(deadline) => deadline,
                None => now + limit / 4,
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

impl State {
    fn has_ended(&self) -> bool {
        self.rest.is_empty() && self.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    /// The next piece, or the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() {
            let Some(body) = &mut self.body else { return Poll::Ready(Some(Err(Stalled.into()))) };
            match ready!(Pin::new(body).poll_frame(context)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let state = &mut *lock(&self.state);
        state.given = None;
        let piece = ready!(state.poll_piece(context));
        match piece.is_none() || state.has_ended() {
            true => state.in_flight = None,
            false => state.given = Some(Instant::now()),
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.state).has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let (rest, mut hint) = (state.rest.len() as u64, SizeHint::new());
        if let Some(body) = &state.body {
            let inner = body.size_hint();
            // The upper bound first: it must not lie below the lower one.
            inner.upper().into_iter().for_each(|upper| hint.set_upper(upper + rest));
            hint.set_lower(inner.lower() + rest);
        }
        hint
    }
}
