//! The story of one inbound connection, told in order, and the listener that tells it.
//!
//! accept -> TLS -> who is it -> access rules -> rate limits -> remote checks -> the application.
//! Every decision is an engine's; this file only asks them in order. Never: reads a byte of what is spoken, waits for
//! a first one (a server may speak first, unless the listener is permissive: that has to see whether TLS comes), or
//! tells a refused peer why.
//! Invariant: the application gets a connection only after every rule and check allowed it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};

use super::admission::{demanded, refusal};
use super::checks::Asking;
use super::judging;
use super::listener::{ACCEPT_PAUSE, HANDSHAKE_TIMEOUT, admit};
use super::quota;
use super::socket::{Accepted, Socket};
use super::{ConnectionAddress, Inbound};
use crate::access::attributes::Attributes;
use crate::context::CallContext;
use crate::drain::{ConnectionGuard, Drain};
use crate::endpoint::connect::Io;
use crate::error::{Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::route::readings::Readings;
use crate::snapshot::ListenerPolicy;
use crate::stream::{Ends, MeshStream};
use crate::telemetry::peer;
use crate::telemetry::{Reporter, Security, TcpRecord, TraceContext};

/// A listener for bare connections. Dropping it stops listening; connections that were taken go on.
pub struct TcpListening {
    admitted: Mutex<mpsc::Receiver<MeshStream>>,
    address: Option<SocketAddr>,
    name: String,
    drain: Drain,
}

impl TcpListening {
    /// The next connection that was let in. `Draining` once the mesh drains and every connection that had come
    /// before was handed over.
    pub async fn accept(&self) -> Result<MeshStream, Error> {
        let next = self.admitted.lock().await.recv().await;
        next.ok_or_else(|| Error::new(ErrorKind::Draining, "the listener has drained").with_side(Side::Inbound))
    }

    /// The TCP address it is bound to; the unspecified one of a Unix socket.
    pub fn local_addr(&self) -> SocketAddr {
        self.address.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The address as text, in the form of a configuration.
    pub fn address(&self) -> &str {
        &self.name
    }

    /// Completes when the mesh has drained and every connection is gone.
    pub async fn closed(&self) {
        self.drain.closed().await;
    }
}

/// Binds `address` and lets connections in until the mesh drains.
pub(crate) fn listen(inbound: Arc<Inbound>, address: &str) -> Result<TcpListening, Error> {
    let failed = |error: io::Error| {
        Error::new(ErrorKind::Connect, format!("cannot listen on {address}: {error}")).with_source(error)
    };
    let runtime = inbound.core.runtime()?;
    let socket = Socket::bind(address, &runtime).map_err(failed)?;
    let local = socket.local_addr().map_err(failed)?;
    let name = local.map_or_else(|| address.to_owned(), |local| local.to_string());
    let drain = inbound.core.drain.clone();
    tracing::info!(address = name, listener = %inbound.name, tls = ?inbound.tls_mode(), "listening for connections");
    let (queue, admitted) = mpsc::channel(MAX_UNTAKEN);
    runtime.spawn(accept(socket, inbound, queue, drain.guard()));
    Ok(TcpListening { admitted: Mutex::new(admitted), address: local, name, drain })
}

async fn accept(socket: Socket, inbound: Arc<Inbound>, queue: mpsc::Sender<MeshStream>, guard: ConnectionGuard) {
    let begin = |accepted| {
        let guard = inbound.core.drain.guard();
        tokio::spawn(connect(accepted, (Arc::clone(&inbound), queue.clone()), guard));
    };
    loop {
        let accepted = tokio::select! {
            accepted = next(&socket, &queue) => accepted,
            // Nobody waits for a further connection.
            () = queue.closed() => break,
            // Unlike a request, a connection lasts: one that is accepted now would be cut at the end of the grace.
            () = guard.draining() => break,
        };
        match accepted {
            Ok(accepted) => begin(accepted),
            Err(error) => {
                tracing::warn!(error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever is in the kernel's queue believes to be connected.
    socket.close().into_iter().for_each(begin);
}

/// A connection, once the application has taken enough of those before it.
async fn next(socket: &Socket, queue: &mpsc::Sender<MeshStream>) -> io::Result<Accepted> {
    let _ = queue.reserve().await;
    socket.accept().await
}

async fn connect(accepted: Accepted, to: (Arc<Inbound>, mpsc::Sender<MeshStream>), guard: ConnectionGuard) {
    let (inbound, queue) = to;
    let address = accepted.addresses();
    let remote = address.map_or_else(|| "unix".to_owned(), |address| address.remote.to_string());
    let (io, peer) = match tokio::time::timeout(HANDSHAKE_TIMEOUT, admit(accepted, &inbound)).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(reason)) => return inbound.refused(&remote, &reason),
        Err(_) => return inbound.refused(&remote, "no handshake within 10 s"),
    };
    let arrival = Arrival { inbound: &inbound, address, peer: peer.map(Arc::new) };
    let record = arrival.record(&remote);
    if let Some(stream) = arrival.decide(io, record, guard).await {
        // The application may be gone.
        let _ = queue.send(stream).await;
    }
}

/// A connection that is up, and who is at its other end.
struct Arrival<'a> {
    inbound: &'a Arc<Inbound>,
    address: Option<ConnectionAddress>,
    peer: Option<Arc<PeerIdentity>>,
}

impl Arrival<'_> {
    fn record(&self, remote: &str) -> TcpRecord {
        let core = &self.inbound.core;
        let principal = self.peer.as_ref().map(|peer| peer.id.as_str());
        let mut record = TcpRecord::begin(&core.telemetry, &core.clock, Reporter::Destination);
        record.facts.source = Arc::new(peer::trusted(None, principal));
        record.facts.destination = Arc::clone(&core.telemetry.node);
        record.facts.service = Arc::clone(&core.telemetry.service);
        record.facts.security = if self.peer.is_some() { Security::MutualTls } else { Security::None };
        record.line.listener = Some(Arc::clone(&self.inbound.name));
        record.line.revision = Some(Arc::clone(&core.snapshot.load().revision_text));
        record.line.endpoint = Some(remote.into());
        record.line.peer = principal.map(Into::into);
        record.line.peer_serial = self.peer.as_ref().map(|peer| peer.serial.as_str().into());
        record
    }

    /// The story.
    async fn decide(self, io: Box<dyn Io>, mut record: TcpRecord, guard: ConnectionGuard) -> Option<MeshStream> {
        let (inbound, core) = (self.inbound, &self.inbound.core);
        let policy = inbound.policy(&core.snapshot.load());
        if let Err(refused) = self.admit(&policy, &mut record).await {
            tracing::info!(listener = %inbound.name, peer = record.line.endpoint.as_deref(), reason = refused.message(), "connection refused");
            record.refused(&refused);
            return None;
        }
        inbound.decisions.allowed.inc();
        record.opened();
        let ends = Ends {
            peer: self.peer,
            local: self.address.map(|address| address.local),
            remote: self.address.map(|address| address.remote),
        };
        let stream = MeshStream::new(io, ends, record, (&core.drain, Box::new(guard)));
        Some(stream.cut_by_drain(&Handle::current()))
    }

    /// Rules, limits and checks, in the order of a request's admission; the first refusal ends it.
    async fn admit(&self, policy: &ListenerPolicy, record: &mut TcpRecord) -> Result<(), Error> {
        let (inbound, core) = (self.inbound, &self.inbound.core);
        let headers = HeaderMap::new();
        let attributes = self.attributes(&headers);
        let draw = judging::draw(inbound, policy);
        let (judged, told) = judging::judge(inbound, policy, ((&attributes).into(), &Readings::default()), draw);
        if let Some(told) = told {
            told.write(&mut record.line);
        }
        let demanded = judged.and_then(|()| demanded(policy, &attributes, draw));
        let demanded = demanded.map_err(|refused| refused.error).inspect_err(|_| inbound.decisions.denied.inc())?;
        self.limit(policy, &attributes).await?;
        let mut context = CallContext::new(TraceContext::join(
            &headers,
            &mut core.randomness.generator(),
            core.snapshot.load().sample_percent,
        ));
        context.peer = self.peer.as_ref().map(|peer| peer.id.as_str().into());
        context.address = self.address.map(|address| address.remote.ip());
        quota::ask_about_connection(inbound, policy, &attributes, &context).await.map_err(|refused| refused.error)?;
        let origin = (self.address, self.peer.clone());
        let asking = Asking { inbound, origin: &origin, context: &context };
        asking.pass_connection(&policy.checks, &attributes, &demanded).await.map_err(|refused| refused.error)
    }

    fn attributes<'b>(&'b self, headers: &'b HeaderMap) -> Attributes<'b> {
        let core = &self.inbound.core;
        let node = &core.telemetry.node;
        let address = self.address.map(ConnectionAddress::canonical);
        Attributes {
            principal: self.peer.as_ref().map(|peer| peer.id.as_str()),
            own_principal: self.peer.as_ref().map(|_| &*node.principal),
            service: &node.canonical_service,
            listener: &self.inbound.name,
            method: "",
            path: "",
            query: None,
            host: "",
            scheme: "",
            protocol: "TCP",
            headers,
            source_address: address.map(|address| address.remote),
            destination_address: address.map(|address| address.local),
            request_id: "",
            remote_address: None,
            sni: self.peer.as_ref().and_then(|peer| peer.server_name.as_deref()),
            certificate: self.peer.as_ref().and_then(|peer| peer.certificate.as_ref()),
            claims: None,
            is_tcp: true,
            time: core.clock.wall(),
        }
    }

    /// Every limit on all that comes counts connections, too; one with conditions counts requests only.
    async fn limit(&self, policy: &ListenerPolicy, attributes: &Attributes<'_>) -> Result<(), Error> {
        let core = &self.inbound.core;
        let (now, mut rng) = (core.clock.now(), core.randomness.generator());
        let mut refused = None;
        for limit in policy.limits.iter().filter(|limit| limit.matches.is_empty()) {
            let Err(over) = limit.take(attributes, (now, &mut rng)).await else { continue };
            self.inbound.over_limit(&over.name, over.is_enforced);
            refused = refused.or(Some(over).filter(|over| over.is_enforced));
        }
        refused.map_or(Ok(()), |over| Err(refusal(ErrorKind::RateLimited, format!("rate limit {}", over.name))))
    }
}

/// Connections that were let in and that the application has not taken; with so many no further one is accepted, and
/// the kernel's queue fills. The customary backlog (SOMAXCONN before Linux 5.4).
const MAX_UNTAKEN: usize = 128;
