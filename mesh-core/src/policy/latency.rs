//! How long a service takes to answer, lately.
//!
//! Decides: a percentile of the response times of the last half minute. Never: keeps a sample; a
//! histogram of fixed size counts them. Invariant: recording takes no lock, except when time enters
//! another slice; a percentile is never lower than the true one, and at most 9 % higher.
//!
//! A response that was not waited for is counted with the time it was waited for: it would have taken at
//! least that long. Leaving it out would make a service look fast exactly when it is slow.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Response times of the last half minute.
pub struct Latencies {
    epoch: OnceLock<Instant>,
    tick: AtomicU64,
    slices: [Histogram; SLICES],
    /// The sum of the slices.
    sum: Histogram,
    turn: Mutex<()>,
}

type Histogram = Box<[AtomicU32]>;

impl Latencies {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            epoch: OnceLock::new(),
            tick: AtomicU64::new(0),
            slices: std::array::from_fn(|_| empty()),
            sum: empty(),
            turn: Mutex::new(()),
        }
    }

    /// Counts one response time.
    pub fn record(&self, latency: Duration, now: Instant) {
        let slice = self.advance(now);
        let bucket = bucket_of(latency);
        self.slices[slice][bucket].fetch_add(1, Ordering::Relaxed);
        self.sum[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// The response time that `percent` of all stay within; `None` with fewer than `least` samples.
    pub fn percentile(&self, percent: f64, least: u32, now: Instant) -> Option<Duration> {
        self.advance(now);
        let counts = || self.sum.iter().map(|count| u64::from(count.load(Ordering::Relaxed)));
        let total: u64 = counts().sum();
        if total == 0 || total < u64::from(least) {
            return None;
        }
        let wanted = ((total as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = counts().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map(upper_bound)
    }

    /// Forgets slices older than the window and gives the index of the one to write to.
    fn advance(&self, now: Instant) -> usize {
        let epoch = *self.epoch.get_or_init(|| now);
        let tick = (now.saturating_duration_since(epoch).as_nanos() / SLICE.as_nanos()) as u64;
        if tick > self.tick.load(Ordering::Acquire) {
            self.turn_to(tick);
        }
        (self.tick.load(Ordering::Acquire) % SLICES as u64) as usize
    }

    fn turn_to(&self, tick: u64) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.tick.load(Ordering::Acquire);
        for passed in current.saturating_add(1)..=tick.min(current.saturating_add(SLICES as u64)) {
            let slice = &self.slices[(passed % SLICES as u64) as usize];
            for (expired, sum) in slice.iter().zip(&self.sum) {
                sum.fetch_sub(expired.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        self.tick.store(tick.max(current), Ordering::Release);
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Latencies")
    }
}

fn empty() -> Histogram {
    (0..BUCKETS).map(|_| AtomicU32::new(0)).collect()
}

/// Eight buckets an octave; the first holds all that is below 64 us, the last all from 137 s on.
fn bucket_of(latency: Duration) -> usize {
    let octaves = (latency.as_nanos() as f64 / FINEST_NANOS).max(1.0).log2();
    ((octaves * PER_OCTAVE) as usize).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    Duration::from_nanos((FINEST_NANOS * ((bucket + 1) as f64 / PER_OCTAVE).exp2()) as u64)
}

/// Ten slices of 3 s: Finagle refreshes its percentile as often, and looks back 30 s.
const SLICES: usize = 10;
const SLICE: Duration = Duration::from_secs(3);
/// 64 us: below the least delay that is ever used.
const FINEST_NANOS: f64 = 65_536.0;
/// Resolution: 2^(1/8), 9 %.
const PER_OCTAVE: f64 = 8.0;
/// 21 octaves, up to 137 s.
const BUCKETS: usize = 21 * 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_percentile_is_at_most_nine_percent_above_the_true_one_and_never_below() {
        let (latencies, now) = (Latencies::new(), Instant::now());
        for ms in 1..=1000 {
            latencies.record(millis(ms), now);
        }
        for (percent, exact) in [(50.0, 500), (90.0, 900), (95.0, 950), (99.0, 990), (100.0, 1000)] {
            let read = latencies.percentile(percent, 1, now).unwrap();
            let (low, high) = (millis(exact), millis(exact).mul_f64(1.09));
            assert!((low..=high).contains(&read), "p{percent}: {read:?}");
        }
    }

    #[test]
    fn too_few_samples_are_no_percentile() {
        let (latencies, now) = (Latencies::new(), Instant::now());
        assert_eq!(latencies.percentile(95.0, 0, now), None);
        latencies.record(millis(5), now);
        assert_eq!(latencies.percentile(95.0, 2, now), None);
        assert!(latencies.percentile(95.0, 1, now).is_some());
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (latencies, start) = (Latencies::new(), Instant::now());
        for _ in 0..100 {
            latencies.record(millis(900), start);
        }
        let later = start + SLICE * 9;
        latencies.record(millis(10), later);
        assert!(latencies.percentile(50.0, 1, later).unwrap() > millis(800));
        let forgotten = start + SLICE * 10;
        assert!(latencies.percentile(100.0, 1, forgotten).unwrap() < millis(12));
        assert_eq!(latencies.percentile(100.0, 1, start + SLICE * 1000), None);
    }

    #[test]
    fn the_shortest_and_the_longest_times_have_a_place() {
        assert_eq!((bucket_of(Duration::ZERO), bucket_of(Duration::MAX)), (0, BUCKETS - 1));
    }
}
