//! What the end of an attempt says about the endpoint that served it.
//!
//! Decides: once for all who keep score (breaker, outlier detection, balancer) whether an endpoint did
//! well. Never: whether to retry; that also depends on the request.
//! Invariant: what the caller or this process did (cancel, refuse, run out of its own limits) says
//! nothing about an endpoint.

use super::retry::Outcome;
use crate::error::{ErrorKind, Sent};

/// A result as seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It answered; a 4xx is the caller's fault.
    Success,
    /// It said "too many": 429 or RESOURCE_EXHAUSTED.
    Throttled,
    /// A 5xx other than the next.
    ServerError,
    /// 502, 503, 504, no connection, no answer, no answer in time.
    GatewayError,
}

impl Verdict {
    /// How an attempt ended; `None` when that tells nothing about the endpoint. A stream that the peer proved
    /// unprocessed says it is leaving or full, not that it is broken.
    pub fn of(outcome: &Outcome<'_>) -> Option<Self> {
        match *outcome {
            Outcome::Response { status, grpc_status, .. } => Some(Self::of_response(status, grpc_status)),
            Outcome::Failure { sent: Sent::Unprocessed, .. } => None,
            Outcome::Failure { kind, .. } => Self::of_failure(kind),
        }
    }

    /// A response, by its HTTP status, or by the HTTP meaning of its gRPC status if it has one.
    pub const fn of_response(status: u16, grpc_status: Option<u16>) -> Self {
        let status = match grpc_status {
            // Envoy's grpcToHttpStatus, as far as the verdict depends on it.
            Some(2 | 13 | 15) => 500,
            Some(12) => 501,
            Some(14) => 503,
            Some(4) => 504,
            Some(8) => 429,
            Some(0) | None => status,
            Some(_) => 400,
        };
        match status {
            429 => Self::Throttled,
            502..=504 => Self::GatewayError,
            500..=599 => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// A missing response; `None` when it tells nothing about the endpoint.
    pub const fn of_failure(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Connect
            | ErrorKind::ConnectTimeout
            | ErrorKind::Tls
            | ErrorKind::PeerIdentity
            | ErrorKind::ConnectionClosed
            | ErrorKind::Reset
            | ErrorKind::Protocol
            | ErrorKind::AttemptTimeout
            | ErrorKind::Timeout => Some(Self::GatewayError),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_proved_unprocessed_tells_nothing_and_a_grpc_status_counts() {
        let headers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("14"),
        )]);
        let failure = |sent| Outcome::Failure { kind: ErrorKind::Reset, sent };
        for (outcome, expected) in [
            (failure(Sent::Unprocessed), None),
            (failure(Sent::Maybe), Some(Verdict::GatewayError)),
            (Outcome::Failure { kind: ErrorKind::Cancelled, sent: Sent::Maybe }, None),
            (Outcome::of_head(200, &headers), Some(Verdict::GatewayError)),
        ] {
            assert_eq!(Verdict::of(&outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn verdicts_follow_the_status() {
        for (status, grpc, expected) in [
            (200, None, Verdict::Success),
            (404, None, Verdict::Success),
            (429, None, Verdict::Throttled),
            (500, None, Verdict::ServerError),
            (501, None, Verdict::ServerError),
            (503, None, Verdict::GatewayError),
            (599, None, Verdict::ServerError),
            (200, Some(0), Verdict::Success),
            (200, Some(4), Verdict::GatewayError),
            (200, Some(5), Verdict::Success),
            (200, Some(8), Verdict::Throttled),
            (200, Some(13), Verdict::ServerError),
            (200, Some(14), Verdict::GatewayError),
        ] {
            assert_eq!(Verdict::of_response(status, grpc), expected, "{status} {grpc:?}");
        }
    }

    #[test]
    fn our_own_refusals_say_nothing_about_an_endpoint() {
        let telling: Vec<_> = ErrorKind::ALL
            .iter()
            .filter(|kind| Verdict::of_failure(**kind).is_some())
            .map(|kind| kind.as_str())
            .collect();
        let expected = ["connect", "connect_timeout", "tls", "peer_identity", "connection_closed", "reset", "protocol"];
        assert_eq!(telling, [&expected[..], &["timeout", "attempt_timeout"]].concat());
    }
}
