//! What a request carries for the mesh: trace, request id, deadline.
//!
//! Invariant: a deadline on the wire is relative and only ever shrinks from hop to hop.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::Scheme};

use crate::context::CallContext;
use crate::policy::timeout::{encode_envoy_timeout, encode_grpc_timeout};
use crate::telemetry::TraceContext;
use crate::telemetry::names::header::REQUEST_ID;
use crate::telemetry::record::is_grpc;

/// gRPC's deadline header.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Envoy's deadline header for any HTTP.
pub(crate) const ENVOY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Takes the authority from `Host` when the URI has none; without either the URI stays as it is.
pub(crate) fn make_absolute(head: &mut Parts) {
    if head.uri.authority().is_some() && head.uri.scheme().is_some() {
        return;
    }
    let mut parts = head.uri.clone().into_parts();
    if parts.authority.is_none() {
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        parts.authority = host.and_then(|host| host.parse().ok());
    }
    if parts.authority.is_none() {
        return;
    }
    parts.scheme.get_or_insert(Scheme::HTTP);
    parts.path_and_query.get_or_insert(http::uri::PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
}

/// Trace context, request id, and nothing that belongs to another connection.
pub(super) fn prepare(
    headers: &mut HeaderMap,
    trace: &TraceContext,
    context: Option<&CallContext>,
    rng: &mut fastrand::Rng,
) {
    trace.inject(headers);
    leave_connection(headers, context, rng);
}

/// A request id, the inherited one if there is one, and nothing that belongs to another connection.
pub(crate) fn leave_connection(headers: &mut HeaderMap, context: Option<&CallContext>, rng: &mut fastrand::Rng) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if headers.contains_key(REQUEST_ID) {
        return;
    }
    let inherited = context.and_then(|context| context.request_id.as_deref());
    let id = inherited.map_or_else(|| new_request_id(rng), str::to_owned);
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// A random UUID (RFC 9562 version 4), as Envoy makes them.
pub(crate) fn new_request_id(rng: &mut fastrand::Rng) -> String {
    let (high, low) = (rng.u64(..), rng.u64(..));
    let (high, low) = ((high & !0xf000) | 0x4000, (low & !(0b11 << 62)) | (0b10 << 62));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The request id as logs show it.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(Into::into)
}

/// Says how long this attempt may take; a deadline that the application wrote itself never grows.
pub(crate) fn tell_deadline(headers: &mut HeaderMap, limit: Option<Duration>) {
    let Some(limit) = limit else { return };
    if is_grpc(headers) {
        if let Ok(value) = HeaderValue::from_str(&encode_grpc_timeout(limit)) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    } else {
        headers.insert(ENVOY_TIMEOUT, HeaderValue::from(encode_envoy_timeout(limit)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_target_takes_its_host_from_the_header() {
        let (mut head, ()) = http::Request::get("/a?b=1").header("host", "reviews:80").body(()).unwrap().into_parts();
        make_absolute(&mut head);
        assert_eq!(head.uri.to_string(), "http://reviews:80/a?b=1");
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = new_request_id(&mut fastrand::Rng::with_seed(1));
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }
}
