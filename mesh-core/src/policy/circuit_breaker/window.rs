//! Results of the last while.
//!
//! Decides: which results still count. Never: what they mean.
//! Invariant: a result counts for more than nine tenths of the window and never longer than all of it.

use std::time::{Duration, Instant};

/// Results in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Failures.
    pub failures: u64,
    /// Failures and successes.
    pub total: u64,
}

/// A rolling window in ten buckets, forgotten one at a time as time passes over them.
#[derive(Debug)]
pub(super) struct Window {
    epoch: Instant,
    bucket: Duration,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// The number of the bucket since `epoch`; older ones in the same place are overwritten.
    tick: u64,
    counts: Counts,
}

impl Window {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self { epoch: now, bucket: length / BUCKETS, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    pub(super) fn add(&mut self, failed: bool, now: Instant) {
        let tick = self.tick(now);
        let bucket = &mut self.buckets[(tick % u64::from(BUCKETS)) as usize];
        // A result that arrives out of order belongs to a bucket already given away: it is counted there.
        if bucket.tick < tick {
            *bucket = Bucket { tick, counts: Counts::default() };
        }
        bucket.counts.total += 1;
        bucket.counts.failures += u64::from(failed);
    }

    pub(super) fn counts(&self, now: Instant) -> Counts {
        let tick = self.tick(now);
        let live = self.buckets.iter().filter(|bucket| bucket.tick + u64::from(BUCKETS) > tick);
        live.fold(Counts::default(), |sum, bucket| Counts {
            failures: sum.failures + bucket.counts.failures,
            total: sum.total + bucket.counts.total,
        })
    }

    pub(super) fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS as usize];
    }

    fn tick(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.epoch).as_nanos() / self.bucket.as_nanos().max(1)) as u64
    }
}

/// As Hystrix and linkerd.
const BUCKETS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_counts_until_the_window_has_passed_over_its_bucket() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_secs(10), start);
        window.add(true, start + Duration::from_millis(999));
        window.add(false, start + Duration::from_millis(1_000));
        for (millis, failures, total) in [(1_000, 1, 2), (9_999, 1, 2), (10_000, 0, 1), (10_999, 0, 1), (11_000, 0, 0)]
        {
            let counts = window.counts(start + Duration::from_millis(millis));
            assert_eq!(counts, Counts { failures, total }, "at {millis} ms");
        }
    }

    #[test]
    fn a_bucket_is_reused_after_a_round() {
        let start = Instant::now();
        let mut window = Window::new(Duration::from_secs(10), start);
        window.add(true, start);
        let later = start + Duration::from_secs(10);
        window.add(false, later);
        assert_eq!(window.counts(later), Counts { failures: 0, total: 1 });
    }
}
