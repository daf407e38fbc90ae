//! How long to wait before the next try.
//!
//! Decides: the delay before retry `n`, from a base, a growth, a cap and a jitter.
//! Never: sleeps, counts tries, or looks at a deadline; the caller compares the delay with the time left.
//! Invariant: a nominal delay never exceeds `max`, however many retries; only [`Jitter::Spread`] may
//! exceed it, by its share, because gRPC applies the cap before the jitter.

use std::time::Duration;

use super::Invalid;

/// A delay that grows from retry to retry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    growth: f64,
    jitter: Jitter,
}

/// How the delay is drawn, so that callers which failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Exactly the nominal delay. For tests and for peers that ask for it.
    Off,
    /// Uniform in `[0, min(max, (2^n - 1) * base))`, the growth is not used [Envoy].
    Envoy,
    /// Uniform in `[0, nominal)` [AWS].
    Full,
    /// Half fixed, half uniform: in `[nominal / 2, nominal)` [Finagle failure accrual].
    Equal,
    /// Uniform in `nominal * [1 - share, 1 + share)` [gRPC A6 uses 0.2].
    Spread(f64),
}

impl Backoff {
    /// A backoff as Envoy draws it: exponential by two with full jitter.
    pub fn new(base: Duration, max: Duration) -> Result<Self, Invalid> {
        if base.is_zero() {
            return Err(Invalid { field: "backoff.base", must: "be above zero" });
        }
        if max.is_zero() {
            return Err(Invalid { field: "backoff.max", must: "be above zero" });
        }
        Ok(Self { base, max, growth: DOUBLE, jitter: Jitter::Envoy })
    }

    /// The same backoff, multiplied by `growth` from retry to retry. 1 keeps it constant.
    pub fn with_growth(self, growth: f64) -> Result<Self, Invalid> {
        if !growth.is_finite() || growth <= 0.0 {
            return Err(Invalid { field: "backoff.growth", must: "be a finite number above zero" });
        }
        Ok(Self { growth, ..self })
    }

    /// The same backoff, drawn another way.
    pub fn with_jitter(self, jitter: Jitter) -> Result<Self, Invalid> {
        match jitter {
            Jitter::Spread(share) if !(0.0..=1.0).contains(&share) => {
                Err(Invalid { field: "backoff.jitter", must: "be within 0 and 1" })
            }
            _ => Ok(Self { jitter, ..self }),
        }
    }

    /// The delay before retry `n`; 1 is the first retry.
    pub fn delay(&self, n: u32, rng: &mut fastrand::Rng) -> Duration {
        let nominal = self.nominal(n).as_secs_f64();
        let drawn = match self.jitter {
            Jitter::Off => return self.nominal(n),
            Jitter::Envoy => self.envoy_ceiling(n).as_secs_f64() * rng.f64(),
            Jitter::Full => nominal * rng.f64(),
            Jitter::Equal => nominal / 2.0 * (1.0 + rng.f64()),
            Jitter::Spread(share) => nominal * (1.0 + share * (2.0 * rng.f64() - 1.0)),
        };
        Duration::try_from_secs_f64(drawn).unwrap_or(self.max)
    }

    /// The delay before jitter: `min(max, base * growth^(n - 1))`.
    pub fn nominal(&self, n: u32) -> Duration {
        self.capped(self.growth.powf(f64::from(n.max(1) - 1)))
    }

    fn envoy_ceiling(&self, n: u32) -> Duration {
        self.capped(DOUBLE.powf(f64::from(n.max(1))) - 1.0)
    }

    /// `base * factor`, at most `max`; an infinite factor is a long delay, not an error.
    fn capped(&self, factor: f64) -> Duration {
        match Duration::try_from_secs_f64(self.base.as_secs_f64() * factor) {
            Ok(delay) => delay.min(self.max),
            Err(_) => self.max,
        }
    }
}

/// 25 ms to 250 ms, full jitter [Envoy's default retry backoff, gRFC A44].
impl Default for Backoff {
    fn default() -> Self {
        let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
        Self { base, max, growth: DOUBLE, jitter: Jitter::Envoy }
    }
}

