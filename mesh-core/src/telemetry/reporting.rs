//! Where a process reports to, and who it says it is.
//!
//! Decides: nothing. It holds the handles the stories count with, so that no call looks one up that it
//! could have kept.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, Method, Uri};

use super::access_log::AccessLog;
use super::access_record::AccessRecord;
use super::explained::Ring;
use super::metrics::Registry;
use super::names::{label, metric, value};
use super::peer::Peer;
use super::request::{DestinationService, Reporter};
use crate::error::ErrorKind;

/// Metrics, access log, and our own end of every request.
pub struct Telemetry {
    /// Metrics.
    pub registry: Registry,
    /// Access log.
    pub access_log: AccessLog,
    /// The latest calls that were explained.
    pub explained: Ring,
    /// Our own end.
    pub node: Arc<Peer>,
    /// The service we are, as callers' metrics call it.
    pub service: Arc<DestinationService>,
    /// The same, as we tell the other end.
    pub node_header: HeaderValue,
    /// Whether to tell the other end who we are, and to believe what it says.
    pub exchanges_peers: bool,
}

impl Telemetry {
    /// For a workload called `node`.
    pub fn new(node: Peer, access_log: AccessLog, exchanges_peers: bool) -> Self {
        let node_header = node.to_header();
        let (name, namespace) = (Arc::clone(&node.canonical_service), Arc::clone(&node.namespace));
        let service = Arc::new(DestinationService {
            host: format!("{name}.{namespace}.svc.cluster.local").into(),
            name,
            namespace,
        });
        Self {
            registry: Registry::default(),
            explained: Ring::default(),
            access_log,
            service,
            node: Arc::new(node),
            node_header,
            exchanges_peers,
        }
    }

    /// Our SPIFFE ID, if we have one.
    pub fn principal(&self) -> Option<Arc<str>> {
        (&*self.node.principal != value::UNKNOWN).then(|| Arc::clone(&self.node.principal))
    }

    /// A request met a fault on purpose: `delay` or `abort`.
    pub fn fault_injected(&self, cluster: &str, fault: &str) {
        self.registry.counter(&metric::FAULTS, &[(label::CLUSTER, cluster), (label::REASON, fault)]).inc();
    }

    /// A copy of a request for this cluster came to its end, or was not sent.
    pub fn mirrored(&self, cluster: &str, outcome: &'static str) {
        self.registry.counter(&metric::MIRRORED, &[(label::CLUSTER, cluster), (label::OUTCOME, outcome)]).inc();
    }

    /// A retry was decided.
    pub fn retried(&self, cluster: &str) {
        self.registry.counter(&metric::RETRIES, &[(label::CLUSTER, cluster)]).inc();
    }

    /// A retry would have been wanted.
    pub fn retry_refused(&self, cluster: &str, reason: &str) {
        self.registry.counter(&metric::RETRIES_REFUSED, &[(label::CLUSTER, cluster), (label::REASON, reason)]).inc();
    }

    /// A hedge was sent.
    pub fn hedged(&self, cluster: &str) {
        self.registry.counter(&metric::HEDGES, &[(label::CLUSTER, cluster)]).inc();
    }

    /// A hedge was due.
    pub fn hedge_refused(&self, cluster: &str, reason: &str) {
        self.registry.counter(&metric::HEDGES_REFUSED, &[(label::CLUSTER, cluster), (label::REASON, reason)]).inc();
    }

    /// A hedge was the answer.
    pub fn hedge_won(&self, cluster: &str) {
        self.registry.counter(&metric::HEDGES_WON, &[(label::CLUSTER, cluster)]).inc();
    }

    /// A request ended before anything was sent.
    pub fn refused(&self, kind: ErrorKind) {
        self.registry.counter(&metric::REFUSED, &[(label::REASON, kind.as_str())]).inc();
    }

    /// A limit refused a request. `labels`: side, what was limited, its name, the class.
    pub fn shed(&self, side: &'static str, (what, name): (&'static str, &str), class: &'static str) {
        let labels = [(label::SIDE, side), (what, name), (label::CRITICALITY, class)];
        self.registry.counter(&metric::SHED, &labels).inc();
    }

    /// A connection was refused; the log says why, the peer never learns.
    pub fn connection_refused(&self, listener: &Arc<str>, remote: &str, reason: &str, wall: SystemTime) {
        if !self.access_log.is_on() {
            return;
        }
        let mut line = AccessRecord::new(wall, Reporter::Destination, &Method::CONNECT, &Uri::from_static("/"));
        line.listener = Some(Arc::clone(listener));
        line.endpoint = Some(remote.into());
        line.error_type = Some(ErrorKind::Tls);
        line.error_detail = Some(reason.to_owned());
        self.access_log.record(line);
    }
}
