use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::endpoint::load::{InFlight, Outcome};

struct Fake {
    load: Arc<Load>,
    weight: u32,
    available: AtomicBool,
    proximity: Proximity,
}

impl Candidate for Fake {
    fn load(&self) -> &Load {
        &self.load
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn is_available(&self, _now: Instant) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    fn is_local(&self) -> bool {
        self.proximity == Proximity::Zone
    }

    fn proximity(&self) -> Proximity {
        self.proximity
    }
}

const KINDS: [BalancerKind; 3] = [BalancerKind::PeakEwma, BalancerKind::LeastRequest, BalancerKind::RoundRobin];

fn endpoint(weight: u32, available: bool, proximity: Proximity, now: Instant) -> Arc<Fake> {
    Arc::new(Fake { load: Arc::new(Load::new(now)), weight, available: available.into(), proximity })
}

/// One endpoint per entry: `true` is available.
fn picker(kind: BalancerKind, available: &[bool], now: Instant) -> Picker<Fake> {
    let endpoints = available.iter().map(|up| endpoint(1, *up, Proximity::Elsewhere, now));
    Picker::new(kind, endpoints.collect(), 7)
}

/// Shares of each endpoint, and of panic picks, over many picks that leave no load behind.
fn shares(picker: &Picker<Fake>, now: Instant) -> (Vec<f64>, f64) {
    const PICKS: u32 = 100_000;
    let mut rng = fastrand::Rng::with_seed(42);
    let (mut counts, mut panics) = (vec![0_u32; picker.endpoints().len()], 0_u32);
    for _ in 0..PICKS {
        let pick = picker.pick(Asked::at(now), &mut rng).unwrap();
        counts[pick.index] += 1;
        panics += u32::from(pick.panic);
    }
    let share = |count: u32| f64::from(count) / f64::from(PICKS);
    (counts.into_iter().map(share).collect(), share(panics))
}

fn assert_shares(got: &[f64], expected: &[f64], what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 0.02 * expected, "{what}: {got} is not {expected}");
    }
    assert_eq!(got.len(), expected.len());
}

#[test]
fn equal_endpoints_get_equal_shares() {
    let now = Instant::now();
    for kind in KINDS {
        let (got, panics) = shares(&picker(kind, &[true; 4], now), now);
        assert_shares(&got, &[0.25; 4], &format!("{kind:?}"));
        assert_eq!(panics, 0.0);
    }
}

#[test]
fn an_idle_cluster_is_shared_by_weight_and_weight_zero_gets_nothing() {
    let now = Instant::now();
    for kind in [BalancerKind::LeastRequest, BalancerKind::RoundRobin] {
        let endpoints = [1, 0, 2, 7].map(|weight| endpoint(weight, true, Proximity::Elsewhere, now));
        let (got, _) = shares(&Picker::new(kind, endpoints.to_vec(), 7), now);
        assert_shares(&got, &[0.1, 0.0, 0.2, 0.7], &format!("{kind:?}"));
    }
}

#[test]
fn requests_in_flight_grow_in_proportion_to_weight() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(3);
    for kind in [BalancerKind::LeastRequest, BalancerKind::PeakEwma] {
        let endpoints = [1, 3].map(|weight| endpoint(weight, true, Proximity::Elsewhere, now));
        let picker = Picker::new(kind, endpoints.to_vec(), 7);
        let held: Vec<InFlight> =
            (0..4000).map(|_| picker.pick(Asked::at(now), &mut rng).unwrap().endpoint.load.start(now)).collect();
        let heavy = f64::from(endpoints[1].load.in_flight()) / held.len() as f64;
        assert!((heavy - 0.75).abs() <= 0.75 * 0.02, "{kind:?} {heavy}");
    }
}

#[test]
fn an_unavailable_endpoint_is_not_picked_and_the_others_share_its_part() {
    let now = Instant::now();
    for kind in KINDS {
        let (got, panics) = shares(&picker(kind, &[true, false, true, true], now), now);
        let third = 1.0 / 3.0;
        assert_shares(&got, &[third, 0.0, third, third], &format!("{kind:?}"));
        assert_eq!(panics, 0.0);
    }
}

#[test]
fn below_half_the_picker_panics_and_spares_the_few_that_are_left() {
    let now = Instant::now();
    for kind in KINDS {
        let (got, panics) = shares(&picker(kind, &[true, false, false, false], now), now);
        let limit = if kind == BalancerKind::RoundRobin { 0.25 } else { 0.5 };
        assert!(got[0] <= limit, "{kind:?}: at most twice the normal share, in turns once; not {}", got[0]);
        assert!(got[1..].iter().all(|share| *share > 0.1), "{kind:?} {got:?}");
        assert!(panics >= got[1..].iter().sum(), "{kind:?}: every pick of a dead one says so");
        let (got, panics) = shares(&picker(kind, &[true, true, false, false], now), now);
        assert_eq!((got[2] + got[3], panics), (0.0, 0.0), "{kind:?}: half is not below half");
    }
}

#[test]
fn with_everything_down_panic_picks_all_and_without_panic_there_is_no_endpoint() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    for kind in KINDS {
        let (got, panics) = shares(&picker(kind, &[false; 4], now), now);
        assert_shares(&got, &[0.25; 4], &format!("{kind:?}"));
        assert_eq!(panics, 1.0);
        let calm = picker(kind, &[false; 4], now).with_panic_percent(0);
        assert_eq!(calm.pick(Asked::at(now), &mut rng).err(), Some(NoEndpoint::AllUnavailable));
        let (got, panics) = shares(&picker(kind, &[false, false, false, true], now).with_panic_percent(0), now);
        assert_eq!((got[3], panics), (1.0, 0.0), "{kind:?}");
    }
}

