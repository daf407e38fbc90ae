//! How near an endpoint is, and the tiers that follow from it.
//!
//! Decides: which endpoints are asked first. Never: whether a tier is healthy enough to be used;
//! that is the picker's rule.
//! Invariant: each tier holds the ones before it, the last holds every endpoint, none is empty, and
//! an unknown place is near to nothing.

/// A place: region and zone, each empty when unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// The region.
    pub region: String,
    /// The zone within the region.
    pub zone: String,
}

/// Distance between a caller and an endpoint, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proximity {
    /// Same region and zone.
    Zone,
    /// Same region, another zone.
    Region,
    /// Anywhere else, or unknown.
    Elsewhere,
}

impl Locality {
    /// How near `other` is. Zones are compared only within one region: `a` is a zone in many.
    pub fn proximity(&self, other: &Self) -> Proximity {
        let same_region = self.region == other.region;
        match same_region && self.zone == other.zone && !self.zone.is_empty() {
            true => Proximity::Zone,
            false if same_region && !self.region.is_empty() => Proximity::Region,
            false => Proximity::Elsewhere,
        }
    }
}

/// The tiers as lists of positions. Without endpoints there is none; a tier that would add nothing
/// to the one before is left out.
pub(super) fn tiers(endpoints: &[(usize, Proximity)]) -> Vec<Vec<usize>> {
    let mut tiers: Vec<Vec<usize>> = Vec::new();
    for reach in [Proximity::Zone, Proximity::Region, Proximity::Elsewhere] {
        let within = endpoints.iter().filter(|(_, proximity)| *proximity <= reach);
        let tier: Vec<usize> = within.map(|(position, _)| *position).collect();
        if tier.len() > tiers.last().map_or(0, Vec::len) {
            tiers.push(tier);
        }
    }
    tiers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(region: &str, zone: &str) -> Locality {
        Locality { region: region.to_owned(), zone: zone.to_owned() }
    }

    #[test]
    fn a_zone_counts_only_in_its_region_and_an_unknown_place_is_near_to_nothing() {
        for (caller, endpoint, expected) in [
            (at("r", "a"), at("r", "a"), Proximity::Zone),
            (at("r", "a"), at("r", "b"), Proximity::Region),
            (at("r", "a"), at("s", "a"), Proximity::Elsewhere),
            (at("r", ""), at("r", ""), Proximity::Region),
            (at("", "a"), at("", "a"), Proximity::Zone),
            (at("", ""), at("", ""), Proximity::Elsewhere),
            (at("r", "a"), at("", ""), Proximity::Elsewhere),
        ] {
            assert_eq!(caller.proximity(&endpoint), expected, "{caller:?} {endpoint:?}");
        }
    }

    #[test]
    fn each_tier_holds_the_ones_before_and_the_last_holds_all() {
        use Proximity::{Elsewhere, Region, Zone};
        for (near, expected) in [
            (vec![], vec![]),
            (vec![Elsewhere, Elsewhere], vec![vec![0, 1]]),
            (vec![Zone, Zone], vec![vec![0, 1]]),
            (vec![Elsewhere, Zone], vec![vec![1], vec![0, 1]]),
            (vec![Elsewhere, Zone, Region], vec![vec![1], vec![1, 2], vec![0, 1, 2]]),
        ] {
            let endpoints: Vec<_> = near.into_iter().enumerate().collect();
            assert_eq!(tiers(&endpoints), expected);
        }
    }
}
