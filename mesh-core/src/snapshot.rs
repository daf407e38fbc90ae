//! What is in force: a compiled document at a revision.
//!
//! Decides: nothing; it is what deciders read. Never: changes once published.
//! Invariant: everything a call needs is reached from here without a lock or a look-up by name, except
//! the route table's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access::check::RemoteCheck;
use crate::access::rbac::Rules;
use crate::cluster::group::Cluster;
use crate::config::document::Document;
use crate::config::health::ListenerHealth;
use crate::policy::retry::RetryPolicy;
use crate::route::matcher::RequestMatch;
use crate::route::rewrite::Rewrite;
use crate::route::split::Split;
use crate::route::table::RouteTable;

/// A compiled document.
pub struct Snapshot {
    /// Counts accepted documents.
    pub revision: u64,
    /// The same, as logs show it.
    pub revision_text: Arc<str>,
    /// What it was compiled from.
    pub document: Arc<Document>,
    /// Where requests go.
    pub routes: RouteTable<Action>,
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    /// What each listener demands.
    pub listeners: BTreeMap<Arc<str>, Arc<ListenerPolicy>>,
    /// Terms of a call that no rule governs.
    pub defaults: Defaults,
    /// Share of new traces that are sampled, in percent.
    pub sample_percent: f64,
}

/// Terms of a call that goes to a cluster by name.
pub struct Defaults {
    /// Bounds the whole request.
    pub timeout: Option<Duration>,
    /// Bounds each attempt.
    pub attempt_timeout: Option<Duration>,
    /// When it is tried again.
    pub retry: Arc<RetryPolicy>,
}

/// Where a backend of a rule sends.
pub struct Target {
    /// To this cluster.
    pub cluster: Arc<Cluster>,
    /// To these endpoints of it, by the number of the subset; `None`: to all.
    pub subset: Option<usize>,
}

/// What a rule does with a request.
pub struct Action {
    /// The rule's name.
    pub name: Arc<str>,
    /// Which cluster takes it.
    pub split: Split<Target>,
    /// How it is changed on the way.
    pub rewrite: Option<Rewrite>,
    /// Bounds the whole request.
    pub timeout: Option<Duration>,
    /// Bounds each attempt.
    pub attempt_timeout: Option<Duration>,
    /// When it is tried again.
    pub retry: Arc<RetryPolicy>,
}

/// What a listener demands of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Mutual TLS or nothing.
    Strict,
    /// Mutual TLS when the peer starts with it, else plaintext, on one port.
    Permissive,
    /// Plaintext only.
    Plaintext,
}

/// A listener and the policy of the requests that arrive on it.
pub struct ListenerPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens; `None`: the application has its own server.
    pub address: Option<String>,
    /// What it demands of a connection.
    pub tls: TlsMode,
    /// Whether its requests are routed onward.
    pub is_forwarding: bool,
    /// Health checks it answers itself.
    pub health: ListenerHealth,
    /// Local rules.
    pub rules: Rules,
    /// Remote checks, in the order they are asked.
    pub checks: Vec<CheckPolicy>,
}

/// A remote check and the requests it is asked about.
#[derive(Clone)]
pub struct CheckPolicy {
    /// Asks, and remembers.
    pub check: Arc<RemoteCheck>,
    /// Empty: every request.
    pub matches: Vec<RequestMatch>,
    /// The cluster of the policy server.
    pub cluster: Arc<str>,
}

impl Snapshot {
    /// Clusters and their endpoints, for the admin endpoint.
    pub fn status(&self, now: Instant) -> Value {
        let clusters = self.clusters.values().map(|cluster| (cluster.name.to_string(), cluster.status(now)));
        Value::Object(clusters.collect())
    }

    /// Remote checks and their caches, for the admin endpoint.
    pub fn check_status(&self) -> Value {
        let checks = self.listeners.values().flat_map(|listener| &listener.checks);
        let stats = checks.map(|policy| {
            let stats = policy.check.stats();
            let shown = json!({
                "hits": stats.hits, "misses": stats.misses, "coalesced": stats.coalesced, "calls": stats.calls,
                "entries": stats.entries, "fail_open": stats.fail_open, "fail_closed": stats.fail_closed,
            });
            (policy.check.config().name.clone(), shown)
        });
        Value::Object(stats.collect())
    }
}
