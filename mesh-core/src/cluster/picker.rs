//! Which endpoint an attempt goes to.
//!
//! Decides: one endpoint out of a fixed list, by priority, then locality, then availability, then the
//! balancer. Never: learns anything (load, breakers and ejections belong to the endpoint), never changes
//! its list (a new list is a new picker), never allocates in `pick` while everything is healthy.
//! Invariant: outside panic an unavailable endpoint is never picked; and an endpoint in `tried` is picked
//! only if there is no other that could be.
//!
//! # The rules, in order
//! 1. Endpoints of weight 0 are drained: they are in the list and are never picked. So are those of a
//!    locality without weight, where localities have weights.
//! 2. Priority: level 0 takes the traffic while its health, with over-provisioning, reaches 100 %; what it
//!    cannot carry goes to the next level ([`super::priority`]). Degraded endpoints take what no healthy
//!    one can carry.
//! 3. Panic: if all levels together cannot carry the traffic, a level of which less than the panic share
//!    (50 %, Envoy and Finagle; 0 = never) is available is used as a whole, availability ignored, and the
//!    pick says `panic: true`; or it fails, where the cluster says so.
//! 4. Within a level, one of two. Localities with weights: one is drawn, by its weight times its health
//!    (Envoy). Otherwise the nearest first: same zone, same region, all. From the nearest tier one
//!    endpoint is drawn. If it is available, the tier is used. If not, and at least half of the tier is
//!    available, its available ones are used; with less, the next tier is asked. So a tier that loses
//!    endpoints keeps traffic in proportion to what it has left, and the rest spills.
//!    Balancers by hash know neither: the whole level has one ring or table ([`super::hashing`]).
//! 5. Tried endpoints are left out of all this. If their level has nothing else, the other levels are
//!    asked; then an available one is taken again, then one that is leaving, and in panic any.
//!
//! # Cost
//! Two draws and one comparison when the drawn ones are available, whatever the number of endpoints; while
//! everything is healthy, without a question about levels and shares. Counts are kept by [`super::census`];
//! only many draws in vain cost a walk.

mod draw;

use std::sync::Arc;
use std::time::Instant;

use super::area::Area;
pub use super::balancing::{BalancerKind, Balancing, LeastRequest};
use super::bounded_load::InFlight;
pub use super::candidate::Candidate;
use super::census::Census;
use super::hashing::Hashing;
use super::level::{Level, Parts, Place, effective_weight};
use super::load_weight::ReportedTurns;
use super::locality::Proximity;
use super::order::Order;
use super::{least_request, peak_ewma, priority};

/// An immutable choice between endpoints.
#[derive(Debug)]
pub struct Picker<C> {
    endpoints: Arc<[Arc<C>]>,
    /// In the order of their priority; none is empty.
    levels: Box<[Level]>,
    balancing: Balancing,
    census: Census,
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

    #[inline]
    fn is_untried(&self, index: usize) -> bool {
        !self.tried.contains(&index)
    }
}

/// A picked endpoint.
#[derive(Debug)]
pub struct Pick<'p, C> {
    /// Its place in the list the picker was built from; goes into `tried` for a retry.
    pub index: usize,
    /// The endpoint. Whoever keeps it counts it: a look at it is no write to a line that others read.
    pub endpoint: &'p Arc<C>,
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
    /// Too few are available, and the cluster says to fail then.
    Panicking,
}

/// Which endpoints of which level an attempt is for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Healthy(usize),
    Degraded(usize),
    /// The level panics.
    Any(usize),
}

/// A draw met an unavailable endpoint where the census knew of none.
struct Disproved;

impl<C: Candidate> Picker<C> {
    /// A picker over `endpoints`. The seed sets where a rotation starts.
    pub fn new(balancing: impl Into<Balancing>, endpoints: Vec<Arc<C>>, seed: u64) -> Self {
        let members: Vec<usize> = (0..endpoints.len()).collect();
        Self::over(balancing, endpoints.into(), &members, seed)
    }

