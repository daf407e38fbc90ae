//! The concurrency limit: how many requests may be in flight at once.
//!
//! Decides: whether one more request may start [Envoy `circuit_breakers.max_requests`].
//! Never: queues or waits; a full limit refuses at once.
//! Invariant: never more live [`Permit`]s than the limit allowed when they were given, and every
//! permit gives its place back when it is dropped, on whatever path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A counter with a ceiling, shared by everything that talks to one cluster.
#[derive(Debug)]
pub struct ConcurrencyLimit {
    max: AtomicU32,
    in_flight: AtomicU32,
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
}

impl ConcurrencyLimit {
    /// At most `max` at once; 0 refuses everything.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: AtomicU32::new(max), in_flight: AtomicU32::new(0) })
    }

    /// Takes a place, or says that there is none.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        let max = self.max();
        let take = |current: u32| (current < max).then(|| current + 1);
        match self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take) {
            Ok(_) => Ok(Permit { limit: Arc::clone(self) }),
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

    /// Moves the ceiling on reload. What is in flight stays in flight.
    pub fn resize(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
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
}
