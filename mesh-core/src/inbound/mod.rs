//! The server side: the story is in `serve`, connections are in [`listener`].
//!
//! Decides: which policy a listener's requests meet. Never: lets a request pass because its policy has
//! vanished: a listener that a new document no longer names keeps the last policy it had.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Extensions, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::Body;
use crate::core::Core;
use crate::error::{BoxError, Error, ErrorKind};
use crate::identity::tls::PeerIdentity;
use crate::snapshot::{ListenerPolicy, ListenerProtocol, Snapshot, TlsMode};
use crate::telemetry::metrics::Counter;
use crate::telemetry::names::{label, metric};

pub mod accept;
mod admission;
mod body;
pub(crate) mod checks;
pub(crate) mod end_user;
pub(crate) mod facts;
pub mod forward;
pub mod gate;
mod health;
mod judging;
mod known_peers;
mod later_body;
pub mod listener;
mod load;
pub mod own_server;
mod policy_channel;
mod preface;
mod quota;
mod quota_stream;
mod read_ahead;
mod readings;
pub(crate) mod serve;
mod socket;
mod trailers;
mod tunnel;

/// The two ends of the connection a request arrived on; a request extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionAddress {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

impl ConnectionAddress {
    /// As policies see them: a socket for both families shows an IPv4 peer as an IPv6 address.
    pub(crate) fn canonical(self) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { local: canonical(self.local), remote: canonical(self.remote) }
    }
}

/// The server name a TLS client asked for that proved no identity; a request extension, set by the server that ended its
/// TLS. Who did prove one has it in its [`PeerIdentity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(pub Arc<str>);

/// Who is at the other end, as the server that ended the connection says it: a [`PeerIdentity`] among the
/// request's extensions, or one that its requests share.
pub(crate) fn peer_of(extensions: &Extensions) -> Option<Arc<PeerIdentity>> {
    let shared = extensions.get::<Arc<PeerIdentity>>().cloned();
    shared.or_else(|| extensions.get::<PeerIdentity>().cloned().map(Arc::new))
}

/// A listener's name and what it needs for each request.
pub(crate) struct Inbound {
    pub(crate) core: Arc<Core>,
    pub(crate) name: Arc<str>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    last: ArcSwap<ListenerPolicy>,
    /// The revision that `last` and the gate's terms came with.
    revision: Mutex<u64>,
    pub(crate) gate: gate::Gate,
    refused: Counter,
    pub(crate) decisions: Decisions,
}

/// Counters of access decisions, looked up once.
pub(crate) struct Decisions {
    pub(crate) allowed: Counter,
    pub(crate) denied: Counter,
    pub(crate) check_denied: Counter,
    pub(crate) unauthenticated: Counter,
}

impl Inbound {
    /// The listener called `name` in the configuration.
    pub(crate) fn new(core: &Arc<Core>, name: &str) -> Result<Arc<Self>, Error> {
        let snapshot = core.snapshot.load_full();
        let policy = snapshot.listeners.get(name).ok_or_else(|| {
            let known: Vec<_> = snapshot.listeners.keys().map(|name| &**name).collect();
            Error::new(ErrorKind::Config, format!("no listener is called {name:?}; the configuration has {known:?}"))
        })?;
        let tls = match &core.identity {
            Some(identity) => {
                let config = crate::identity::tls::server_config(identity, Arc::clone(&core.clock))
                    .map_err(|error| Error::new(ErrorKind::Internal, format!("TLS cannot be set up: {error}")))?;
                Some(if policy.protocol == ListenerProtocol::Tcp { without_alpn(&config) } else { config })
            }
            None => None,
        };
        let gate = gate::Gate::new(Arc::clone(&core.clock));
        gate.retune(policy.intake);
        let registry = &core.telemetry.registry;
        let labels = [(label::LISTENER, name), (label::REASON, "connection")];
        let decided = |outcome| {
            registry.counter(&metric::ACCESS_DECISIONS, &[(label::LISTENER, name), (label::OUTCOME, outcome)])
        };
        let inbound = Arc::new(Self {
            core: Arc::clone(core),
            name: Arc::clone(&policy.name),
            tls,
            last: ArcSwap::from(Arc::clone(policy)),
            revision: Mutex::new(snapshot.revision),
            gate,
            refused: registry.counter(&metric::REFUSED, &labels),
            decisions: Decisions {
                allowed: decided("allowed"),
                denied: decided("denied"),
                check_denied: decided("check_denied"),
                unauthenticated: decided("unauthenticated"),
            },
        });
        inbound.register_gauges();
        Ok(inbound)
    }