    /// A picker over some of `endpoints`, the members, by index.
    pub fn over(balancing: impl Into<Balancing>, endpoints: Arc<[Arc<C>]>, members: &[usize], seed: u64) -> Self {
        let balancing = balancing.into();
        let localities = balancing.localities.as_deref();
        let is_weighted = |endpoint: &C| match localities {
            Some(weights) => endpoint.locality().and_then(|place| weights.get(place)).is_some_and(|weight| *weight > 0),
            None => true,
        };
        let mut by_priority = std::collections::BTreeMap::<u32, Vec<Place<'_>>>::new();
        for index in members.iter().copied() {
            let endpoint = &endpoints[index];
            if endpoint.weight() > 0 && is_weighted(endpoint) {
                let is_near = !balancing.kind.follows_hash();
                let proximity = if is_near { endpoint.proximity() } else { Proximity::Elsewhere };
                let place = Place { index, proximity, locality: endpoint.locality() };
                by_priority.entry(endpoint.priority()).or_default().push(place);
            }
        }
        let area = |members: Vec<usize>| {
            let order = match balancing.kind {
                BalancerKind::Hash(config) => Order::Hashed(Hashing::over(&endpoints, &members, localities, config)),
                kind => {
                    let weights: Vec<u32> = members.iter().map(|index| endpoints[*index].weight()).collect();
                    Order::new(kind, &weights, seed)
                }
            };
            Area::new(members.into_iter().map(|index| index as u32).collect(), order)
        };
        let parted_by = localities.filter(|_| !balancing.kind.follows_hash());
        let levels: Box<[Level]> = by_priority.values().map(|places| Level::new(places, parted_by, area)).collect();
        let census = Census::new(levels.iter().map(|level| level.all.len() as usize).sum());
        let picker = Self { levels, census, balancing, endpoints: Arc::clone(&endpoints) };
        picker.spread();
        picker
    }

    /// Sets the share of available endpoints, in percent, below which availability is ignored.
    #[must_use]
    pub fn with_panic_percent(mut self, percent: u8) -> Self {
        self.balancing.rule.panic_percent = u32::from(percent.min(100));
        self
    }

    /// The endpoints, in the order that `Pick::index` refers to.
    pub fn endpoints(&self) -> &[Arc<C>] {
        &self.endpoints
    }

    /// The members of each level, the levels in order, each from a member drawn by chance on.
    pub(super) fn members_from_anywhere(&self, rng: &mut fastrand::Rng) -> impl Iterator<Item = usize> {
        self.levels.iter().flat_map(move |level| {
            let (area, size) = (&level.all, level.all.len() as usize);
            let first = rng.usize(..size);
            (first..size).chain(0..first).map(|place| area.member(place))
        })
    }

    /// Picks an endpoint for an attempt.
    pub fn pick(&self, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Pick<'_, C>, NoEndpoint> {
        match self.pick_unhindered(&ask, rng) {
            Ok(Some(index)) => Ok(self.picked(index, false)),
            Ok(None) => self.pick_by_rules(ask, rng),
            Err(Disproved) => {
                self.count(ask.now);
                self.pick_by_rules(ask, rng)
            }
        }
    }

