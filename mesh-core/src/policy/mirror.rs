//! Copies of requests that nobody waits for.
//!
//! Decides: which requests are copied, by chance, and how many copies a cluster may have in flight. Never: sends.
//! Invariant: a copy has a place from its start to its end, however it ends; without one it is not made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The share of requests that are copied, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(pub f64);

impl Share {
    /// Draws for one request.
    pub fn draw(self, rng: &mut fastrand::Rng) -> bool {
        rng.f64() < self.0
    }
}

/// Places for the copies that a cluster gets at a time.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
}

impl Places {
    /// A place, unless all are taken.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let take = |taken: u32| (taken < MAX_IN_FLIGHT).then(|| taken + 1);
        let is_free = self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_ok();
        is_free.then(|| Place(Arc::clone(self)))
    }
}

/// Free again when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Copies in flight per cluster. With bodies of at most 64 KiB, 8 MiB are held at most (ours; Envoy has no bound but the
/// cluster's own).
pub const MAX_IN_FLIGHT: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_copy_has_ended() {
        let places = Arc::new(Places::default());
        let mut taken: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| places.take().unwrap()).collect();
        assert!(places.take().is_none());
        taken.pop();
        assert!(places.take().is_some());
        drop(taken);
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_share_is_drawn_by_chance() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut count = |share: f64| (0..10_000).filter(|_| Share(share).draw(&mut rng)).count();
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        // Five standard deviations: 217.
        assert!((2283..=2717).contains(&count(0.25)));
    }
}