const DOUBLE: f64 = 2.0;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::policy::vectors::{cases, text, whole};

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/backoff.json"));

    /// Formulas that are not ours. The last one is a rule of the retry engine and is tested there.
    const OUT_OF_SCOPE: &[(&str, &str)] = &[
        ("aws-2-1-retry-after-clamp", "a server hint is used exactly or not at all, never clamped"),
        ("aws-2-1-retry-after-below", "a server hint is used exactly or not at all, never clamped"),
        ("aws-2-1-retry-after-inside", "a server hint is used exactly or not at all, never clamped"),
        ("polly-linear-jitter", "linear growth"),
        ("stamina-default", "jitter added to the delay"),
        ("mixer-uniform-80-1000", "jitter from the base up"),
        ("deadline-shorter-than-backoff", "policy/retry"),
    ];

    fn backoff_of(case: &Value) -> Backoff {
        let p = &case["parameters"];
        let ms = |names: &[&str]| names.iter().find_map(|name| p[*name].as_f64());
        let seconds = |name: &str| p[name].as_f64().map(|s| s * 1000.0);
        let base =
            ms(&["initial_ms", "base_ms", "first_ms", "delay_ms"]).or_else(|| seconds("factor_s")).expect("base");
        let max = ms(&["max_ms"]).or_else(|| seconds("max_s")).unwrap_or(base * 10.0);
        let millis = |v: f64| Duration::from_secs_f64(v / 1000.0);
        let constant = p["delay_ms"].is_number();
        let growth = p["multiplier"].as_f64().unwrap_or(if constant { 1.0 } else { 2.0 });
        let jitter = match text(case, "system") {
            "gRPC" | "gRPC over xDS" => Jitter::Spread(0.2),
            "Envoy" => Jitter::Envoy,
            "Finagle failure accrual" => Jitter::Equal,
            "Istio CA client" => Jitter::Spread(0.1),
            "Polly" if p["jitter"] == true => Jitter::Spread(0.25),
            "resilience4j" if p["randomisation"].is_number() => Jitter::Spread(0.5),
            "Polly" | "resilience4j" | "urllib3" => Jitter::Off,
            _ => Jitter::Full,
        };
        let backoff = Backoff::new(millis(base), millis(max)).expect("valid");
        backoff.with_growth(growth).expect("valid").with_jitter(jitter).expect("valid")
    }

    fn assert_bounds(id: &str, backoff: &Backoff, bounds: &Value) {
        let n = whole(bounds, "retry") as u32;
        let (low, high) = match bounds["min_ms"].as_f64() {
            Some(low) => (low, bounds["max_ms"].as_f64().or(bounds["max_ms_exclusive"].as_f64()).expect("bound")),
            None => (0.0, bounds["nominal_ms"].as_f64().expect("nominal")),
        };
        if let Some(nominal) = bounds["nominal_ms"].as_f64() {
            assert!((backoff.nominal(n).as_secs_f64() * 1000.0 - nominal).abs() < 0.01, "{id}: nominal of retry {n}");
        }
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        for _ in 0..2_000 {
            let drawn = backoff.delay(n, &mut rng).as_secs_f64() * 1000.0;
            assert!(
                drawn >= low - 0.001 && drawn <= high + 0.001,
                "{id}: retry {n} drew {drawn}, not in {low}..{high}"
            );
            (least, most) = (least.min(drawn), most.max(drawn));
        }
        // The whole range is used, so a bound is not met by a narrower draw.
        let edge = (high - low) * 0.02 + 0.001;
        assert!(
            least <= low + edge && most >= high - edge,
            "{id}: retry {n} drew only {least}..{most} of {low}..{high}"
        );
    }

    #[test]
    fn every_delay_stays_within_the_published_bounds() {
        let (mut asserted, mut skipped) = (0, 0);
        for case in cases(VECTORS) {
            let id = text(&case, "id");
            if OUT_OF_SCOPE.iter().any(|(name, _)| *name == id) {
                skipped += 1;
                continue;
            }
            if id == "full-jitter-histogram" {
                assert_uniform(&case);
            } else {
                let backoff = match id {
                    // No cap in this model: one far away stands for it.
                    "resilience4j-exponential" | "resilience4j-exponential-random-half" => {
                        Backoff { max: Duration::from_secs(3600), ..backoff_of(&case) }
                    }
                    _ => backoff_of(&case),
                };
                let bounds = case["expected"]["delay_bounds"].as_array().expect("bounds");
                bounds.iter().for_each(|bound| assert_bounds(id, &backoff, bound));
            }
            asserted += 1;
        }
        assert_eq!((asserted, skipped), (21, OUT_OF_SCOPE.len()));
    }

    fn assert_uniform(case: &Value) {
        let ceiling = Duration::from_millis(whole(&case["parameters"], "ceiling_ms"));
        let backoff = Backoff::new(ceiling, ceiling).expect("valid").with_jitter(Jitter::Full).expect("valid");
        let mut rng = fastrand::Rng::with_seed(1);
        let mut buckets = [0_u64; 10];
        for _ in 0..whole(&case["parameters"], "draws") {
            buckets[(backoff.delay(1, &mut rng).as_secs_f64() * 10.0) as usize] += 1;
        }
        let within = &case["expected"]["each_bucket_count_within"];
        let (low, high) = (within[0].as_u64().expect("low"), within[1].as_u64().expect("high"));
        assert!(buckets.iter().all(|count| (low..=high).contains(count)), "{buckets:?}");
    }

    #[test]
    fn the_same_seed_draws_the_same_delays() {
        let draw = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            (1..9).map(|n| Backoff::default().delay(n, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn a_backoff_that_cannot_work_is_refused() {
        let (zero, one) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!(Backoff::new(zero, one).map_err(|e| e.field), Err("backoff.base"));
        assert_eq!(Backoff::new(one, zero).map_err(|e| e.field), Err("backoff.max"));
        for growth in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Backoff::default().with_growth(growth).map_err(|e| e.field), Err("backoff.growth"));
        }
        for share in [-0.1, 1.1, f64::NAN] {
            assert_eq!(
                Backoff::default().with_jitter(Jitter::Spread(share)).map_err(|e| e.field),
                Err("backoff.jitter")
            );
        }
    }

    #[test]
    fn the_longest_durations_do_not_overflow() {
        let backoff = Backoff::new(Duration::MAX, Duration::MAX).expect("valid");
        assert_eq!(backoff.nominal(u32::MAX), Duration::MAX);
        assert!(backoff.delay(u32::MAX, &mut fastrand::Rng::with_seed(1)) <= Duration::MAX);
    }
}
