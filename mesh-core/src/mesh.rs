//! The handle an application holds.
//!
//! Decides: when things start (on first use) and how they end. Never: policy.
//! Invariant: constructing a mesh starts no thread and opens no socket, so that a process may still fork.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use tokio::runtime::Handle;
use tower::ServiceExt;
use tower_service::Service;

use crate::background;
use crate::body::Body;
use crate::core::{Core, Parts};
use crate::discovery::feeds::Registered;
use crate::discovery::publish::{ConfigError, First, Publisher};
use crate::discovery::resolver::{Resolver, StandardResolver};
use crate::discovery::source::EndpointSource;
use crate::endpoint::connect::{Connector, TcpConnector};
use crate::error::{BoxError, Error};
use crate::guard::Guard;
use crate::inbound::accept::{self, TcpListening};
use crate::inbound::forward::Forward;
use crate::inbound::listener::{self, Listening};
use crate::inbound::own_server::{Asked, InboundCheck};
use crate::inbound::{Inbound, ServerLayer};
use crate::outbound::ServiceClient;
use crate::outbound::dial::{self, DialOptions};
use crate::own_load::OwnLoad;
use crate::runtime::{OnThreadStart, RuntimeOptions};
use crate::snapshot::ListenerProtocol;
use crate::stream::MeshStream;
use crate::telemetry::Explained;
use crate::time::{Clock, Randomness, SystemClock};

/// A configured mesh: clients and servers of one workload. Cheap to clone.
#[derive(Clone)]
pub struct Mesh {
    core: Arc<Core>,
    asked: Arc<Asked>,
}

/// Builds a mesh with its own clock, network or threads.
pub struct MeshBuilder {
    clock: Arc<dyn Clock>,
    connector: Arc<dyn Connector>,
    resolver: Arc<dyn Resolver>,
    randomness: Randomness,
    sources: Registered,
    options: RuntimeOptions,
}

impl Mesh {
    /// Reads and checks a configuration file, which is then watched. Starts nothing yet.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::builder().from_file(path)
    }

    /// Checks a configuration given as text; `origin` names it in diagnostics.
    pub fn from_yaml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::builder().from_yaml(text, origin)
    }

    /// Says what is wrong with a configuration given as text, as [`from_yaml`](Self::from_yaml) would, and opens
    /// nothing: no file it would write, no socket, no thread.
    pub fn check(text: &str, origin: &str) -> Result<(), ConfigError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let first = First { text, origin, path: None, sources: BTreeSet::new() };
        Publisher::open(first, &clock).map(drop)
    }

    /// For tests and bindings: bring your own clock, connector, resolver, seed or threads.
    pub fn builder() -> MeshBuilder {
        MeshBuilder {
            clock: Arc::new(SystemClock),
            connector: Arc::new(TcpConnector),
            resolver: Arc::new(StandardResolver::default()),
            randomness: Randomness::from_entropy(),
            sources: Registered::new(),
            options: RuntimeOptions::default(),
        }
    }

    /// Starts threads, identity, file watch and the admin endpoint. Called by the first use of anything;
    /// call it yourself to see a failure early.
    pub fn start(&self) -> Result<(), Error> {
        self.core.runtime().map(|_| ())
    }

    /// The runtime that carries the mesh's connections; starts the mesh.
    pub fn runtime(&self) -> Result<Handle, Error> {
        self.core.runtime()
    }

    /// A client for every service the configuration names.
    pub fn client(&self) -> ServiceClient {
        ServiceClient::new(Arc::clone(&self.core))
    }

    /// The guard called `name` in the configuration: retry, timeout, breaker and limit around plain functions.
    pub fn guard(&self, name: &str) -> Result<Guard, Error> {
        Guard::new(&self.core, name)
    }

    /// What the application says of its own load; responses tell it to callers that ask.
    pub fn load(&self) -> &OwnLoad {
        &self.core.load
    }

    /// The server side as a tower layer, for an application that keeps its own server.
    pub fn server_layer(&self, listener: &str) -> Result<ServerLayer, Error> {
        let inbound = Inbound::new(&self.core, listener)?;
        inbound.demand(ListenerProtocol::Http)?;
        Ok(ServerLayer::new(inbound))
    }

    /// The server side as calls at the beginning and the end of each request, for an application that keeps its own
    /// server and is no tower service. Asked for again, it shares the listener's places.
    pub fn inbound_check(&self, listener: &str) -> Result<InboundCheck, Error> {
        let inbound = self.asked.find(&self.core, listener)?;
        inbound.demand(ListenerProtocol::Http)?;
        Ok(InboundCheck::new(inbound))
    }

    /// Serves `service` on the mesh's own listener: mutual TLS, access rules, checks, telemetry, drain. An axum
    /// router and a tonic service are such services.
    pub async fn listen<S, B>(&self, listener: &str, service: S) -> Result<Listening, Error>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let inbound = Inbound::new(&self.core, listener)?;
        inbound.demand(ListenerProtocol::Http)?;
        let address = inbound.address()?;
        let service = service.map_response(|response: Response<B>| response.map(Body::new)).map_err(Into::into);
        listener::listen(inbound, &address, service).await
    }

    /// Opens a bare connection to where the routes lead the host `to`, or else to the cluster of that name: any
    /// protocol, under the mesh's balancing, retries, breakers, mutual TLS and telemetry.
    ///
    /// Nothing was sent before this returns, so an endpoint that does not take the connection is followed by another.
    /// With TLS 1.3 a server that refuses us says so only later: the first read fails.
    pub async fn dial(&self, to: &str) -> Result<MeshStream, Error> {
        self.dial_with(to, DialOptions::default()).await
    }

    /// As [`dial`](Self::dial), with options.
    pub async fn dial_with(&self, to: &str, options: DialOptions) -> Result<MeshStream, Error> {
        dial::dial(&self.core, to, options).await
    }

    /// Listens for bare connections on a listener with `protocol: tcp`. Each is handed over once mutual TLS, access
    /// rules and checks let it in: see [`TcpListening::accept`].
    pub fn listen_tcp(&self, listener: &str) -> Result<TcpListening, Error> {
        let inbound = Inbound::new(&self.core, listener)?;
        inbound.demand(ListenerProtocol::Tcp)?;
        let address = inbound.address()?;
        accept::listen(inbound, &address)
    }

    /// Runs an ingress: requests that arrive on `listener` are routed onward by the `routes`.
    pub async fn forward(&self, listener: &str) -> Result<Listening, Error> {
        self.listen(listener, Forward::new(self.client())).await
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Puts a new document in force, all or nothing. Returns its revision.
    pub fn reload(&self, text: &str, origin: &str) -> Result<u64, ConfigError> {
        self.core.publish(text, origin)
    }

    /// What a support engineer asks for, as JSON.
    pub fn status(&self) -> Value {
        self.core.status()
    }

    /// The finished calls that were kept, the latest first: see `telemetry.explain` of the configuration.
    pub fn explained(&self) -> Vec<Arc<Explained>> {
        self.core.telemetry.explained.latest()
    }

    /// The document in force.
    pub fn config(&self) -> Value {
        self.core.config()
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        self.core.metrics_text()
    }

    /// Whether this process can serve: started, with a valid identity if one is configured, not draining.
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// Says whether new requests are wanted, while the process goes on. Callers within the mesh learn it from
    /// the next response and go elsewhere while they can; what still comes is served. A mesh begins willing.
    pub fn set_serving(&self, is_serving: bool) {
        self.core.drain.set_serving(is_serving);
    }

    /// Lame duck: tells callers to go elsewhere, serves what still comes for `grace`, then stops listening.
    pub async fn drain(&self, grace: Duration) {
        self.core.drain.run(grace).await;
    }

    /// Ends everything this mesh started. Blocks up to `timeout` for its threads. Not for use inside the mesh's
    /// own runtime.
    pub fn close(&self, timeout: Duration) {
        self.core.close(timeout);
    }
}

