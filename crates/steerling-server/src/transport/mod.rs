//! Connections: how many there are, how long each part of a request may take, and TLS where there is a certificate.
//!
//! | what is bounded | where |
//! |---|---|
//! | open connections | [`slots`]: the listener takes a slot for each; when none is left, the longest idle one is closed |
//! | time without a request, the headers of the next one included | [`connection`] |
//! | time in which bytes wait to be written and none is taken | [`connection`], and per stream of HTTP/2 [`response`] |
//! | time of a request's body, and what is discarded of it after an early answer | [`request`] |

mod acceptor;
mod connection;
mod request;
mod response;
mod slots;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use metrics::Gauge;
use tokio::net::TcpListener;

use crate::config::ServiceOptions;
use acceptor::Acceptor;
pub(crate) use request::BodyTimeout;
pub(crate) use slots::Peer;
use slots::{Bounded, Slots};

/// A peer that has vanished is noticed after twice this time, if it speaks HTTP/2.
const PING: Duration = Duration::from_secs(20);

/// What a connection may take. The same for every port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Open connections.
    connections: usize,
    /// Bytes of a request's headers.
    header_bytes: usize,
    /// Time without a request under way, from the first byte of a TLS handshake to the last of the headers.
    header_time: Duration,
    /// Time for the whole body of a request.
    body_time: Duration,
    /// Time in which bytes wait to be written and none is taken.
    write_time: Duration,
}

impl Limits {
    pub(crate) fn new(options: &ServiceOptions) -> Self {
        let guard = &options.guard;
        Self {
            connections: guard.max_connections,
            header_bytes: guard.max_header_bytes,
            header_time: guard.header_timeout,
            body_time: guard.body_timeout.min(options.timeout),
            write_time: guard.write_timeout,
        }
    }
}

/// How the connections of one port are served, whichever of its listeners they come from.
#[derive(Clone)]
pub(crate) struct Transport {
    tls: Option<RustlsConfig>,
    limits: Limits,
    slots: Arc<Slots>,
    handle: Handle<Peer>,
}

impl Transport {
    /// Without TLS. `open` shows the number of open connections.
    pub(crate) fn new(limits: Limits, open: Gauge) -> Self {
        Self { tls: None, limits, slots: Slots::new(limits.connections, open), handle: Handle::new() }
    }

    /// With the certificate and key of the options, if there are any.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together.
    pub(crate) async fn with_tls(mut self, options: &ServiceOptions) -> io::Result<Self> {
        if let Some((cert, key)) = options.guard.tls().map_err(io::Error::other)? {
            // Somebody else may have chosen it before.
            _ = rustls::crypto::ring::default_provider().install_default();
            let failed = |error: io::Error| {
                io::Error::other(format!("tls_cert {}, tls_key {}: {error}", cert.display(), key.display()))
            };
            self.tls = Some(RustlsConfig::from_pem_file(cert, key).await.map_err(failed)?);
        }
        Ok(self)
    }

    /// Closes the listener when told, and counts connections.
    pub(crate) fn handle(&self) -> Handle<Peer> {
        self.handle.clone()
    }

    /// Serves until the handle says otherwise.
    pub(crate) async fn serve(self, listener: TcpListener, router: Router) -> io::Result<()> {
        let Self { tls, limits, slots, handle } = self;
        let listener = Bounded { listener, slots };
        let acceptor = Acceptor { limits };
        let mut server = Server::<Peer>::from_listener(listener).acceptor(acceptor).handle(handle);
        let builder = server.http_builder();
        builder.http1().max_buf_size(limits.header_bytes);
        let list = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
        builder.http2().max_header_list_size(list).keep_alive_interval(PING).keep_alive_timeout(PING);
        let service = router.into_make_service();
        match tls {
            None => server.serve(service).await,
            Some(tls) => {
                let tls = RustlsAcceptor::new(tls).handshake_timeout(limits.header_time);
                server.map(|acceptor| tls.acceptor(acceptor)).serve(service).await
            }
        }
    }
}
