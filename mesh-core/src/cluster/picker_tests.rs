use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::bounded_load::BalanceFactor;
use crate::cluster::hashing::{HashConfig, TableConfig};
use crate::cluster::load_weight::{LoadWeight, ReportRule};
use crate::cluster::locality::Locality;
use crate::cluster::maglev::TableSize;
use crate::cluster::ring_hash::{HashFunction, RingConfig};
use crate::cluster::slow_start::SlowStart;
use crate::endpoint::load::{InFlight, Load, Outcome};
use crate::load_report::LoadReport;
use crate::policy::vectors::{cases, text, whole};

struct Fake {
    load: Arc<Load>,
    weight: u32,
    available: AtomicBool,
    proximity: Proximity,
    more: More,
}

/// What only some tests set.
#[derive(Default)]
struct More {
    priority: u32,
    degraded: bool,
    locality: Option<Locality>,
    used_since: Option<Instant>,
    reports: LoadWeight,
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

    fn is_degraded(&self, _now: Instant) -> bool {
        self.more.degraded
    }

    fn priority(&self) -> u32 {
        self.more.priority
    }

    fn locality(&self) -> Option<&Locality> {
        self.more.locality.as_ref()
    }

    fn age(&self, now: Instant) -> Duration {
        self.more.used_since.map_or(Duration::MAX, |since| now.saturating_duration_since(since))
    }

    fn reported_weight(&self, rule: &ReportRule, now: Instant) -> Option<f64> {
        self.more.reports.weight(rule, now)
    }
}

const KINDS: [BalancerKind; 5] = [
    BalancerKind::PeakEwma,
    BalancerKind::LeastRequest,
    BalancerKind::RoundRobin,
    BalancerKind::Random,
    BalancerKind::WeightedRoundRobin,
];

/// The balancers by hash; the last one is bounded.
fn hashes() -> [BalancerKind; 3] {
    let ring = TableConfig::Ring(RingConfig::new(32, 64, HashFunction::XxHash).unwrap());
    let maglev = TableConfig::Maglev(TableSize::new(101).unwrap());
    let bound = Some(BalanceFactor::new(120).unwrap());
    [(ring, None), (maglev, None), (maglev, bound)]
        .map(|(table, bound)| BalancerKind::Hash(HashConfig { table, bound }))
}

fn endpoint(weight: u32, available: bool, proximity: Proximity, now: Instant) -> Arc<Fake> {
    fake(weight, available, (proximity, More::default()), now)
}

fn fake(weight: u32, available: bool, (proximity, more): (Proximity, More), now: Instant) -> Arc<Fake> {
    Arc::new(Fake { load: Arc::new(Load::new(now)), weight, available: available.into(), proximity, more })
}

/// `hosts` endpoints of one level, of which some are healthy, some degraded, the others down.
fn level(priority: u32, (hosts, healthy, degraded): (u64, u64, u64), now: Instant) -> Vec<Arc<Fake>> {
    let one = |n: u64| {
        let more = More { priority, degraded: (healthy..healthy + degraded).contains(&n), ..More::default() };
        fake(1, n < healthy + degraded, (Proximity::Elsewhere, more), now)
    };
    (0..hosts).map(one).collect()
}

/// One endpoint per entry: `true` is available.
fn picker(kind: BalancerKind, available: &[bool], now: Instant) -> Picker<Fake> {
    let endpoints = available.iter().map(|up| endpoint(1, *up, Proximity::Elsewhere, now));
    Picker::new(kind, endpoints.collect(), 7)
}

/// Shares of each endpoint, and of panic picks, over many picks that leave no load behind.
fn shares(picker: &Picker<Fake>, now: Instant) -> (Vec<f64>, f64) {
    shares_of(100_000, picker, now)
}

