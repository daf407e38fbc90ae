//! When an issuer's keys are asked for.
//!
//! Decides: when to ask. Never: asks, or takes keys away. Invariant: whatever tokens arrive, it asks early at most once
//! per [`SHORTEST`]; one question is never asked twice at once.

use std::time::{Duration, Instant};

use crate::time::after;

/// The state of one question.
#[derive(Debug, Clone)]
pub struct Refresh {
    interval: Duration,
    due: Instant,
    asked: Option<Instant>,
    is_asking: bool,
    failures: u32,
}

impl Refresh {
    /// To be asked at once, then every `interval`.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, due: now, asked: None, is_asking: false, failures: 0 }
    }

    /// Whether to ask now. `true` says so once, until it is answered.
    pub fn ask(&mut self, now: Instant) -> bool {
        let asks = !self.is_asking && self.due <= now;
        if asks {
            (self.is_asking, self.asked) = (true, Some(now));
        }
        asks
    }

    /// It was answered, well or not.
    pub fn answered(&mut self, is_good: bool, now: Instant, rng: &mut fastrand::Rng) {
        self.is_asking = false;
        self.failures = if is_good { 0 } else { self.failures.saturating_add(1) };
        let wait = match self.failures {
            0 => self.interval,
            failures => FIRST_RETRY.saturating_mul(1 << (failures - 1).min(16)).min(self.interval.min(LONGEST_RETRY)),
        };
        // Sooner, not later, so that processes which started together do not ask together.
        self.due = after(now, wait.mul_f64(1.0 - rng.f64() / 10.0));
    }

    /// A token names a key that is not there: the keys may have changed.
    pub fn doubt(&mut self, now: Instant) {
        let soonest = self.asked.map_or(now, |asked| after(asked, SHORTEST));
        self.due = self.due.min(soonest.max(now));
    }
}

/// The first wait after a failure (Envoy's `failed_refetch_duration`); each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest such wait (ours).
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Between two questions that strangers can cause (ours): tokens with names of keys out of the air cost the issuer
/// two requests a minute.
pub const SHORTEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn it_asks_at_once_then_by_the_interval_and_never_twice() {
        let (start, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut refresh = Refresh::new(INTERVAL, start);
        assert!(refresh.ask(start));
        assert!(!refresh.ask(start + seconds(1000)), "asking");
        refresh.answered(true, start, &mut rng);
        assert!(!refresh.ask(start + seconds(269)));
        assert!(refresh.ask(start + INTERVAL));
    }

    #[test]
    fn a_failure_is_followed_soon_then_less_and_less_often() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut now = Instant::now();
        let mut refresh = Refresh::new(INTERVAL, now);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(refresh.ask(now), "{wait}");
            refresh.answered(false, now, &mut rng);
            let least = seconds(wait).mul_f64(0.9) - Duration::from_millis(1);
            assert!(!refresh.ask(now + least), "{wait}");
            now += seconds(wait);
        }
        assert!(refresh.ask(now));
        refresh.answered(true, now, &mut rng);
        assert!(!refresh.ask(now + seconds(200)), "an answer ends it");
    }

    #[test]
    fn doubts_make_it_ask_early_but_however_many_only_once_in_a_while() {
        let (start, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
        let mut refresh = Refresh::new(INTERVAL, start);
        refresh.ask(start);
        refresh.answered(true, start, &mut rng);
        let mut asked = 0;
        for tenth in 0..2000 {
            let now = start + Duration::from_millis(tenth * 100);
            refresh.doubt(now);
            if refresh.ask(now) {
                refresh.answered(true, now, &mut rng);
                asked += 1;
            }
        }
        assert_eq!(asked, 6, "200 s of doubts");
    }
}