#[test]
fn no_endpoint_and_no_weight_are_the_same_emptiness() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    for kind in KINDS {
        assert_eq!(picker(kind, &[], now).pick(Asked::at(now), &mut rng).err(), Some(NoEndpoint::Empty));
        let drained = Picker::new(kind, vec![endpoint(0, true, Proximity::Zone, now)], 7);
        assert_eq!(drained.pick(Asked::at(now), &mut rng).err(), Some(NoEndpoint::Empty));
    }
}

#[test]
fn a_retry_never_reaches_the_endpoint_that_just_failed_while_another_is_usable() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(9);
    for kind in KINDS {
        let two = picker(kind, &[true, true], now);
        let rest = picker(kind, &[true, false], now);
        for _ in 0..200 {
            assert_eq!(two.pick(Asked { tried: &[0], ..Asked::at(now) }, &mut rng).unwrap().index, 1);
            assert_eq!(
                rest.pick(Asked { tried: &[0], ..Asked::at(now) }, &mut rng).unwrap().index,
                0,
                "{kind:?}: the only usable one, again"
            );
            assert!(!two.pick(Asked { tried: &[0, 1], ..Asked::at(now) }, &mut rng).unwrap().panic);
        }
    }
}

#[test]
fn a_retry_leaves_the_zone_when_the_zone_was_tried() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(9);
    for kind in KINDS {
        let places = [Proximity::Zone, Proximity::Region, Proximity::Elsewhere];
        let picker = Picker::new(kind, places.map(|place| endpoint(1, true, place, now)).to_vec(), 7);
        for (tried, expected) in [(&[][..], 0), (&[0], 1), (&[0, 1], 2)] {
            for _ in 0..50 {
                assert_eq!(
                    picker.pick(Asked { tried, ..Asked::at(now) }, &mut rng).unwrap().index,
                    expected,
                    "{kind:?} {tried:?}"
                );
            }
        }
    }
}

#[test]
fn a_zone_keeps_its_traffic_while_half_of_it_is_up_and_then_spills_the_lost_share() {
    let now = Instant::now();
    let local_share = |kind, up: usize| {
        let local = (0..4).map(|n| endpoint(1, n < up, Proximity::Zone, now));
        let remote = (0..12).map(|_| endpoint(1, true, Proximity::Elsewhere, now));
        let (got, panics) = shares(&Picker::new(kind, local.chain(remote).collect(), 7), now);
        assert_eq!(panics, 0.0);
        got[..4].iter().sum::<f64>()
    };
    for kind in KINDS {
        for up in 2..=4 {
            assert_eq!(local_share(kind, up), 1.0, "{kind:?}");
        }
        // One of four up: it keeps its quarter; what spills goes to all 13 that are up, it included.
        let expected = 0.25 + 0.75 / 13.0;
        let got = local_share(kind, 1);
        assert!((got - expected).abs() <= 0.02, "{kind:?} {got}");
        assert_eq!(local_share(kind, 0), 0.0, "{kind:?}");
    }
}

#[test]
fn one_slow_or_failing_endpoint_gets_a_small_share_under_peak_ewma() {
    let refusal = Outcome::Failed { retry_after: None };
    for (bad_millis, bad_outcome) in [(100, Outcome::Answered), (1, refusal)] {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(21);
        let picker = picker(BalancerKind::PeakEwma, &[true; 4], now);
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            let pick = picker.pick(Asked::at(now), &mut rng).unwrap();
            counts[pick.index] += 1;
            let slot = pick.endpoint.load.start(now);
            let (millis, outcome) = if pick.index == 0 { (bad_millis, bad_outcome) } else { (10, Outcome::Answered) };
            now += Duration::from_millis(millis);
            slot.finish(now, outcome);
        }
        assert!(counts[0] < 200, "less than 1 %: {counts:?}");
        assert!(counts[0] > 1, "tried again once its estimate has faded: {counts:?}");
        assert!(counts[1..].iter().all(|count| (6000..7400).contains(count)), "{counts:?}");
    }
}

proptest! {
    #[test]
    fn a_pick_keeps_the_rules(
        endpoints in proptest::collection::vec((0..3_u32, any::<bool>(), 0..3_u8), 0..9),
        tried in proptest::collection::vec(0..9_usize, 0..4),
        kind in 0..3_usize,
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let near = [Proximity::Zone, Proximity::Region, Proximity::Elsewhere];
        let built = endpoints.iter().map(|(weight, up, place)| endpoint(*weight, *up, near[usize::from(*place)], now));
        let picker = Picker::new(KINDS[kind], built.collect(), seed);
        let weighted: Vec<_> = endpoints.iter().enumerate().filter(|(_, (weight, ..))| *weight > 0).collect();
        let up: Vec<_> = weighted.iter().filter(|(_, (_, up, _))| *up).map(|(index, _)| *index).collect();
        let panics = up.len() * 2 < weighted.len();
        let Ok(pick) = picker.pick(Asked { tried: &tried, ..Asked::at(now) }, &mut fastrand::Rng::with_seed(seed)) else {
            prop_assert!(weighted.is_empty());
            return Ok(());
        };
        prop_assert!(weighted.iter().any(|(index, _)| *index == pick.index));
        prop_assert!(pick.panic || up.contains(&pick.index), "an unavailable one is picked in panic only");
        prop_assert!(!pick.panic || panics);
        let alternatives = weighted.iter().any(|(index, (_, up, _))| !tried.contains(index) && (panics || *up));
        prop_assert!(!tried.contains(&pick.index) || !alternatives);
    }
}
