//! Bare connections in Istio's TCP metrics.
//!
//! Decides: how the facts of a connection read as Istio's 23 labels (those of a request without its two status
//! codes), and what happens to label sets over the cap. Never: an address or a port in a label.
//! Invariant: sent is what went to the source and received what came from it, whichever end reports, so that both
//! ends count the same bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::exposition::{Kind, Page};
use super::metrics::Counter;
use super::names::{Metric, label, metric, value};
use super::peer::Peer;
use super::request::{DestinationService, Reporter, Security, label_text, or_unknown, peer_labels, security_label};

/// One connection, seen from one end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TcpFacts {
    /// Which end reports.
    pub reporter: Reporter,
    /// Who connected.
    pub source: Arc<Peer>,
    /// Who accepted, or would have.
    pub destination: Arc<Peer>,
    /// What was called.
    pub service: Arc<DestinationService>,
    /// Envoy's short response flag; `-` for none.
    pub flags: &'static str,
    /// How the connection was protected.
    pub security: Security,
}

/// The counters of one label set. Bytes are counted as they pass, where Istio's proxies report every 5 s.
#[derive(Debug, Default)]
pub struct TcpSeries {
    labels: String,
    /// Connections that were opened.
    pub opened: Counter,
    /// Connections that were closed.
    pub closed: Counter,
    /// Bytes towards the source.
    pub sent: Counter,
    /// Bytes from the source.
    pub received: Counter,
}

/// All series of Istio's TCP metrics. Locked when a connection opens or closes, not while it lives.
#[derive(Debug)]
pub(super) struct TcpTable {
    limit: usize,
    series: Mutex<HashMap<TcpFacts, Arc<TcpSeries>>>,
    overflow: [OnceLock<Arc<TcpSeries>>; 2],
    folded: Counter,
}

impl TcpFacts {
    /// A connection of which only the reporting end is known: fill in the rest.
    pub fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            source: Arc::default(),
            destination: Arc::default(),
            service: Arc::default(),
            flags: value::NO_FLAG,
            security: Security::None,
        }
    }

    /// The 23 labels, as they stand between the braces.
    fn labels(&self) -> String {
        let (source, destination) =
            (peer_labels(&self.source, self.security), peer_labels(&self.destination, self.security));
        let values = [self.reporter.as_str()].into_iter().chain(source).chain(destination).chain([
            or_unknown(&self.service.host),
            or_unknown(&self.service.name),
            or_unknown(&self.service.namespace),
            value::TCP,
            self.flags,
            security_label(self.reporter, self.security),
        ]);
        label_text(&label::CONNECTION, values)
    }
}

impl TcpTable {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, series: Mutex::default(), overflow: Default::default(), folded: Counter::default() }
    }

    /// The series of `facts`, or the overflow series if there is no room for a further one.
    pub(super) fn series(&self, facts: &TcpFacts) -> Arc<TcpSeries> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get(facts) {
            return Arc::clone(known);
        }
        if series.len() >= self.limit {
            self.folded.inc();
            let slot = &self.overflow[usize::from(facts.reporter == Reporter::Destination)];
            return Arc::clone(slot.get_or_init(|| Arc::new(TcpSeries::overflow(facts.reporter))));
        }
        let fresh = Arc::new(TcpSeries { labels: facts.labels(), ..TcpSeries::default() });
        series.insert(facts.clone(), Arc::clone(&fresh));
        fresh
    }

    /// Records that went to an overflow series.
    pub(super) fn folded(&self) -> u64 {
        self.folded.value()
    }

    pub(super) fn write(&self, page: &mut Page) {
        let mut all: Vec<_> = self.series.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.extend(self.overflow.iter().filter_map(OnceLock::get).cloned());
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        for series in &all {
            let counts: [(&Metric, &Counter); 4] = [
                (&metric::TCP_OPENED, &series.opened),
                (&metric::TCP_CLOSED, &series.closed),
                (&metric::TCP_SENT, &series.sent),
                (&metric::TCP_RECEIVED, &series.received),
            ];
            for (metric, counter) in counts {
                page.family(metric, Kind::Counter).value("", &series.labels, counter.value());
            }
        }
    }
}

impl TcpSeries {
    fn overflow(reporter: Reporter) -> Self {
        let values = label::CONNECTION.iter().map(|name| match *name {
            label::REPORTER => reporter.as_str(),
            _ => value::OVERFLOW,
        });
        Self { labels: label_text(&label::CONNECTION, values), ..Self::default() }
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
