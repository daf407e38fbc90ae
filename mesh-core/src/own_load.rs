//! What this process says of its own load.
//!
//! Decides: what goes into a report: what the application said last, and how many requests it serves.
//! Never: measures the application, or reports what it did not say. Invariant: every number is finite and not
//! negative, and a report stays small: at most 32 named metrics of at most 64 bytes.
//!
//! Whether a report is sent at all, and in which form, the server side decides from the listener's
//! configuration and the request.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::error::{Error, ErrorKind};
use crate::load_report::LoadReport;

/// The load of this process, set by its application at any time, from any thread.
#[derive(Debug)]
pub struct OwnLoad {
    utilization: AtomicU64,
    cpu: AtomicU64,
    memory: AtomicU64,
    named: ArcSwap<BTreeMap<String, f64>>,
    rates: Rates,
}

impl Default for OwnLoad {
    fn default() -> Self {
        Self {
            utilization: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            memory: AtomicU64::new(0),
            named: ArcSwap::from_pointee(BTreeMap::new()),
            rates: Rates::default(),
        }
    }
}

impl OwnLoad {
    /// How busy the application is, by its own measure: 1.0 is all it can, above that is too much; 0 says
    /// nothing. Balancers weigh by this, and by the CPU only without it.
    pub fn set_utilization(&self, share: f64) -> Result<(), Error> {
        set(&self.utilization, "utilization", share)
    }

    /// Share of its CPU in use, 1.0 is all of it; 0 says nothing.
    pub fn set_cpu(&self, share: f64) -> Result<(), Error> {
        set(&self.cpu, "cpu", share)
    }

    /// Share of its memory in use, at most 1.0; 0 says nothing.
    pub fn set_memory(&self, share: f64) -> Result<(), Error> {
        if share > 1.0 {
            return Err(invalid("memory", "at most 1"));
        }
        set(&self.memory, "memory", share)
    }

    /// How many units of work wait in the application. Told as the named metric `queue_depth`.
    pub fn set_queue_depth(&self, waiting: u64) {
        self.put(QUEUE_DEPTH, Some(waiting as f64));
    }

    /// Any of them by name: `utilization`, `cpu`, `memory`, or a metric by a name of its own, such as
    /// `queue_depth`. `None` takes it back. What the bindings of other languages call.
    pub fn set(&self, name: &str, value: Option<f64>) -> Result<(), Error> {
        match name {
            "utilization" => self.set_utilization(value.unwrap_or_default()),
            "cpu" => self.set_cpu(value.unwrap_or_default()),
            "memory" => self.set_memory(value.unwrap_or_default()),
            other => self.set_metric(other, value),
        }
    }

    /// A metric by a name of its own; `None` takes it back.
    pub fn set_metric(&self, name: &str, value: Option<f64>) -> Result<(), Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
            return Err(invalid("name", "1 to 64 letters, digits and _.-/"));
        }
        if value.is_some_and(|value| !value.is_finite()) {
            return Err(invalid(name, "a finite number"));
        }
        let known = self.named.load();
        if value.is_some() && known.len() >= MAX_NAMED && !known.contains_key(name) {
            return Err(invalid(name, "one of at most 32 metrics"));
        }
        self.put(name, value);
        Ok(())
    }

    /// A request was answered.
    pub(crate) fn served(&self, is_error: bool, now: Instant) {
        self.rates.add(1, u64::from(is_error), now);
    }

    /// A request that was counted as answered failed after all: its trailers say so.
    pub(crate) fn failed_late(&self, now: Instant) {
        self.rates.add(0, 1, now);
    }

    /// The report of this moment.
    pub(crate) fn report(&self, in_flight: usize, now: Instant) -> LoadReport {
        let read = |cell: &AtomicU64| f64::from_bits(cell.load(Ordering::Relaxed));
        let (rps_fractional, eps) = self.rates.per_second(now);
        let mut named_metrics = BTreeMap::clone(&self.named.load());
        named_metrics.insert(IN_FLIGHT.to_owned(), in_flight as f64);
        LoadReport {
            cpu_utilization: read(&self.cpu),
            application_utilization: read(&self.utilization),
            mem_utilization: read(&self.memory),
            rps_fractional,
            eps,
            named_metrics,
        }
    }

    fn put(&self, name: &str, value: Option<f64>) {
        self.named.rcu(|known| {
            let mut next = BTreeMap::clone(known);
            match value {
                Some(value) => next.insert(name.to_owned(), value),
                None => next.remove(name),
            };
            next
        });
    }
}

/// Requests and errors of the last ten whole seconds. Lock free; the few requests that meet the turn of a
/// second may be lost, which a rate can bear.
#[derive(Debug, Default)]
struct Rates {
    /// The first `now` ever seen; seconds are numbered from it, from 1 on.
    epoch: OnceLock<Instant>,
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    second: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
}

