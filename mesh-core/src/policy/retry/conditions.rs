//! Which outcomes are worth another try.
//!
//! Decides: whether an outcome is one the policy names, by Envoy's `retry_on` and gRPC's status names.
//! Never: whether repeating is safe; that is the next question, and asked elsewhere.
//! Invariant: our own refusals (a full limit, a denied request, a passed deadline, a cancelled caller)
//! match no condition: trying again would only add load.

use super::{Outcome, RetryPolicy};
use crate::error::{ErrorKind, Sent};

/// A set of conditions, small enough to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryConditions {
    /// Bits below.
    http: u16,
    /// One bit for each gRPC status code.
    grpc: u32,
}

impl RetryConditions {
    /// No condition: nothing is retried.
    pub const NONE: Self = Self { http: 0, grpc: 0 };

    /// One condition by its Envoy or gRPC name. `None` when there is no such condition.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase().replace('_', "-");
        let http = HTTP_NAMES.iter().find(|(known, _)| *known == name).map(|(_, bit)| Self { http: *bit, grpc: 0 });
        let grpc = || GRPC_NAMES.iter().position(|known| *known == name).map(|at| Self { http: 0, grpc: 2 << at });
        http.or_else(grpc)
    }

    /// A list separated by commas, as in Envoy's `retry_on`. Also the names nobody knows: Envoy ignores
    /// them, whoever reads a document reports them.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.fold((Self::NONE, Vec::new()), |(set, mut unknown), name| match Self::named(name) {
            Some(condition) => (set.with(condition), unknown),
            None => {
                unknown.push(name);
                (set, unknown)
            }
        })
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self { http: self.http | other.http, grpc: self.grpc | other.grpc }
    }

    /// Adds a gRPC status by number; codes above 16 do not exist and match nothing.
    #[must_use]
    pub const fn with_grpc_code(self, code: u16) -> Self {
        if code > UNAUTHENTICATED { self } else { Self { http: self.http, grpc: self.grpc | (1 << code) } }
    }

    /// Whether nothing is retried.
    pub const fn is_empty(self) -> bool {
        self.http == 0 && self.grpc == 0
    }

    /// Whether a gRPC status is named. OK never is.
    pub(super) const fn names_grpc(self, code: u16) -> bool {
        code != 0 && code <= UNAUTHENTICATED && self.grpc & (1 << code) != 0
    }

    pub(super) fn match_outcome(self, outcome: &Outcome<'_>, policy: &RetryPolicy) -> bool {
        match *outcome {
            Outcome::Response { status, grpc_status, headers } => {
                // Another limiter said no: that is no fault of the upstream [Envoy].
                if headers.contains_key(ENVOY_RATELIMITED) {
                    return self.has(ENVOY_RATE_LIMITED);
                }
                self.match_status(status, &policy.retriable_codes)
                    || grpc_status.is_some_and(|code| self.names_grpc(code))
                    || (self.has(HEADERS)
                        && policy.retriable_headers.as_ref().is_some_and(|rule| rule.matches(headers)))
            }
            Outcome::Failure { kind, sent } => self.match_failure(kind, sent),
        }
    }

    fn match_status(self, status: u16, codes: &[u16]) -> bool {
        match status {
            500..=599 if self.has(ANY_5XX) => true,
            502..=504 if self.has(GATEWAY_ERROR) => true,
            409 if self.has(RETRIABLE_4XX) => true,
            _ => self.has(STATUS_CODES) && codes.contains(&status),
        }
    }

    /// Envoy counts every missing response as a 5xx and as a gateway error; gRPC sees it as UNAVAILABLE.
    fn match_failure(self, kind: ErrorKind, sent: Sent) -> bool {
        let any = ANY_5XX | GATEWAY_ERROR | RESET;
        let unavailable = self.names_grpc(UNAVAILABLE);
        let bits = match kind {
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::Tls | ErrorKind::PeerIdentity => {
                any | CONNECT_FAILURE
            }
            ErrorKind::Reset | ErrorKind::ConnectionClosed | ErrorKind::Protocol => any,
            ErrorKind::AttemptTimeout => {
                return self.has(any | ATTEMPT_TIMEOUT) || self.names_grpc(DEADLINE_EXCEEDED);
            }
            // A peer that proved it did not act, for lack of room: as a refused stream.
            ErrorKind::Overloaded if sent == Sent::Unprocessed => 0,
            // No endpoint may be usable in a moment; only gRPC's rule says to wait for it.
            ErrorKind::NoEndpoint => return unavailable,
            _ => return false,
        };
        let by_sent = match sent {
            Sent::Never => BEFORE_REQUEST,
            Sent::Unprocessed => REFUSED_STREAM,
            Sent::Maybe => 0,
        };
        unavailable || self.has(bits | by_sent)
    }

    const fn has(self, any_of: u16) -> bool {
        self.http & any_of != 0
    }
}

/// connect-failure, refused-stream, gateway-error: the design's default resilience.
impl Default for RetryConditions {
    fn default() -> Self {
        Self { http: CONNECT_FAILURE | REFUSED_STREAM | GATEWAY_ERROR, grpc: 0 }
    }
}

const ANY_5XX: u16 = 1;
const GATEWAY_ERROR: u16 = 1 << 1;
const RETRIABLE_4XX: u16 = 1 << 2;
const CONNECT_FAILURE: u16 = 1 << 3;
const REFUSED_STREAM: u16 = 1 << 4;
const RESET: u16 = 1 << 5;
const BEFORE_REQUEST: u16 = 1 << 6;
const STATUS_CODES: u16 = 1 << 7;
const ATTEMPT_TIMEOUT: u16 = 1 << 8;
const ENVOY_RATE_LIMITED: u16 = 1 << 9;
const HEADERS: u16 = 1 << 10;

/// Envoy's `retry_on` names; `attempt-timeout` is ours, for a retry on the per-attempt limit alone.
const HTTP_NAMES: &[(&str, u16)] = &[
    ("5xx", ANY_5XX),
    ("gateway-error", GATEWAY_ERROR),
    ("retriable-4xx", RETRIABLE_4XX),
    ("connect-failure", CONNECT_FAILURE),
    ("refused-stream", REFUSED_STREAM),
    ("reset", RESET),
    ("reset-before-request", BEFORE_REQUEST),
    ("retriable-status-codes", STATUS_CODES),
    ("attempt-timeout", ATTEMPT_TIMEOUT),
    ("envoy-ratelimited", ENVOY_RATE_LIMITED),
    ("retriable-headers", HEADERS),
];

/// The header that marks a response of Envoy's rate limit filter.
const ENVOY_RATELIMITED: &str = "x-envoy-ratelimited";

/// gRPC status names from code 1 on. `ok` cannot be named: it is not worth another try.
const GRPC_NAMES: &[&str] = &[
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];
const DEADLINE_EXCEEDED: u16 = 4;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;
