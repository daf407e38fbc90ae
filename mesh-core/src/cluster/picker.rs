//! Which endpoint an attempt goes to.
//!
//! Decides: one endpoint out of a fixed list, by locality, then availability, then the balancer.
//! Never: learns anything (load, breakers and ejections belong to the endpoint), never changes its
//! list (a new list is a new picker), never allocates in `pick`.
//! Invariant: while more than the panic share is available, an unavailable endpoint is never picked;
//! and an endpoint in `tried` is picked only if there is no other that could be.
//!
//! # The rules, in order
//! 1. Endpoints of weight 0 are drained: they are in the list and are never picked.
//! 2. Tiers: same zone, same region, all. From the nearest tier one endpoint is drawn. If it is
//!    available, the tier is used. If not, the tier is counted: with at least half of it available
//!    it is used, its available ones only; with less, the next tier is asked. So a tier that loses
//!    endpoints keeps traffic in proportion to what it has left, and the rest spills.
//! 3. Panic: the same count over all endpoints, against the panic share (50 %, Envoy and Finagle;
//!    0 = never). Below it availability is no longer believed, and the pick is made among all and
//!    says `panic: true`. An available endpoint then gets at most twice its normal share, where
//!    without panic the few left would get everything and fall, too.
//! 4. Tried endpoints are left out of all this. If nothing else is left, an available one is taken
//!    again, and in panic any.
//!
//! # Cost
//! Two draws and two comparisons when the drawn ones are available, whatever the number of
//! endpoints. Only a draw of an unavailable one costs a walk over its tier.

use std::sync::Arc;
use std::time::Instant;

use super::hashing::HashConfig;
use super::locality::{Proximity, tiers};
use super::round_robin::Rotation;
use super::{least_request, peak_ewma};
use crate::endpoint::load::Load;

/// What a picker needs to know of an endpoint. All of it is asked on the request path: no lock.
pub trait Candidate {
    /// Its live load.
    fn load(&self) -> &Load;
    /// Its weight, read once when the picker is built; 0 takes no request.
    fn weight(&self) -> u32;
    /// Whether it may be used now: healthy, not ejected, its breaker not open.
    fn is_available(&self, now: Instant) -> bool;
    /// Whether it is in the caller's zone.
    fn is_local(&self) -> bool;
    /// How near it is, read once when the picker is built. Told apart further than `is_local` only
    /// by endpoints that know their region.
    fn proximity(&self) -> Proximity {
        if self.is_local() { Proximity::Zone } else { Proximity::Elsewhere }
    }
}

/// How one of several available endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum BalancerKind {
    /// The cheaper of two by expected response time.
    #[default]
    PeakEwma,
    /// The one of two with fewer requests in flight.
    LeastRequest,
    /// Turns, exactly by weight.
    RoundRobin,
    /// By hash.
    Hash(HashConfig),
}

/// An immutable choice between endpoints.
#[derive(Debug)]
pub struct Picker<C> {
    endpoints: Arc<[Arc<C>]>,
    /// Nearest first; the last holds every endpoint that has a weight.
    tiers: Box<[Tier]>,
    kind: BalancerKind,
    panic_percent: usize,
}

/// What an attempt asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The time.
    pub now: Instant,
    /// Indexes of earlier attempts.
    pub tried: &'a [usize],
    /// What the request hashes to, for balancers that send equal requests to the same endpoint.
    pub hash: Option<u64>,
}

impl Asked<'_> {
    /// The first attempt of a request that hashes to nothing.
    pub fn at(now: Instant) -> Self {
        Self { now, tried: &[], hash: None }
    }

    fn is_untried(&self, index: usize) -> bool {
        !self.tried.contains(&index)
    }
}

/// A picked endpoint.
#[derive(Debug)]
pub struct Pick<C> {
    /// Its place in the list the picker was built from; goes into `tried` for a retry.
    pub index: usize,
    /// The endpoint.
    pub endpoint: Arc<C>,
    /// Whether availability was ignored, because too little was available.
    pub panic: bool,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// The cluster has no endpoint, or none with a weight.
    Empty,
    /// It has, but none is available, and panic is switched off.
    AllUnavailable,
}