impl Rates {
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.epoch.get_or_init(|| now)).as_secs() + 1
    }

    fn add(&self, requests: u64, errors: u64, now: Instant) {
        let second = self.second(now);
        let slot = &self.slots[(second % SLOTS as u64) as usize];
        if slot.second.load(Ordering::Acquire) != second && slot.second.swap(second, Ordering::AcqRel) != second {
            slot.requests.store(0, Ordering::Relaxed);
            slot.errors.store(0, Ordering::Relaxed);
        }
        slot.requests.fetch_add(requests, Ordering::Relaxed);
        slot.errors.fetch_add(errors, Ordering::Relaxed);
    }

    /// Nothing in the first second: a part of a second is no rate.
    fn per_second(&self, now: Instant) -> (f64, f64) {
        let present = self.second(now);
        let window = (present - 1).min(WINDOW);
        if window == 0 {
            return (0.0, 0.0);
        }
        let is_whole = |slot: &&Slot| (present - window..present).contains(&slot.second.load(Ordering::Acquire));
        let (requests, errors) = self.slots.iter().filter(is_whole).fold((0, 0), |(requests, errors), slot| {
            (requests + slot.requests.load(Ordering::Relaxed), errors + slot.errors.load(Ordering::Relaxed))
        });
        (requests as f64 / window as f64, errors as f64 / window as f64)
    }
}

fn set(cell: &AtomicU64, what: &str, share: f64) -> Result<(), Error> {
    if !share.is_finite() || share < 0.0 {
        return Err(invalid(what, "a finite number from 0 on"));
    }
    cell.store(share.to_bits(), Ordering::Relaxed);
    Ok(())
}

fn invalid(what: &str, must: &str) -> Error {
    Error::new(ErrorKind::BadRequest, format!("load report: {what} must be {must}"))
}

/// Named metrics, as dashboards know them.
const QUEUE_DEPTH: &str = "queue_depth";
const IN_FLIGHT: &str = "requests_in_flight";
/// So that a report fits into a header many times over: 32 * (64 + 24) bytes is less than 3 KiB.
const MAX_NAMED: usize = 32;
const MAX_NAME: usize = 64;
/// Seconds a rate is taken over, as gRPC's weighted round robin looks back (`weight_update_period` times ten).
const WINDOW: u64 = 10;
/// The window and the second being written.
const SLOTS: usize = WINDOW as usize + 1;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_report_says_what_the_application_said_last() {
        let (load, now) = (OwnLoad::default(), Instant::now());
        let silent = load.report(3, now);
        assert_eq!((silent.utilization(), silent.named_metrics.len()), (0.0, 1));
        load.set_utilization(0.9).unwrap();
        load.set_utilization(0.7).unwrap();
        load.set_cpu(0.3).unwrap();
        load.set_memory(0.5).unwrap();
        load.set_queue_depth(4);
        load.set_metric("gpu", Some(0.25)).unwrap();
        load.set_metric("lag", Some(9.0)).unwrap();
        load.set_metric("lag", None).unwrap();
        let report = load.report(3, now);
        assert_eq!((report.utilization(), report.cpu_utilization, report.mem_utilization), (0.7, 0.3, 0.5));
        let named: Vec<_> = report.named_metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        load.set("utilization", Some(0.8)).unwrap();
        load.set("gpu", Some(0.5)).unwrap();
        assert_eq!((load.report(0, now).utilization(), load.report(0, now).named_metrics["gpu"]), (0.8, 0.5));
        load.set("utilization", None).unwrap();
        assert_eq!(load.report(0, now).utilization(), 0.3, "the CPU, without better knowledge");
        assert_eq!(named, [("gpu", 0.25), ("queue_depth", 4.0), ("requests_in_flight", 3.0)]);
    }

    #[test]
    fn what_is_no_number_is_refused_and_changes_nothing() {
        let (load, now) = (OwnLoad::default(), Instant::now());
        load.set_utilization(0.7).unwrap();
        for bad in [f64::NAN, f64::INFINITY, -0.1] {
            assert_eq!(load.set_utilization(bad).unwrap_err().kind(), ErrorKind::BadRequest);
            assert!(load.set_cpu(bad).is_err());
        }
        assert!(load.set_memory(1.1).is_err());
        for name in ["", "a b", "a=b", "a,b", "ä", &"x".repeat(65)] {
            assert!(load.set_metric(name, Some(1.0)).is_err(), "{name}");
        }
        assert!(load.set_metric("nan", Some(f64::NAN)).is_err());
        for index in 0..MAX_NAMED {
            load.set_metric(&format!("m{index}"), Some(1.0)).unwrap();
        }
        assert!(load.set_metric("one-too-many", Some(1.0)).is_err());
        load.set_metric("m0", Some(2.0)).unwrap();
        assert_eq!(load.report(0, now).utilization(), 0.7);
    }

    #[test]
    fn rates_are_those_of_the_last_ten_whole_seconds() {
        let (load, start) = (OwnLoad::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for request in 0..20 {
            load.served(request % 4 == 0, start);
        }
        load.failed_late(start);
        let rates = |now| {
            let report = load.report(0, now);
            (report.rps_fractional, report.eps)
        };
        assert_eq!(rates(at(900)), (0.0, 0.0), "no whole second yet");
        assert_eq!(rates(at(1_000)), (20.0, 6.0));
        assert_eq!(rates(at(4_500)), (5.0, 1.5));
        load.served(false, at(4_600));
        assert_eq!(rates(at(10_500)), (2.1, 0.6));
        assert_eq!(rates(at(11_500)), (0.1, 0.0), "the first second is too old");
        load.served(false, at(22_000));
        assert_eq!(rates(at(23_000)), (0.1, 0.0), "a slot is used again");
    }
}
