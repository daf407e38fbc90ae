//! Where time, and chance, come from.
//!
//! Decides: nothing. Engines take `now` as an argument and a random generator where they draw; this
//! module is how the shells obtain both, so that a test can put its own in place.
//! Invariant: `now` is monotonic and is what deadlines use; `wall` is for certificates and logs only.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

mod manual;

pub use manual::ManualClock;

/// A source of time, and of waiting.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// Calendar time.
    fn wall(&self) -> SystemTime;
    /// Completes at `deadline`.
    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The operating system's clock, by way of tokio's timer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }
}

/// A seedable source of generators: one cheap, independent generator a call, no lock.
#[derive(Debug)]
pub struct Randomness {
    state: AtomicU64,
}

/// The odd increment of SplitMix64 (Steele, Lea, Flood 2014): every state is visited once.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Randomness {
    /// Reproducible: the same seed gives the same sequence of generators.
    pub fn seeded(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// Seeded by the operating system.
    pub fn from_entropy() -> Self {
        Self::seeded(fastrand::u64(..))
    }

    /// A generator for one call.
    pub fn generator(&self) -> fastrand::Rng {
        let mut z = self.state.fetch_add(GOLDEN_GAMMA, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        fastrand::Rng::with_seed(z ^ (z >> 31))
    }
}

/// `Instant + Duration` that saturates far in the future instead of panicking.
pub fn after(now: Instant, wait: Duration) -> Instant {
    /// Thirty years: longer than any process, far from overflow.
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(wait.min(FAR)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_numbers() {
        let (a, b) = (Randomness::seeded(7), Randomness::seeded(7));
        for _ in 0..10 {
            assert_eq!(a.generator().u64(..), b.generator().u64(..));
        }
    }

    #[test]
    fn a_huge_wait_saturates() {
        let now = Instant::now();
        assert!(after(now, Duration::MAX) > now);
    }
}
