//! What is in force: a compiled document at a revision.
//!
//! Decides: nothing; it is what deciders read. Never: changes once published.
//! Invariant: everything a call needs is reached from here without a lock or a look-up by name, except
//! the route table's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access::authorization::Policies;
use crate::access::check::RemoteCheck;
use crate::access::global_limit::GlobalLimit;
use crate::access::jwt::EndUsers;
use crate::access::limit::LocalLimit;
use crate::access::quota_limit::QuotaLimit;
use crate::access::rbac::Rules;
use crate::cluster::group::Cluster;
use crate::config::document::Document;
use crate::config::health::ListenerHealth;
use crate::policy::concurrency::Terms;
use crate::policy::criticality::Criticality;
use crate::policy::fault::Fault;
use crate::policy::guard::Guarded;
use crate::policy::hedge::Hedging;
use crate::policy::mirror::Share;
use crate::policy::retry::RetryPolicy;
use crate::route::affinity::Affinity;
use crate::route::answer::Answer;
use crate::route::header_changes::HeaderChanges;
use crate::route::matcher::RequestMatch;
use crate::route::path_terms::PathTerms;
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
    /// Guards of plain functions by name.
    pub guards: BTreeMap<Arc<str>, Arc<Guarded>>,
    /// Terms of a call that no rule governs.
    pub defaults: Defaults,
    /// Which finished calls are kept for whoever asks.
    pub explain: Explain,
    /// Share of new traces that are sampled, in percent.
    pub sample_percent: f64,
}

/// Terms of a call that goes to a cluster by name.
pub struct Defaults {
    /// Bounds the whole request.
    pub timeout: Option<Duration>,
    /// Bounds each attempt.
    pub attempt_timeout: Option<Duration>,
    /// The most that is believed of a caller's deadline.
    pub timeout_header_max: Option<Duration>,
    /// What an inherited deadline is shortened by for onward calls.
    pub deadline_margin: Duration,
    /// When it is tried again.
    pub retry: Arc<RetryPolicy>,
}

/// Which finished calls are kept. Default: none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Explain {
    /// So many, the latest; 0 keeps none.
    pub keep: usize,
    /// Share of those that did not fail, in percent.
    pub sample_percent: f64,
    /// Whether a request may ask for it by a header.
    pub is_by_header: bool,
}

/// Where a backend of a rule sends.
pub struct Target {
    /// To this cluster.
    pub cluster: Arc<Cluster>,
    /// To these endpoints of it, by the number of the subset; `None`: to all.
    pub subset: Option<usize>,
    /// What it is to a hash, in every process and every version.
    pub seed: u64,
}

/// Who gets copies of a rule's requests.
pub struct Mirror {
    /// This cluster.
    pub cluster: Arc<Cluster>,
    /// Of this share.
    pub share: Share,
}

/// Where a rule leads.
pub enum To {
    /// To one of these.
    Backends {
        /// Each with its share.
        split: Split<Target>,
        /// Whether requests with the same hash go to the same one.
        is_sticky: bool,
    },
    /// Nowhere: it answers itself.
    Answer(Answer),
}

/// What a rule does with a request.
pub struct Action {
    /// The rule's name.
    pub name: Arc<str>,
    /// Which cluster takes it, or which answer it gets.
    pub to: To,
    /// How it is changed on the way.
    pub rewrite: Option<Rewrite>,
    /// How its headers are changed on the way.
    pub request_headers: HeaderChanges,
    /// How the headers of its response are changed on the way.
    pub response_headers: Option<Arc<HeaderChanges>>,
    /// Who gets copies of it.
    pub mirrors: Arc<[Mirror]>,
    /// What may befall it on purpose.
    pub fault: Option<Fault>,
    /// Bounds the whole request.
    pub timeout: Option<Duration>,
    /// Bounds each attempt.
    pub attempt_timeout: Option<Duration>,
    /// The most that is believed of a caller's deadline.
    pub timeout_header_max: Option<Duration>,
    /// When it is tried again.
    pub retry: Arc<RetryPolicy>,
    /// When a copy is sent before it is answered, and what was learned of that.
    pub hedge: Option<Arc<Hedging>>,
    /// What binds it to an endpoint.
    pub affinity: Affinity,
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

/// What is spoken to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// Requests.
    Http,
    /// Bare connections.
    Tcp,
}

/// When responses carry a load report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadReports {
    /// On every response.
    Always,
    /// When the request asks.
    OnRequest,
    /// When the request asks, and its caller has proven who it is.
    ToPeers,
    /// Never.
    Off,
}

