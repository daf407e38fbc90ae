//! The connections to one endpoint: how many, how long, and how a dead peer is found out.
//!
//! Decides: what can be said about connections. Never: opens one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;

/// The connections to each endpoint of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionPool {
    /// Connections open at once to one endpoint, those that the application dialled included; a dial finds another
    /// endpoint or is refused at once. Default: 1024 (Envoy's max_connections, there for the cluster).
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Requests that may wait for a connection to one endpoint, each under its own deadline.
    /// Default: 1024 (Envoy's max_pending_requests).
    pub max_pending: u32,
    /// Requests that one connection serves before it is replaced; 0 = no limit.
    /// Default: 0 (Envoy's max_requests_per_connection).
    pub max_requests_per_connection: u32,
    /// Age at which a connection takes no further request, spread by 10 % so that connections opened together are not
    /// replaced together (gRPC); 0s = none. Default: 0s (Envoy's max_connection_duration).
    pub max_connection_age: TimeSpan,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending: 1024,
            max_requests_per_connection: 0,
            max_connection_age: TimeSpan::ZERO,
        }
    }
}

/// HTTP/2 connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http2 {
    /// Requests at once on one connection, if its peer allows as many; a further one opens a further connection.
    /// Default: 1024 (Envoy's max_concurrent_streams).
    #[schemars(range(min = 1))]
    pub max_streams: u32,
    /// How a peer that has died without a word is found out.
    pub keepalive: KeepAlive,
}

impl Default for Http2 {
    fn default() -> Self {
        Self { max_streams: 1024, keepalive: KeepAlive::default() }
    }
}

/// PINGs on an HTTP/2 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepAlive {
    /// A PING is sent after so much silence. Default: 10s (the least gRPC servers are asked to tolerate).
    pub interval: TimeSpan,
    /// Its answer is due within this. Then no request starts on the connection; after twice as long it is closed.
    /// Default: 5s (ours; gRPC: 20s).
    pub timeout: TimeSpan,
    /// Whether a connection without a request is tested too. Default: false (gRPC's keepalive_without_calls).
    pub while_idle: bool,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { interval: TimeSpan::secs(10), timeout: TimeSpan::secs(5), while_idle: false }
    }
}
