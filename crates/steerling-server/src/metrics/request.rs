//! One request, measured from its head to the last byte of its answer.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use http_body::{Frame, SizeHint};

use super::{Endpoint, Metrics};
use crate::error::Code;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered in full.
    Ok,
    /// The client's mistake.
    Refused,
    /// No place was free.
    Overloaded,
    /// It took too long.
    Deadline,
    /// The server was loading or shutting down.
    Unavailable,
    /// The server's mistake.
    Failed,
    /// The client left before the end.
    Cancelled,
}

/// All of them, in the order of their declaration.
pub(super) const OUTCOMES: [Outcome; 7] = [
    Outcome::Ok,
    Outcome::Refused,
    Outcome::Overloaded,
    Outcome::Deadline,
    Outcome::Unavailable,
    Outcome::Failed,
    Outcome::Cancelled,
];

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Overloaded,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Self::Deadline,
            StatusCode::SERVICE_UNAVAILABLE => Self::Unavailable,
            // What the server cannot do is the client's to know.
            StatusCode::NOT_IMPLEMENTED => Self::Refused,
            _ if status.is_server_error() => Self::Failed,
            _ if status.is_client_error() => Self::Refused,
            _ => Self::Ok,
        }
    }
}

/// The error that a stream ended with, after its status was long sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamEnd(Arc<OnceLock<Code>>);

impl StreamEnd {
    pub(crate) fn set(&self, code: Code) {
        // A stream ends once.
        _ = self.0.set(code);
    }
}

/// A request under way. Dropped, it is recorded: as cancelled unless it was told otherwise.
pub(crate) struct Measured {
    metrics: Arc<Metrics>,
    /// None while there is no answer.
    status: Option<StatusCode>,
    endpoint: Endpoint,
    started: Instant,
    outcome: Outcome,
    span: tracing::Span,
}

impl Measured {
    /// Starts the clock of a request for the route `path`.
    pub(crate) fn start(metrics: Arc<Metrics>, path: Option<&str>, span: tracing::Span) -> Self {
        let endpoint = path.and_then(|path| metrics.endpoints.get(path)).unwrap_or(&metrics.unmatched).clone();
        metrics.in_flight.increment(1.0);
        Self { metrics, status: None, endpoint, started: Instant::now(), outcome: Outcome::Cancelled, span }
    }

    /// The same body, that records the request with its end.
    pub(crate) fn follow(mut self, status: StatusCode, end: Option<StreamEnd>, body: Body) -> Body {
        self.status = Some(status);
        Body::new(MeasuredBody { body, end, outcome: Outcome::of(status), measured: self })
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.metrics.in_flight.decrement(1.0);
        self.endpoint.outcomes[self.outcome as usize].increment(1);
        let time = self.started.elapsed();
        self.endpoint.seconds.record(time);
        let (outcome, ms) = (self.outcome.as_str(), time.as_millis() as u64);
        let status = self.status.map(|status| status.as_u16());
        self.span.in_scope(|| tracing::info!(status, outcome, ms, "answered"));
    }
}

struct MeasuredBody {
    body: Body,
    end: Option<StreamEnd>,
    /// If it comes to its end.
    outcome: Outcome,
    measured: Measured,
}

impl MeasuredBody {
    fn ended(&mut self) {
        let code = self.end.as_ref().and_then(|end| end.0.get());
        self.measured.outcome = code.map_or(self.outcome, |code| Outcome::of(code.status()));
    }
}

impl HttpBody for MeasuredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // What a stream has to say while it goes on belongs to its request as well.
        let span = self.measured.span.clone();
        let frame = std::task::ready!(span.in_scope(|| Pin::new(&mut self.body).poll_frame(context)));
        // A body of known length is not asked again after its last byte.
        if frame.is_none() || self.body.is_end_stream() {
            self.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for MeasuredBody {
    fn drop(&mut self) {
        // An empty body is never asked at all.
        if self.body.is_end_stream() {
            self.ended();
        }
    }
}
