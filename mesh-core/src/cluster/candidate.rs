//! What a picker asks of those it picks from.
//!
//! Decides: nothing. Invariant: what is asked on the request path takes no lock.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::load_weight::ReportRule;
use super::locality::{Locality, Proximity};
use crate::endpoint::load::Load;

/// What a picker needs to know of an endpoint. What is asked on the request path takes no lock.
pub trait Candidate {
    /// Its live load.
    fn load(&self) -> &Load;
    /// Its weight, read once when the picker is built; 0 takes no request.
    fn weight(&self) -> u32;
    /// Whether it may be used now: healthy, not ejected, its breaker not open.
    fn is_available(&self, now: Instant) -> bool;
    /// Whether it is to be used only where the healthy ones do not suffice.
    fn is_degraded(&self, _now: Instant) -> bool {
        false
    }
    /// Whether it may be used now, and not only for want of a better one. The question of every draw: asked
    /// in one where the answers to both of its parts begin alike.
    fn is_fit(&self, now: Instant) -> bool {
        self.is_available(now) && !self.is_degraded(now)
    }
    /// Whether it still answers but wants nothing new: taken only when nothing available is left, also in panic.
    fn is_leaving(&self, _now: Instant) -> bool {
        false
    }
    /// Whether it is in the caller's zone.
    fn is_local(&self) -> bool;
    /// How near it is, read once when the picker is built. Told apart further than `is_local` only
    /// by endpoints that know their region.
    fn proximity(&self) -> Proximity {
        if self.is_local() { Proximity::Zone } else { Proximity::Elsewhere }
    }
    /// Its level, read once; 0 is used first.
    fn priority(&self) -> u32 {
        0
    }
    /// What consistent hashing knows it by, read once. Default: its place in the list.
    fn hash_key(&self) -> Option<Cow<'_, str>> {
        None
    }
    /// Where it is, read once, for weights of localities.
    fn locality(&self) -> Option<&Locality> {
        None
    }
    /// How long it has been in use, for slow start.
    fn age(&self, _now: Instant) -> Duration {
        Duration::MAX
    }
    /// Its weight by what it reports of its load, asked once an update period.
    fn reported_weight(&self, _rule: &ReportRule, _now: Instant) -> Option<f64> {
        None
    }
}
