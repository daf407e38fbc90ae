//! How a connection to an endpoint comes to be.
//!
//! Decides: which HTTP version is spoken. Never: picks an endpoint, retries, or resolves a name on the
//! request path.
//! Invariant: over TLS the peer's SPIFFE ID, or its host name, was verified before the connection is handed out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::address::Address;
use super::eyeballs::{Next, Race};
use super::gate::Gate;
use super::pulse::{Pulse, Watched};
use super::tls::{Secured, Tls, secure};
use crate::body::Body;
use crate::error::{Error, ErrorKind};
use crate::identity::source::IdentitySource;
use crate::identity::tls::PeerIdentity;
use crate::time::{Clock, Randomness};

/// A byte stream to a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens byte streams. Injected, so that a test can put a simulated network in place.
pub trait Connector: Send + Sync + 'static {
    /// Opens one stream to `address`.
    fn connect(&self, address: SocketAddr) -> Dialing;

    /// Opens one stream to the Unix socket at `path`. Default: the operating system's.
    fn connect_unix(&self, path: &Path) -> Dialing {
        let path = path.to_owned();
        Box::pin(async move { Ok(Box::new(tokio::net::UnixStream::connect(path).await?) as Box<dyn Io>) })
    }
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
    /// Whom the endpoint has to prove to be; `None` is plaintext.
    pub tls: Option<Tls>,
    /// What makes two transports the same: protocol, TLS mode, expected SPIFFE IDs or name and roots as text.
    pub key: Arc<str>,
    /// Bounds TCP connect and TLS handshake together.
    pub connect_timeout: Duration,
}

impl Transport {
    /// Whether it leads to a server of the web, for which the scheme of a target is `https`.
    pub fn is_of_the_web(&self) -> bool {
        matches!(self.tls, Some(Tls::Simple(..)))
    }

    /// No connection in time: why, as far as addresses have failed until then.
    pub(super) fn timed_out(&self, address: &Address, race: &Race) -> Error {
        let timed_out = format!("no connection to {address} in {:?}", self.connect_timeout);
        let failures = race.failures();
        let message = if failures.is_empty() { timed_out } else { format!("{timed_out} ({failures})") };
        Error::new(ErrorKind::ConnectTimeout, message)
    }
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
    /// Spreads the ages at which connections retire.
    pub randomness: Randomness,
}

/// How an HTTP/2 connection finds out that its peer is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// A PING after so much silence.
    pub interval: Duration,
    /// An answer is due within this; then no request starts there, and after twice as long the connection closes.
    pub timeout: Duration,
    /// Also while no request is in flight.
    pub while_idle: bool,
}

/// A connection as the dialer hands it over.
pub(super) struct Opened {
    pub(super) channel: Channel,
    pub(super) facts: ConnectionFacts,
    pub(super) pulse: Arc<Pulse>,
    pub(super) task: tokio::task::AbortHandle,
}

impl Opened {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.channel, Channel::Http2(_))
    }
}

/// What a dial needs of its pool.
pub(super) struct Wiring {
    pub(super) keepalive: KeepAlive,
    pub(super) gate: Arc<Gate>,
}

/// A sender of requests over one open connection.
pub enum Channel {
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
    /// Many requests at once.
    Http2(http2::SendRequest<Body>),
}

