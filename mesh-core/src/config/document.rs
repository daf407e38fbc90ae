//! The whole document: the sections of a configuration file, version 1.
//!
//! Decides: which sections exist and what is meant when one is absent.
//! Never: resolves a reference or an override; that is compilation. Invariant: holds no secret, only paths.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster::{Balancer, Cluster, Locality};
use super::duration::TimeSpan;
use super::guard::Guard;
use super::identity::Identity;
use super::listener::Listener;
use super::policy::{CircuitBreaker, ConcurrencyLimit, Hedge, Outlier, Policy, Retry, RetryBudget};
use super::route::Route;
use super::telemetry::Telemetry;

/// A mesh configuration, version 1. Every section is optional; an empty file is a valid document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    /// The version of this format. Default: 1, the only one.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Who this process is: the labels of its telemetry.
    pub node: Node,
    /// The identity this process proves to its peers. Absent: plaintext only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Mesh-wide defaults; a cluster or a rule overrides them field by field.
    pub defaults: Defaults,
    /// The named groups of endpoints that requests can be sent to.
    pub clusters: Vec<Cluster>,
    /// Which request goes to which cluster, by host, then by the first rule that matches.
    pub routes: Vec<Route>,
    /// The inbound side: what this process listens on, and how.
    pub listeners: Vec<Listener>,
    /// Plain functions that are called through a guard: retry, timeout, breaker and limit by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
    /// Who may call: local access rules and remote checks.
    pub policy: Policy,
    /// What is logged, counted and traced, and where the admin page is.
    pub telemetry: Telemetry,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            version: 1,
            node: Node::default(),
            identity: None,
            defaults: Defaults::default(),
            clusters: Vec::new(),
            routes: Vec::new(),
            listeners: Vec::new(),
            guards: Vec::new(),
            policy: Policy::default(),
            telemetry: Telemetry::default(),
        }
    }
}

/// Who this process is. Names follow Istio's workload metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Canonical service. Default: `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Namespace. Default: `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Workload, for example the deployment. Default: the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Application. Default: the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Canonical revision. Default: `latest` (Istio).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The mesh cluster this process runs in (not a cluster of this file). Default: `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Labels of the workload; selectors of authorization policies ask for them. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where this process runs. Endpoints of the same zone are preferred. Default: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

impl Node {
    /// The canonical service, or `unknown`.
    pub fn service_name(&self) -> &str {
        self.service.as_deref().unwrap_or(UNKNOWN)
    }

    /// The namespace, or `unknown`.
    pub fn namespace_name(&self) -> &str {
        self.namespace.as_deref().unwrap_or(UNKNOWN)
    }

    /// The workload, or the service.
    pub fn workload_name(&self) -> &str {
        self.workload.as_deref().unwrap_or_else(|| self.service_name())
    }

    /// The application, or the service.
    pub fn app_name(&self) -> &str {
        self.app.as_deref().unwrap_or_else(|| self.service_name())
    }

    /// The canonical revision, or `latest`.
    pub fn revision(&self) -> &str {
        self.version.as_deref().unwrap_or("latest")
    }

    /// The mesh cluster, or `unknown`.
    pub fn cluster_name(&self) -> &str {
        self.cluster.as_deref().unwrap_or(UNKNOWN)
    }
}

/// Mesh-wide defaults, resolved: every value is present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Total time of a request, all attempts and the response's head included; 0s = none.
    /// Default: 15s (Envoy's route timeout).
    pub timeout: TimeSpan,
    /// Time of one attempt; 0s = none. Default: 0s (Envoy's per_try_timeout).
    pub attempt_timeout: TimeSpan,
    /// The most that is believed of a deadline the caller asks for (`grpc-timeout`,
    /// `x-envoy-expected-rq-timeout-ms`), apart from `timeout`; 0s = all of it. Default: 0s (gRPC A31's
    /// `grpc_timeout_header_max`).
    pub timeout_header_max: TimeSpan,
    /// What an inherited deadline is shortened by for the calls made while a request is served, so that there is time
    /// left to answer; at most a tenth of it. Default: 2ms (ours).
    pub deadline_margin: TimeSpan,
    /// When and how often a failed attempt is repeated.
    pub retry: Retry,
    /// When a copy of a request is sent before the first was answered. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// How much extra load retries may cause, per cluster.
    pub retry_budget: RetryBudget,
    /// How an endpoint is picked. Default: peak_ewma (Finagle).
    pub balancer: Balancer,
    /// When an endpoint that fails is no longer asked.
    pub circuit_breaker: CircuitBreaker,
    /// When an endpoint that answers badly is taken out for a while.
    pub outlier: Outlier,
    /// How many requests a cluster may have in flight.
    pub concurrency_limit: ConcurrencyLimit,
    /// Time to open a connection, the TLS handshake included. Default: 1s (ours; Envoy: 5s).
    pub connect_timeout: TimeSpan,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: TimeSpan::secs(15),
            attempt_timeout: TimeSpan::ZERO,
            timeout_header_max: TimeSpan::ZERO,
            deadline_margin: TimeSpan::millis(2),
            retry: Retry::default(),
            hedge: None,
            retry_budget: RetryBudget::default(),
            balancer: Balancer::PeakEwma,
            circuit_breaker: CircuitBreaker::default(),
            outlier: Outlier::default(),
            concurrency_limit: ConcurrencyLimit::default(),
            connect_timeout: TimeSpan::secs(1),
        }
    }
}

const UNKNOWN: &str = "unknown";
