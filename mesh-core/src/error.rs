//! What can go wrong with a call, told once.
//!
//! Decides: the closed list of error kinds and how each one reads as an HTTP status, a gRPC status
//! and an Envoy response flag. Never: retries, logs or formats anything for a peer.
//! Invariant: `kind` is API and is what programs match on; message text is not.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A boxed source error.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The closed list of reasons. `as_str` is stable: it is the `error.type` of logs, metrics and bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No virtual host or rule matched.
    NoRoute,
    /// A route names a cluster that does not exist.
    NoCluster,
    /// The cluster has no endpoint that may be used now.
    NoEndpoint,
    /// The connection could not be opened.
    Connect,
    /// The connection was not open in time.
    ConnectTimeout,
    /// The TLS handshake failed for a reason other than the peer's identity.
    Tls,
    /// The peer's certificate does not carry an expected SPIFFE ID or, of a server of the web, its host name.
    PeerIdentity,
    /// The peer closed the connection before any byte of the response.
    ConnectionClosed,
    /// The peer reset the stream or the connection.
    Reset,
    /// The peer spoke malformed HTTP.
    Protocol,
    /// The whole request ran out of time.
    Timeout,
    /// One attempt ran out of time and no retry was left.
    AttemptTimeout,
    /// A concurrency limit was full.
    Overloaded,
    /// A circuit breaker is open on every usable endpoint.
    CircuitOpen,
    /// A rate limit was exceeded.
    RateLimited,
    /// Policy refused the request.
    Denied,
    /// A remote check refused the request.
    CheckDenied,
    /// A remote check failed and the rule fails closed.
    CheckFailed,
    /// A global rate limit could not be asked and fails closed.
    LimitFailed,
    /// Credentials are missing or not valid.
    Unauthenticated,
    /// The request itself is malformed (no host, bad path).
    BadRequest,
    /// A body was larger than its limit.
    BodyTooLarge,
    /// The caller went away.
    Cancelled,
    /// The mesh, or the listener, is draining and takes no new work.
    Draining,
    /// The mesh was closed.
    Closed,
    /// The process forked after the mesh started; this handle belongs to the parent.
    Forked,
    /// A configuration document was refused.
    Config,
    /// A defect inside the library (a caught panic, a broken invariant).
    Internal,
}

/// Whether the peer can have acted on the request. Decides what may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    /// No byte left this process.
    Never,
    /// Bytes left, and the peer has proven that it did not process them (REFUSED_STREAM, GOAWAY).
    Unprocessed,
    /// Bytes left; the peer may have acted on them.
    Maybe,
}

/// Which end of the request produced the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller's end.
    Outbound,
    /// The callee's end.
    Inbound,
}

