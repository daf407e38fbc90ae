//! The mesh's own listener.
//!
//! Decides: whether a connection speaks TLS or plaintext, and whether that is allowed. Never: tells a
//! refused peer why (the log knows), or waits for one connection before accepting the next.
//! Invariant: in strict mode no byte of a plaintext or unverified peer reaches the application.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::body::Body;
use crate::drain::{ConnectionGuard, Drain, Phase};
use crate::endpoint::connect::Io;
use crate::error::{BoxError, Error, ErrorKind};
use crate::identity::tls::{PeerIdentity, peer_identity};
use crate::identity::verifier::VerifyError;
use crate::inbound::preface::{HttpVersion, Preface};
use crate::inbound::socket::{Accepted, Socket};
use crate::inbound::{ConnectionAddress, Inbound, serve, trailers};
use crate::snapshot::TlsMode;

/// A running listener. Dropping it does not stop it; the mesh's drain or close does.
pub struct Listening {
    address: Option<SocketAddr>,
    name: String,
    drain: Drain,
}

impl Listening {
    /// The TCP address it is bound to; the unspecified one of a Unix socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.address.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The address as text, in the form of a configuration: `127.0.0.1:8080` or `unix:/run/app.sock`.
    pub fn address(&self) -> &str {
        &self.name
    }

    /// Completes when the listener has drained and every connection is gone.
    pub async fn closed(&self) {
        self.drain.closed().await;
    }
}

/// Binds `address` and serves `service` on it until the mesh drains.
pub(crate) async fn listen<S>(inbound: Arc<Inbound>, address: &str, service: S) -> Result<Listening, Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Connect, format!("cannot listen on {address}: {error}")).with_source(error)
    };
    let runtime = inbound.core.runtime()?;
    let socket = Socket::bind(address, &runtime).map_err(failed)?;
    let local = socket.local_addr().map_err(failed)?;
    let name = local.map_or_else(|| address.to_owned(), |local| local.to_string());
    let drain = inbound.core.drain.clone();
    tracing::info!(address = name, listener = %inbound.name, tls = ?inbound.tls_mode(), "listening");
    let accepting = drain.guard();
    runtime.spawn(accept(socket, inbound, service, accepting));
    Ok(Listening { address: local, name, drain })
}

async fn accept<S>(socket: Socket, inbound: Arc<Inbound>, service: S, guard: ConnectionGuard)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    loop {
        // A draining listener still accepts: a caller that has not heard yet must not be refused.
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = guard.ended() => break,
        };
        match accepted {
            Ok(accepted) => {
                let connection = inbound.core.drain.guard();
                tokio::spawn(connect(accepted, (Arc::clone(&inbound), service.clone()), connection));
            }
            Err(error) => {
                // Out of file descriptors, most likely: yield to the connections that will free some.
                tracing::warn!(error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for accepted in socket.close() {
        let connection = inbound.core.drain.guard();
        tokio::spawn(connect(accepted, (Arc::clone(&inbound), service.clone()), connection));
    }
}

async fn connect<S>(accepted: Accepted, target: (Arc<Inbound>, S), guard: ConnectionGuard)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let (inbound, service) = target;
    let address = accepted.addresses();
    let remote = address.map_or_else(|| "unix".to_owned(), |address| address.remote.to_string());
    let admitted = tokio::time::timeout(HANDSHAKE_TIMEOUT, admit(accepted, &inbound)).await;
    let (io, peer) = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(reason)) => return inbound.refused(&remote, &reason),
        Err(_) => return inbound.refused(&remote, "no handshake within 10 s"),
    };
    let facts = Connection { address, remote, peer: peer.map(Arc::new), version: Arc::default() };
    run(io, facts, (inbound, service), guard).await;
}

/// One connection as seen by its requests.
struct Connection {
    address: Option<ConnectionAddress>,
    remote: String,
    peer: Option<Arc<PeerIdentity>>,
    version: Arc<HttpVersion>,
}