    /// Refuses to be used for what the configuration says it is not.
    pub(crate) fn demand(&self, protocol: ListenerProtocol) -> Result<(), Error> {
        let message = match (self.last.load().protocol, protocol) {
            (ListenerProtocol::Http, ListenerProtocol::Tcp) => {
                "speaks HTTP; give it `protocol: tcp` to accept connections"
            }
            (ListenerProtocol::Tcp, ListenerProtocol::Http) => {
                "speaks TCP; it serves no request, accept its connections"
            }
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Config, format!("listener {:?} {message}", self.name)))
    }

    fn register_gauges(self: &Arc<Self>) {
        let registry = &self.core.telemetry.registry;
        let labels = [(label::LISTENER, &*self.name)];
        let of = |ask: fn((usize, u32, u32)) -> f64| {
            let inbound = Arc::downgrade(self);
            move || inbound.upgrade().and_then(|inbound| inbound.gate.counts()).map(ask)
        };
        registry.gauge_fn(&metric::WAITING, &labels, of(|(waiting, ..)| waiting as f64));
        registry.gauge_fn(&metric::LIMIT, &labels, of(|(.., limit)| f64::from(limit)));
    }

    /// The policy in force: the snapshot's, else the last this listener had.
    pub(crate) fn policy(&self, snapshot: &Snapshot) -> Arc<ListenerPolicy> {
        let Some(policy) = snapshot.listeners.get(&*self.name) else { return self.last.load_full() };
        if !Arc::ptr_eq(policy, &*self.last.load()) {
            self.put_in_force(snapshot.revision, policy);
        }
        Arc::clone(policy)
    }

    /// Policy and gate go on together, and only forward: a request that took its snapshot before a reload may come
    /// here after others that have the new one.
    fn put_in_force(&self, revision: u64, policy: &Arc<ListenerPolicy>) {
        let mut current = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < *current {
            return;
        }
        *current = revision;
        self.last.store(Arc::clone(policy));
        self.gate.retune(policy.intake);
    }

    /// What the listener demands of a connection, now.
    pub(crate) fn tls_mode(&self) -> TlsMode {
        self.policy(&self.core.snapshot.load()).tls
    }

    /// A request was over a rate limit.
    pub(crate) fn over_limit(&self, limit: &str, is_enforced: bool) {
        let outcome = if is_enforced { "refused" } else { "passed" };
        let labels = [(label::LISTENER, &*self.name), (label::LIMIT, limit), (label::OUTCOME, outcome)];
        self.core.telemetry.registry.counter(&metric::RATE_LIMITED, &labels).inc();
    }

    /// Where to listen.
    pub(crate) fn address(&self) -> Result<String, Error> {
        self.last.load().address.clone().ok_or_else(|| {
            let message = format!("listener {:?} has no address; give it one, or use the server layer", self.name);
            Error::new(ErrorKind::Config, message)
        })
    }

    /// A connection was refused. The reason is for us; the peer learns nothing.
    pub(crate) fn refused(&self, remote: &str, reason: &str) {
        self.refused.inc();
        tracing::warn!(listener = %self.name, peer = remote, reason, "connection refused");
        self.core.telemetry.connection_refused(&self.name, remote, reason, self.core.clock.wall());
    }
}

/// ALPN names versions of HTTP; a bare connection speaks neither.
fn without_alpn(config: &rustls::ServerConfig) -> Arc<rustls::ServerConfig> {
    let mut config = rustls::ServerConfig::clone(config);
    config.alpn_protocols.clear();
    Arc::new(config)
}

