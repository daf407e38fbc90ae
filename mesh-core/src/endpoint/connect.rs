//! How a connection to an endpoint comes to be.
//!
//! Decides: which TLS identity is demanded and which HTTP version is spoken. Never: picks an endpoint,
//! retries, or resolves a name on the request path.
//! Invariant: over TLS the peer's SPIFFE ID was verified before the connection is handed out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::identity::source::IdentitySource;
use crate::identity::tls::{PeerIdentity, peer_identity, server_name};
use crate::identity::verifier::VerifyError;
use crate::time::Clock;

/// A byte stream to a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens byte streams. Injected, so that a test can put a simulated network in place.
pub trait Connector: Send + Sync + 'static {
    /// Opens one stream to `address`.
    fn connect(&self, address: SocketAddr) -> Dialing;
}

/// TCP with Nagle's algorithm off (left on, it costs an HTTP/2 client more than half its throughput).
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect(&self, address: SocketAddr) -> Dialing {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

/// HTTP version spoken to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// ALPN decides over TLS; HTTP/1.1 in plaintext.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only, with prior knowledge in plaintext.
    Http2,
}

/// How the endpoints of a cluster are reached. Cheap to clone; compared to decide whether pooled
/// connections survive a reload.
#[derive(Clone)]
pub struct Transport {
    /// HTTP version.
    pub protocol: Protocol,
    /// TLS configuration that verifies the cluster's expected SPIFFE IDs; `None` is plaintext.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What makes two transports the same: protocol, TLS mode and expected SPIFFE IDs as text.
    pub key: Arc<str>,
    /// Bounds TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
}

impl PartialEq for Transport {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.connect_timeout == other.connect_timeout
    }
}

/// What every dial needs besides the transport.
pub struct Dialer {
    /// Opens byte streams.
    pub connector: Arc<dyn Connector>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs connections; independent of the runtime that runs the caller.
    pub runtime: tokio::runtime::Handle,
    /// Our own identity, whose expiry bounds the life of a connection.
    pub identity: Option<IdentitySource>,
}

/// A sender of requests over one open connection.
pub enum Channel {
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
    /// Many requests at once.
    Http2(http2::SendRequest<Body>),
}

/// Facts of an open connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    /// Verified identity of the peer; `None` in plaintext.
    pub peer: Option<PeerIdentity>,
    /// No request starts after this: one of the two certificates it was made with has expired.
    pub retire_at: Option<Instant>,
    /// Which of our certificates it was made with, counted from the first; 0 in plaintext.
    pub generation: u64,
}

/// What decides whether an open connection may serve once more.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The time.
    pub now: Instant,
    /// Our present certificate, counted from the first; 0 without an identity.
    pub generation: u64,
}

impl Dialer {
    /// The present moment.
    pub fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), generation: self.identity.as_ref().map_or(0, IdentitySource::rotations) }
    }

    /// Opens a connection within the transport's timeout. Sockets and tasks belong to the mesh's runtime.
    pub async fn dial(
        self: &Arc<Self>,
        address: SocketAddr,
        transport: &Transport,
    ) -> Result<(Channel, ConnectionFacts), Error> {
        let deadline = crate::time::after(self.clock.now(), transport.connect_timeout);
        let (dialer, transport) = (Arc::clone(self), transport.clone());
        let opening = AbortOnDrop(self.runtime.spawn(async move {
            let timeout = dialer.clock.sleep_until(deadline);
            tokio::select! {
                opened = dialer.open(address, &transport) => opened,
                () = timeout => Err(Error::new(ErrorKind::ConnectTimeout, format!("no connection to {address} in {:?}", transport.connect_timeout))),
            }
        }));
        opening.await
    }

    async fn open(&self, address: SocketAddr, transport: &Transport) -> Result<(Channel, ConnectionFacts), Error> {
        let stream = self.connector.connect(address).await.map_err(|error| {
            Error::new(ErrorKind::Connect, format!("cannot connect to {address}: {error}")).with_source(error)
        })?;
        let Some(tls) = &transport.tls else {
            let facts = ConnectionFacts { peer: None, retire_at: None, generation: 0 };
            return Ok((self.handshake(stream, transport.protocol == Protocol::Http2).await?, facts));
        };
        // Read before the handshake: if we are renewed meanwhile, the connection counts as the old one's.
        let generation = self.moment().generation;
        let name = server_name();
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, stream)
            .await
            .map_err(|error| tls_error(address, error))?;
        let session = stream.get_ref().1;
        let peer = session.peer_certificates().and_then(peer_identity);
        let is_http2 = match transport.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => session.alpn_protocol() == Some(b"h2"),
        };
        let retire_at = self.certificate_expiry(peer.as_ref());
        Ok((self.handshake(Box::new(stream), is_http2).await?, ConnectionFacts { peer, retire_at, generation }))
    }

    async fn handshake(&self, stream: Box<dyn Io>, is_http2: bool) -> Result<Channel, Error> {
        let failed = |error: hyper::Error| Error::new(ErrorKind::Connect, "HTTP handshake failed").with_source(error);
        let io = TokioIo::new(stream);
        if is_http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .handshake(io)
                .await
                .map_err(failed)?;
            self.runtime.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "connection ended");
                }
            });
            return Ok(Channel::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
        self.runtime.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %error, "connection ended");
            }
        });
        Ok(Channel::Http1(sender))
    }

    fn certificate_expiry(&self, peer: Option<&PeerIdentity>) -> Option<Instant> {
        let ours = self.identity.as_ref().and_then(IdentitySource::current).map(|identity| identity.svid.not_after());
        let expiry = ours.into_iter().chain(peer.map(|peer| peer.not_after)).min()?;
        let left = expiry.duration_since(self.clock.wall()).unwrap_or_default();
        Some(crate::time::after(self.clock.now(), left))
    }
}

/// The dial task ends when its caller goes away.
struct AbortOnDrop(tokio::task::JoinHandle<Result<(Channel, ConnectionFacts), Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Future for AbortOnDrop {
    type Output = Result<(Channel, ConnectionFacts), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|joined| {
            joined
                .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "the dial task failed").with_source(error)))
        })
    }
}

/// A TLS failure, told apart by whether the peer's identity was the reason.
fn tls_error(address: SocketAddr, error: io::Error) -> Error {
    match VerifyError::find_in(&error) {
        Some(reason) => Error::new(ErrorKind::PeerIdentity, format!("{address}: {reason}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::ConnectionReset => {
            Error::new(ErrorKind::Tls, format!("{address} ended the TLS handshake; it may have refused our identity"))
        }
        None => Error::new(ErrorKind::Tls, format!("TLS handshake with {address} failed: {error}")),
    }
    .with_source(error)
}

/// Receive windows of an HTTP/2 connection: large enough for a fast local link (hyper's default is
/// 64 KiB per connection), small enough to bound a slow reader.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A peer that answers no PING for this long is dead (a frozen process keeps its socket open).
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
