//! A remote check, and its cache, in front of a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use super::access::attributes;
use super::circuit_breaker::ready_call;
use crate::access::check::{PolicyService, RemoteCheck};
use crate::access::verdict::apply_to_response;
use crate::body::Body;
use crate::error::BoxError;
use crate::identity::tls::PeerIdentity;
use crate::inbound::forward::check_reply;
use crate::time::{Clock, SystemClock};

/// Asks a policy server, over any channel that speaks gRPC, and remembers its answers.
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

impl<S, C> Service<Request<Body>> for Check<S, C>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    C: PolicyService + Clone + Sync,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pending<Response<Body>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (mut inner, terms) = (self.inner.clone(), self.terms.clone());
        Box::pin(async move {
            let expiry = request.extensions().get::<PeerIdentity>().map(|peer| {
                crate::time::after(
                    terms.clock.now(),
                    peer.not_after.duration_since(terms.clock.wall()).unwrap_or_default(),
                )
            });
            let (head, body) = request.into_parts();
            let bare = Request::from_parts(head, Body::empty());
            let outcome =
                terms.check.check(terms.channel, &attributes(&bare, &terms.listener), &*terms.clock, expiry).await;
            let (head, _) = bare.into_parts();
            request = Request::from_parts(head, body);
            let verdict = Arc::clone(outcome.verdict());
            if !outcome.is_allowed() {
                return Ok(check_reply(&verdict));
            }
            terms.check.apply_to_request(&outcome, request.headers_mut());
            let mut response = ready_call(&mut inner, request).await?;
            apply_to_response(&verdict, response.headers_mut());
            Ok(response)
        })
    }
}
