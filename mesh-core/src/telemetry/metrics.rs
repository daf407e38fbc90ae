//! Counters, gauges and histograms, and the page they are read from.
//!
//! Decides: how many series a metric may have, and where the rest goes. Never: locks when a number
//! changes; only when a handle is made or the page is written.
//! Invariant: a handle stays valid whatever happens to the registry's series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cells::{Cells, add_float};
use super::exposition::{Kind, Page, push_label};
use super::histogram::{Histogram, ISTIO_BOUNDS};
use super::names::{Metric, label, metric, value};
use super::request::{RequestFacts, RequestSeries};
use super::request_table::RequestTable;
use super::tcp::{TcpFacts, TcpSeries, TcpTable};

/// Every metric of one mesh.
#[derive(Debug)]
pub struct Registry {
    limit: usize,
    requests: RequestTable,
    connections: TcpTable,
    families: Mutex<BTreeMap<&'static str, Family>>,
}

/// A number that only goes up. Clones are handles on the same number.
#[derive(Debug, Clone)]
pub struct Counter(Arc<Cells>);

/// A number that goes both ways. Clones are handles on the same number.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

/// Labels of a series. Names are constants, values are not.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

impl Default for Registry {
    fn default() -> Self {
        Self::with_series_limit(SERIES_LIMIT)
    }
}

impl Registry {
    /// A registry in which each metric has at most `limit` label sets.
    pub fn with_series_limit(limit: usize) -> Self {
        let registry = Self {
            limit,
            requests: RequestTable::new(limit),
            connections: TcpTable::new(limit),
            families: Mutex::default(),
        };
        let build = [(label::COMPONENT, value::COMPONENT), (label::TAG, env!("CARGO_PKG_VERSION"))];
        registry.gauge(&metric::BUILD, &build).set(1.0);
        registry
    }

    /// Counts a request in Istio's four standard metrics, and its messages if it was gRPC.
    pub fn record_request(&self, facts: &RequestFacts) {
        self.requests.record(facts);
    }

    /// The series `facts` belong to, for a caller that records many requests of the same labels.
    pub fn request_series(&self, facts: &RequestFacts) -> Arc<RequestSeries> {
        self.requests.series(facts)
    }

    /// The series of a bare connection's label set. Keep the handle while the connection lives.
    pub fn tcp_series(&self, facts: &TcpFacts) -> Arc<TcpSeries> {
        self.connections.series(facts)
    }

    /// The counter of a label set. Keep the handle: this looks it up under a lock.
    pub fn counter(&self, metric: &Metric, labels: Labels<'_>) -> Counter {
        match self.series(metric, labels, Instrument::Counter(Counter::default())) {
            Some(Instrument::Counter(counter)) => counter,
            _ => Counter::default(),
        }
    }

    /// The gauge of a label set. Keep the handle: this looks it up under a lock.
    pub fn gauge(&self, metric: &Metric, labels: Labels<'_>) -> Gauge {
        match self.series(metric, labels, Instrument::Gauge(Gauge::default())) {
            Some(Instrument::Gauge(gauge)) => gauge,
            _ => Gauge::default(),
        }
    }

    /// The histogram of a label set, with Istio's bounds. Keep the handle: this looks it up under a lock.
    pub fn histogram(&self, metric: &Metric, labels: Labels<'_>) -> Histogram {
        match self.series(metric, labels, Instrument::Histogram(Histogram::new(ISTIO_BOUNDS))) {
            Some(Instrument::Histogram(histogram)) => histogram,
            _ => Histogram::new(ISTIO_BOUNDS),
        }
    }

    /// A counter that is asked for its value when the page is written. `None` ends the series: the thing
    /// it counts is gone. Registering the same label set again replaces the question.
    pub fn counter_fn(
        &self,
        metric: &Metric,
        labels: Labels<'_>,
        ask: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) {
        self.replace(metric, labels, Instrument::CounterFn(Ask(Arc::new(ask))));
    }

    /// A gauge that is asked for its value when the page is written. `None` ends the series: the thing it
    /// measures is gone. Registering the same label set again replaces the question.
    pub fn gauge_fn(&self, metric: &Metric, labels: Labels<'_>, ask: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.replace(metric, labels, Instrument::GaugeFn(Ask(Arc::new(ask))));
    }

    /// Forgets every series that carries this label, for instance those of a cluster that was removed.
    /// Handles still count, but are not shown any more.
    pub fn forget(&self, name: &str, value: &str) {
        for family in self.families().values_mut() {
            family.series.retain(|labels, _| !labels.iter().any(|(n, v)| *n == name && **v == *value));
        }
    }

    /// The page, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.requests.write(&mut page);
        self.connections.write(&mut page);
        let mut folded = BTreeMap::from([
            (metric::REQUESTS.name, self.requests.folded()),
            (metric::TCP_OPENED.name, self.connections.folded()),
        ]);
        let mut gone = Vec::new();
        // Copied out: a question may take a lock, or ask the registry itself.
        let families: Vec<(&'static str, Family)> = self.families().iter().map(|(n, f)| (*n, f.clone())).collect();
        for (name, family) in families {
            folded.insert(name, family.folded);
            for (labels, instrument) in family.series {
                if !instrument.write(&family.metric, &text_of(&labels), &mut page) {
                    gone.push((name, labels, instrument));
                }
            }
        }
        for (name, count) in folded.into_iter().filter(|(_, count)| *count > 0) {
            let labels = text_of(&[(label::METRIC, Box::from(name))]);
            page.family(&metric::METRICS_FOLDED, Kind::Counter).value("", &labels, count);
        }
        self.sweep(gone);
        page.finish()
    }

