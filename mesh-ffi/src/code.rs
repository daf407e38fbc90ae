//! The numbers a C program sees for what went wrong.
//!
//! Decides: one number per reason, in ranges (1xx usage, 2xx configuration, 3xx naming, 4xx transport,
//! 5xx policy, 6xx lifecycle). Never: reuses or renumbers. Invariant: every kind of the engine has
//! exactly one code, enforced by the compiler.

use mesh_core::ErrorKind;

/// Result of every fallible function: `MESH_OK` or one of the `MESH_E_*` codes. The list grows at the
/// end; keep a default branch.
pub type mesh_code = i32;

/// Success.
pub const MESH_OK: i32 = 0;
/// A pointer is NULL, text is not UTF-8, a number is out of range, or a handle was already used up.
pub const MESH_E_INVALID_ARGUMENT: i32 = 101;
/// The program was compiled against another major version of this header.
pub const MESH_E_ABI: i32 = 102;
/// A field, flag, op or format this version of the library does not know.
pub const MESH_E_UNSUPPORTED: i32 = 103;
/// The tag is still in use by an operation in flight, or a write to the same body is.
pub const MESH_E_BUSY: i32 = 104;
/// A signal arrived while waiting and `MESH_WAIT_INTR` is set. The work was cancelled.
pub const MESH_E_INTERRUPTED: i32 = 105;
/// A defect inside the library, such as a caught panic.
pub const MESH_E_INTERNAL: i32 = 199;
/// A configuration document was refused; nothing changed. See the `diagnostics` of the error's JSON.
pub const MESH_E_CONFIG: i32 = 201;
/// A configuration file could not be read.
pub const MESH_E_CONFIG_IO: i32 = 202;
/// No route matches the request.
pub const MESH_E_NO_ROUTE: i32 = 301;
/// A route names a cluster that does not exist.
pub const MESH_E_NO_CLUSTER: i32 = 302;
/// The cluster has no endpoint that may be used now.
pub const MESH_E_NO_ENDPOINT: i32 = 303;
/// The request itself is malformed.
pub const MESH_E_BAD_REQUEST: i32 = 304;
/// The connection could not be opened.
pub const MESH_E_CONNECT: i32 = 401;
/// The connection was not open in time.
pub const MESH_E_CONNECT_TIMEOUT: i32 = 402;
/// The TLS handshake failed for a reason other than the peer's identity.
pub const MESH_E_TLS: i32 = 403;
/// The peer's certificate does not carry an expected SPIFFE ID or, of a server of the web, its host name.
pub const MESH_E_PEER_IDENTITY: i32 = 404;
/// The peer closed the connection before any byte of the response.
pub const MESH_E_CONNECTION_CLOSED: i32 = 405;
/// The peer reset the stream or the connection.
pub const MESH_E_RESET: i32 = 406;
/// The peer spoke malformed HTTP.
pub const MESH_E_PROTOCOL: i32 = 407;
/// The whole request ran out of time.
pub const MESH_E_TIMEOUT: i32 = 408;
/// One attempt ran out of time and no retry was left.
pub const MESH_E_ATTEMPT_TIMEOUT: i32 = 409;
/// A body is larger than its limit.
pub const MESH_E_BODY_TOO_LARGE: i32 = 410;
/// The call was cancelled, or the other side no longer wants the body.
pub const MESH_E_CANCELLED: i32 = 411;
/// A concurrency limit is full.
pub const MESH_E_OVERLOADED: i32 = 501;
/// A circuit breaker is open on every usable endpoint.
pub const MESH_E_CIRCUIT_OPEN: i32 = 502;
/// A rate limit is exceeded.
pub const MESH_E_RATE_LIMITED: i32 = 503;
/// Policy refused the request.
pub const MESH_E_DENIED: i32 = 504;
/// A remote check refused the request.
pub const MESH_E_CHECK_DENIED: i32 = 505;
/// A remote check failed and its rule fails closed.
pub const MESH_E_CHECK_FAILED: i32 = 506;
/// Credentials are missing or not valid.
pub const MESH_E_UNAUTHENTICATED: i32 = 507;
/// A global rate limit could not be asked and fails closed.
pub const MESH_E_LIMIT_FAILED: i32 = 508;
/// The mesh or the listener is draining and takes no new work.
pub const MESH_E_DRAINING: i32 = 601;
/// The mesh was closed.
pub const MESH_E_CLOSED: i32 = 602;
/// The process forked after the mesh started; the handle belongs to the parent.
pub const MESH_E_FORKED: i32 = 603;