fn shares_of(picks: u32, picker: &Picker<Fake>, now: Instant) -> (Vec<f64>, f64) {
    let mut rng = fastrand::Rng::with_seed(42);
    let (mut counts, mut panics) = (vec![0_u32; picker.endpoints().len()], 0_u32);
    for _ in 0..picks {
        let pick = picker.pick(Asked::at(now), &mut rng).unwrap();
        counts[pick.index] += 1;
        panics += u32::from(pick.panic);
    }
    let share = |count: u32| f64::from(count) / f64::from(picks);
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
    for kind in KINDS.into_iter().skip(1) {
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
        // The draw that finds out that something is down costs one turn.
        let limit = if Balancing::from(kind).choices() == 1 { 0.255 } else { 0.5 };
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
            assert!((local_share(kind, up) - 1.0).abs() < 1e-9, "{kind:?}");
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

/// Shares of the levels, as whole percent, over many picks.
fn level_percents(picker: &Picker<Fake>, now: Instant) -> Vec<f64> {
    let (shares, _) = shares_of(8_000, picker, now);
    let levels = 1 + picker.endpoints().iter().map(|endpoint| endpoint.more.priority).max().unwrap_or(0) as usize;
    let mut percents = vec![0.0; levels];
    for (endpoint, share) in picker.endpoints().iter().zip(shares) {
        percents[endpoint.more.priority as usize] += 100.0 * share;
    }
    percents
}

/// Rows of priority_load.json that were also sent through Envoy, and those of subsets; through the picker,
/// once over its endpoints and once over a subset of a larger list (O32).
#[test]
fn o32_priorities_share_as_in_the_vectors_with_and_without_a_subset() {
    let cases = cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/priority_load.json")));
    let mut picked = 0;
    for case in &cases {
        let now = Instant::now();
        let Some(expected) = case["expected"]["load_percent"].as_array() else { continue };
        let levels = case["priorities"].as_array().unwrap().iter().enumerate();
        let counts =
            |level: &serde_json::Value| (whole(level, "hosts"), whole(level, "healthy"), whole(level, "degraded"));
        let fakes: Vec<_> = levels.flat_map(|(n, levels)| level(n as u32, counts(levels), now)).collect();
        let rule = priority::Rule {
            overprovisioning_percent: whole(case, "overprovisioning_percent") as u32,
            panic_percent: whole(case, "panic_threshold_percent") as u32,
        };
        let balancing = Balancing { rule, ..BalancerKind::LeastRequest.into() };
        // A stranger before each endpoint: the members are every second one.
        let mixed: Vec<_> =
            fakes.iter().flat_map(|fake| [endpoint(1, true, Proximity::Elsewhere, now), Arc::clone(fake)]).collect();
        let members: Vec<_> = (0..fakes.len()).map(|n| 2 * n + 1).collect();
        for picker in [
            Picker::new(balancing.clone(), fakes.clone(), 7),
            Picker::over(balancing.clone(), mixed.into(), &members, 7),
        ] {
            let got = level_percents(&picker, now);
            let is_disputed = text(case, "id") == "p0-25-p1-25-p2-20"; // See `priority`: 34, 33, 33.
            for (level, got) in got.iter().enumerate() {
                let degraded = case["expected"]["degraded_load_percent"][level].as_f64().unwrap_or(0.0);
                let expected = if is_disputed { 33.3 } else { expected[level].as_f64().unwrap() + degraded };
                assert!((got - expected).abs() <= 2.0, "{}: {got} {expected}", text(case, "id"));
            }
            let panics = case["expected"]["panic"].as_array().unwrap();
            assert_eq!(picker.is_panicking(now), panics.iter().any(|panic| panic == true), "{}", text(case, "id"));
        }
        picked += 1;
    }
    // The one left out fails fast; see `with_everything_down_...`.
    assert_eq!((picked, cases.len()), (40, 41));
}

#[test]
fn a_degraded_endpoint_is_used_only_where_healthy_ones_do_not_suffice() {
    let now = Instant::now();
    for kind in KINDS {
        let (got, panics) = shares(&Picker::new(kind, level(0, (4, 3, 1), now), 7), now);
        assert_eq!((got[3], panics), (0.0, 0.0), "{kind:?}: three of four carry all of it");
        let (got, panics) = shares(&Picker::new(kind, level(0, (4, 2, 2), now), 7), now);
        assert!(((got[2] + got[3]) - 0.3).abs() < 0.02 && panics == 0.0, "{kind:?} {got:?}");
    }
}

#[test]
fn a_cluster_that_fails_on_panic_has_no_endpoint_then() {
    let now = Instant::now();
    let balancing = Balancing { fails_on_panic: true, ..Balancing::default() };
    let mut rng = fastrand::Rng::with_seed(1);
    let two_of_four = Picker::new(balancing.clone(), level(0, (4, 2, 0), now), 7);
    assert!(two_of_four.pick(Asked::at(now), &mut rng).is_ok());
    for up in [0, 1] {
        let picker = Picker::new(balancing.clone(), level(0, (4, up, 0), now), 7);
        assert_eq!(picker.pick(Asked::at(now), &mut rng).err(), Some(NoEndpoint::Panicking));
    }
}

#[test]
fn a_level_that_recovers_gets_its_traffic_back() {
    let start = Instant::now();
    let fakes: Vec<_> = [level(0, (100, 100, 0), start), level(1, (100, 100, 0), start)].concat();
    let picker = Picker::new(BalancerKind::LeastRequest, fakes.clone(), 7);
    let first = |now: Instant| level_percents(&picker, now)[0];
    assert!((first(start) - 100.0).abs() < 1e-9);
    fakes[..50].iter().for_each(|fake| fake.available.store(false, Ordering::Relaxed));
    assert!((first(start) - 70.0).abs() < 2.0, "the first draw that meets one of them counts all");
    fakes[..50].iter().for_each(|fake| fake.available.store(true, Ordering::Relaxed));
    let later = start + Duration::from_millis(2);
    assert!((first(later) - 100.0).abs() < 1e-9, "200 members: counted again after 2 ms");
}

#[test]
fn a_retry_leaves_its_level_when_everything_in_it_was_tried() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    for kind in KINDS {
        let picker = Picker::new(kind, [level(0, (2, 2, 0), now), level(1, (1, 1, 0), now)].concat(), 7);
        for _ in 0..50 {
            assert!(picker.pick(Asked { tried: &[0], ..Asked::at(now) }, &mut rng).unwrap().index == 1);
            assert!(picker.pick(Asked { tried: &[0, 1], ..Asked::at(now) }, &mut rng).unwrap().index == 2);
        }
    }
}

fn place(zone: &str) -> Locality {
    Locality { region: "r".to_owned(), zone: zone.to_owned() }
}

#[test]
fn localities_share_by_weight_times_health_and_one_without_weight_gets_nothing() {
    let now = Instant::now();
    let weights = [(place("a"), 3), (place("b"), 1), (place("c"), 0)];
    let localities = Some(Arc::new(weights.into_iter().collect()));
    for kind in KINDS {
        // Locality a has 10 endpoints, b 2, c 2 and an unknown one 1. With 5 of 10 up, a weighs 3 * 0.7.
        for (up, expected) in [(10, 0.75), (8, 0.75), (5, 2.1 / 3.1), (0, 0.0)] {
            let at = |zone: &str, up| {
                let more = More { locality: Some(place(zone)), ..More::default() };
                fake(1, up, (Proximity::Elsewhere, more), now)
            };
            let mut fakes: Vec<_> = (0..10).map(|n| at("a", n < up)).collect();
            fakes.extend(["b", "b", "c", "c", "d"].map(|zone| at(zone, true)));
            let balancing = Balancing {
                localities: localities.clone(),
                rule: priority::Rule { panic_percent: 0, ..priority::Rule::default() },
                ..kind.into()
            };
            let (got, _) = shares_of(20_000, &Picker::new(balancing, fakes, 7), now);
            let share: f64 = got[..10].iter().sum();
            assert!((share - expected).abs() < 0.015, "{kind:?} {up} up: {share} is not {expected}");
            assert_eq!(got[12..].iter().sum::<f64>(), 0.0, "{kind:?}");
        }
    }
}

#[test]
fn o31_the_share_of_a_new_endpoint_rises_smoothly_to_that_of_the_others() {
    let vectors = cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/slow_start.json")));
    let case = vectors.iter().find(|case| case["id"] == "scheduler-share-smooth").unwrap();
    let slow = SlowStart::new(Duration::from_secs(10), 1.0, 10.0).unwrap();
    for kind in KINDS {
        let start = Instant::now() + Duration::from_secs(2000);
        let age = |seconds| More { used_since: start.checked_sub(Duration::from_secs(seconds)), ..More::default() };
        let fakes = [1000, 1000, 0].map(|seconds| fake(1, true, (Proximity::Elsewhere, age(seconds)), start));
        let picker = Picker::new(Balancing { slow_start: Some(slow), ..kind.into() }, fakes.to_vec(), 7);
        let mut rng = fastrand::Rng::with_seed(5);
        let mut before = 0.0;
        for row in case["expected"]["new_host_share_by_second"].as_array().unwrap() {
            let second = start + Duration::from_secs(whole(row, "second"));
            // Idle, so that only the draw decides; 2 000 requests, spread over the second.
            let hits = (0..2000).filter(|n| {
                let now = second + Duration::from_micros(n * 500);
                picker.pick(Asked::at(now), &mut rng).unwrap().index == 2
            });
            let share = hits.count() as f64 / 2000.0;
            let tolerance = row["absolute_tolerance"].as_f64().unwrap();
            let expected = row["share"].as_f64().unwrap();
            assert!((share - expected).abs() <= tolerance, "{kind:?} {row}: {share}");
            assert!(share >= before - 0.05, "{kind:?} {row}: {share} after {before}");
            before = share;
        }
    }
}

#[test]
fn all_endpoints_new_share_evenly() {
    let vectors = cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/slow_start.json")));
    let case = vectors.iter().find(|case| case["id"] == "all-hosts-new-no-effect").unwrap();
    let slow = SlowStart::new(Duration::from_secs(10), 1.0, 10.0).unwrap();
    let now = Instant::now();
    for kind in KINDS {
        let new = || More { used_since: Some(now), ..More::default() };
        let fakes = [0, 1].map(|_| fake(1, true, (Proximity::Elsewhere, new()), now));
        let (got, _) =
            shares(&Picker::new(Balancing { slow_start: Some(slow), ..kind.into() }, fakes.to_vec(), 7), now);
        assert!((got[0] - 0.5).abs() <= case["expected"]["absolute_tolerance"].as_f64().unwrap(), "{kind:?} {got:?}");
    }
}

/// Claim 21: reports of 0.9 and 0.1 shift picks at least 3 to 1.
#[test]
fn reports_of_a_busy_and_an_idle_endpoint_shift_picks_at_least_three_to_one() {
    for reported_rate in [100.0, 0.0] {
        let start = Instant::now();
        let fakes = [0, 1].map(|_| endpoint(1, true, Proximity::Elsewhere, start));
        let picker = Picker::new(BalancerKind::WeightedRoundRobin, fakes.to_vec(), 7);
        let mut rng = fastrand::Rng::with_seed(5);
        let mut counts = [0_u32; 2];
        for n in 0..20_000_u32 {
            let now = start + Duration::from_millis(1) * n;
            let pick = picker.pick(Asked::at(now), &mut rng).unwrap();
            let utilization = [0.9, 0.1][pick.index];
            let report = LoadReport {
                application_utilization: utilization,
                rps_fractional: reported_rate,
                ..LoadReport::default()
            };
            pick.endpoint.more.reports.take(&report, now);
            if n < 9_000 {
                assert!(counts[0].abs_diff(counts[1]) <= 1, "plain turns during the blackout");
            }
            if n == 12_000 {
                counts = [0; 2];
            }
            counts[pick.index] += 1;
        }
        assert!(counts[1] >= 3 * counts[0] && counts[0] > 0, "{reported_rate} {counts:?}");
    }
}

#[test]
fn least_request_looks_at_as_many_endpoints_as_it_is_told() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(5);
    for choices in [2_u8, 5, 10] {
        let fakes: Vec<_> = (0..10).map(|_| endpoint(1, true, Proximity::Elsewhere, now)).collect();
        let _busy: Vec<_> = fakes[1..].iter().map(|fake| fake.load.start(now)).collect();
        let least_request = LeastRequest { choices, bias: 1.0 };
        let balancing = Balancing { least_request, ..BalancerKind::LeastRequest.into() };
        let picker = Picker::new(balancing, fakes, 7);
        let hits = (0..10_000).filter(|_| picker.pick(Asked::at(now), &mut rng).unwrap().index == 0).count();
        // The idle one wins whenever it is drawn. Of ten, the first draw misses it nine times in ten, each
        // further one, which is never the best so far, eight times in nine.
        let expected = 1.0 - 0.9 * (8.0_f64 / 9.0).powi(i32::from(choices) - 1);
        let share = hits as f64 / 10_000.0;
        assert!((share - expected).abs() < 0.02, "{choices}: {share} is not {expected}");
    }
}

