//! Health checks: what an endpoint is asked, and what a listener answers.
//!
//! Decides: what can be said about a check. Never: probes.
//! Invariant: a checked document asks exactly one kind of question per cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{Method, Percent};

/// An active health check of each endpoint, over the cluster's own transport. Exactly one of `http`, `grpc`
/// and `tcp`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// An HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpQuestion>,
    /// The standard gRPC health service, `grpc.health.v1.Health/Check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcQuestion>,
    /// A connection, and what is said over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpQuestion>,
    /// From the end of a check to the start of the next. Default: 5s (gRPC and Envoy have none; Consul: 10s).
    pub interval: TimeSpan,
    /// An answer that takes longer is a failure. Default: 1s (ours).
    pub timeout: TimeSpan,
    /// At most this share of the interval is added to it, by chance. Default: 10 (ours; Envoy: 0).
    pub jitter_percent: Percent,
    /// Successes in a row that make an unhealthy endpoint healthy; the very first result counts at once.
    /// Default: 2 (HAProxy's rise).
    #[schemars(range(min = 1))]
    pub healthy_threshold: u32,
    /// Failures in a row that make a healthy endpoint unhealthy. Default: 3 (HAProxy's fall).
    #[schemars(range(min = 1))]
    pub unhealthy_threshold: u32,
    /// The interval while the cluster has had no request yet. Default: 60s (Envoy).
    pub no_traffic_interval: TimeSpan,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            http: None,
            grpc: None,
            tcp: None,
            interval: TimeSpan::secs(5),
            timeout: TimeSpan::secs(1),
            jitter_percent: Percent(10.0),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            no_traffic_interval: TimeSpan::secs(60),
        }
    }
}

/// An HTTP request and the answers that mean healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpQuestion {
    /// Path and query.
    #[schemars(regex(pattern = "^/"))]
    pub path: String,
    /// Authority. Default: the cluster's name (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
    /// Method. Default: GET (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Answers that mean healthy. Default: 200 alone (Envoy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub statuses: Option<Vec<StatusRange>>,
}

/// Statuses from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRange {
    /// The first.
    #[schemars(range(min = 100, max = 599))]
    pub from: u16,
    /// The last.
    #[schemars(range(min = 100, max = 599))]
    pub to: u16,
}

/// The standard gRPC health service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcQuestion {
    /// The service asked about. Default: empty, the server as a whole (gRPC).
    pub service: String,
    /// Authority. Default: the cluster's name (Envoy).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
}

/// What is said over a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TcpQuestion {
    /// Sent once connected. Default: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub send: String,
    /// Has to be in what comes back. Default: nothing; to be connected is enough.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub receive: String,
}

/// What a listener answers health checks with, instead of the application: 200 or SERVING, and 503 or
/// NOT_SERVING while the process drains or the application said that it is not serving.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerHealth {
    /// The path that is answered. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Whether `grpc.health.v1.Health/Check` is answered, for every service name. Default: false.
    pub grpc: bool,
}
