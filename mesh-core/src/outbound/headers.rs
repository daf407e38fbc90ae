//! What a request carries for the mesh: trace, request id, deadline.
//!
//! Invariant: a deadline on the wire is relative and only ever shrinks from hop to hop.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::Scheme};

use crate::cluster::balancing::BalancerKind;
use crate::cluster::group::Cluster;
use crate::context::CallContext;
use crate::policy::timeout::{decode_envoy_timeout, decode_grpc_timeout, encode_envoy_timeout, encode_grpc_timeout};
use crate::telemetry::TraceContext;
use crate::telemetry::names::header::{ATTEMPT_COUNT, LOAD_FORMAT, PREVIOUS_ATTEMPTS, REQUEST_ID};
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

/// Asks the endpoint to tell its load, where the cluster's balancer goes by it. Whether only the balancer asks: then
/// the answer is nobody else's.
pub(super) fn ask_for_load(headers: &mut HeaderMap, cluster: &Cluster) -> bool {
    if cluster.settings.balancing.kind != BalancerKind::WeightedRoundRobin || headers.contains_key(LOAD_FORMAT) {
        return false;
    }
    headers.insert(LOAD_FORMAT, HeaderValue::from_static("TEXT"));
    true
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

/// Says which attempt this is, so that what is called does not multiply our retries by its own: from the
/// second on, in Envoy's words and in gRPC's. `before` is what the caller of ours said.
pub(crate) fn tell_attempt(headers: &mut HeaderMap, nth: u32, before: u32) {
    let attempt = nth.saturating_add(before.max(1) - 1);
    if attempt <= 1 {
        headers.remove(ATTEMPT_COUNT);
        headers.remove(PREVIOUS_ATTEMPTS);
        return;
    }
    headers.insert(ATTEMPT_COUNT, HeaderValue::from(attempt));
    if is_grpc(headers) {
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempt - 1));
    }
}

/// Which attempt of its caller a request is, from 1. What is no number counts as the first.
pub(crate) fn attempt_of(headers: &HeaderMap) -> u32 {
    let number = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    let by_count = number(&ATTEMPT_COUNT).unwrap_or(1);
    let by_previous = number(&PREVIOUS_ATTEMPTS).map_or(1, |previous| previous.saturating_add(1));
    by_count.max(by_previous).max(1)
}

/// The deadline that a request carries.
pub(crate) fn deadline_of(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if is_grpc(headers) {
        text(&GRPC_TIMEOUT).and_then(decode_grpc_timeout)
    } else {
        text(&ENVOY_TIMEOUT).and_then(decode_envoy_timeout)
    }
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
    fn attempts_are_counted_over_all_hops_and_only_the_second_is_told() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        for (nth, before, told) in [(1, 1, 1), (2, 1, 2), (1, 2, 2), (3, 2, 4), (1, 1, 1), (1, u32::MAX, u32::MAX)] {
            tell_attempt(&mut headers, nth, before);
            assert_eq!(headers.contains_key(ATTEMPT_COUNT), told > 1, "{nth} {before}");
            assert_eq!(attempt_of(&headers), told, "{nth} {before}");
        }
        for (name, value, read) in [
            (ATTEMPT_COUNT, "0", 1),
            (ATTEMPT_COUNT, "many", 1),
            (ATTEMPT_COUNT, "4294967296", 1),
            (PREVIOUS_ATTEMPTS, "1", 2),
            (PREVIOUS_ATTEMPTS, "-1", 1),
        ] {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            assert_eq!(attempt_of(&headers), read, "{value}");
        }
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = new_request_id(&mut fastrand::Rng::with_seed(1));
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
    }
}