impl ErrorKind {
    /// Every kind, for exhaustive tables.
    pub const ALL: &'static [ErrorKind] = &[
        Self::NoRoute,
        Self::NoCluster,
        Self::NoEndpoint,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::PeerIdentity,
        Self::ConnectionClosed,
        Self::Reset,
        Self::Protocol,
        Self::Timeout,
        Self::AttemptTimeout,
        Self::Overloaded,
        Self::CircuitOpen,
        Self::RateLimited,
        Self::Denied,
        Self::CheckDenied,
        Self::CheckFailed,
        Self::LimitFailed,
        Self::Unauthenticated,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::Cancelled,
        Self::Draining,
        Self::Closed,
        Self::Forked,
        Self::Config,
        Self::Internal,
    ];

    /// The stable name: `error.type` in logs and metrics, the error name in every binding.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoCluster => "no_cluster",
            Self::NoEndpoint => "no_endpoint",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::PeerIdentity => "peer_identity",
            Self::ConnectionClosed => "connection_closed",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::AttemptTimeout => "attempt_timeout",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::RateLimited => "rate_limited",
            Self::Denied => "denied",
            Self::CheckDenied => "check_denied",
            Self::CheckFailed => "check_failed",
            Self::LimitFailed => "limit_failed",
            Self::Unauthenticated => "unauthenticated",
            Self::BadRequest => "bad_request",
            Self::BodyTooLarge => "body_too_large",
            Self::Cancelled => "cancelled",
            Self::Draining => "draining",
            Self::Closed => "closed",
            Self::Forked => "forked",
            Self::Config => "config",
            Self::Internal => "internal",
        }
    }

    /// Whether it is what an overloaded peer looks like: no room, or no answer in time.
    pub const fn is_overload(self) -> bool {
        matches!(self, Self::Overloaded | Self::Timeout | Self::AttemptTimeout | Self::ConnectTimeout)
    }

    /// HTTP status, gRPC status code and Envoy response flag of a local reply of this kind.
    /// Origin: Envoy 1.40 local replies; gRPC's http-grpc status mapping.
    pub const fn status(self) -> LocalStatus {
        let (http, grpc, flag) = match self {
            Self::NoRoute => (404, 12, "NR"),
            Self::NoCluster => (503, 14, "NC"),
            Self::NoEndpoint => (503, 14, "UH"),
            Self::Connect | Self::ConnectTimeout | Self::Tls | Self::PeerIdentity => (503, 14, "UF"),
            Self::ConnectionClosed => (503, 14, "UC"),
            Self::Reset => (503, 14, "UR"),
            Self::Protocol => (502, 14, "UPE"),
            Self::Timeout | Self::AttemptTimeout => (504, 14, "UT"),
            Self::Overloaded | Self::CircuitOpen => (503, 14, "UO"),
            Self::RateLimited => (429, 14, "RL"),
            Self::Denied => (403, 7, "-"),
            Self::CheckDenied | Self::CheckFailed => (403, 7, "UAEX"),
            Self::LimitFailed => (500, 14, "RLSE"),
            Self::Unauthenticated => (401, 16, "-"),
            Self::BadRequest => (400, 13, "DPE"),
            Self::BodyTooLarge => (413, 2, "-"),
            Self::Cancelled => (499, 1, "DC"),
            Self::Draining | Self::Closed | Self::Forked => (503, 14, "-"),
            Self::Config | Self::Internal => (500, 13, "-"),
        };
        LocalStatus { http, grpc, flag }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an error kind reads on the wire and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalStatus {
    /// HTTP status code.
    pub http: u16,
    /// gRPC status code.
    pub grpc: u16,
    /// Envoy short response flag, `-` for none.
    pub flag: &'static str,
}

/// One failed call: what happened, how far it got, and where.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// Boxed: a result is as small as its success.
#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    sent: Sent,
    side: Side,
    message: String,
    place: Place,
    source: Option<BoxError>,
}

/// Where in the mesh an error happened. Empty fields were not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the matched route rule.
    pub route: Option<String>,
    /// Name of the chosen cluster.
    pub cluster: Option<String>,
    /// Address of the last endpoint tried.
    pub endpoint: Option<String>,
    /// Attempts made, the first included.
    pub attempts: u32,
    /// How long the refusing side asks the caller to wait.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An outbound error before anything was sent.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            sent: Sent::Never,
            side: Side::Outbound,
            message: message.into(),
            place: Place::default(),
            source: None,
        }))
    }

    /// Says how far the request got.
    #[must_use]
    pub fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    /// Says which end produced it.
    #[must_use]
    pub fn with_side(mut self, side: Side) -> Self {
        self.0.side = side;
        self
    }

    /// Says where it happened.
    #[must_use]
    pub fn with_place(mut self, place: Place) -> Self {
        self.0.place = place;
        self
    }

    /// Keeps the underlying error for logs.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the peer can have acted on the request.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// Which end produced it.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// Where it happened.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// The place, to be completed by an outer layer.
    pub fn place_mut(&mut self) -> &mut Place {
        &mut self.0.place
    }

    /// One sentence for people. Not API; never holds a secret.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.message)?;
        if let Some(cluster) = &self.0.place.cluster {
            write!(f, " (cluster {cluster}")?;
            if let Some(endpoint) = &self.0.place.endpoint {
                write!(f, ", endpoint {endpoint}")?;
            }
            write!(f, ", attempts {})", self.0.place.attempts)?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name() {
        let names: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }
}
