//! Ingress: a listener whose requests are routed onward.
//!
//! Decides: what an error looks like on the wire. Never: forwards hop-by-hop headers, or tells the
//! caller more than the error kind's status.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use tower_service::Service;

use super::{peer_of, tunnel};
use crate::access::verdict::{Verdict, apply_to_response};
use crate::body::Body;
use crate::error::{BoxError, Error};
use crate::outbound::ServiceClient;
use crate::outbound::on_behalf::OnBehalf;
use crate::outbound::overload::OVERLOADED;
use crate::telemetry::names::header::REFUSED;
use crate::telemetry::record::is_grpc;

/// A service that sends each request on by the routes of the configuration.
#[derive(Clone)]
pub struct Forward {
    client: ServiceClient,
}

impl Forward {
    /// Forwards through `client`.
    pub fn new(client: ServiceClient) -> Self {
        Self { client }
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let client = self.client.clone();
        Box::pin(async move {
            let is_grpc = is_grpc(request.headers());
            *request.uri_mut() = with_authority(&request);
            let peer = peer_of(request.extensions());
            let principal = peer.as_ref().map(|peer| peer.id.as_str().into());
            request.extensions_mut().insert(OnBehalf { principal, is_secure: peer.is_some() });
            let upgrade = tunnel::asked(&mut request);
            strip_hop_by_hop(request.headers_mut());
            if let Some(upgrade) = &upgrade {
                upgrade.ask(&mut request);
            }
            match client.call(request).await {
                Ok(response) => Ok(match upgrade {
                    Some(upgrade) => upgrade.join(response),
                    None => response,
                }),
                Err(error) => Ok(local_reply(&error, is_grpc)),
            }
        })
    }
}

/// The response to a request that failed on this side: the status of its kind, and no reason.
pub fn local_reply(error: &Error, is_grpc: bool) -> Response<Body> {
    let status = error.kind().status();
    let mut response = Response::new(Body::empty());
    if is_grpc {
        // A trailers-only response (gRPC over HTTP/2): status 200, the code in the headers.
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", header::HeaderValue::from(status.grpc));
        return response;
    }
    *response.status_mut() = StatusCode::from_u16(status.http).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    if let Some(wait) = error.place().retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

/// The response to a request that there was no room for: 503, or RESOURCE_EXHAUSTED, which no client of gRPC
/// takes for a broken server. It says that nothing was done, which our own clients believe of a proven peer.
pub(crate) fn overloaded_reply(error: &Error, is_grpc: bool) -> Response<Body> {
    let mut response = local_reply(error, is_grpc);
    let headers = response.headers_mut();
    headers.insert(REFUSED, header::HeaderValue::from_static(OVERLOADED));
    if is_grpc {
        headers.insert("grpc-status", header::HeaderValue::from(GRPC_RESOURCE_EXHAUSTED));
    } else {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from(OVERLOADED_RETRY_AFTER_SECONDS));
    }
    response
}

const GRPC_RESOURCE_EXHAUSTED: u16 = 8;
/// The shortest that the header can say.
const OVERLOADED_RETRY_AFTER_SECONDS: u16 = 1;

/// A remote check's own answer to the caller.
pub fn check_reply(verdict: &Verdict) -> Response<Body> {
    let mut response = Response::new(Body::from(verdict.body.clone()));
    *response.status_mut() = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::FORBIDDEN);
    apply_to_response(verdict, response.headers_mut());
    response
}

/// The same, to a gRPC caller: no body, and the status among the headers.
pub(crate) fn grpc_reply(error: &Error, verdict: &Verdict) -> Response<Body> {
    let mut response = local_reply(error, true);
    apply_to_response(verdict, response.headers_mut());
    if let Some(status) = verdict.grpc_status {
        response.headers_mut().insert("grpc-status", header::HeaderValue::from(status));
    }
    response
}

/// RFC 9110 7.6.1: these belong to one connection. `te: trailers` stays, gRPC needs it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<header::HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "proxy-authorization",
    ] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te.as_bytes() != b"trailers") {
        headers.remove(header::TE);
    }
}

fn with_authority<B>(request: &Request<B>) -> Uri {
    let mut parts = request.uri().clone().into_parts();
    if parts.authority.is_none() {
        parts.authority =
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    }
    parts.scheme = parts.authority.is_some().then_some(http::uri::Scheme::HTTP);
    Uri::from_parts(parts).unwrap_or_else(|_| request.uri().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn headers_named_by_connection_are_not_forwarded_but_te_trailers_is() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", "x-hop, te".parse().unwrap());
        headers.insert("x-hop", "1".parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        headers.insert("x-end", "1".parse().unwrap());
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(header::HeaderName::as_str).collect::<Vec<_>>(), ["te", "x-end"]);
    }

    #[test]
    fn a_grpc_caller_gets_a_grpc_status() {
        let reply = local_reply(&Error::new(ErrorKind::NoEndpoint, "secret reason"), true);
        assert_eq!((reply.status(), reply.headers()["grpc-status"].to_str().unwrap()), (StatusCode::OK, "14"));
        let reply = local_reply(&Error::new(ErrorKind::NoRoute, "x"), false);
        assert_eq!(reply.status(), StatusCode::NOT_FOUND);
    }
}
