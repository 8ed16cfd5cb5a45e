//! The body of a request: a deadline for the whole of it, and what becomes of the rest that no handler has read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, Request, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Sleep;

use super::connection::InFlight;

/// What is read and thrown away of a body after an early answer. Many clients read an answer only when they have sent
/// everything; if the connection is closed before, they report a broken pipe instead of the status.
const DISCARDED_BYTES: usize = 64 << 20;
/// Longest time that this takes.
const DISCARDING: Duration = Duration::from_secs(30);

/// The body did not come in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body of the request did not arrive within {} s", .0.as_secs_f64())]
pub(crate) struct BodyTimeout(pub(crate) Duration);

/// A body that fails after a while, and is discarded to its end if the handler drops it.
pub(super) struct RequestBody {
    /// Taken when it has ended, or to be discarded.
    body: Option<Body>,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    /// The client sends the body only after `100 Continue`, which is sent when the body is first read.
    waits: bool,
    in_flight: Arc<InFlight>,
}

impl RequestBody {
    /// The same request with a deadline for its body.
    pub(super) fn attach<B>(request: Request<B>, limit: Duration, in_flight: Arc<InFlight>) -> Request<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let waits = expects_continue(request.headers());
        request.map(|body| {
            let body = Body::new(body);
            if body.is_end_stream() {
                return body;
            }
            let deadline = Box::pin(tokio::time::sleep(limit));
            Body::new(Self { body: Some(body), limit, deadline, waits, in_flight })
        })
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(BodyTimeout(self.limit).into())));
        }
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !self.waits && !body.is_end_stream()) else { return };
        // None while the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(discard(body, self.in_flight.clone()));
        }
    }
}

/// Reads on within bounds, so that the client comes to read the answer.
async fn discard(mut body: Body, _in_flight: Arc<InFlight>) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARDED_BYTES {
                return;
            }
        }
    };
    // Whatever came of it, the body is dropped now.
    _ = tokio::time::timeout(DISCARDING, reading).await;
}