/// Another call may succeed where this one failed, and sending again is safe.
pub const MESH_ERR_RETRIABLE: u32 = 1;
/// Nothing that was sent can have been acted on: even a POST may be sent again.
pub const MESH_ERR_NOT_SENT: u32 = 2;
/// Time ran out.
pub const MESH_ERR_TIMEOUT: u32 = 4;
/// The caller, or a signal, ended it.
pub const MESH_ERR_CANCELLED: u32 = 8;
/// A policy refused it: limit, breaker, access.
pub const MESH_ERR_POLICY: u32 = 16;
/// The handle is of no more use: closed or forked.
pub const MESH_ERR_FATAL: u32 = 32;

/// The code of an engine error kind.
pub fn code_of(kind: ErrorKind) -> mesh_code {
    match kind {
        ErrorKind::NoRoute => MESH_E_NO_ROUTE,
        ErrorKind::NoCluster => MESH_E_NO_CLUSTER,
        ErrorKind::NoEndpoint => MESH_E_NO_ENDPOINT,
        ErrorKind::BadRequest => MESH_E_BAD_REQUEST,
        ErrorKind::Connect => MESH_E_CONNECT,
        ErrorKind::ConnectTimeout => MESH_E_CONNECT_TIMEOUT,
        ErrorKind::Tls => MESH_E_TLS,
        ErrorKind::PeerIdentity => MESH_E_PEER_IDENTITY,
        ErrorKind::ConnectionClosed => MESH_E_CONNECTION_CLOSED,
        ErrorKind::Reset => MESH_E_RESET,
        ErrorKind::Protocol => MESH_E_PROTOCOL,
        ErrorKind::Timeout => MESH_E_TIMEOUT,
        ErrorKind::AttemptTimeout => MESH_E_ATTEMPT_TIMEOUT,
        ErrorKind::BodyTooLarge => MESH_E_BODY_TOO_LARGE,
        ErrorKind::Cancelled => MESH_E_CANCELLED,
        ErrorKind::Overloaded => MESH_E_OVERLOADED,
        ErrorKind::CircuitOpen => MESH_E_CIRCUIT_OPEN,
        ErrorKind::RateLimited => MESH_E_RATE_LIMITED,
        ErrorKind::Denied => MESH_E_DENIED,
        ErrorKind::CheckDenied => MESH_E_CHECK_DENIED,
        ErrorKind::CheckFailed => MESH_E_CHECK_FAILED,
        ErrorKind::LimitFailed => MESH_E_LIMIT_FAILED,
        ErrorKind::Unauthenticated => MESH_E_UNAUTHENTICATED,
        ErrorKind::Draining => MESH_E_DRAINING,
        ErrorKind::Closed => MESH_E_CLOSED,
        ErrorKind::Forked => MESH_E_FORKED,
        ErrorKind::Config => MESH_E_CONFIG,
        ErrorKind::Internal => MESH_E_INTERNAL,
    }
}

/// The flags that follow from the kind alone.
pub fn flags_of(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Timeout | ErrorKind::AttemptTimeout | ErrorKind::ConnectTimeout => MESH_ERR_TIMEOUT,
        ErrorKind::Cancelled => MESH_ERR_CANCELLED,
        ErrorKind::Overloaded
        | ErrorKind::CircuitOpen
        | ErrorKind::RateLimited
        | ErrorKind::Denied
        | ErrorKind::CheckDenied
        | ErrorKind::CheckFailed
        | ErrorKind::LimitFailed
        | ErrorKind::Unauthenticated => MESH_ERR_POLICY,
        ErrorKind::Closed | ErrorKind::Forked => MESH_ERR_FATAL,
        _ => 0,
    }
}

/// Whether time can heal it. Says nothing about whether sending again is safe.
pub fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NoEndpoint
            | ErrorKind::Connect
            | ErrorKind::ConnectTimeout
            | ErrorKind::ConnectionClosed
            | ErrorKind::Reset
            | ErrorKind::AttemptTimeout
            | ErrorKind::Overloaded
            | ErrorKind::CircuitOpen
            | ErrorKind::RateLimited
            | ErrorKind::Draining
    )
}
