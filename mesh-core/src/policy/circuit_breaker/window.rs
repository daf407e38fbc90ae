//! Results of the last while.
//!
//! Decides: which results still count. Never: what they mean.
//! Invariant: in a window of time a result counts for more than nine tenths of it and never longer than all
//! of it; in a window of requests exactly the last ones count.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Results in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Failures.
    pub failures: u64,
    /// Failures and successes.
    pub total: u64,
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Span {
    /// The results of this long.
    Time(Duration),
    /// This many results.
    Requests(NonZeroU32),
}

/// A rolling window.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one; a box would cost each result a jump")]
pub(super) enum Window {
    Time(Box<Buckets>),
    Requests(Ring),
}

impl Window {
    pub(super) fn new(span: Span, now: Instant) -> Self {
        match span {
            Span::Time(length) => Self::Time(Box::new(Buckets::new(length, now))),
            Span::Requests(most) => Self::Requests(Ring { most: most.get() as usize, ..Ring::default() }),
        }
    }

    pub(super) fn add(&mut self, failed: bool, now: Instant) {
        match self {
            Self::Time(buckets) => buckets.add(failed, now),
            Self::Requests(ring) => ring.add(failed),
        }
    }

    pub(super) fn counts(&self, now: Instant) -> Counts {
        match self {
            Self::Time(buckets) => buckets.counts(now),
            Self::Requests(ring) => ring.counts,
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Self::Time(buckets) => buckets.clear(),
            Self::Requests(ring) => *ring = Ring { most: ring.most, ..Ring::default() },
        }
    }
}

/// The last results, however old. Memory grows with the results it holds, one byte each.
#[derive(Debug, Default)]
pub(super) struct Ring {
    most: usize,
    failed: VecDeque<bool>,
    counts: Counts,
}

impl Ring {
    fn add(&mut self, failed: bool) {
        if self.failed.len() == self.most
            && let Some(oldest) = self.failed.pop_front()
        {
            self.counts.total -= 1;
            self.counts.failures -= u64::from(oldest);
        }
        self.failed.push_back(failed);
        self.counts.total += 1;
        self.counts.failures += u64::from(failed);
    }
}

/// Ten buckets of time, forgotten one at a time as time passes over them.
#[derive(Debug)]
pub(super) struct Buckets {
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

impl Buckets {
    fn new(length: Duration, now: Instant) -> Self {
        Self { epoch: now, bucket: length / BUCKETS, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    fn add(&mut self, failed: bool, now: Instant) {
        let tick = self.tick(now);
        let bucket = &mut self.buckets[(tick % u64::from(BUCKETS)) as usize];
        // A result that arrives out of order belongs to a bucket already given away: it is counted there.
        if bucket.tick < tick {
            *bucket = Bucket { tick, counts: Counts::default() };
        }
        bucket.counts.total += 1;
        bucket.counts.failures += u64::from(failed);
    }

    fn counts(&self, now: Instant) -> Counts {
        let tick = self.tick(now);
        let live = self.buckets.iter().filter(|bucket| bucket.tick + u64::from(BUCKETS) > tick);
        live.fold(Counts::default(), |sum, bucket| Counts {
            failures: sum.failures + bucket.counts.failures,
            total: sum.total + bucket.counts.total,
        })
    }

    fn clear(&mut self) {
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
        let mut window = Window::new(Span::Time(Duration::from_secs(10)), start);
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
        let mut window = Window::new(Span::Time(Duration::from_secs(10)), start);
        window.add(true, start);
        let later = start + Duration::from_secs(10);
        window.add(false, later);
        assert_eq!(window.counts(later), Counts { failures: 0, total: 1 });
    }
}
