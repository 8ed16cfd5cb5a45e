//! Puts the deadlines around the stream and the service of a connection.

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use axum_server::accept::Accept;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tower::Service;

use super::Limits;
use super::connection::{Activity, Connection};
use super::request::RequestBody;
use super::response::ResponseBody;
use super::slots::Admitted;

/// Bytes that the kernel takes beyond those that it can send now. Without this bound it takes megabytes of an answer, and
/// nothing tells a slow reader from one that has stopped.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// Makes a connection out of what the listener has accepted.
#[derive(Debug, Clone)]
pub(super) struct Acceptor {
    pub(super) limits: Limits,
}

impl<S> Accept<Admitted, S> for Acceptor {
    type Stream = Connection<TcpStream>;
    type Service = WithDeadlines<S>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, Admitted { stream, slot }: Admitted, inner: S) -> Self::Future {
        let limits = self.limits;
        let service = WithDeadlines { inner, activity: slot.activity().clone(), limits };
        ready(tune(&stream).map(|()| (Connection::new(stream, slot, limits), service)))
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    // Events of a stream are small and must not wait for one another.
    stream.set_nodelay(true)
}

/// A service whose requests and answers have deadlines, and count as activity of their connection.
#[derive(Clone)]
pub(super) struct WithDeadlines<S> {
    inner: S,
    activity: Arc<Activity>,
    limits: Limits,
}

impl<S, B> Service<Request<B>> for WithDeadlines<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (in_flight, limits) = (self.activity.begin(), self.limits);
        let answer = self.inner.call(RequestBody::attach(request, limits.body_time, in_flight.clone()));
        Box::pin(async move { Ok(answer.await?.map(|body| ResponseBody::attach(body, limits.write_time, in_flight))) })
    }
}
