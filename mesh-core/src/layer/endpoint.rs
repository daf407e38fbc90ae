//! One attempt at a cluster: pick an endpoint, send, judge.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_service::Service;

use super::Pending;
use crate::body::Body;
use crate::cluster::group::{Cluster, Wanted};
use crate::cluster::member::Endpoint;
use crate::context::CallContext;
use crate::core::Core;
use crate::error::{BoxError, Error, ErrorKind};
use crate::mesh::Mesh;
use crate::outbound::affinity::Ties;
use crate::outbound::{attempt_once, choice, headers};
use crate::policy::timeout::{attempt_limit, time_left};

/// Endpoints that earlier attempts of a request were sent to; a request extension, shared by its copies.
#[derive(Clone, Default)]
pub(super) struct Tried(pub(super) Arc<Mutex<Vec<Arc<Endpoint>>>>);

/// Sends each request to one endpoint of a cluster: balancer, breakers, ejection, pool and mutual TLS,
/// but no retry and no route.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::Request;
/// # use mesh_core::{Body, Error, ErrorKind, Mesh};
/// # use tower::ServiceExt;
/// use mesh_core::layer::EndpointService;
///
/// let mesh = Mesh::from_yaml("{version: 1, clusters: [{name: books, endpoints: []}]}", "mesh.yaml")?;
/// let service = EndpointService::new(&mesh, "books", None)?;
/// let error = service.oneshot(Request::get("http://books/7").body(Body::empty())?).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::NoEndpoint));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EndpointService {
    core: Arc<Core>,
    cluster: Arc<Cluster>,
    limit: Option<Duration>,
    subset: Option<usize>,
}

impl EndpointService {
    /// Of the cluster `name` in the mesh's present configuration; `limit` bounds each attempt.
    pub fn new(mesh: &Mesh, name: &str, limit: Option<Duration>) -> Result<Self, Error> {
        let core = mesh.core();
        let cluster = core.snapshot.load().clusters.get(name).cloned();
        let cluster =
            cluster.ok_or_else(|| Error::new(ErrorKind::NoCluster, format!("no cluster is called {name:?}")))?;
        Ok(Self::of(core, &cluster, limit))
    }

    /// Only to endpoints of this subset of the cluster.
    pub(super) fn within(self, subset: Option<usize>) -> Self {
        Self { subset, ..self }
    }

    pub(super) fn of(core: &Arc<Core>, cluster: &Arc<Cluster>, limit: Option<Duration>) -> Self {
        Self { core: Arc::clone(core), cluster: Arc::clone(cluster), limit, subset: None }
    }
}

impl Service<Request<Body>> for EndpointService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pending<Response<Body>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { core, cluster, limit, subset } = self.clone();
        Box::pin(async move {
            let mut rng = core.randomness.generator();
            let (mut head, body) = request.into_parts();
            headers::make_absolute(&mut head);
            let tried = head.extensions.get::<Tried>().cloned().unwrap_or_default();
            let skip = lock(&tried.0).clone();
            let ties = head.extensions.get::<Arc<Ties>>().cloned().unwrap_or_else(|| {
                let context = CallContext::current();
                Arc::new(Ties::of(&head, (None, &cluster), context.as_deref(), &mut rng))
            });
            let wanted = Wanted { now: core.clock.now(), tried: &skip, hash: ties.hash, subset, last_wait: None };
            let deadline = CallContext::current().and_then(|context| context.deadline);
            let taken = choice::endpoint(&core, (&cluster, &ties), wanted, (deadline, &mut rng)).await?;
            let address = taken.endpoint.address.socket();
            lock(&tried.0).push(Arc::clone(&taken.endpoint));
            let now = core.clock.now();
            let limit = attempt_limit(limit, time_left(deadline, now));
            headers::tell_deadline(&mut head.headers, limit);
            let until = limit.map(|limit| crate::time::after(now, limit));
            let request = Request::from_parts(head, body);
            let mut response = attempt_once(&core, (&cluster, taken), request, (until, deadline)).await?;
            ties.tell(address, response.headers_mut());
            Ok(response)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