    /// What the rules come to where nothing is in their way: a first attempt, no slow start, and everything was
    /// healthy when last counted, so that the nearest area of level 0 takes all. `None`: something is.
    #[inline]
    fn pick_unhindered(&self, ask: &Asked<'_>, rng: &mut fastrand::Rng) -> Result<Option<usize>, Disproved> {
        let is_hindered = !self.census.is_whole() || !ask.tried.is_empty() || self.balancing.slow_start.is_some();
        let area = self.levels.first().filter(|_| !is_hindered).and_then(Level::nearest);
        let Some(area) = area else { return Ok(None) };
        let Some(mut best) = self.draw_first(area, ask, rng) else { return Ok(None) };
        if !self.is_fit(best, ask.now) {
            return Err(Disproved);
        }
        let choices = if area.len() > 1 { self.balancing.choices() } else { 1 };
        for _ in 1..choices {
            let drawn = area.next(rng);
            let is_other = drawn != best && self.is_fit(drawn, ask.now);
            let other = if is_other { Some(drawn) } else { self.draw_another(best, area, ask, rng) };
            best = other.filter(|other| self.is_cheaper(*other, best, ask.now)).unwrap_or(best);
        }
        Ok(Some(best))
    }

    #[cold]
    #[inline(never)]
    fn pick_by_rules(&self, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Pick<'_, C>, NoEndpoint> {
        if self.levels.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        if self.census.is_due(ask.now) {
            self.count(ask.now);
        }
        let mut source = self.source(ask, rng);
        let mut found = self.pick_from(source, ask, rng);
        if self.census.is_whole() && !matches!(found, Ok(Some(_))) {
            self.count(ask.now);
            source = self.source(ask, rng);
            found = self.pick_from(source, ask, rng);
        }
        let panics = matches!(source, Source::Any(_));
        if panics && self.balancing.fails_on_panic {
            return Err(NoEndpoint::Panicking);
        }
        match found {
            Ok(Some(index)) => Ok(self.picked(index, panics)),
            _ => self.last_resort(source, ask, rng),
        }
    }

    /// Whether a level panics now. Counts everything: not for the request path.
    pub fn is_panicking(&self, now: Instant) -> bool {
        self.count(now);
        self.levels.iter().any(|level| level.share().panics)
    }

