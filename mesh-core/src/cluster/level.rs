//! One priority level of a cluster.
//!
//! Decides: how a level is divided, by nearness or by the weights of localities. Never: which level is
//! used. Invariant: `all` holds every member of the level, and every other area is a part of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::area::Area;
use super::locality::{Locality, Proximity, tiers};
use super::priority::{self, Share};

/// A level.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) all: Area,
    pub(super) parts: Parts,
    /// Of the last census, packed.
    share: AtomicU32,
}

/// How the healthy members of a level are divided.
#[derive(Debug)]
pub(super) enum Parts {
    /// Each tier holds the ones before, nearest first; the last one is the level itself and not listed.
    Near(Box<[Area]>),
    /// Localities with their weights.
    Weighted(Box<[(Area, u32)]>),
}

/// A member of a level, before it is built.
pub(super) struct Place<'a> {
    pub(super) index: usize,
    pub(super) proximity: Proximity,
    pub(super) locality: Option<&'a Locality>,
}

impl Level {
    /// A level over `places`, which must not be empty. `area` builds an area over positions.
    pub(super) fn new(
        places: &[Place<'_>],
        weights: Option<&BTreeMap<Locality, u32>>,
        area: impl Fn(Vec<usize>) -> Area,
    ) -> Self {
        let all = area(places.iter().map(|place| place.index).collect());
        let parts = match weights {
            Some(weights) => Parts::Weighted(by_locality(places, weights, &area)),
            None => {
                let near: Vec<_> = places.iter().map(|place| (place.index, place.proximity)).collect();
                let mut tiers = tiers(&near);
                tiers.pop();
                Parts::Near(tiers.into_iter().map(&area).collect())
            }
        };
        Self { all, parts, share: AtomicU32::new(0) }
    }

    /// What takes everything while all are healthy; `None`: a locality that is drawn.
    #[inline]
    pub(super) fn nearest(&self) -> Option<&Area> {
        match &self.parts {
            Parts::Near(tiers) => Some(tiers.first().unwrap_or(&self.all)),
            Parts::Weighted(_) => None,
        }
    }

    /// Every area of the level.
    pub(super) fn areas(&self) -> impl Iterator<Item = &Area> {
        let (near, weighted) = match &self.parts {
            Parts::Near(tiers) => (&tiers[..], &[][..]),
            Parts::Weighted(localities) => (&[][..], &localities[..]),
        };
        std::iter::once(&self.all).chain(near).chain(weighted.iter().map(|(area, _)| area))
    }

    /// What the rule of priorities needs to know.
    pub(super) fn counted(&self) -> priority::Level {
        let (healthy, degraded) = self.all.counts();
        priority::Level { hosts: self.all.len(), healthy, degraded }
    }

    /// Whether a look at the members is worth it: the last census found a usable one.
    pub(super) fn has_usable(&self) -> bool {
        let (healthy, degraded) = self.all.counts();
        healthy + degraded > 0
    }

    pub(super) fn share(&self) -> Share {
        let packed = self.share.load(Ordering::Relaxed);
        Share { healthy: packed & 0xff, degraded: packed >> 8 & 0xff, panics: packed >> 16 != 0 }
    }

    pub(super) fn set_share(&self, share: Share) {
        let packed = share.healthy | share.degraded << 8 | u32::from(share.panics) << 16;
        self.share.store(packed, Ordering::Relaxed);
    }
}

/// A locality's weight counts as far as it is healthy, with over-provisioning (Envoy):
/// `weight * min(1, factor * healthy / members)`.
pub(super) fn effective_weight((area, weight): &(Area, u32), factor: u32) -> u64 {
    let percent = u64::from(factor) * u64::from(area.counts().0) / u64::from(area.len());
    u64::from(*weight) * percent.min(100)
}

fn by_locality(
    places: &[Place<'_>],
    weights: &BTreeMap<Locality, u32>,
    area: &impl Fn(Vec<usize>) -> Area,
) -> Box<[(Area, u32)]> {
    let mut members: BTreeMap<&Locality, Vec<usize>> = BTreeMap::new();
    for place in places {
        if let Some(locality) = place.locality {
            members.entry(locality).or_default().push(place.index);
        }
    }
    let weighted = members.into_iter().map(|(locality, members)| (area(members), weights.get(locality).copied()));
    weighted.filter_map(|(area, weight)| weight.filter(|weight| *weight > 0).map(|weight| (area, weight))).collect()
}
