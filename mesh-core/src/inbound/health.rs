//! What the server side says of itself.
//!
//! Decides: whether a request is a question about health, and what a response adds while this process wants no
//! new request. Never: asks the application, or a rule: whether we are serving is no secret to who may connect.
//! Invariant: what is answered here is the word of the whole process; no listener contradicts another.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;

use super::Inbound;
use crate::body::Body;
use crate::cluster::health::notice;
use crate::snapshot::ListenerPolicy;
use crate::telemetry::names::header::PROBE;
use crate::telemetry::record::is_grpc;

/// The answer to a health check, if the request is one that this listener answers.
pub(super) fn answer(inbound: &Inbound, policy: &ListenerPolicy, request: &Request<Body>) -> Option<Response<Body>> {
    let is_serving = inbound.core.drain.is_serving();
    let path = request.uri().path();
    let mut response = if request.method() == Method::OPTIONS && request.headers().contains_key(PROBE) {
        status(StatusCode::NO_CONTENT, "")
    } else if policy.health.grpc && path == GRPC_CHECK && is_grpc(request.headers()) {
        grpc(is_serving)
    } else if is_read(request.method()) && policy.health.path.as_deref() == Some(path) {
        if is_serving {
            status(StatusCode::OK, "SERVING\n")
        } else {
            status(StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n")
        }
    } else {
        return None;
    };
    if !is_serving {
        notice::give(response.headers_mut());
    }
    Some(response)
}

/// A peer of the mesh learns from every response that this process wants no new request.
pub(super) fn tell(inbound: &Inbound, is_peer: bool, headers: &mut HeaderMap) {
    if is_peer && !inbound.core.drain.is_serving() {
        notice::give(headers);
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn status(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    if !text.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// `HealthCheckResponse { status }` in its frame, and the trailers that end a gRPC call.
fn grpc(is_serving: bool) -> Response<Body> {
    let message = Bytes::from_static(if is_serving { b"\0\0\0\0\x02\x08\x01" } else { b"\0\0\0\0\x02\x08\x02" });
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
