//! The concurrency limit: how many requests may be in flight at once.
//!
//! Decides: whether one more request may start: under the ceiling [Envoy `circuit_breakers.max_requests`],
//! under the adaptive limit if there is one, and under its class's share of that.
//! Never: queues or waits; a full limit refuses at once.
//! Invariant: never more live [`Permit`]s than the limit allowed when they were given, and every
//! permit gives its place back when it is dropped, on whatever path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;

use super::adaptive::{Adaptive, AdaptiveConfig, Sample};
use super::criticality::{Criticality, Shares};
use super::retry::Outcome;

/// A counter with a ceiling, shared by everything that talks to one cluster, or arrives at one listener.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    max: AtomicU32,
    /// [`Shares`], as bits.
    shares: AtomicU32,
    adaptive: ArcSwapOption<Adaptive>,
    in_flight: AtomicU32,
}

/// What a limit is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// The ceiling.
    pub max: u32,
    /// Finds a limit below the ceiling.
    pub adaptive: Option<AdaptiveConfig>,
    /// What each class may use.
    pub shares: Shares,
}

/// The limit is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The limit that was met.
    pub max: u32,
}

/// One place under the limit, until dropped.
#[derive(Debug)]
#[must_use = "dropping the permit gives its place back"]
pub struct Permit {
    limit: Arc<ConcurrencyLimit>,
    /// Requests in flight when it was given, itself included.
    in_flight: u32,
}

impl ConcurrencyLimit {
    /// At most `max` at once; 0 refuses everything.
    pub fn new(max: u32) -> Arc<Self> {
        Self::with(Terms { max, adaptive: None, shares: Shares::default() })
    }

    /// The same with all its terms.
    pub fn with(terms: Terms) -> Arc<Self> {
        let limit = Self {
            max: AtomicU32::new(terms.max),
            shares: AtomicU32::new(terms.shares.to_bits()),
            adaptive: ArcSwapOption::empty(),
            in_flight: AtomicU32::new(0),
        };
        limit.retune(terms);
        Arc::new(limit)
    }

    /// Takes a place for a request that says nothing of its class, or says that there is none.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        self.admit_class(Criticality::default())
    }

    /// Takes a place, or says that there is none for this class.
    pub fn admit_class(self: &Arc<Self>, class: Criticality) -> Result<Permit, Refused> {
        let max = self.limit_of(class);
        let take = |current: u32| (current < max).then(|| current + 1);
        match self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take) {
            Ok(before) => Ok(Permit { limit: Arc::clone(self), in_flight: before + 1 }),
            Err(_) => Err(Refused { max }),
        }
    }

    /// Places taken now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The ceiling.
    pub fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// What is in force: the ceiling, or what was found below it.
    pub fn limit(&self) -> u32 {
        let found = self.adaptive.load().as_ref().map_or(u32::MAX, |adaptive| adaptive.limit());
        self.max().min(found)
    }

    /// What of it a class may use.
    pub fn limit_of(&self, class: Criticality) -> u32 {
        Shares::from_bits(self.shares.load(Ordering::Relaxed)).of(self.limit(), class)
    }

    /// Moves the ceiling on reload. What is in flight stays in flight.
    pub fn resize(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Puts other terms in force on reload. An adaptive limit goes on from where it stands.
    pub fn retune(&self, terms: Terms) {
        self.resize(terms.max);
        self.shares.store(terms.shares.to_bits(), Ordering::Relaxed);
        let before = self.adaptive.load_full();
        if before.as_ref().map(|adaptive| adaptive.config()) == terms.adaptive {
            return;
        }
        let after = terms.adaptive.map(|config| match &before {
            Some(adaptive) => adaptive.retuned(config),
            None => Adaptive::new(config),
        });
        self.adaptive.store(after.map(Arc::new));
    }
}

impl Permit {
    /// Tells a limit that adapts how an attempt went that started and ended then. An error of the server, or
    /// of the way there, says nothing of the room it has.
    pub fn measure(&self, outcome: &Outcome<'_>, (started, now): (Instant, Instant)) {
        match *outcome {
            Outcome::Response { status: 500.., .. } => {}
            Outcome::Response { .. } => self.record(started, false, now),
            Outcome::Failure { kind, .. } if kind.is_overload() => self.record(started, true, now),
            Outcome::Failure { .. } => {}
        }
    }

