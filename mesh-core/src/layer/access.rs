//! Local access rules in front of a service.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::{Request, Response, Version, header};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use crate::access::attributes::Attributes;
use crate::access::rbac::{Decision, Rules};
use crate::body::Body;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;
use crate::inbound::ConnectionAddress;
use crate::inbound::forward::local_reply;
use crate::telemetry::record::is_grpc;

/// Refuses what the rules refuse. The caller is the [`PeerIdentity`] among the request's extensions.
#[derive(Clone)]
pub struct AccessLayer {
    rules: Arc<Rules>,
    listener: Arc<str>,
}

impl AccessLayer {
    /// `listener` is what rules call this entrance.
    pub fn new(rules: Rules, listener: &str) -> Self {
        Self { rules: Arc::new(rules), listener: listener.into() }
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

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pending<Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refused = match self.terms.rules.decide(&attributes(&request, &self.terms.listener)) {
            Decision::Allow { .. } => None,
            Decision::Deny { rule, reason } => {
                tracing::info!(listener = %self.terms.listener, rule = rule.unwrap_or("default"), reason = reason.as_str(), "request denied");
                let error = Error::new(ErrorKind::Denied, "refused by an access rule").with_side(Side::Inbound);
                Some(local_reply(&error, is_grpc(request.headers())))
            }
        };
        match refused {
            Some(reply) => Box::pin(std::future::ready(Ok(reply))),
            None => {
                let answering = self.inner.call(request);
                Box::pin(async move { answering.await.map_err(Into::into) })
            }
        }
    }
}

/// The facts of a request as it stands.
pub(super) fn attributes<'a>(request: &'a Request<Body>, listener: &'a str) -> Attributes<'a> {
    let peer = request.extensions().get::<PeerIdentity>();
    let address = request.extensions().get::<ConnectionAddress>();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    Attributes {
        principal: peer.map(|peer| peer.id.as_str()),
        own_principal: None,
        service: "",
        listener,
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        host: request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default(),
        scheme: if peer.is_some() { "https" } else { "http" },
        protocol: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        headers: request.headers(),
        source_address: address.map(|address| address.remote),
        destination_address: address.map(|address| address.local),
        remote_address: None,
        sni: None,
        claims: None,
        is_tcp: false,
        request_id: request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default(),
        time: SystemTime::now(),
    }
}
