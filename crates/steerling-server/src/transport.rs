//! Connections: TLS where there is a certificate, and bounds for the head of a request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::net::TcpListener;

use crate::config::GuardOptions;

/// A peer that has vanished is noticed after twice this time, if it speaks HTTP/2.
const PING: Duration = Duration::from_secs(20);

/// How connections are taken.
#[derive(Clone)]
pub(crate) struct Transport {
    tls: Option<RustlsConfig>,
    header_timeout: Duration,
    max_header_bytes: usize,
    handle: Handle<SocketAddr>,
}

impl Transport {
    /// Reads certificate and key, if there are any.
    ///
    /// # Errors
    /// If they cannot be read or do not belong together.
    pub(crate) async fn new(guard: &GuardOptions) -> io::Result<Self> {
        let tls = match guard.tls().map_err(io::Error::other)? {
            None => None,
            Some((cert, key)) => {
                // Somebody else may have chosen it before.
                _ = rustls::crypto::ring::default_provider().install_default();
                let refuse = |error: io::Error| {
                    io::Error::other(format!("tls_cert {}, tls_key {}: {error}", cert.display(), key.display()))
                };
                Some(RustlsConfig::from_pem_file(cert, key).await.map_err(refuse)?)
            }
        };
        let GuardOptions { header_timeout, max_header_bytes, .. } = *guard;
        Ok(Self { tls, header_timeout, max_header_bytes, handle: Handle::new() })
    }

    /// Closes the listener when told, and counts connections.
    pub(crate) fn handle(&self) -> Handle<SocketAddr> {
        self.handle.clone()
    }

    /// Serves until the handle says otherwise.
    pub(crate) async fn serve(self, listener: TcpListener, router: Router) -> io::Result<()> {
        let Self { tls, header_timeout, max_header_bytes, handle } = self;
        // Events of a stream are small and must not wait for one another.
        let server = axum_server::from_tcp(listener.into_std()?)?.acceptor(NoDelayAcceptor::new());
        let mut server = server.handle(handle).first_request_timeout(header_timeout);
        let builder = server.http_builder();
        builder.http1().header_read_timeout(header_timeout).max_buf_size(max_header_bytes);
        let list = u32::try_from(max_header_bytes).unwrap_or(u32::MAX);
        builder.http2().max_header_list_size(list).keep_alive_interval(PING).keep_alive_timeout(PING);
        let service = router.into_make_service();
        match tls {
            None => server.serve(service).await,
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls).handshake_timeout(header_timeout);
                server.map(|tcp| acceptor.acceptor(tcp)).serve(service).await
            }
        }
    }
}
