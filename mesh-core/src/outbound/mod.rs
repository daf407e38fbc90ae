//! The client side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use tower_service::Service;

use crate::body::Body;
use crate::cluster::group::Cluster;
use crate::cluster::health::notice;
use crate::cluster::taken::Taken;
use crate::core::Core;
use crate::error::Error;
use crate::load_report;
use crate::policy::criticality::Criticality;
use crate::telemetry::explained::Explained;
use crate::telemetry::record::is_grpc;

pub use grpc::{GrpcChannel, to_status};
pub(crate) use terms::{LastWait, Lasting, OwnRetry};

pub(crate) mod affinity;
mod attempt;
mod body;
mod call;
pub(crate) mod choice;
pub mod dial;
mod expect;
pub(crate) mod fault;
mod grpc;
pub(crate) mod headers;
mod kept;
mod mirror;
pub(crate) mod on_behalf;
pub(crate) mod overload;
mod peek;
mod race;
pub mod replay;
mod terms;
mod trail;
pub mod upgrade;

/// Sends requests to the services the configuration names. Cheap to clone; a tower service.
///
/// A request's authority is a logical name (`http://reviews/reviews/7`); the routes decide where it goes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// use http::{Request, Response};
/// use mesh_core::error::BoxError;
/// use mesh_core::{Body, Mesh};
/// use tower::{ServiceExt, service_fn};
///
/// let server = Mesh::from_yaml("{version: 1, listeners: [{name: in, address: '127.0.0.1:0'}]}", "server.yaml")?;
/// let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::from("hello"))) });
/// let address = server.listen("in", hello).await?.local_addr();
///
/// let config = format!(
///     "{{version: 1, clusters: [{{name: books, endpoints: [{{address: '{address}'}}]}}],
///        routes: [{{hosts: [books], rules: [{{backends: [{{cluster: books}}]}}]}}]}}"
/// );
/// let client = Mesh::from_yaml(&config, "client.yaml")?.client();
/// let response = client.oneshot(Request::get("http://books/7").body(Body::empty())?).await?;
/// assert_eq!(response.into_body().collect_up_to(64).await?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServiceClient {
    core: Arc<Core>,
    /// Set: skip routing, everything goes to this cluster (a channel to a policy server, say).
    cluster: Option<Arc<str>>,
}

/// What a caller may say about one request, as a request extension.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    /// Bounds the whole request; the route's timeout and an inherited deadline still apply.
    pub timeout: Option<Duration>,
    /// Overrides what the method implies about being safe to send twice.
    pub idempotent: Option<bool>,
    /// How much it matters that it is answered; no more than what causes it.
    pub criticality: Option<Criticality>,
    /// Goes on when the request that is being served runs out of time: its deadline is not inherited. For
    /// what is sent and not waited for.
    pub detached: bool,
    /// Explains the call: see [`CallReport::explained`].
    pub explain: bool,
}

/// How a call went, as a response extension.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// Attempts made, the first included.
    pub attempts: u32,
    /// Cluster that answered.
    pub cluster: Arc<str>,
    /// Endpoint that answered.
    pub endpoint: Arc<str>,
    /// Rule that matched.
    pub route: Arc<str>,
    /// Revision of the configuration, one through all attempts.
    pub revision: u64,
    /// SPIFFE ID of the peer, verified; `None` in plaintext.
    pub peer: Option<Arc<str>>,
    /// Every pick, attempt and decision, if the caller asked for it or the call was sampled.
    pub explained: Option<Arc<Explained>>,
}

impl ServiceClient {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, cluster: None }
    }

    /// A client of one cluster: no route is looked up.
    pub(crate) fn to_cluster(core: Arc<Core>, cluster: Arc<str>) -> Self {
        Self { core, cluster: Some(cluster) }
    }

    /// Sends one request. The response's body is still on its way when this returns.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        call::call(&self.core, self.cluster.as_deref(), request).await
    }
}

/// One attempt, recorded nowhere: what a layer sends. `until`: for the head of the response, and for its end.
pub(crate) async fn attempt_once(
    core: &Arc<Core>,
    to: (&Arc<Cluster>, Taken),
    request: Request<Body>,
    until: (Option<Instant>, Option<Instant>),
) -> Result<Response<Body>, Error> {
    let (cluster, mut taken) = to;
    let (mut head, body) = request.into_parts();
    let hides_load = headers::ask_for_load(&mut head.headers, cluster);
    let body = replay::Replay::new(body, 0);
    let options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
    let is_idempotent = options.idempotent.unwrap_or_else(|| crate::policy::retry::is_idempotent(&head.method));
    let outgoing = attempt::Outgoing {
        method: &head.method,
        uri: &head.uri,
        headers: &head.headers,
        extensions: &head.extensions,
        body: &body,
        is_idempotent,
    };
    let endpoint = Arc::clone(&taken.endpoint);
    let result = overload::send(
        &attempt::Way::to(core.dialer()?, cluster, &endpoint, is_grpc(&head.headers)),
        &outgoing,
        until.0,
    )
    .await
    .map(peek::Received::from);
    taken.judge(&call::outcome(&result), core.clock.now(), &mut core.randomness.generator());
    let peek::Received { response, held, .. } = result?;
    let (mut head, body) = response.into_parts();
    notice::hide(&mut head.headers);
    if hides_load {
        load_report::hide(&mut head.headers);
    }
    let open = body::Open { record: None, held, taken, admitted: None, hides_load };
    let timeout = until.1.map(|deadline| core.clock.sleep_until(deadline));
    Ok(Response::from_parts(head, body::ResponseBody::wrap(body, open, timeout)))
}

/// Most of a streamed body that is kept for a further attempt: 64 KiB [the design].
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

impl Service<Request<Body>> for ServiceClient {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    /// Always ready: a full limit or an open breaker is an answer, not a wait.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { Self::call(&client, request).await })
    }
}