/// Facts of an open connection.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// Verified identity of the peer; `None` in plaintext, and of a server of the web, which has none.
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

    /// Opens a connection within the transport's timeout.
    pub(super) async fn dial(&self, address: &Address, transport: &Transport, wiring: Wiring) -> Result<Opened, Error> {
        let deadline = crate::time::after(self.clock.now(), transport.connect_timeout);
        let mut race = Race::new(sockets(address));
        let timeout = self.clock.sleep_until(deadline);
        tokio::select! {
            biased;
            opened = self.open(address, transport, (wiring, &mut race)) => return opened,
            () = timeout => {}
        }
        Err(transport.timed_out(address, &race))
    }

    async fn open(&self, address: &Address, transport: &Transport, with: (Wiring, &mut Race)) -> Result<Opened, Error> {
        let (wiring, race) = with;
        let stream = self.reach(address, race).await?;
        let Some(tls) = &transport.tls else {
            let facts = ConnectionFacts { peer: None, retire_at: None, generation: 0 };
            return self.handshake(stream, facts, (transport.protocol == Protocol::Http2, wiring)).await;
        };
        // Read before the handshake: if we are renewed meanwhile, the connection counts as the old one's.
        let generation = self.moment().generation;
        let Secured { stream, peer, not_after } = secure(address, tls, stream).await?;
        let is_http2 = match transport.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        };
        let retire_at = self.certificate_expiry(peer.is_some(), not_after);
        let facts = ConnectionFacts { peer, retire_at, generation };
        self.handshake(Box::new(stream), facts, (is_http2, wiring)).await
    }

    /// Bytes to the peer, as they are, for whoever speaks no HTTP.
    pub(super) async fn bytes(&self, address: &Address) -> Result<Box<dyn Io>, Error> {
        self.reach(address, &mut Race::new(sockets(address))).await
    }

    pub(super) async fn reach(&self, address: &Address, race: &mut Race) -> Result<Box<dyn Io>, Error> {
        match address {
            Address::Unix(path) => self.connector.connect_unix(path).await.map_err(|error| {
                Error::new(ErrorKind::Connect, format!("cannot connect to {address}: {error}")).with_source(error)
            }),
            _ => self.first_of(race).await,
        }
    }

    /// The first of a host's addresses that takes a connection.
    async fn first_of(&self, race: &mut Race) -> Result<Box<dyn Io>, Error> {
        let mut running = FuturesUnordered::new();
        loop {
            let patience = match race.next(self.clock.now()) {
                Next::Start(address) => {
                    let connecting = self.connector.connect(address);
                    running.push(async move { (address, connecting.await) });
                    continue;
                }
                Next::WaitUntil(at) => self.clock.sleep_until(at),
                Next::Wait => Box::pin(std::future::pending()),
                Next::Lost => {
                    return Err(Error::new(ErrorKind::Connect, format!("cannot connect to {}", race.failures())));
                }
            };
            tokio::select! {
                Some((address, connected)) = running.next() => match connected {
                    Ok(stream) => return Ok(stream),
                    Err(error) => race.failed(address, error.to_string()),
                },
                () = patience => {}
            }
        }
    }

    async fn handshake(
        &self,
        stream: Box<dyn Io>,
        facts: ConnectionFacts,
        with: (bool, Wiring),
    ) -> Result<Opened, Error> {
        let failed = |error: hyper::Error| Error::new(ErrorKind::Connect, "HTTP handshake failed").with_source(error);
        let (is_http2, Wiring { keepalive, gate }) = with;
        let pulse = Pulse::new(&self.clock, &gate);
        let io = TokioIo::new(Watched::new(stream, &pulse, is_http2));
        if !is_http2 {
            let (sender, connection) = http1::handshake(io).await.map_err(failed)?;
            let task = self.run(connection.with_upgrades()).abort_handle();
            return Ok(Opened { channel: Channel::Http1(sender), facts, pulse, task });
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(keepalive.interval)
            // What is in flight gets a second chance; new requests go elsewhere after the first.
            .keep_alive_timeout(keepalive.timeout * 2)
            .keep_alive_while_idle(keepalive.while_idle)
            .handshake(io)
            .await
            .map_err(failed)?;
        let mut running = self.run(connection);
        tokio::select! {
            () = pulse.settings() => {}
            _ = &mut running => {
                return Err(Error::new(ErrorKind::Connect, "the peer closed the connection without a word of HTTP/2"));
            }
        }
        Ok(Opened { channel: Channel::Http2(sender), facts, pulse, task: running.abort_handle() })
    }

    fn run<F>(&self, connection: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection ended");
            }
        })
    }

    /// When the first of the certificates expires that the connection was made with; ours is one of them if the peer
    /// has an identity.
    fn certificate_expiry(&self, is_mutual: bool, theirs: Option<SystemTime>) -> Option<Instant> {
        let ours = self.identity.as_ref().filter(|_| is_mutual).and_then(IdentitySource::current);
        let ours = ours.map(|identity| identity.svid.not_after());
        let expiry = ours.into_iter().chain(theirs).min()?;
        let left = expiry.duration_since(self.clock.wall()).unwrap_or_default();
        Some(crate::time::after(self.clock.now(), left))
    }
}

/// The sockets an address may mean.
pub(super) fn sockets(address: &Address) -> &[SocketAddr] {
    match address {
        Address::Socket(address) => std::slice::from_ref(address),
        Address::AnyOf(addresses) => addresses,
        Address::Unix(_) => &[],
    }
}

/// Receive windows of an HTTP/2 connection: large enough for a fast local link (hyper's default is
/// 64 KiB per connection), small enough to bound a slow reader.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