    /// The request that started at `started` has its answer, or (`dropped`) was turned away or got none in
    /// time. An adaptive limit learns from it; the place stays taken.
    pub fn record(&self, started: Instant, dropped: bool, now: Instant) {
        if let Some(adaptive) = &*self.limit.adaptive.load() {
            adaptive.record(Sample { started, in_flight: self.in_flight, dropped }, now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::vectors::{cases, text, whole};

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/circuit_breaker.json"));
    /// Connections and their queue belong to the pool.
    const OUT_OF_SCOPE: &[&str] = &["envoy-max-pending-1"];

    #[test]
    fn exactly_the_limit_is_admitted() {
        let mut asserted = 0;
        for case in cases(VECTORS).iter().filter(|case| case["kind"] == "concurrency_limit") {
            if OUT_OF_SCOPE.contains(&text(case, "id")) {
                continue;
            }
            let limit = ConcurrencyLimit::new(whole(&case["limits"], "max_requests") as u32);
            let event = &case["events"][0];
            let total = event["concurrent_requests"].as_u64().or(event["concurrent_requests_total"].as_u64());
            let results: Vec<_> = (0..total.expect("requests")).map(|_| limit.admit()).collect();
            let admitted = results.iter().filter(|result| result.is_ok()).count() as u64;
            assert_eq!(admitted, whole(event, "admitted"), "{case}");
            assert_eq!(results.len() as u64 - admitted, whole(event, "rejected"), "{case}");
            assert_eq!(u64::from(limit.in_flight()), admitted);
            drop(results);
            assert_eq!(limit.in_flight(), 0);
            asserted += 1;
        }
        assert_eq!(asserted, 3);
    }

    #[test]
    fn threads_never_exceed_the_limit() {
        let limit = ConcurrencyLimit::new(3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = limit.admit();
                        assert!(limit.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limit.in_flight(), 0);
    }

    #[test]
    fn a_lower_limit_waits_for_what_is_in_flight() {
        let limit = ConcurrencyLimit::new(2);
        let (first, second) = (limit.admit().expect("first"), limit.admit().expect("second"));
        limit.resize(1);
        drop(first);
        assert_eq!(limit.admit().map(drop), Err(Refused { max: 1 }));
        drop(second);
        assert!(limit.admit().is_ok());
    }

    #[test]
    fn the_lowest_class_is_shed_first() {
        let limit = ConcurrencyLimit::with(Terms { shares: Shares::new(25, 50, 75).unwrap(), ..ceiling(8) });
        let mut held = Vec::new();
        for (class, expected) in Criticality::ALL.into_iter().zip([2, 4, 6, 8]) {
            held.extend(std::iter::from_fn(|| limit.admit_class(class).ok()));
            assert_eq!(held.len(), expected, "{class}");
        }
        held.pop();
        assert!(limit.admit_class(Criticality::Critical).is_err());
        assert!(limit.admit_class(Criticality::CriticalPlus).is_ok());
    }

    #[test]
    fn an_adaptive_limit_stays_below_the_ceiling_and_survives_a_reload() {
        let adaptive = AdaptiveConfig::new(2, 100, 10).unwrap();
        let limit = ConcurrencyLimit::with(Terms { adaptive: Some(adaptive), ..ceiling(100) });
        assert_eq!((limit.limit(), limit.max()), (10, 100));
        limit.resize(5);
        assert_eq!(limit.limit(), 5);
        let permit = limit.admit().expect("a place");
        let start = Instant::now();
        for step in 1..=60_u32 {
            permit.record(start, false, start + std::time::Duration::from_millis(10) * step);
        }
        limit.retune(Terms { adaptive: Some(AdaptiveConfig::new(20, 100, 30).unwrap()), ..ceiling(100) });
        assert_eq!(limit.limit(), 20, "from 10, within the new bounds");
        limit.retune(ceiling(100));
        assert_eq!(limit.limit(), 100);
        assert_eq!(limit.in_flight(), 1);
    }

    fn ceiling(max: u32) -> Terms {
        Terms { max, adaptive: None, shares: Shares::default() }
    }
}