impl<C: Candidate> Picker<C> {
    /// A picker over `endpoints`. The seed sets where a rotation starts.
    pub fn new(kind: BalancerKind, endpoints: Vec<Arc<C>>, seed: u64) -> Self {
        let weighted = endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.weight() > 0);
        let near: Vec<_> = weighted.map(|(index, endpoint)| (index, endpoint.proximity())).collect();
        let tier = |members: Vec<usize>| {
            let weights: Vec<u32> = members.iter().map(|index| endpoints[*index].weight()).collect();
            Tier { members: members.into(), order: Order::new(kind, &weights, seed) }
        };
        let tiers = tiers(&near).into_iter().map(tier).collect();
        Self { endpoints: endpoints.into(), tiers, kind, panic_percent: PANIC_PERCENT }
    }

    /// Sets the share of available endpoints, in percent, below which availability is ignored.
    #[must_use]
    pub fn with_panic_percent(mut self, percent: u8) -> Self {
        self.panic_percent = usize::from(percent.min(100));
        self
    }

    /// The endpoints, in the order that `Pick::index` refers to.
    pub fn endpoints(&self) -> &[Arc<C>] {
        &self.endpoints
    }

    /// Picks an endpoint for an attempt.
    pub fn pick(&self, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Pick<C>, NoEndpoint> {
        let widest = self.tiers.last().ok_or(NoEndpoint::Empty)?;
        let mut drawn = None;
        for (place, tier) in self.tiers.iter().enumerate() {
            let is_widest = place + 1 == self.tiers.len();
            let least = if is_widest { self.panic_percent } else { SPILL_PERCENT };
            match self.pick_within((tier, least), ask, rng) {
                Ok(index) => return Ok(self.picked(index, false)),
                Err(unusable) => drawn = unusable,
            }
        }
        self.last_resort((widest, drawn), ask, rng)
    }

    /// Rule 2 (and the gate of rule 3): an available, untried member, unless the tier is too far
    /// down; then the unavailable one that was drawn, if there was an untried one to draw.
    fn pick_within(
        &self,
        (tier, least): (&Tier, usize),
        ask: Asked<'_>,
        rng: &mut fastrand::Rng,
    ) -> Result<usize, Option<usize>> {
        let usable = |index| ask.is_untried(index) && self.is_available(index, ask.now);
        let first = self.draw(tier, rng, &|index| ask.is_untried(index)).ok_or(None)?;
        if self.is_available(first, ask.now) {
            return Ok(self.challenged(first, (tier, ask.now), rng, &usable));
        }
        if self.is_below(tier, least, ask.now) {
            return Err(Some(first));
        }
        self.choose((tier, ask.now), rng, &usable).ok_or(Some(first))
    }

    /// Rules 3 and 4, when no tier gave an endpoint. Panic goes on from the endpoint drawn from all:
    /// a second draw would favour the available ones once more, and upset turns.
    fn last_resort(
        &self,
        (all, drawn): (&Tier, Option<usize>),
        ask: Asked<'_>,
        rng: &mut fastrand::Rng,
    ) -> Result<Pick<C>, NoEndpoint> {
        let panics = self.is_below(all, self.panic_percent, ask.now);
        let from = (all, ask.now);
        if let Some(first) = drawn.filter(|_| panics) {
            let index = self.challenged(first, from, rng, &|index| ask.is_untried(index));
            return Ok(self.picked(index, true));
        }
        if let Some(index) = self.choose(from, rng, &|index| self.is_available(index, ask.now)) {
            return Ok(self.picked(index, false));
        }
        let any = panics.then(|| self.choose(from, rng, &|_| true)).flatten();
        any.map(|index| self.picked(index, true)).ok_or(NoEndpoint::AllUnavailable)
    }

    /// The balancer's choice among the accepted members of a tier.
    fn choose(&self, from: (&Tier, Instant), rng: &mut fastrand::Rng, accept: Accept<'_>) -> Option<usize> {
        let first = self.draw(from.0, rng, accept)?;
        Some(self.challenged(first, from, rng, accept))
    }

    /// The second of the two choices: `first`, or another accepted member that is cheaper.
    fn challenged(
        &self,
        first: usize,
        (tier, now): (&Tier, Instant),
        rng: &mut fastrand::Rng,
        accept: Accept<'_>,
    ) -> usize {
        if self.kind == BalancerKind::RoundRobin || tier.members.len() == 1 {
            return first;
        }
        let second = self.draw(tier, rng, &|index| index != first && accept(index));
        second.filter(|second| self.is_cheaper(*second, first, now)).unwrap_or(first)
    }

    /// One accepted member, by turn or by chance in proportion to weight.
    fn draw(&self, tier: &Tier, rng: &mut fastrand::Rng, accept: Accept<'_>) -> Option<usize> {
        let quick = (0..tier.quick_draws()).map(|_| tier.next(rng)).find(|index| accept(*index));
        quick.or_else(|| self.walk(tier, rng, accept))
    }

    /// Exact where `draw` was unlucky: one pass that keeps each member with its share of the weight
    /// seen so far (reservoir sampling).
    fn walk(&self, tier: &Tier, rng: &mut fastrand::Rng, accept: Accept<'_>) -> Option<usize> {
        let (mut seen, mut kept) = (0_u64, None);
        for index in tier.members.iter().copied().filter(|index| accept(*index)) {
            let weight = u64::from(self.weight(index));
            seen += weight;
            if rng.u64(0..seen) < weight {
                kept = Some(index);
            }
        }
        kept
    }

    fn is_cheaper(&self, challenger: usize, first: usize, now: Instant) -> bool {
        let side = |index: usize| (self.endpoints[index].load(), self.weight(index));
        match self.kind {
            BalancerKind::PeakEwma => peak_ewma::is_cheaper(side(challenger), side(first), now),
            BalancerKind::LeastRequest => least_request::is_cheaper(side(challenger), side(first)),
            BalancerKind::RoundRobin | BalancerKind::Hash(_) => false,
        }
    }

    fn is_below(&self, tier: &Tier, percent: usize, now: Instant) -> bool {
        let available = tier.members.iter().filter(|index| self.is_available(**index, now)).count();
        available * 100 < percent * tier.members.len()
    }

    fn is_available(&self, index: usize, now: Instant) -> bool {
        self.endpoints[index].is_available(now)
    }

    /// At least 1, also if an endpoint changed its mind after the picker was built.
    fn weight(&self, index: usize) -> u32 {
        self.endpoints[index].weight().max(1)
    }

    fn picked(&self, index: usize, panic: bool) -> Pick<C> {
        Pick { index, endpoint: Arc::clone(&self.endpoints[index]), panic }
    }
}

