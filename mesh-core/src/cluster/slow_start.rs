//! Slow start: an endpoint that is new takes less than its share for a while.
//!
//! Decides: which part of its weight an endpoint of a certain age has. Never: draws. The picker applies the
//! part to every draw and every comparison, in turns as by chance, so that the share follows it at once.
//! Invariant: the part lies in (0, 1], never falls while the endpoint ages, and is 1 after the window.
//!
//! Envoy: `max(min_weight_percent, (age / window) ^ (1 / aggression))`. A client that just started finds
//! all its endpoints new; then all have the same part, and shares are even.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::Invalid;

/// How fast a new endpoint gets its share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    window: Duration,
    exponent: f64,
    floor: f64,
}

impl SlowStart {
    /// `aggression` 1 is a straight line, above it the share grows faster at first; `min_weight_percent`
    /// is where it starts.
    pub fn new(window: Duration, aggression: f64, min_weight_percent: f64) -> Result<Self, Invalid> {
        if window.is_zero() {
            return Err(Invalid { field: "slow_start.window", must: "be above 0s" });
        }
        if !(aggression.is_finite() && aggression > 0.0) {
            return Err(Invalid { field: "slow_start.aggression", must: "be above 0" });
        }
        if !(0.0..=100.0).contains(&min_weight_percent) {
            return Err(Invalid { field: "slow_start.min_weight_percent", must: "be 0 to 100" });
        }
        // Never nothing: an endpoint without traffic would learn nothing and a draw could be endless.
        Ok(Self { window, exponent: 1.0 / aggression, floor: (min_weight_percent / 100.0).max(LEAST) })
    }

    /// The part of its weight that an endpoint of this age has.
    pub fn part(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let grown = age.as_secs_f64() / self.window.as_secs_f64();
        grown.powf(self.exponent).max(self.floor)
    }
}

/// Since when an endpoint is in use. It begins anew when the endpoint returns from an ejection or turns
/// healthy again.
#[derive(Debug)]
pub struct Warmth {
    base: Instant,
    /// Nanoseconds from `base`.
    since: AtomicU64,
}

impl Warmth {
    /// In use since `now`.
    pub fn new(now: Instant) -> Self {
        Self { base: now, since: AtomicU64::new(0) }
    }

    /// It was out and is back: cold again.
    pub fn restart(&self, now: Instant) {
        self.since.store(self.nanos(now), Ordering::Relaxed);
    }

    /// How long it has been in use.
    pub fn age(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.nanos(now).saturating_sub(self.since.load(Ordering::Relaxed)))
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The smallest part: 1 per mille (ours; Envoy lets a zero stand for 1 in its scheduler's terms).
const LEAST: f64 = 0.001;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::policy::vectors::{cases, seconds, text};

    fn vectors() -> Vec<Value> {
        cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/slow_start.json")))
    }

    fn of(case: &Value) -> Result<SlowStart, Invalid> {
        let number = |field: &str, default: f64| case[field].as_f64().unwrap_or(default);
        let window = Duration::from_secs_f64(number("window_s", 10.0));
        SlowStart::new(window, number("aggression", 1.0), number("min_weight_percent", 10.0))
    }

    #[test]
    fn the_part_of_the_weight_follows_the_vectors() {
        let (mut curves, mut elsewhere) = (0, Vec::new());
        for case in &vectors() {
            match case["kind"].as_str() {
                None => {
                    let slow = of(case).unwrap();
                    for point in case["expected"].as_array().unwrap() {
                        let got = slow.part(seconds(point, "elapsed_s"));
                        let close = |got: f64, field: &str| {
                            let expected = point[field].as_f64().unwrap();
                            assert!((got - expected).abs() <= 1e-6 * expected, "{} {point} {got}", case["id"]);
                        };
                        close(got, "factor");
                        close(got * case["weight"].as_f64().unwrap(), "weight");
                    }
                    curves += 1;
                }
                Some("config") => assert!(of(&case["config"]).is_err(), "{}", case["id"]),
                Some(_) => elsewhere.push(text(case, "id").to_owned()),
            }
        }
        assert_eq!(curves, 8);
        // The first two are tests of the picker.
        assert_eq!(elsewhere, ["scheduler-share-smooth", "all-hosts-new-no-effect", "re-entry-after-recovery"]);
        assert_eq!(vectors().len(), 14);
    }

    #[test]
    fn an_endpoint_that_is_back_begins_again() {
        let case = vectors().into_iter().find(|case| case["id"] == "re-entry-after-recovery").unwrap();
        let base = Instant::now();
        let window = seconds(&case, "window_s");
        let warmth = Warmth::new(base);
        let healthy_again = case["events"].as_array().unwrap().last().unwrap();
        warmth.restart(base + seconds(healthy_again, "at_s"));
        for expected in case["expected"].as_array().unwrap() {
            let age = warmth.age(base + seconds(expected, "at_s"));
            assert_eq!(Value::from(age < window), expected["in_slow_start"]);
            if expected["elapsed_s"].is_number() {
                assert_eq!(age, seconds(expected, "elapsed_s"));
            }
        }
        assert_eq!(warmth.age(base), Duration::ZERO, "a clock that steps back is no age");
    }
}
