//! Local access rules in front of a service.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body as HttpBody;
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use crate::access::attributes::Attributes;
use crate::access::authorization::Policies;
use crate::access::judgement::{self, Verdict};
use crate::access::jwt::EndUser;
use crate::access::rbac::Rules;
use crate::access::rollout::Draw;
use crate::body::Body;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::inbound::facts::{authority, settle};
use crate::inbound::forward::local_reply;
use crate::inbound::{ConnectionAddress, peer_of};
use crate::route::path_terms::PathTerms;
use crate::route::readings::Readings;
use crate::telemetry::record::is_grpc;
use crate::time::Randomness;

/// Refuses what the rules refuse. The caller is the [`PeerIdentity`] among the request's extensions. It belongs
/// outside of a router: what routes has to see the path, brought to one spelling, that was judged.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use mesh_core::access::rbac::{Effect, Pattern, Rule, Rules};
/// use mesh_core::layer::AccessLayer;
///
/// let no_admin = Rule {
///     name: "no-admin".to_owned(),
///     action: Effect::Deny,
///     paths: vec![Pattern::parse("/admin*")],
///     ..Rule::default()
/// };
/// let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
/// let rules = Rules::new(Effect::Allow, vec![no_admin]);
/// let service = ServiceBuilder::new().layer(AccessLayer::new(rules, "inbound")).service(hello);
/// for (path, status) in [("/books", 200), ("/admin", 403), ("/books/../admin", 403)] {
///     let request = Request::get(path).body(Body::empty())?;
///     assert_eq!(service.clone().oneshot(request).await?.status(), status);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AccessLayer {
    rules: Arc<Rules>,
    listener: Arc<str>,
    randomness: Arc<Randomness>,
}

impl AccessLayer {
    /// `listener` is what rules call this entrance.
    pub fn new(rules: Rules, listener: &str) -> Self {
        let randomness = Arc::new(Randomness::from_entropy());
        Self { rules: Arc::new(rules), listener: listener.into(), randomness }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access { inner, terms: self.clone() }
    }
}

/// A service behind rules.
#[derive(Clone)]
pub struct Access<S> {
    inner: S,
    terms: AccessLayer,
}

impl<S, In, Out> Service<Request<In>> for Access<S>
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
        let judged = settle(&mut request, &PathTerms::default()).and_then(|_| self.terms.judge(&request));
        if let Err(error) = judged {
            let reply = local_reply(&error, is_grpc(request.headers()));
            return Box::pin(std::future::ready(Ok(reply)));
        }
        let answering = self.inner.call(request);
        Box::pin(async move { Ok(answering.await?.map(Body::new)) })
    }
}

impl AccessLayer {
    fn judge<In>(&self, request: &Request<In>) -> Result<(), Error> {
        let peer = peer_of(request.extensions());
        let attributes = attributes(request, &self.listener, peer.as_deref());
        let draw = Draw::by(&mut self.randomness.generator());
        let policies = Policies::default();
        let readings = Readings::of(attributes.path);
        let judgement = judgement::judge((&self.rules, &policies), &attributes, &readings, draw);
        if let Some(planned) = judgement.planned {
            let would_pass = planned.passes();
            tracing::info!(listener = %self.listener, rule = planned.name(), would_pass, "access rule is not in force here");
        }
        let Verdict::Deny(cause) = judgement.verdict else { return Ok(()) };
        tracing::info!(listener = %self.listener, rule = cause.name(), reason = %cause, "request denied");
        Err(Error::new(ErrorKind::Denied, "refused by an access rule").with_side(Side::Inbound))
    }
}

/// The facts of a request in its one form.
pub(super) fn attributes<'a, In>(
    request: &'a Request<In>,
    listener: &'a str,
    peer: Option<&'a PeerIdentity>,
) -> Attributes<'a> {
    let address = request.extensions().get::<ConnectionAddress>().map(|address| address.canonical());
    Attributes {
        principal: peer.map(|peer| peer.id.as_str()),
        own_principal: None,
        service: "",
        listener,
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        host: authority(request),
        scheme: if peer.is_some() { "https" } else { "http" },
        protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        headers: request.headers(),
        source_address: address.map(|address| address.remote),
        destination_address: address.map(|address| address.local),
        remote_address: None,
        sni: peer.and_then(|peer| peer.server_name.as_deref()),
        certificate: peer.and_then(|peer| peer.certificate.as_ref()),
        claims: request.extensions().get::<EndUser>().map(EndUser::claims),
        is_tcp: false,
        request_id: request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default(),
        time: SystemTime::now(),
    }
}
