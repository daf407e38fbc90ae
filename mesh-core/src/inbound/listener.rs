//! The mesh's own listener.
//!
//! Decides: whether a connection speaks TLS or plaintext, and whether that is allowed. Never: tells a
//! refused peer why (the log knows), or waits for one connection before accepting the next.
//! Invariant: in strict mode no byte of a plaintext or unverified peer reaches the application.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::body::Body;
use crate::drain::{ConnectionGuard, Drain};
use crate::endpoint::connect::Io;
use crate::error::{BoxError, Error, ErrorKind};
use crate::identity::tls::{PeerIdentity, peer_identity};
use crate::identity::verifier::VerifyError;
use crate::inbound::{ConnectionAddress, Inbound, serve};
use crate::snapshot::TlsMode;

/// A running listener. Dropping it does not stop it; the mesh's drain or close does.
pub struct Listening {
    address: SocketAddr,
    drain: Drain,
}

impl Listening {
    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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
    let socket = bind(address, &runtime).map_err(failed)?;
    let local = socket.local_addr().map_err(failed)?;
    let drain = inbound.core.drain.clone();
    tracing::info!(address = %local, listener = %inbound.name, tls = ?inbound.tls_mode(), "listening");
    let accepting = drain.guard();
    runtime.spawn(accept(socket, inbound, service, accepting));
    Ok(Listening { address: local, drain })
}

/// The socket belongs to the mesh's runtime, whichever runtime asks for it.
fn bind(address: &str, runtime: &tokio::runtime::Handle) -> io::Result<TcpListener> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address names no socket");
    let address = std::net::ToSocketAddrs::to_socket_addrs(address)?.next().ok_or_else(none)?;
    let _entered = runtime.enter();
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept<S>(socket: TcpListener, inbound: Arc<Inbound>, service: S, guard: ConnectionGuard)
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
            Ok((stream, remote)) => {
                let connection = inbound.core.drain.guard();
                tokio::spawn(connect(stream, remote, (Arc::clone(&inbound), service.clone()), connection));
            }
            Err(error) => {
                // Out of file descriptors, most likely: yield to the connections that will free some.
                tracing::warn!(error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for (stream, remote) in still_waiting(socket) {
        let connection = inbound.core.drain.guard();
        tokio::spawn(connect(stream, remote, (Arc::clone(&inbound), service.clone()), connection));
    }
}

/// Whoever is in the queue may have sent a request already; closing the socket would reset him, and he could
/// not know that nobody read it. Asked of the kernel, because the event loop may not have heard of him yet.
fn still_waiting(socket: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(socket) = socket.into_std() else { return Vec::new() };
    let adopt = |(stream, remote): (std::net::TcpStream, SocketAddr)| {
        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok().map(|stream| (stream, remote))
    };
    std::iter::from_fn(|| socket.accept().ok()).filter_map(adopt).collect()
}

async fn connect<S>(stream: TcpStream, remote: SocketAddr, target: (Arc<Inbound>, S), guard: ConnectionGuard)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let (inbound, service) = target;
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(remote);
    let admitted = tokio::time::timeout(HANDSHAKE_TIMEOUT, admit(stream, &inbound)).await;
    let (io, peer) = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(reason)) => return inbound.refused(remote, &reason),
        Err(_) => return inbound.refused(remote, "no handshake within 10 s"),
    };
    let facts = Connection {
        address: ConnectionAddress { local, remote },
        peer: peer.map(Arc::new),
        version: AtomicU8::new(0),
    };
    run(io, facts, (inbound, service), guard).await;
}

/// One connection as seen by its requests.
struct Connection {
    address: ConnectionAddress,
    peer: Option<Arc<PeerIdentity>>,
    /// 0 until the first request, then the major HTTP version.
    version: AtomicU8,
}

async fn admit(stream: TcpStream, inbound: &Inbound) -> Result<(Box<dyn Io>, Option<PeerIdentity>), String> {
    let speaks_tls = match inbound.tls_mode() {
        TlsMode::Plaintext => false,
        TlsMode::Strict => true,
        TlsMode::Permissive => starts_with_tls(&stream).await.map_err(|error| error.to_string())?,
    };
    if !speaks_tls {
        return Ok((Box::new(stream), None));
    }
    let config = inbound.tls.clone().ok_or("the listener has no identity")?;
    let stream =
        TlsAcceptor::from(config).accept(stream).await.map_err(|error| match VerifyError::find_in(&error) {
            Some(reason) => reason.to_string(),
            None => format!("TLS handshake failed: {error}"),
        })?;
    let peer = stream.get_ref().1.peer_certificates().and_then(peer_identity);
    let peer = peer.ok_or("the peer showed no SPIFFE ID")?;
    Ok((Box::new(stream), Some(peer)))
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
    let facts = Arc::new(facts);
    let seen = Arc::clone(&facts);
    let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (inbound, service, facts) = (Arc::clone(&inbound), service.clone(), Arc::clone(&facts));
        facts.version.store(if request.version() == Version::HTTP_2 { 2 } else { 1 }, Ordering::Relaxed);
        async move {
            let origin = (Some(facts.address), facts.peer.clone());
            let response = serve::serve(&inbound, origin, request.map(Body::from), service).await;
            Ok::<_, std::convert::Infallible>(response)
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
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), answer);
    tokio::pin!(connection);
    let mut is_leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %seen.address.remote, error = %error, "connection ended");
                }
                return;
            }
            // HTTP/2 can say "no new streams" without a race. HTTP/1.1 cannot: an idle connection
            // stays until its next response carries `Connection: close`, or the grace ends.
            () = guard.draining(), if !is_leaving => {
                is_leaving = true;
                if seen.version.load(Ordering::Relaxed) == 2 {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = guard.ended() => {
                // The first request of a new connection is on its way: its answer says goodbye.
                let is_new = || seen.version.load(Ordering::Relaxed) == 0;
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
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted: Linux's own ceiling (net.core.somaxconn) since 5.4. With the
/// customary 128 a burst of clients is left to retransmit for a second.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After the grace, what is still being written may finish.
const LAST_RESPONSES: Duration = Duration::from_millis(500);
/// An HTTP/1.1 connection without a request for this long is closed: five times our clients' own limit, so
/// that it is the client who closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Streams per HTTP/2 connection: the default concurrency limit of a cluster, so that one connection
/// carries all a client may send.
const MAX_STREAMS: u32 = 1024;
/// A client that answers no PING for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