type Accept<'a> = &'a dyn Fn(usize) -> bool;

/// Endpoints that are equally near, by index; never empty.
#[derive(Debug)]
struct Tier {
    members: Box<[usize]>,
    order: Order,
}

/// How the next member is drawn.
#[derive(Debug)]
enum Order {
    /// All weights are equal.
    Chance,
    /// Running sums of the weights.
    Weighted(Box<[u64]>),
    Turns(Rotation),
}

impl Order {
    fn new(kind: BalancerKind, weights: &[u32], seed: u64) -> Self {
        if kind == BalancerKind::RoundRobin {
            return Self::Turns(Rotation::new(weights, seed));
        }
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Chance;
        }
        let sums = weights.iter().scan(0_u64, |sum, weight| {
            *sum += u64::from(*weight);
            Some(*sum)
        });
        Self::Weighted(sums.collect())
    }
}

impl Tier {
    fn next(&self, rng: &mut fastrand::Rng) -> usize {
        let place = match &self.order {
            Order::Chance => rng.usize(0..self.members.len()),
            Order::Weighted(sums) => {
                let drawn = rng.u64(0..sums.last().copied().unwrap_or(1));
                sums.partition_point(|sum| *sum <= drawn)
            }
            Order::Turns(rotation) => rotation.next(),
        };
        self.members[place]
    }

    /// Draws before the tier is walked. A rotation may pass every member twice, to keep turns fair
    /// when some are left out; chance gives up after four, when a walk is likely cheaper.
    fn quick_draws(&self) -> usize {
        match self.order {
            Order::Turns(_) => self.members.len().saturating_mul(2),
            Order::Chance | Order::Weighted(_) => 4,
        }
    }
}

/// Share of all endpoints below which availability is ignored: 50 % (Envoy, Finagle).
const PANIC_PERCENT: usize = 50;
/// Share of a tier below which the next one is asked: 50 %, the same number for the same reason.
const SPILL_PERCENT: usize = 50;

#[cfg(test)]
#[path = "picker_tests.rs"]
mod tests;
