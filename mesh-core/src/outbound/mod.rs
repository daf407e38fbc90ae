//! The client side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_service::Service;

use crate::body::Body;
use crate::core::Core;
use crate::error::Error;

pub(crate) use grpc::GrpcChannel;

mod attempt;
mod body;
mod call;
mod grpc;
pub(crate) mod headers;
pub mod replay;

/// Sends requests to the services the configuration names. Cheap to clone; a tower service.
///
/// A request's authority is a logical name (`http://reviews/reviews/7`); the routes decide where it goes.
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