    /// Rules 2 and 3: the level, by the shares of the last census.
    fn source(&self, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Source {
        if self.census.is_whole() {
            return Source::Healthy(0);
        }
        let roll = match ask.hash {
            Some(hash) if self.balancing.kind.follows_hash() => (hash % 100) as u32,
            _ => rng.u32(0..100),
        };
        let mut until = 0;
        for (index, share) in self.levels.iter().map(Level::share).enumerate() {
            until += share.healthy;
            if roll < until {
                return if share.panics { Source::Any(index) } else { Source::Healthy(index) };
            }
        }
        for (index, share) in self.levels.iter().map(Level::share).enumerate() {
            until += share.degraded;
            if roll < until {
                return if share.panics { Source::Any(index) } else { Source::Degraded(index) };
            }
        }
        Source::Healthy(0)
    }

    fn pick_from(&self, source: Source, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Option<usize>, Disproved> {
        let untried = |index: usize| ask.is_untried(index);
        match source {
            Source::Any(level) => {
                let level = &self.levels[level];
                let leaving = |index: usize| self.endpoints[index].is_leaving(ask.now);
                // With nothing available, who is leaving and still answers comes before the broken.
                let fallen = !level.has_usable();
                let first =
                    if fallen { self.choose(&level.all, ask, rng, &|i| untried(i) && leaving(i)) } else { None };
                Ok(first.or_else(|| self.choose(&level.all, ask, rng, &|i| untried(i) && !leaving(i))))
            }
            Source::Degraded(level) => {
                let accept =
                    |index: usize| untried(index) && self.is_usable(index, ask.now) && !self.is_fit(index, ask.now);
                Ok(self.choose(&self.levels[level].all, ask, rng, &accept))
            }
            Source::Healthy(level) => self.pick_healthy(&self.levels[level], ask, rng),
        }
    }

    /// Rule 4.
    fn pick_healthy(&self, level: &Level, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Option<usize>, Disproved> {
        let fit = |index: usize| ask.is_untried(index) && self.is_fit(index, ask.now);
        let near = match &level.parts {
            Parts::Near(tiers) => &tiers[..],
            Parts::Weighted(localities) => {
                let drawn = self.draw_locality(localities, rng);
                let within = drawn.map_or(Ok(None), |area| self.pick_within(area, true, ask, rng))?;
                return Ok(within.or_else(|| self.choose(&level.all, ask, rng, &fit)));
            }
        };
        for tier in near {
            let spills = tier.counts().0 * 100 < SPILL_PERCENT * tier.len();
            if let Some(index) = self.pick_within(tier, !spills, ask, rng)? {
                return Ok(Some(index));
            }
        }
        self.pick_within(&level.all, true, ask, rng)
    }

    /// A fit member of an area. If it may not `insist`, only one draw is made: the area is too far down.
    fn pick_within(
        &self,
        area: &Area,
        insists: bool,
        ask: Asked<'_>,
        rng: &mut fastrand::Rng,
    ) -> Result<Option<usize>, Disproved> {
        let fit = |index: usize| ask.is_untried(index) && self.is_fit(index, ask.now);
        let Some(first) = self.draw(area, ask, rng, &|index| ask.is_untried(index)) else { return Ok(None) };
        if self.is_fit(first, ask.now) {
            return Ok(Some(self.challenged(first, area, (ask, rng), &fit)));
        }
        if self.census.is_whole() {
            return Err(Disproved);
        }
        Ok(if insists { self.choose(area, ask, rng, &fit) } else { None })
    }

    fn draw_locality<'p>(&self, localities: &'p [(Area, u32)], rng: &mut fastrand::Rng) -> Option<&'p Area> {
        let factor = self.balancing.rule.overprovisioning_percent;
        let total: u64 = localities.iter().map(|locality| effective_weight(locality, factor)).sum();
        if total == 0 {
            return None;
        }
        let mut roll = rng.u64(0..total);
        localities.iter().find_map(|locality| {
            let weight = effective_weight(locality, factor);
            let is_hit = roll < weight;
            roll = roll.saturating_sub(weight);
            is_hit.then_some(&locality.0)
        })
    }

    /// Rule 5, when the level drawn gave no endpoint: another level, then a tried one, then any in panic.
    fn last_resort(&self, source: Source, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Result<Pick<'_, C>, NoEndpoint> {
        let fit = |index: usize| ask.is_untried(index) && self.is_fit(index, ask.now);
        let usable = |index: usize| ask.is_untried(index) && self.is_usable(index, ask.now);
        let again = |index: usize| self.is_usable(index, ask.now);
        let accepted: [Accept<'_>; 3] = [&fit, &usable, &again];
        for accept in accepted {
            let mut levels = self.levels.iter().filter(|level| level.has_usable());
            if let Some(index) = levels.find_map(|level| self.choose(&level.all, ask, rng, accept)) {
                return Ok(self.picked(index, false));
            }
        }
        if let Some(index) = self.levels.iter().find_map(|level| self.choose_leaving(level, ask, rng)) {
            return Ok(self.picked(index, false));
        }
        let Source::Any(level) = source else { return Err(NoEndpoint::AllUnavailable) };
        let any = self.choose(&self.levels[level].all, ask, rng, &|_| true);
        any.map(|index| self.picked(index, true)).ok_or(NoEndpoint::AllUnavailable)
    }

    /// One that is leaving, an untried one if there is.
    fn choose_leaving(&self, level: &Level, ask: Asked<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let leaving = |index: usize| self.endpoints[index].is_leaving(ask.now);
        let untried = |index: usize| ask.is_untried(index) && leaving(index);
        self.choose(&level.all, ask, rng, &untried).or_else(|| self.choose(&level.all, ask, rng, &leaving))
    }

    /// The balancer's choice among the accepted members of an area.
    fn choose(&self, area: &Area, ask: Asked<'_>, rng: &mut fastrand::Rng, accept: Accept<'_>) -> Option<usize> {
        let first = self.draw(area, ask, rng, accept)?;
        Some(self.challenged(first, area, (ask, rng), accept))
    }

    /// Of the first one drawn and those drawn after it, the cheapest.
    fn challenged(
        &self,
        first: usize,
        area: &Area,
        (ask, rng): (Asked<'_>, &mut fastrand::Rng),
        accept: Accept<'_>,
    ) -> usize {
        let mut best = first;
        if area.len() == 1 {
            return best;
        }
        for _ in 1..self.balancing.choices() {
            let other = self.draw(area, ask, rng, &|index| index != best && accept(index));
            best = other.filter(|other| self.is_cheaper(*other, best, ask.now)).unwrap_or(best);
        }
        best
    }

    #[inline]
    fn is_cheaper(&self, challenger: usize, first: usize, now: Instant) -> bool {
        let [one, two] = [challenger, first].map(|index| self.endpoints[index].load());
        match self.balancing.kind {
            // Not the weight of a slow start: between equals it would take everything, not a share.
            BalancerKind::PeakEwma => {
                let [one_weighs, two_weighs] = [challenger, first].map(|index| self.written_weight(index));
                peak_ewma::is_cheaper((one, one_weighs), (two, two_weighs), now)
            }
            BalancerKind::LeastRequest => {
                let [one_weighs, two_weighs] = [challenger, first].map(|index| self.weight(index, now));
                let bias = self.balancing.least_request.bias;
                least_request::is_cheaper((one, one_weighs), (two, two_weighs), bias)
            }
            _ => false,
        }
    }

    /// Healthy: available, and not only for want of a better one.
    fn is_fit(&self, index: usize, now: Instant) -> bool {
        self.endpoints[index].is_fit(now)
    }

    fn is_usable(&self, index: usize, now: Instant) -> bool {
        self.endpoints[index].is_available(now)
    }

    /// A new endpoint lets a part of its draws pass to others.
    fn is_warm_enough(&self, index: usize, now: Instant, rng: &mut fastrand::Rng) -> bool {
        let part = self.warm_part(index, now);
        part >= 1.0 || rng.f64() < part
    }

    fn warm_part(&self, index: usize, now: Instant) -> f64 {
        self.balancing.slow_start.map_or(1.0, |slow| slow.part(self.endpoints[index].age(now)))
    }

    /// At least 1, also if an endpoint changed its mind after the picker was built.
    fn written_weight(&self, index: usize) -> f64 {
        f64::from(self.endpoints[index].weight().max(1))
    }

    /// Less while the endpoint is new.
    fn weight(&self, index: usize, now: Instant) -> f64 {
        self.written_weight(index) * self.warm_part(index, now)
    }

    /// Counts every area, and divides the traffic anew.
    fn count(&self, now: Instant) {
        let mut is_whole = true;
        for area in self.levels.iter().flat_map(Level::areas) {
            let (mut healthy, mut degraded) = (0, 0);
            for index in area.iter().filter(|index| self.is_usable(*index, now)) {
                if self.endpoints[index].is_degraded(now) { degraded += 1 } else { healthy += 1 }
            }
            area.count(healthy, degraded);
            is_whole &= healthy == area.len();
        }
        self.spread();
        self.census.counted(is_whole, now);
    }

    fn spread(&self) {
        let counted: Vec<_> = self.levels.iter().map(Level::counted).collect();
        for (level, share) in self.levels.iter().zip(priority::spread(&counted, self.balancing.rule)) {
            level.set_share(share);
        }
    }

    fn picked(&self, index: usize, panic: bool) -> Pick<'_, C> {
        Pick { index, endpoint: &self.endpoints[index], panic }
    }
}

type Accept<'a> = &'a dyn Fn(usize) -> bool;

/// Share of a tier below which the next one is asked: 50 %, as with panic and for the same reason.
const SPILL_PERCENT: u32 = 50;

#[cfg(test)]
#[path = "picker_tests.rs"]
mod tests;
