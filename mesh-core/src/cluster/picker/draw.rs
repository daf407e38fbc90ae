//! How one member of an area is drawn.
//!
//! Decides: which member, by the area's order, and what is done when the drawn one is not accepted. Never:
//! which area, or who is accepted. Invariant: whoever is accepted is found, if only by a walk, and shares
//! follow the weights of those accepted.

use std::time::Instant;

use super::{Accept, Area, Asked, Candidate, Hashing, InFlight, Order, Picker, ReportedTurns};

impl<C: Candidate> Picker<C> {
    /// One member of an area of which nobody was tried, whether it is fit or not.
    #[inline]
    pub(super) fn draw_first(&self, area: &Area, ask: &Asked<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        match &area.order {
            Order::Even(_) | Order::Weighted(_) | Order::Turns(_) => {}
            Order::Reported(turns) => self.refresh(area, turns, ask.now),
            Order::Hashed(hashing) => {
                let hash = ask.hash.unwrap_or_else(|| rng.u64(..));
                let is_free = !hashing.is_bounded();
                let home = hashing.home(hash).filter(|_| is_free).map(|place| area.member(place));
                return home.or_else(|| self.draw_by_hash((area, hashing), hash, &|_| true));
            }
        }
        Some(area.next(rng))
    }

    /// A fit member other than `best`, if the area has one, after one draw by chance that was neither.
    #[cold]
    pub(super) fn draw_another(
        &self,
        best: usize,
        area: &Area,
        ask: &Asked<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let is_other = |index: usize| index != best && self.is_fit(index, ask.now);
        self.draw_again((area, area.quick_draws() - 1), ask.now, rng, &is_other)
    }

    /// One accepted member, by hash, by turn or by chance in proportion to weight.
    pub(super) fn draw(
        &self,
        area: &Area,
        ask: Asked<'_>,
        rng: &mut fastrand::Rng,
        accept: Accept<'_>,
    ) -> Option<usize> {
        let now = ask.now;
        if let Order::Hashed(hashing) = &area.order {
            let hash = ask.hash.unwrap_or_else(|| rng.u64(..));
            return self.draw_by_hash((area, hashing), hash, accept);
        }
        if let Order::Reported(turns) = &area.order {
            self.refresh(area, turns, now);
        }
        let draws = if self.balancing.slow_start.is_some() { SLOW_DRAWS } else { 0 }.max(area.quick_draws());
        self.draw_again((area, draws), now, rng, accept)
    }

    /// One accepted member by as many draws, or else by a walk.
    fn draw_again(
        &self,
        (area, draws): (&Area, usize),
        now: Instant,
        rng: &mut fastrand::Rng,
        accept: Accept<'_>,
    ) -> Option<usize> {
        for _ in 0..draws {
            let index = area.next(rng);
            if accept(index) && self.is_warm_enough(index, now, rng) {
                return Some(index);
            }
        }
        self.walk(area, now, rng, accept)
    }

    fn refresh(&self, area: &Area, turns: &ReportedTurns, now: Instant) {
        let rule = &self.balancing.reports;
        let weight = |place: usize| self.endpoints[area.member(place)].reported_weight(rule, now);
        turns.refresh(rule, now, weight);
    }

    fn draw_by_hash(&self, (area, hashing): (&Area, &Hashing), hash: u64, accept: Accept<'_>) -> Option<usize> {
        let member = |place: usize| area.member(place);
        let in_flight = |place: usize| self.endpoints[member(place)].load().in_flight();
        let total = || {
            let group = self.endpoints[member(0)].load().in_flight_of_group();
            group.unwrap_or_else(|| (0..area.len() as usize).map(in_flight).sum())
        };
        let busy = InFlight { total: if hashing.is_bounded() { total() } else { 0 }, at: &in_flight };
        hashing.pick(hash, busy, &|place| accept(member(place))).map(member)
    }

    /// Exact where `draw` was unlucky: one pass that keeps each member with its share of the weight
    /// seen so far (reservoir sampling).
    fn walk(&self, area: &Area, now: Instant, rng: &mut fastrand::Rng, accept: Accept<'_>) -> Option<usize> {
        let (mut seen, mut kept) = (0.0, None);
        for index in area.iter().filter(|index| accept(*index)) {
            let weight = self.weight(index, now);
            seen += weight;
            if rng.f64() * seen < weight {
                kept = Some(index);
            }
        }
        kept
    }
}

/// Draws before a walk where new endpoints refuse some: if all are new and refuse nine of ten, 64 draws
/// in vain happen once in a thousand picks.
const SLOW_DRAWS: usize = 64;
