//! A remote check, and its cache, in front of a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use super::access::attributes;
use crate::access::check::{PolicyService, RemoteCheck};
use crate::access::verdict::apply_to_response;
use crate::body::Body;
use crate::error::BoxError;
use crate::inbound::checks::change_query;
use crate::inbound::facts::{expiry, settle};
use crate::inbound::forward::{check_reply, local_reply};
use crate::inbound::peer_of;
use crate::route::path_terms::PathTerms;
use crate::telemetry::record::is_grpc;
use crate::time::{Clock, SystemClock};

/// Asks a policy server, over any channel that speaks gRPC (or HTTP, as the check is configured), and remembers its
/// answers. It tells nothing of the body, which goes through as it is. Outside of a router, as [`super::AccessLayer`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use std::sync::Arc;
///
/// use mesh_core::access::{CheckConfig, RemoteCheck};
/// use mesh_core::layer::CheckLayer;
///
/// // A policy server that is never there; a tonic channel goes here.
/// let channel = service_fn(|_: Request<tonic::body::Body>| async {
///     Err::<Response<tonic::body::Body>, _>(tonic::Status::unavailable("gone"))
/// });
/// let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
/// let check = Arc::new(RemoteCheck::new(CheckConfig::default()));
/// let service = ServiceBuilder::new().layer(CheckLayer::new(check, channel, "inbound")).service(hello);
/// // What is not clearly allowed is refused.
/// assert_eq!(service.oneshot(Request::new(Body::empty())).await?.status(), 403);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CheckLayer<C> {
    check: Arc<RemoteCheck>,
    channel: C,
    listener: Arc<str>,
    clock: Arc<dyn Clock>,
}

impl<C> CheckLayer<C> {
    /// Asks `check` through `channel`; `listener` names this entrance in the cache's key.
    pub fn new(check: Arc<RemoteCheck>, channel: C, listener: &str) -> Self {
        Self { check, channel, listener: listener.into(), clock: Arc::new(SystemClock) }
    }
}

impl<S, C: Clone> Layer<S> for CheckLayer<C> {
    type Service = Check<S, C>;

    fn layer(&self, inner: S) -> Check<S, C> {
        Check { inner, terms: self.clone() }
    }
}

/// A service behind a remote check.
#[derive(Clone)]
pub struct Check<S, C> {
    inner: S,
    terms: CheckLayer<C>,
}

impl<S, C, In, Out> Service<Request<In>> for Check<S, C>
where
    S: Service<Request<In>, Response = Response<Out>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    C: PolicyService + Clone + Sync,
    In: Send + 'static,
    Out: HttpBody<Data = Bytes> + Send + 'static,
    Out::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pending<Response<Body>, S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        let (mut inner, terms) = (self.inner.clone(), self.terms.clone());
        Box::pin(async move {
            if let Err(error) = settle(&mut request, &PathTerms::default()) {
                return Ok(local_reply(&error, is_grpc(request.headers())));
            }
            let peer = peer_of(request.extensions());
            let (head, body) = request.into_parts();
            let bare = Request::from_parts(head, ());
            let facts = attributes(&bare, &terms.listener, peer.as_deref());
            let expiry = expiry(peer.as_deref(), &facts, &*terms.clock);
            let outcome = terms.check.check(terms.channel, &facts, &*terms.clock, expiry).await;
            let (head, _) = bare.into_parts();
            request = Request::from_parts(head, body);
            let verdict = Arc::clone(outcome.verdict());
            if !outcome.is_allowed() {
                return Ok(check_reply(&verdict));
            }
            terms.check.apply_to_request(&outcome, request.headers_mut());
            if let Err(error) = change_query(&verdict, request.uri_mut()) {
                return Ok(local_reply(&error, is_grpc(request.headers())));
            }
            std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
            let mut response = inner.call(request).await?.map(Body::new);
            apply_to_response(&verdict, response.headers_mut());
            Ok(response)
        })
    }
}