    /// The instrument of a label set, made if there is room; `None` if the metric is of another kind.
    fn series(&self, metric: &Metric, labels: Labels<'_>, fresh: Instrument) -> Option<Instrument> {
        let mut families = self.families();
        let family = families.entry(metric.name).or_insert_with(|| Family::new(metric, fresh.kind()));
        if family.kind != fresh.kind() {
            tracing::error!(metric = metric.name, "a metric was asked for as two kinds; the later one is not shown");
            return None;
        }
        let key = family.place(sorted(labels), self.limit);
        Some(family.series.entry(key).or_insert(fresh).clone())
    }

    fn replace(&self, metric: &Metric, labels: Labels<'_>, fresh: Instrument) {
        if self.series(metric, labels, fresh.clone()).is_none() {
            return;
        }
        if let Some(slot) = self.families().get_mut(metric.name).and_then(|f| f.series.get_mut(&sorted(labels))) {
            *slot = fresh;
        }
    }

    /// Takes away series whose question was answered with `None`, unless they were replaced meanwhile.
    fn sweep(&self, gone: Vec<(&'static str, OwnedLabels, Instrument)>) {
        let mut families = self.families();
        for (name, labels, instrument) in gone {
            if let Some(family) = families.get_mut(name)
                && family.series.get(&labels).is_some_and(|now| now.is_same(&instrument))
            {
                family.series.remove(&labels);
            }
        }
    }

    fn families(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.add(0, amount);
    }

    /// The number so far.
    pub fn value(&self) -> u64 {
        self.0.total(0)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self(Arc::new(Cells::new(1)))
    }
}

impl Gauge {
    /// Puts the number to `value`.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Adds `amount`, which may be negative.
    pub fn add(&self, amount: f64) {
        add_float(&self.0, amount);
    }

    /// The number now.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Sorted by name, so that the order in which labels were given makes no difference.
type OwnedLabels = Vec<(&'static str, Box<str>)>;

#[derive(Debug, Clone)]
struct Family {
    metric: Metric,
    kind: Kind,
    series: BTreeMap<OwnedLabels, Instrument>,
    folded: u64,
}

impl Family {
    fn new(metric: &Metric, kind: Kind) -> Self {
        Self { metric: *metric, kind, series: BTreeMap::new(), folded: 0 }
    }

    /// The label set itself if it is known or there is room, else the overflow label set.
    fn place(&mut self, labels: OwnedLabels, limit: usize) -> OwnedLabels {
        if self.series.len() < limit || self.series.contains_key(&labels) {
            return labels;
        }
        self.folded += 1;
        labels.into_iter().map(|(name, _)| (name, Box::from(value::OVERFLOW))).collect()
    }
}

#[derive(Debug, Clone)]
enum Instrument {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
    CounterFn(Ask<u64>),
    GaugeFn(Ask<f64>),
}

#[derive(Clone)]
struct Ask<T>(Arc<dyn Fn() -> Option<T> + Send + Sync>);

impl<T> std::fmt::Debug for Ask<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ask")
    }
}

impl Instrument {
    const fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) | Self::CounterFn(_) => Kind::Counter,
            Self::Gauge(_) | Self::GaugeFn(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }

    /// Writes the samples; `false` if what they were about is gone.
    fn write(&self, metric: &Metric, labels: &str, page: &mut Page) -> bool {
        let kind = self.kind();
        match self {
            Self::Counter(counter) => page.family(metric, kind).value("", labels, counter.value()),
            Self::Gauge(gauge) => page.family(metric, kind).value("", labels, gauge.value()),
            Self::Histogram(histogram) => page.family(metric, kind).distribution(labels, &histogram.read()),
            Self::CounterFn(ask) => match (ask.0)() {
                Some(value) => page.family(metric, kind).value("", labels, value),
                None => return false,
            },
            Self::GaugeFn(ask) => match (ask.0)() {
                Some(value) => page.family(metric, kind).value("", labels, value),
                None => return false,
            },
        }
        true
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::CounterFn(a), Self::CounterFn(b)) => Arc::ptr_eq(&a.0, &b.0),
            (Self::GaugeFn(a), Self::GaugeFn(b)) => Arc::ptr_eq(&a.0, &b.0),
            _ => false,
        }
    }
}

fn sorted(labels: Labels<'_>) -> OwnedLabels {
    let mut owned: OwnedLabels = labels.iter().map(|(name, value)| (*name, Box::from(*value))).collect();
    owned.sort_unstable();
    owned.dedup_by_key(|(name, _)| *name);
    owned
}

fn text_of(labels: &[(&'static str, Box<str>)]) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        push_label(&mut text, name, value);
    }
    text
}

/// Label sets a metric may have. One of Istio's request label sets is about 60 KiB of page (64 samples of
/// 0.9 KiB), so this bounds a page at 60 MiB and its counters at a few MiB.
const SERIES_LIMIT: usize = 1000;

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
