//! A remote check, and its cache, in front of a service.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::access::attributes;
use super::{Pending, RequestBody};
use crate::access::check::{About, BodyTerms, CheckOutcome, PolicyService, Question, RemoteCheck, SentBody};
use crate::access::verdict::{Verdict, apply_to_response};
use crate::body::Body;
use crate::error::{BoxError, ErrorKind};
use crate::identity::tls::PeerIdentity;
use crate::inbound::checks::{TOO_LARGE, TOO_SLOW, Untold, change_query, read_body};
use crate::inbound::facts::{expiry, settle};
use crate::inbound::forward::{check_reply, local_reply};
use crate::inbound::peer_of;
use crate::route::path_terms::PathTerms;
use crate::telemetry::record::is_grpc;
use crate::time::{Clock, SystemClock};

/// Asks a policy server, over any channel that speaks gRPC (or HTTP, as the check is configured), and remembers its
/// answers. The caller is the [`PeerIdentity`](crate::identity::tls::PeerIdentity) among the request's extensions, whose
/// certificate is told where the check includes it. Outside of a router, as [`super::AccessLayer`].
///
/// It tells nothing of the body, which goes through as it is; [`CheckLayer::reading_bodies`] tells as much as the check
/// wants to know.
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
pub struct CheckLayer<C, B = Unread> {
    check: Arc<RemoteCheck>,
    channel: C,
    listener: Arc<str>,
    clock: Arc<dyn Clock>,
    bodies: B,
}

impl<C> CheckLayer<C> {
    /// Asks `check` through `channel`; `listener` names this entrance in the cache's key.
    pub fn new(check: Arc<RemoteCheck>, channel: C, listener: &str) -> Self {
        Self { check, channel, listener: listener.into(), clock: Arc::new(SystemClock), bodies: Unread }
    }

    /// Tells of bodies what [`CheckConfig::body`](crate::access::CheckConfig::body) says; one that is too long for it is
    /// answered with 413, one that is not there in time with 408, and nobody is asked. What is told is read before the
    /// service is called, and no answer about it is kept.
    #[must_use]
    pub fn reading_bodies(self) -> CheckLayer<C, Read> {
        let Self { check, channel, listener, clock, bodies: Unread } = self;
        CheckLayer { check, channel, listener, clock, bodies: Read }
    }
}

impl<S, C: Clone, B: Clone> Layer<S> for CheckLayer<C, B> {
    type Service = Check<S, C, B>;

    fn layer(&self, inner: S) -> Check<S, C, B> {
        Check { inner, terms: self.clone() }
    }
}

/// How a check meets bodies of this type.
pub trait Bodies<In>: Copy + Send + Sync + 'static {
    /// The body as the service gets it, and what of it is told; or the answer to a request that goes no further.
    fn read(
        self,
        body: In,
        terms: Option<BodyTerms>,
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<(In, Option<SentBody>), Response<Body>>> + Send;
}

/// Bodies of any type, of which nothing is told.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

/// Bodies that can be read ahead.
#[derive(Debug, Clone, Copy)]
pub struct Read;

impl<In: Send + 'static> Bodies<In> for Unread {
    async fn read(
        self,
        body: In,
        _: Option<BodyTerms>,
        _: &dyn Clock,
    ) -> Result<(In, Option<SentBody>), Response<Body>> {
        Ok((body, None))
    }
}

impl<In: RequestBody> Bodies<In> for Read {
    async fn read(
        self,
        body: In,
        terms: Option<BodyTerms>,
        clock: &dyn Clock,
    ) -> Result<(In, Option<SentBody>), Response<Body>> {
        let Some(terms) = terms else { return Ok((body, None)) };
        let mut body = body.into_mesh();
        match read_body(&mut body, terms, clock).await {
            Ok(told) => Ok((In::from_mesh(body), told)),
            Err(Untold::TooLong) => Err(check_reply(&Verdict::deny(TOO_LARGE))),
            Err(Untold::TooSlow) => Err(check_reply(&Verdict::deny(TOO_SLOW))),
            Err(Untold::BrokenOff(_)) => Err(check_reply(&Verdict::deny(ErrorKind::BadRequest.status().http))),
        }
    }
}

/// A service behind a remote check.
#[derive(Clone)]
pub struct Check<S, C, B = Unread> {
    inner: S,
    terms: CheckLayer<C, B>,
}

impl<S, C, B, In, Out> Service<Request<In>> for Check<S, C, B>
where
    B: Bodies<In>,
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
            // What follows a CONNECT is no body.
            let wanted = terms.check.config().body.filter(|_| bare.method() != Method::CONNECT);
            let (inbound, told) = match terms.bodies.read(body, wanted, &*terms.clock).await {
                Ok(read) => read,
                Err(reply) => return Ok(reply),
            };
            let outcome = terms.ask(&bare, peer.as_deref(), told).await;
            request = bare.map(|()| inbound);
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

impl<C: PolicyService + Clone, B> CheckLayer<C, B> {
    async fn ask(&self, request: &Request<()>, peer: Option<&PeerIdentity>, body: Option<SentBody>) -> CheckOutcome {
        let attributes = attributes(request, &self.listener, peer);
        let about = About { attributes, has_body: body.is_some() };
        let prepared = || {
            let max_expiry = expiry(peer, &attributes, &*self.clock);
            (self.channel.clone(), Question { attributes, body, max_expiry })
        };
        self.check.ask_if_needed(&about, &*self.clock, prepared).await
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