pub(super) async fn admit(
    accepted: Accepted,
    inbound: &Inbound,
) -> Result<(Box<dyn Io>, Option<PeerIdentity>), String> {
    let mode = inbound.tls_mode();
    match accepted {
        Accepted::Tcp(stream, _) => {
            let _ = stream.set_nodelay(true);
            let speaks_tls = match mode {
                TlsMode::Plaintext => false,
                TlsMode::Strict => true,
                TlsMode::Permissive => starts_with_tls(&stream).await.map_err(|error| error.to_string())?,
            };
            if speaks_tls { handshake(stream, inbound).await } else { Ok((Box::new(stream), None)) }
        }
        // Whoever may open the file is let in without TLS where plaintext is let in at all.
        Accepted::Unix(stream) if mode == TlsMode::Strict => handshake(stream, inbound).await,
        Accepted::Unix(stream) => Ok((Box::new(stream), None)),
    }
}

async fn handshake<I: Io>(stream: I, inbound: &Inbound) -> Result<(Box<dyn Io>, Option<PeerIdentity>), String> {
    let config = inbound.tls.clone().ok_or("the listener has no identity")?;
    let stream =
        TlsAcceptor::from(config).accept(stream).await.map_err(|error| match VerifyError::find_in(&error) {
            Some(reason) => reason.to_string(),
            None => format!("TLS handshake failed: {error}"),
        })?;
    let session = stream.get_ref().1;
    let peer = session.peer_certificates().and_then(peer_identity).ok_or("the peer showed no SPIFFE ID")?;
    let server_name = session.server_name().map(Into::into);
    Ok((Box::new(stream), Some(PeerIdentity { server_name, ..peer })))
}

/// A TLS record of type handshake starts with this byte; no HTTP method does.
const TLS_HANDSHAKE: u8 = 0x16;

async fn starts_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0u8; 1];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == TLS_HANDSHAKE)
}

async fn run<S>(io: Box<dyn Io>, facts: Connection, target: (Arc<Inbound>, S), guard: ConnectionGuard)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let (inbound, service) = target;
    // Who comes during a drain has nowhere else to go, or would have gone there: he is served until the grace ends.
    // A goodbye to each would only make him come again for every request.
    let is_late = inbound.core.drain.phase() != Phase::Serving;
    let facts = Arc::new(facts);
    let seen = Arc::clone(&facts);
    let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (inbound, service, facts) = (Arc::clone(&inbound), service.clone(), Arc::clone(&facts));
        facts.version.set(if request.version() == Version::HTTP_2 { 2 } else { 1 });
        let caller = trailers::Caller::of(&request);
        async move {
            let origin = (facts.address, facts.peer.clone());
            let response = serve::serve(&inbound, origin, request.map(Body::from), service).await;
            Ok::<_, std::convert::Infallible>(caller.fit(response))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(PING_INTERVAL))
        .keep_alive_timeout(PING_TIMEOUT);
    let io = Preface::new(io, &seen.version, IDLE_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), answer);
    tokio::pin!(connection);
    let mut is_leaving = is_late;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = seen.remote, error = %error, "connection ended");
                }
                return;
            }
            // HTTP/2 can say "no new streams" without a race. HTTP/1.1 cannot: an idle connection
            // stays until its next response carries `Connection: close`, or the grace ends.
            () = guard.draining(), if !is_leaving => {
                is_leaving = true;
                if seen.version.is(2) {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = guard.ended() => {
                // The first request of a new connection is on its way: its answer says goodbye.
                let is_new = || seen.version.is(0);
                if is_new() {
                    let ended = tokio::time::timeout(LAST_RESPONSES, connection.as_mut()).await;
                    if ended.is_ok() || is_new() {
                        return;
                    }
                }
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(LAST_RESPONSES, connection.as_mut()).await;
                return;
            }
        }
    }
}

/// Time for TLS and the first byte. Origin: Envoy's transport_socket_connect_timeout guidance (10 s).
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the grace, what is still being written may finish.
const LAST_RESPONSES: Duration = Duration::from_millis(500);
/// A connection without a request for this long, HTTP/2 without its preface, is closed: five times our clients' own limit, so
/// that it is the client who closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Streams per HTTP/2 connection: the default concurrency limit of a cluster, so that one connection
/// carries all a client may send.
const MAX_STREAMS: u32 = 1024;
/// A client that answers no PING for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
