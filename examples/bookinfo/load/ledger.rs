//! What became of every request.
//!
//! Invariant: each request is entered exactly once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// How a request ended.
pub enum Outcome {
    /// 200 and the whole page.
    Page,
    /// Any other status.
    Status(u16),
    /// No response, or half of one, or 200 with something else.
    Error(String),
}

/// All outcomes and latencies so far.
pub struct Ledger {
    entries: Mutex<Entries>,
}

struct Entries {
    pages: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    /// The first failures, to start looking from.
    failures: Vec<Value>,
    /// Microseconds since the request was due; over the whole run, and since the last progress line.
    whole: Histogram<u64>,
    recent: Histogram<u64>,
}

impl Ledger {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            entries: Mutex::new(Entries {
                pages: 0,
                statuses: BTreeMap::new(),
                errors: BTreeMap::new(),
                failures: Vec::new(),
                whole: histogram(),
                recent: histogram(),
            }),
        }
    }

    /// Request `number` ended `latency` after it was due.
    pub fn enter(&self, number: u64, latency: Duration, outcome: Outcome) {
        let mut entries = self.lock();
        let latency = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        entries.whole.saturating_record(latency);
        entries.recent.saturating_record(latency);
        let what = match outcome {
            Outcome::Page => {
                entries.pages += 1;
                return;
            }
            Outcome::Status(status) => {
                *entries.statuses.entry(status).or_default() += 1;
                format!("status {status}")
            }
            Outcome::Error(error) => {
                *entries.errors.entry(error.clone()).or_default() += 1;
                error
            }
        };
        if entries.failures.len() < FIRST_FAILURES {
            entries.failures.push(json!({"request": number, "after_ms": milliseconds(latency), "what": what}));
        }
    }

    /// One line about now; starts the next interval.
    pub fn progress(&self) -> Value {
        let mut entries = self.lock();
        let failed = entries.failed();
        let line = json!({
            "done": entries.pages + failed,
            "failed": failed,
            "p50_ms": percentile(&entries.recent, 50.0),
            "p99_ms": percentile(&entries.recent, 99.0),
        });
        entries.recent.reset();
        line
    }

    /// Everything, when all `requests` have ended.
    pub fn report(&self, requests: u64) -> Value {
        let entries = self.lock();
        let mut statuses = entries.statuses.clone();
        statuses.insert(200, entries.pages);
        json!({
            "requests": requests,
            "answered": entries.pages + entries.failed(),
            "failed": entries.failed(),
            "statuses": statuses,
            "errors": entries.errors,
            "first_failures": entries.failures,
            "latency_ms": {
                "p50": percentile(&entries.whole, 50.0),
                "p90": percentile(&entries.whole, 90.0),
                "p99": percentile(&entries.whole, 99.0),
                "p99.9": percentile(&entries.whole, 99.9),
                "max": milliseconds(entries.whole.max()),
            },
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Entries {
    fn failed(&self) -> u64 {
        self.statuses.values().chain(self.errors.values()).sum()
    }
}

/// 1 us to 60 s at three significant digits.
#[expect(clippy::expect_used, reason = "constant arguments")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid")
}

fn percentile(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    milliseconds(histogram.value_at_percentile(percentile))
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

/// Failures that are told one by one.
const FIRST_FAILURES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_not_a_page_is_a_failure() {
        let ledger = Ledger::new();
        for outcome in [Outcome::Page, Outcome::Page, Outcome::Status(503), Outcome::Error("reset".to_owned())] {
            ledger.enter(0, Duration::from_millis(2), outcome);
        }
        let report = ledger.report(4);
        assert_eq!((&report["answered"], &report["failed"]), (&4.into(), &2.into()));
        assert_eq!((&report["statuses"]["200"], &report["statuses"]["503"]), (&2.into(), &1.into()));
        assert_eq!(report["errors"]["reset"], 1);
        assert_eq!(ledger.progress()["failed"], 2);
    }
}