impl MeshBuilder {
    /// Uses this clock instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens connections through `connector` instead of TCP.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = connector;
        self
    }

    /// Resolves names through `resolver` instead of the system's and DNS.
    #[must_use]
    pub fn resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// Registers a source of endpoints. Clusters name it: `endpoint_source: <name>`.
    #[must_use]
    pub fn endpoint_source(mut self, name: &str, source: Arc<dyn EndpointSource>) -> Self {
        self.sources.insert(name.into(), source);
        self
    }

    /// Draws random numbers from this seed: the same seed, the same choices.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.randomness = Randomness::seeded(seed);
        self
    }

    /// Threads of the mesh's own runtime; 0 means one per core, at most four.
    #[must_use]
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.options.worker_threads = threads;
        self
    }

    /// Runs on each thread the mesh starts, before anything else.
    #[must_use]
    pub fn on_thread_start(mut self, hook: OnThreadStart) -> Self {
        self.options.on_thread_start = Some(hook);
        self
    }

    /// Uses this runtime instead of the current or an own one.
    #[must_use]
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.options.handle = Some(handle);
        self
    }

    /// Finishes with a configuration file, which is then watched.
    pub fn from_file(self, path: impl AsRef<Path>) -> Result<Mesh, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
        self.build(&text, &path.display().to_string(), Some(path.to_path_buf()))
    }

    /// Finishes with a configuration given as text.
    pub fn from_yaml(self, text: &str, origin: &str) -> Result<Mesh, ConfigError> {
        self.build(text, origin, None)
    }

    fn build(self, text: &str, origin: &str, path: Option<PathBuf>) -> Result<Mesh, ConfigError> {
        let sources = self.sources.keys().cloned().collect();
        let first = Publisher::open(First { text, origin, path, sources }, &self.clock)?;
        let telemetry = background::telemetry(&first)?;
        let core = Core::new(Parts {
            snapshot: first.snapshot,
            publisher: first.publisher,
            clock: self.clock,
            randomness: self.randomness,
            resolver: self.resolver,
            connector: self.connector,
            telemetry: Arc::new(telemetry),
            identity: first.identity,
            sources: Arc::new(self.sources),
            options: self.options,
            starter: background::start,
        });
        Ok(Mesh { core, asked: Arc::default() })
    }
}