#[test]
fn o50_any_weights_are_picked_from_without_overflow_and_all_zero_is_emptiness() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(5);
    for kind in KINDS {
        for weights in [&[u32::MAX; 40][..], &[0, u32::MAX, 1, 0], &[0, 0, 0], &[1; 101], &[u32::MAX, u32::MAX - 1]] {
            let fakes = weights.iter().map(|weight| endpoint(*weight, true, Proximity::Elsewhere, now));
            let picker = Picker::new(kind, fakes.collect(), u64::MAX);
            for _ in 0..200 {
                match picker.pick(Asked::at(now), &mut rng) {
                    Ok(pick) => assert!(weights[pick.index] > 0, "{kind:?} {weights:?}"),
                    Err(reason) => assert!(reason == NoEndpoint::Empty && weights.iter().all(|weight| *weight == 0)),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_pick_keeps_the_rules(
        endpoints in proptest::collection::vec((0..3_u32, any::<bool>(), 0..3_u8), 0..9),
        tried in proptest::collection::vec(0..9_usize, 0..4),
        kind in 0..KINDS.len(),
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

    #[test]
    fn a_pick_takes_the_draws_and_the_endpoint_that_the_rules_alone_would_take(
        endpoints in proptest::collection::vec((1..3_u32, 0..10_u8, 0..3_u8, 0..4_usize), 1..9),
        kind in 0..KINDS.len() + 3,
        hash in any::<Option<u64>>(),
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let near = [Proximity::Zone, Proximity::Region, Proximity::Elsewhere];
        let build = |(weight, up, place, _): &(u32, u8, u8, usize)| endpoint(*weight, *up > 0, near[usize::from(*place)], now);
        let built: Vec<_> = endpoints.iter().map(build).collect();
        let busy = built.iter().zip(&endpoints);
        let _slots: Vec<_> =
            busy.flat_map(|(fake, (.., busy))| (0..*busy).map(|_| fake.load.start(now)).collect::<Vec<_>>()).collect();
        let kind = KINDS.into_iter().chain(hashes()).nth(kind).unwrap_or_default();
        let [quick, slow] = [(); 2].map(|()| Picker::new(kind, built.clone(), seed));
        let [mut drawn, mut by_rules] = [(); 2].map(|()| fastrand::Rng::with_seed(seed));
        for _ in 0..20 {
            let ask = Asked { hash, ..Asked::at(now) };
            let [quick, slow] = [quick.pick(ask, &mut drawn), slow.pick_by_rules(ask, &mut by_rules)];
            let [quick, slow] = [quick, slow].map(|pick| pick.map(|pick| (pick.index, pick.panic)));
            prop_assert_eq!(quick, slow);
            prop_assert_eq!(drawn.get_seed(), by_rules.get_seed());
        }
    }
}
