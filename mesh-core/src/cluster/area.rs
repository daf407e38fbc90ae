//! A part of a cluster's endpoints among which one is drawn: a level, a tier, a locality.
//!
//! Decides: the next member in order. Never: whether it is fit. Invariant: an area is never empty; its
//! counts are those of the last census, and at first say that every member is healthy.

use std::sync::atomic::{AtomicU32, Ordering};

use super::order::Order;

/// Members, by index into the picker's endpoints.
#[derive(Debug)]
pub(super) struct Area {
    /// `None`: as many endpoints as `size`, from the first on; what a large list need not be looked up for.
    members: Option<Box<[u32]>>,
    size: u32,
    pub(super) order: Order,
    healthy: AtomicU32,
    degraded: AtomicU32,
}

impl Area {
    pub(super) fn new(members: Vec<u32>, order: Order) -> Self {
        let size = members.len() as u32;
        let members = if members.iter().copied().eq(0..size) { None } else { Some(members.into()) };
        Self { members, size, order, healthy: AtomicU32::new(size), degraded: AtomicU32::new(0) }
    }

    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.size
    }

    /// The member at a place.
    #[inline]
    pub(super) fn member(&self, place: usize) -> usize {
        self.members.as_ref().map_or(place, |members| members[place] as usize)
    }

    /// The next member.
    #[inline]
    pub(super) fn next(&self, rng: &mut fastrand::Rng) -> usize {
        self.member(self.order.next(rng))
    }

    /// The members, one after the other.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.size as usize).map(|place| self.member(place))
    }

    /// Draws before the area is walked. Turns may pass every member twice, to stay fair when some are
    /// left out. Chance gives up when so few are accepted that a walk is cheaper.
    pub(super) fn quick_draws(&self) -> usize {
        if self.order.is_turns() { (self.size as usize).saturating_mul(2).min(MOST_DRAWS) } else { CHANCE_DRAWS }
    }

    /// What the last census counted: healthy, degraded.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.healthy.load(Ordering::Relaxed), self.degraded.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self, healthy: u32, degraded: u32) {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.degraded.store(degraded, Ordering::Relaxed);
    }
}

/// With half of the members accepted, 16 draws in vain happen once in 65 536 picks.
const CHANCE_DRAWS: usize = 16;
/// Bounds the draws by turn in a large area: 128 counter steps, below two microseconds.
const MOST_DRAWS: usize = 128;
