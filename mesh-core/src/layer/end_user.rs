//! End users' tokens in front of a service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use crate::access::jwt::EndUsers;
use crate::body::Body;
use crate::error::{BoxError, Error, ErrorKind};
use crate::inbound::end_user::{challenge, prove};
use crate::inbound::facts::settle;
use crate::inbound::forward::{check_reply, local_reply};
use crate::route::path_terms::PathTerms;
use crate::telemetry::record::is_grpc;
use crate::time::{Clock, SystemClock};

/// Lets in who brings no token, or one that proves who its user is: an [`EndUser`](crate::EndUser) among the request's
/// extensions, for the service and for [`super::AccessLayer`] and [`super::CheckLayer`] below. Outside of a router, as
/// these. Keys are put in force by [`KeySource::publish`](crate::access::jwt::KeySource::publish).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use mesh_core::access::jwt::{EndUsers, Issuer, KeySet, KeySource, Location, Origin, Terms};
/// use mesh_core::layer::EndUserLayer;
///
/// // The key of RFC 8037 A.1.
/// let keys = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// let source = KeySource::new(Origin::Inline(keys.to_owned()));
/// source.publish(KeySet::read(keys.as_bytes())?);
/// let issuer = Issuer {
///     name: "shop".into(),
///     terms: Terms {
///         issuer: "https://login.shop.example".to_owned(),
///         audiences: vec!["shop".to_owned()],
///         clock_skew: Duration::from_secs(60),
///         requires_expiry: true,
///     },
///     locations: vec![Location::bearer()],
///     is_required: true,
///     forwards_token: false,
///     claim_headers: Vec::new(),
///     keys: Arc::new(source),
/// };
/// let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
/// let layer = EndUserLayer::new(EndUsers::new(vec![Arc::new(issuer)]));
/// let service = ServiceBuilder::new().layer(layer).service(hello);
/// assert_eq!(service.oneshot(Request::new(Body::empty())).await?.status(), 401);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EndUserLayer {
    end_users: Arc<EndUsers>,
    clock: Arc<dyn Clock>,
}

impl EndUserLayer {
    /// Believes these issuers.
    pub fn new(end_users: EndUsers) -> Self {
        Self { end_users: Arc::new(end_users), clock: Arc::new(SystemClock) }
    }

    /// Tells the time by `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl<S> Layer<S> for EndUserLayer {
    type Service = Users<S>;

    fn layer(&self, inner: S) -> Users<S> {
        Users { inner, terms: self.clone() }
    }
}

/// A service that knows its end users.
#[derive(Clone)]
pub struct Users<S> {
    inner: S,
    terms: EndUserLayer,
}

impl<S, In, Out> Service<Request<In>> for Users<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    Out: HttpBody<Data = Bytes> + Send + 'static,
    Out::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pending<Response<Body>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        if let Some(reply) = self.terms.refuse(&mut request) {
            return Box::pin(std::future::ready(Ok(reply)));
        }
        let answering = self.inner.call(request);
        Box::pin(async move { Ok(answering.await?.map(Body::new)) })
    }
}

impl EndUserLayer {
    /// The answer to a request that goes no further.
    fn refuse<In>(&self, request: &mut Request<In>) -> Option<Response<Body>> {
        let grpc = is_grpc(request.headers());
        if let Err(error) = settle(request, &PathTerms::default()) {
            return Some(local_reply(&error, grpc));
        }
        let unproven = prove(&self.end_users, request, self.clock.wall()).err()?;
        let reason = unproven.reason.as_str();
        tracing::info!(issuer = unproven.issuer.as_deref(), reason, "request refused");
        Some(if grpc {
            local_reply(&Error::new(ErrorKind::Unauthenticated, reason), grpc)
        } else {
            check_reply(&challenge(&unproven))
        })
    }
}
