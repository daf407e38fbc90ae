//! Finding the series of a request, without a lock.
//!
//! Decides: which label sets get a series of their own (the first ones, up to a cap) and what happens to
//! the rest (an overflow series, counted). Never: locks while the series exists.
//! Invariant: at most `limit` series and twelve overflow series.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::exposition::{Kind, Page};
use super::metrics::Counter;
use super::names::{Metric, metric};
use super::request::{Reporter, RequestFacts, RequestSeries};

/// All series of Istio's request metrics.
#[derive(Debug)]
pub(super) struct RequestTable {
    limit: usize,
    hasher: RandomState,
    series: ArcSwap<Series>,
    growing: Mutex<()>,
    overflow: [[OnceLock<Arc<RequestSeries>>; CLASSES]; 2],
    folded: Counter,
}

/// Series by the hash of their key. Two keys with one hash sit side by side, and none is ever removed, so
/// a search may stop at the first gap.
type Series = HashMap<u64, Arc<RequestSeries>, RandomState>;

impl RequestTable {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            hasher: RandomState::default(),
            series: ArcSwap::default(),
            growing: Mutex::new(()),
            overflow: Default::default(),
            folded: Counter::default(),
        }
    }

    pub(super) fn record(&self, facts: &RequestFacts) {
        let hash = facts.series_hash(&self.hasher);
        let table = self.series.load();
        match find(&table, hash, facts) {
            Ok(series) => series.record(facts),
            Err(_) => self.grow(hash, facts).record(facts),
        }
    }

    pub(super) fn series(&self, facts: &RequestFacts) -> Arc<RequestSeries> {
        let hash = facts.series_hash(&self.hasher);
        let table = self.series.load();
        find(&table, hash, facts).cloned().unwrap_or_else(|_| self.grow(hash, facts))
    }

    /// Records that went to an overflow series.
    pub(super) fn folded(&self) -> u64 {
        self.folded.value()
    }

    pub(super) fn write(&self, page: &mut Page) {
        let mut all: Vec<_> = self.series.load().values().cloned().collect();
        all.extend(self.overflow.iter().flatten().filter_map(OnceLock::get).cloned());
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        for series in &all {
            page.family(&metric::REQUESTS, Kind::Counter).value("", &series.labels, series.requests.value());
            for (metric, histogram) in [
                (&metric::REQUEST_DURATION, &series.duration),
                (&metric::REQUEST_BYTES, &series.request_bytes),
                (&metric::RESPONSE_BYTES, &series.response_bytes),
            ] {
                page.family(metric, Kind::Histogram).distribution(&series.labels, &histogram.read());
            }
            write_messages(page, series);
        }
    }

    /// A new series, or an overflow series if there is no room. Copies the map; that happens at most
    /// `limit` times in the life of a process.
    fn grow(&self, hash: u64, facts: &RequestFacts) -> Arc<RequestSeries> {
        if self.series.load().len() >= self.limit {
            return self.fold(facts);
        }
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.series.load_full();
        let free = match find(&table, hash, facts) {
            Ok(series) => return series.clone(),
            Err(free) => free,
        };
        if table.len() >= self.limit {
            return self.fold(facts);
        }
        let series = Arc::new(RequestSeries::of(facts));
        let mut grown = Series::clone(&table);
        grown.insert(free, series.clone());
        self.series.store(Arc::new(grown));
        series
    }

    fn fold(&self, facts: &RequestFacts) -> Arc<RequestSeries> {
        self.folded.add(1);
        let class = usize::from(facts.response_code / 100).min(CLASSES - 1);
        let slot = &self.overflow[usize::from(facts.reporter == Reporter::Destination)][class];
        slot.get_or_init(|| Arc::new(RequestSeries::overflow(facts.reporter, class))).clone()
    }
}

/// The series of `facts`, or the free place where it belongs.
fn find<'a>(table: &'a Series, hash: u64, facts: &RequestFacts) -> Result<&'a Arc<RequestSeries>, u64> {
    let mut place = hash;
    while let Some(series) = table.get(&place) {
        if series.key.as_ref().is_some_and(|key| key.is_same_series(facts)) {
            return Ok(series);
        }
        place = place.wrapping_add(1);
    }
    Err(place)
}

fn write_messages(page: &mut Page, series: &RequestSeries) {
    let Some((request, response)) = series.messages.get() else { return };
    let counts: [(&Metric, &Counter); 2] =
        [(&metric::REQUEST_MESSAGES, request), (&metric::RESPONSE_MESSAGES, response)];
    for (metric, counter) in counts {
        page.family(metric, Kind::Counter).value("", &series.labels, counter.value());
    }
}

/// No response, 1xx to 5xx.
const CLASSES: usize = 6;