/// The server side as a tower layer: access rules, checks, telemetry, trace and deadline, lame duck.
///
/// The application's server terminates the connection. If it verified a client certificate it says so
/// with a [`PeerIdentity`] request extension, or an `Arc` of one; without it the caller is unauthenticated.
/// Where the caller is, it says with a [`ConnectionAddress`]. The layer belongs outside of a router: what routes
/// has to see the path, brought to one spelling, that was judged.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// use http::{Request, Response};
/// use mesh_core::error::BoxError;
/// use mesh_core::{Body, Mesh};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let mesh = Mesh::from_yaml(
///     "{version: 1, listeners: [{name: in}], policy: {access: {rules: [
///        {name: admin, action: deny, paths: [/admin*]}]}}}",
///     "mesh.yaml",
/// )?;
/// let answer = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::from("hello"))) });
/// let service = mesh.server_layer("in")?.layer(answer);
/// for (path, status) in [("/books", 200), ("/admin", 403), ("/books/../admin", 403)] {
///     let response = service.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
///     assert_eq!(response.status(), status);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServerLayer {
    inbound: Arc<Inbound>,
}

impl ServerLayer {
    pub(crate) fn new(inbound: Arc<Inbound>) -> Self {
        Self { inbound }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Server<S>;

    fn layer(&self, inner: S) -> Server<S> {
        Server { inbound: Arc::clone(&self.inbound), inner }
    }
}

/// A service behind [`ServerLayer`].
#[derive(Clone)]
pub struct Server<S> {
    inbound: Arc<Inbound>,
    inner: S,
}

impl<S, In, Out> Service<Request<In>> for Server<S>
where
    S: Service<Request<Body>, Response = Response<Out>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    In: http_body::Body<Data = Bytes> + Send + 'static,
    In::Error: Into<BoxError>,
    Out: http_body::Body<Data = Bytes> + Send + 'static,
    Out::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        // The service that was polled ready is the one that must be called.
        let waiting = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, waiting);
        let inbound = Arc::clone(&self.inbound);
        Box::pin(async move {
            let peer = peer_of(request.extensions());
            let address = request.extensions().get::<ConnectionAddress>().copied();
            let request = request.map(Body::new);
            Ok(serve::serve(&inbound, (address, peer), request, Mapped(ready)).await)
        })
    }
}

/// Brings any response body and error to ours.
#[derive(Clone)]
struct Mapped<S>(S);

impl<S, Out> Service<Request<Body>> for Mapped<S>
where
    S: Service<Request<Body>, Response = Response<Out>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    Out: http_body::Body<Data = Bytes> + Send + 'static,
    Out::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async move { response.await.map(|response| response.map(Body::new)).map_err(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identity::SpiffeId;

    #[test]
    fn a_request_from_before_a_reload_does_not_turn_the_listener_back() {
        let document = |limit: &str| format!("{{version: 1, listeners: [{{name: in, concurrency: {limit}}}]}}");
        let mesh = crate::Mesh::from_yaml(&document("{max_requests: 1}"), "mesh.yaml").unwrap();
        let inbound = Inbound::new(mesh.core(), "in").unwrap();
        let before = mesh.core().snapshot.load_full();
        mesh.reload(&document("{max_requests: 2}"), "mesh.yaml").unwrap();
        let after = mesh.core().snapshot.load_full();
        inbound.policy(&after);
        let its_own = inbound.policy(&before);
        assert_eq!(its_own.intake.map(|intake| intake.limit.max), Some(1), "it keeps its revision");
        assert_eq!(inbound.gate.counts(), Some((0, 0, 2)));
        assert!(Arc::ptr_eq(&inbound.last.load(), &inbound.policy(&after)));
    }

    #[test]
    fn a_server_may_say_who_the_peer_is_in_either_form() {
        let id = SpiffeId::parse("spiffe://test/ns/default/sa/page").unwrap();
        let not_after = SystemTime::now();
        let peer = PeerIdentity { id, serial: "7".to_owned(), not_after, certificate: None, server_name: None };
        let mut extensions = Extensions::new();
        assert!(peer_of(&extensions).is_none());
        extensions.insert(peer.clone());
        assert_eq!(peer_of(&extensions).as_deref(), Some(&peer));
        extensions.clear();
        extensions.insert(Arc::new(peer.clone()));
        assert_eq!(peer_of(&extensions).as_deref(), Some(&peer));
    }
}
