//! The notice: what a response says about the server that sent it, besides its answer.
//!
//! Decides: which headers mean that an endpoint wants no new request. Never: takes GOAWAY or `Connection:
//! close` for one: these end a connection, for its age as well as for a drain, and the next connection may be
//! as good as the last [linkerd, Envoy and gRPC read them the same way].
//! Invariant: a notice harms nobody but the endpoint it came from.

use http::{HeaderMap, HeaderValue};

use crate::telemetry::names::header::{DRAINING, ENVOY_DEGRADED, ENVOY_FAIL};

/// Whether the server wants no new request: our own server side's notice, or Envoy's.
pub fn is_leaving(headers: &HeaderMap) -> bool {
    headers.contains_key(DRAINING) || headers.contains_key(ENVOY_FAIL)
}

/// Whether the server says that it is degraded [Envoy].
pub fn is_degraded(headers: &HeaderMap) -> bool {
    headers.contains_key(ENVOY_DEGRADED)
}

/// Puts the notice into a response.
pub fn give(headers: &mut HeaderMap) {
    headers.insert(DRAINING, HeaderValue::from_static("1"));
}

/// The notice is between two ends of the mesh: the application does not see it.
pub fn hide(headers: &mut HeaderMap) {
    headers.remove(DRAINING);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_and_envoys_notice_are_read_and_only_ours_is_hidden() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("close"));
        assert!(!is_leaving(&headers), "a connection ends, not the endpoint");
        give(&mut headers);
        assert!(is_leaving(&headers));
        hide(&mut headers);
        assert!(!is_leaving(&headers));
        headers.insert("x-envoy-immediate-health-check-fail", HeaderValue::from_static("true"));
        hide(&mut headers);
        assert!(is_leaving(&headers) && !is_degraded(&headers));
    }
}