/// A listener and the policy of the requests that arrive on it.
pub struct ListenerPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens; `None`: the application has its own server.
    pub address: Option<String>,
    /// What is spoken to it.
    pub protocol: ListenerProtocol,
    /// What it demands of a connection.
    pub tls: TlsMode,
    /// When its responses tell how loaded this process is.
    pub load_reports: LoadReports,
    /// Whether its requests are routed onward.
    pub is_forwarding: bool,
    /// How much is taken on at once; `None`: whatever comes.
    pub intake: Option<Intake>,
    /// The highest class believed of callers without a proven identity.
    pub max_criticality: Criticality,
    /// Health checks it answers itself.
    pub health: ListenerHealth,
    /// Whose tokens say who the end user is.
    pub end_users: EndUsers,
    /// What is done to paths.
    pub paths: PathTerms,
    /// Local rules.
    pub rules: Rules,
    /// Istio's authorization policies.
    pub authorization: Arc<Policies>,
    /// Local rate limits; each has to have a token.
    pub limits: Vec<Arc<LocalLimit>>,
    /// Limits that a server assigns, in the order they are applied.
    pub quota_limits: Vec<Arc<QuotaLimit>>,
    /// Limits that are counted elsewhere, in the order they are asked.
    pub global_limits: Vec<GlobalLimitPolicy>,
    /// Remote checks, in the order they are asked.
    pub checks: Vec<CheckPolicy>,
}

/// How much a listener takes on at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intake {
    /// Requests in flight.
    pub limit: Terms,
    /// Requests that may wait for a place.
    pub waiting: usize,
    /// How long one waits at most.
    pub max_wait: Duration,
}

/// A remote check and the requests it is asked about.
#[derive(Clone)]
pub struct CheckPolicy {
    /// Asks, and remembers.
    pub check: Arc<RemoteCheck>,
    /// Empty: every request.
    pub matches: Vec<RequestMatch>,
    /// Whether it is asked only where an authorization policy names it.
    pub is_provider_only: bool,
    /// Which of them it is asked about.
    pub sampling: Sampling,
    /// The cluster of the policy server.
    pub cluster: Arc<str>,
    /// When a question is asked again.
    pub retry: Arc<RetryPolicy>,
}

/// Which requests a check is asked about, of those it is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// So many, 0 to 1.
    pub share: f64,
    /// Whether the others are refused; else they pass.
    pub denies_others: bool,
}

/// A global rate limit and the requests it is asked about.
#[derive(Clone)]
pub struct GlobalLimitPolicy {
    /// Asks, and keeps what it was granted.
    pub limit: Arc<GlobalLimit>,
    /// Empty: every request.
    pub matches: Vec<RequestMatch>,
    /// The cluster that counts.
    pub cluster: Arc<str>,
}

impl Snapshot {
    /// Clusters and their endpoints, for the admin endpoint.
    pub fn status(&self, now: Instant) -> Value {
        let clusters = self.clusters.values().map(|cluster| (cluster.name.to_string(), cluster.status(now)));
        Value::Object(clusters.collect())
    }

    /// Guards, for the admin endpoint.
    pub fn guard_status(&self, now: Instant) -> Value {
        Value::Object(self.guards.iter().map(|(name, guard)| (name.to_string(), guard.status(now))).collect())
    }

    /// Issuers of tokens and their keys, for the admin endpoint.
    pub fn end_user_status(&self) -> Value {
        let issuers = self.listeners.values().flat_map(|listener| listener.end_users.issuers());
        Value::Object(issuers.map(|issuer| (issuer.name.to_string(), json!({ "keys": issuer.keys.count() }))).collect())
    }

    /// Voids what checks have answered: all of them, or those of this name. Says how many were there to void.
    pub fn void_checks(&self, name: Option<&str>) -> usize {
        let policies = self.listeners.values().flat_map(|listener| &listener.checks);
        let checks = policies.map(|policy| (policy.check.config().name.as_str(), &policy.check));
        let named = checks.filter(|(known, _)| name.is_none_or(|name| *known == name));
        // A check of several listeners is one.
        let named: BTreeMap<_, _> = named.collect();
        named.values().for_each(|check| check.void_all());
        named.len()
    }

    /// Remote checks and their caches, for the admin endpoint.
    pub fn check_status(&self) -> Value {
        let checks = self.listeners.values().flat_map(|listener| &listener.checks);
        let stats = checks.map(|policy| {
            let stats = policy.check.stats();
            let shown = json!({
                "hits": stats.hits, "misses": stats.misses, "coalesced": stats.coalesced, "calls": stats.calls,
                "entries": stats.entries, "voided": stats.voided, "fail_open": stats.fail_open, "fail_closed": stats.fail_closed,
            });
            (policy.check.config().name.clone(), shown)
        });
        Value::Object(stats.collect())
    }
}
