//! Balancers by hash, through the picker.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::*;
use crate::cluster::Picker;
use crate::cluster::balancing::{BalancerKind, Balancing};
use crate::cluster::picker::Asked;
use crate::endpoint::load::{InFlight as Held, Load};

struct Member {
    load: Arc<Load>,
    key: String,
    place: Locality,
    is_local: bool,
    is_available: AtomicBool,
}

impl Candidate for Member {
    fn load(&self) -> &Load {
        &self.load
    }

    fn weight(&self) -> u32 {
        1
    }

    fn is_available(&self, _: Instant) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    fn is_local(&self) -> bool {
        self.is_local
    }

    fn hash_key(&self) -> Option<Cow<'_, str>> {
        Some(self.key.as_str().into())
    }

    fn locality(&self) -> Option<&Locality> {
        Some(&self.place)
    }
}

fn members(count: usize, now: Instant) -> Vec<Arc<Member>> {
    let member = |index: usize| Member {
        load: Arc::new(Load::new(now)),
        key: format!("10.0.0.{index}:80"),
        place: Locality { region: "r".to_owned(), zone: if index < 2 { "a" } else { "b" }.to_owned() },
        is_local: index == 0,
        is_available: AtomicBool::new(true),
    };
    (0..count).map(|index| Arc::new(member(index))).collect()
}

fn kinds(bound: Option<u32>) -> [BalancerKind; 2] {
    let bound = bound.map(|percent| BalanceFactor::new(percent).unwrap());
    [TableConfig::Ring(RingConfig::default()), TableConfig::Maglev(TableSize::new(1009).unwrap())]
        .map(|table| BalancerKind::Hash(HashConfig { table, bound }))
}

fn set(member: &Member, is_available: bool) {
    member.is_available.store(is_available, Ordering::Relaxed);
}

#[test]
fn a_hash_means_one_endpoint_wherever_the_caller_is() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    for kind in kinds(None) {
        let picker = Picker::new(kind, members(5, now), 0);
        let mut seen = BTreeSet::new();
        for hash in (0..100_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let ask = Asked { hash: Some(hash), ..Asked::at(now) };
            let first = picker.pick(ask, &mut rng).unwrap();
            assert!((0..3).all(|_| picker.pick(ask, &mut rng).unwrap().index == first.index) && !first.panic);
            let again = picker.pick(Asked { tried: &[first.index], ..ask }, &mut rng).unwrap();
            assert_ne!(again.index, first.index);
            seen.insert(first.index);
        }
        assert_eq!(seen.len(), 5);
    }
}

#[test]
fn an_unavailable_endpoint_is_passed_and_in_panic_believed_again() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    for kind in kinds(None) {
        let members = members(4, now);
        let picker = Picker::new(kind, members.clone(), 0);
        let mut pick = |hash| picker.pick(Asked { hash: Some(hash), ..Asked::at(now) }, &mut rng).unwrap();
        let home = pick(7).index;
        set(&members[home], false);
        let next = pick(7);
        assert!(next.index != home && !next.panic);
        // One of four is left, below the panic share of a half: all are taken for available.
        let gone = members.iter().enumerate().filter(|(index, _)| *index != next.index);
        gone.for_each(|(_, member)| set(member, false));
        picker.is_panicking(now);
        let panicked = picker.pick(Asked { hash: Some(7), ..Asked::at(now) }, &mut rng).unwrap();
        assert_eq!((panicked.index, panicked.panic), (home, true));
    }
}

#[test]
fn without_a_hash_any_endpoint_is_picked() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    for kind in kinds(None) {
        let picker = Picker::new(kind, members(5, now), 0);
        let seen: BTreeSet<_> = (0..100).map(|_| picker.pick(Asked::at(now), &mut rng).unwrap().index).collect();
        assert_eq!(seen.len(), 5);
    }
}

#[test]
fn a_weighted_locality_has_its_part_of_the_hashes() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let place = |zone: &str| Locality { region: "r".to_owned(), zone: zone.to_owned() };
    let weights = Arc::new(BTreeMap::from([(place("a"), 3), (place("b"), 1)]));
    for kind in kinds(None) {
        let balancing = Balancing { localities: Some(Arc::clone(&weights)), ..Balancing::from(kind) };
        let picker = Picker::new(balancing, members(6, now), 0);
        let ask = |hash| Asked { hash: Some(hash), ..Asked::at(now) };
        let in_a = (0..4000).filter(|_| {
            let hash = rng.u64(..);
            picker.pick(ask(hash), &mut rng).unwrap().index < 2
        });
        // 75 % of 4 000; a ring of 1 024 points is uneven by some percent.
        let in_a = in_a.count();
        assert!((2700..=3300).contains(&in_a), "{in_a}");
    }
}

#[test]
fn a_full_endpoint_overflows_by_the_count_of_its_group() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    for (kind, grouped) in kinds(Some(150)).into_iter().zip([true, false]) {
        let members = members(4, now);
        let group: Arc<AtomicU32> = Arc::default();
        if grouped {
            members.iter().for_each(|member| member.load.join(&group));
        }
        let picker = Picker::new(kind, members, 0);
        let mut held: Vec<Held> = Vec::new();
        let mut most = BTreeMap::<usize, usize>::new();
        for _ in 0..40 {
            let picked = picker.pick(Asked { hash: Some(7), ..Asked::at(now) }, &mut rng).unwrap();
            held.push(picked.endpoint.load.start(now));
            *most.entry(picked.index).or_default() += 1;
        }
        // 1.5 times the average of ten, and one that was taken before it was full; three endpoints suffice.
        assert!(most.len() >= 3 && most.values().all(|count| *count <= 16), "{most:?}");
    }
}
