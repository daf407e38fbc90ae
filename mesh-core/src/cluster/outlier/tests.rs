use std::collections::BTreeMap as Map;

use serde_json::Value;

use super::*;
use crate::error::ErrorKind;
use crate::policy::vectors::{cases, seconds, text, whole};
use crate::policy::verdict::Verdict;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/outlier.json"));

const OUT_OF_SCOPE: &[(&str, &str)] = &[
    (
        "a50-rule-3-hosts-67-percent",
        "A50 asks before the ejection; we ask after it, as Envoy does since its PR 27909, which answers reports O28 and O29",
    ),
    (
        "a50-rule-1-of-2-at-10-percent",
        "A50 asks before the ejection; we ask after it, as Envoy does since its PR 27909, which answers reports O28 and O29",
    ),
    (
        "failure-percentage-exactly-threshold-grpc",
        "A50 compares with >; we compare with >=, as Envoy does; failure-percentage-exactly-threshold is the other half",
    ),
    (
        "timeline-ejected-host-keeps-connection",
        "needs a connection: a_connection_outlives_the_ejection_of_its_endpoint, in tests/health.rs",
    ),
];

/// A cluster with its endpoints, as the balancer would hold them.
struct Cluster {
    detector: OutlierDetector,
    states: Map<u64, Arc<OutlierState>>,
    start: Instant,
    rng: fastrand::Rng,
}

impl Cluster {
    fn new(config: OutlierConfig, hosts: u64) -> Self {
        let detector = OutlierDetector::new(config).expect("valid");
        let states = (0..hosts).map(|key| (key, detector.add(key))).collect();
        Self { detector, states, start: Instant::now(), rng: fastrand::Rng::with_seed(1) }
    }

    fn record(&mut self, key: u64, verdict: Verdict, at: Duration) -> Option<Detection> {
        self.detector.record(&self.states[&key], verdict.into(), self.start + at, &mut self.rng)
    }

    /// Failures to reach it.
    fn miss(&mut self, key: u64, times: u32) -> Option<Detection> {
        let missed = Observed { verdict: Verdict::GatewayError, is_local: true };
        let record = |_| self.detector.record(&self.states[&key], missed, self.start, &mut self.rng);
        (0..times).filter_map(record).last()
    }

    fn fail(&mut self, key: u64, times: u32, at: Duration) {
        for _ in 0..times {
            self.record(key, Verdict::ServerError, at);
        }
    }

    fn sweep(&mut self, at: Duration) -> Sweep {
        self.detector.sweep(self.start + at, &mut self.rng)
    }

    fn ejected(&self) -> Vec<u64> {
        self.states.iter().filter(|(_, state)| state.is_ejected()).map(|(key, _)| *key).collect()
    }
}

/// No rule at all, and no cap but the share.
fn silent() -> OutlierConfig {
    OutlierConfig {
        max_ejection_percent: 100,
        always_eject_one: false,
        keep_last: false,
        consecutive_5xx: 0,
        consecutive_gateway: 0,
        success_rate: SuccessRate { enforcing: 0, ..SuccessRate::default() },
        ..OutlierConfig::default()
    }
}

fn number<T: TryFrom<u64>>(value: &Value, field: &str) -> T {
    T::try_from(whole(value, field)).unwrap_or_else(|_| panic!("{field} is too large in {value}"))
}

fn check_max_ejection(case: &Value) {
    let config = OutlierConfig {
        max_ejection_percent: number(&case["config"], "max_ejection_percent"),
        always_eject_one: case["config"]["always_eject_one_host"] == true,
        consecutive_5xx: 1,
        ..silent()
    };
    let mut cluster = Cluster::new(config, whole(case, "hosts"));
    for key in 0..whole(case, "failing") {
        cluster.fail(key, 1, Duration::ZERO);
    }
    let expected = whole(&case["expected"], "ejected_count");
    assert_eq!(cluster.ejected().len() as u64, expected, "{}", text(case, "id"));
    assert_eq!(cluster.detector.ejected() as u64, expected, "{}", text(case, "id"));
}

fn key_of(name: &Value) -> u64 {
    name.as_str().and_then(|name| name.strip_prefix('h')).and_then(|key| key.parse().ok()).expect("a host name")
}

/// Plays the interval of a case request by request, and gives what a sweep then ejects.
fn check_sweep(case: &Value, config: OutlierConfig) {
    let hosts = case["hosts"].as_array().expect("hosts");
    let mut cluster = Cluster::new(config, hosts.len() as u64);
    for host in hosts {
        let (key, success, total) = (key_of(&host["id"]), whole(host, "success"), whole(host, "total"));
        for request in 0..total {
            let verdict = if request < success { Verdict::Success } else { Verdict::ServerError };
            assert_eq!(cluster.record(key, verdict, Duration::ZERO), None);
        }
    }
    let sweep = cluster.sweep(Duration::from_secs(10));
    let mut expected: Vec<u64> = case["expected"]["ejected"].as_array().expect("ejected").iter().map(key_of).collect();
    expected.sort_unstable();
    assert_eq!(cluster.ejected(), expected, "{}", text(case, "id"));
    assert_eq!(sweep.detections.len(), expected.len(), "{}", text(case, "id"));
    assert_eq!(cluster.sweep(Duration::from_secs(20)).detections, [], "an interval starts at zero");
}

fn success_rate_of(case: &Value) -> SuccessRate {
    let config = &case["config"];
    SuccessRate {
        minimum_hosts: number(config, "success_rate_minimum_hosts"),
        request_volume: whole(config, "success_rate_request_volume"),
        stdev_factor: number(config, "success_rate_stdev_factor"),
        enforcing: 100,
    }
}

/// The mean, deviation and threshold that the case publishes.
fn check_statistics(case: &Value) {
    let (id, rule, expected) = (text(case, "id"), success_rate_of(case), &case["expected"]);
    let hosts = case["hosts"].as_array().expect("hosts").iter();
    let tallies: Vec<_> = hosts
        .map(|h| Tally { key: key_of(&h["id"]), successes: whole(h, "success"), total: whole(h, "total") })
        .collect();
    let mut keys: Vec<_> =
        statistics::qualifying(&tallies, rule.request_volume, 0).iter().map(|tally| tally.key).collect();
    keys.sort_unstable();
    let qualifying: Vec<_> = expected["qualifying_hosts"].as_array().expect("hosts").iter().map(key_of).collect();
    assert_eq!(keys, qualifying, "{id}");
    let judged = statistics::qualifying(&tallies, rule.request_volume, rule.minimum_hosts);
    if expected["skipped"] == true {
        assert!(judged.is_empty(), "{id}");
        return;
    }
    let bar = statistics::bar(&judged, rule.stdev_factor).expect(id);
    for (field, value) in [("mean", bar.mean), ("population_stdev", bar.stdev), ("threshold", bar.threshold)] {
        let expected = expected[field].as_f64().expect(field);
        assert!((value - expected).abs() < 1e-9, "{id}: {field} {value}, expected {expected}");
    }
}

fn check_failure_percentage(case: &Value) {
    let config = &case["config"];
    let rule = FailurePercentage {
        threshold: number(config, "failure_percentage_threshold"),
        minimum_hosts: number(config, "failure_percentage_minimum_hosts"),
        request_volume: whole(config, "failure_percentage_request_volume"),
        enforcing: 100,
    };
    let success_rate = SuccessRate { minimum_hosts: u32::MAX, ..SuccessRate::default() };
    let cap = number(config, "max_ejection_percent");
    check_sweep(case, OutlierConfig { failure_percentage: rule, success_rate, max_ejection_percent: cap, ..silent() });
}

fn check_success_rate(case: &Value) {
    check_statistics(case);
    let cap = number(&case["config"], "max_ejection_percent");
    let off = FailurePercentage { minimum_hosts: u32::MAX, ..FailurePercentage::default() };
    let success_rate = success_rate_of(case);
    check_sweep(case, OutlierConfig { success_rate, failure_percentage: off, max_ejection_percent: cap, ..silent() });
}

fn check_streak(case: &Value, config: OutlierConfig) {
    let mut cluster = Cluster::new(config, 2);
    let mut ejected_after = None;
    for (index, response) in case["responses"].as_array().expect("responses").iter().enumerate() {
        let verdict = match response.as_str() {
            Some("connect_failure") => Verdict::of_failure(ErrorKind::Connect).expect("counts"),
            Some("timeout") => Verdict::of_failure(ErrorKind::AttemptTimeout).expect("counts"),
            Some(other) => panic!("unknown response {other}"),
            None => Verdict::of_response(response.as_u64().expect("status") as u16, None),
        };
        cluster.record(0, verdict, Duration::ZERO);
        if !cluster.ejected().is_empty() {
            ejected_after = ejected_after.or(Some(index as u64 + 1));
        }
    }
    assert_eq!(ejected_after, case["expected"]["ejected_after_response"].as_u64(), "{}", text(case, "id"));
}

fn check_ejection_time(case: &Value) {
    let (base_ejection, max_ejection) = (seconds(case, "base_ejection_s"), seconds(case, "max_ejection_s"));
    let config = OutlierConfig { base_ejection, max_ejection, ..silent() };
    let time = config.ejection_time(number(case, "times_ejected"));
    assert_eq!(time, seconds(&case["expected"], "ejection_s"), "{}", text(case, "id"));
}

/// The life of one endpoint among two; `eject` is a streak of five.
fn check_timeline(case: &Value) {
    let config = &case["config"];
    let (interval, base_ejection) = (seconds(config, "interval_s"), seconds(config, "base_ejection_s"));
    let mut cluster = Cluster::new(OutlierConfig { interval, base_ejection, consecutive_5xx: 5, ..silent() }, 2);
    for event in case["events"].as_array().expect("events") {
        let at = seconds(event, "at_s");
        match text(event, "do") {
            "eject" | "5 x 500" => cluster.fail(0, 5, at),
            "4 x 500" => cluster.fail(0, 4, at),
            "1 x 500" => cluster.fail(0, 1, at),
            "sweep" => drop(cluster.sweep(at)),
            "none" => {}
            other => panic!("unknown event {other}"),
        }
        let is_ejected = cluster.detector.is_ejected(0);
        assert_eq!(cluster.detector.ejected(), usize::from(is_ejected));
        assert!(event["ejected"].is_null() || event["ejected"] == is_ejected, "{}: {event}", text(case, "id"));
        let times = u64::from(cluster.detector.lock().by_key[&0].times);
        assert!(event["multiplier"].is_null() || event["multiplier"] == times, "{}: {event}", text(case, "id"));
    }
}

fn check_removal(case: &Value) {
    let cap = number(&case["config"], "max_ejection_percent");
    let config = OutlierConfig { max_ejection_percent: cap, consecutive_5xx: 1, ..silent() };
    let mut cluster = Cluster::new(config, whole(&case["config"], "hosts"));
    for event in case["events"].as_array().expect("events") {
        match text(event, "do") {
            "eject h0" => cluster.fail(0, 1, Duration::ZERO),
            "h1 fails" => cluster.fail(1, 1, Duration::ZERO),
            "h0 removed by discovery; h4 added" => {
                cluster.detector.remove(0);
                cluster.states.remove(&0);
                cluster.states.insert(4, cluster.detector.add(4));
            }
            other => panic!("unknown event {other}"),
        }
        let expected: Vec<_> = event["ejected"].as_array().expect("ejected").iter().map(key_of).collect();
        assert_eq!(cluster.ejected(), expected, "{event}");
    }
}

fn check_config(case: &Value) {
    let written = &case["config"];
    let percent = |field: &str, default: u8| written[field].as_u64().map_or(default, |value| value as u8);
    let mut config = OutlierConfig::default();
    config.max_ejection_percent = percent("max_ejection_percent", config.max_ejection_percent);
    config.success_rate.enforcing = percent("enforcing_success_rate", config.success_rate.enforcing);
    let threshold = config.failure_percentage.threshold;
    config.failure_percentage.threshold = percent("failure_percentage_threshold", threshold);
    // A negative interval cannot be written as a Duration; the reader of documents meets it first.
    let interval = written["interval_s"].as_f64().map(Duration::try_from_secs_f64);
    let accepted = match interval {
        Some(Err(_)) => false,
        Some(Ok(interval)) => OutlierDetector::new(OutlierConfig { interval, ..config }).is_ok(),
        None => OutlierDetector::new(config).is_ok(),
    };
    assert_eq!(accepted, case["expected"]["accepted"] == true, "{}", text(case, "id"));
}

fn check(case: &Value) {
    match text(case, "kind") {
        "max_ejection" => check_max_ejection(case),
        "success_rate" => check_success_rate(case),
        "failure_percentage" => check_failure_percentage(case),
        "consecutive_5xx" => {
            check_streak(case, OutlierConfig { consecutive_5xx: number(case, "consecutive_5xx"), ..silent() });
        }
        "consecutive_gateway" => {
            let consecutive_gateway = number(case, "consecutive_gateway_failure");
            let enforcing_consecutive_gateway = number(case, "enforcing_percent");
            check_streak(case, OutlierConfig { consecutive_gateway, enforcing_consecutive_gateway, ..silent() });
        }
        "ejection_time" => check_ejection_time(case),
        "timeline" if text(case, "id") == "timeline-host-removed-frees-slot" => check_removal(case),
        "timeline" => check_timeline(case),
        "config" => check_config(case),
        other => panic!("unknown kind {other}"),
    }
}

#[test]
fn every_outlier_vector_holds() {
    let (mut count, mut skipped) = (Map::new(), 0);
    for case in cases(VECTORS) {
        if OUT_OF_SCOPE.iter().any(|(name, _)| *name == text(&case, "id")) {
            skipped += 1;
            continue;
        }
        check(&case);
        *count.entry(text(&case, "kind").to_owned()).or_insert(0) += 1;
    }
    let expected = [
        ("max_ejection", 20),
        ("success_rate", 15),
        ("failure_percentage", 7),
        ("consecutive_5xx", 8),
        ("consecutive_gateway", 1),
        ("ejection_time", 6),
        ("timeline", 5),
        ("config", 5),
    ];
    assert_eq!(count, expected.map(|(kind, n)| (kind.to_owned(), n)).into());
    assert_eq!(skipped, OUT_OF_SCOPE.len());
}

#[test]
fn by_default_one_of_a_few_leaves_but_never_the_last() {
    for (hosts, expected) in [(1, 0), (2, 1), (3, 1), (9, 1), (20, 2)] {
        let mut cluster = Cluster::new(OutlierConfig::default(), hosts);
        (0..hosts).for_each(|key| cluster.fail(key, 5, Duration::ZERO));
        assert_eq!(cluster.ejected().len(), expected, "of {hosts}");
    }
    let mut all = Cluster::new(OutlierConfig { max_ejection_percent: 100, ..OutlierConfig::default() }, 3);
    (0..3).for_each(|key| all.fail(key, 5, Duration::ZERO));
    assert_eq!(all.ejected(), [0, 1]);
}

#[test]
fn the_worst_leave_first_when_not_all_may() {
    let rule = FailurePercentage { threshold: 50, minimum_hosts: 1, request_volume: 10, enforcing: 100 };
    let config = OutlierConfig { failure_percentage: rule, max_ejection_percent: 25, ..silent() };
    let mut cluster = Cluster::new(config, 4);
    for (key, failures) in [(0, 6), (1, 5), (2, 9), (3, 0)] {
        (0..10).for_each(|n| {
            let verdict = if n < failures { Verdict::ServerError } else { Verdict::Success };
            cluster.record(key, verdict, Duration::ZERO);
        });
    }
    let sweep = cluster.sweep(Duration::from_secs(10));
    let found: Vec<_> = sweep.detections.iter().map(|detection| (detection.key, detection.consequence)).collect();
    assert_eq!(found, [(2, Consequence::Ejected), (0, Consequence::CapReached), (1, Consequence::CapReached)]);
}

#[test]
fn a_rule_that_is_not_enforced_is_still_reported() {
    let config = OutlierConfig { consecutive_gateway: 2, consecutive_5xx: 0, ..OutlierConfig::default() };
    let mut cluster = Cluster::new(config, 3);
    assert_eq!(cluster.record(0, Verdict::GatewayError, Duration::ZERO), None);
    let expected = Detection { key: 0, cause: Cause::ConsecutiveGateway, consequence: Consequence::NotEnforced };
    assert_eq!(cluster.record(0, Verdict::GatewayError, Duration::ZERO), Some(expected));
    assert!(cluster.ejected().is_empty());
}

#[test]
fn with_the_defaults_five_gateway_errors_eject() {
    let mut cluster = Cluster::new(OutlierConfig::default(), 3);
    (0..4).for_each(|_| assert_eq!(cluster.record(0, Verdict::GatewayError, Duration::ZERO), None));
    let detection = cluster.record(0, Verdict::GatewayError, Duration::ZERO).expect("the fifth");
    assert_eq!((detection.cause, detection.consequence), (Cause::Consecutive5xx, Consequence::Ejected));
    assert_eq!(cluster.ejected(), [0]);
}

#[test]
fn enforcement_by_percent_draws_a_share() {
    let config = OutlierConfig { consecutive_5xx: 1, enforcing_consecutive_5xx: 30, ..silent() };
    let mut cluster = Cluster::new(config, 1_000);
    (0..1_000).for_each(|key| cluster.fail(key, 1, Duration::ZERO));
    assert!((200..400).contains(&cluster.ejected().len()), "{}", cluster.ejected().len());
}

#[test]
fn an_endpoint_that_stays_keeps_its_state() {
    let mut cluster = Cluster::new(OutlierConfig::default(), 3);
    cluster.fail(0, 5, Duration::ZERO);
    assert!(cluster.detector.add(0).is_ejected());
    cluster.detector.remove(0);
    assert!(!cluster.detector.add(0).is_ejected());
    assert_eq!(cluster.detector.ejected(), 0);
}

#[test]
fn failures_that_arrive_during_an_ejection_are_forgotten_on_return() {
    let mut cluster = Cluster::new(OutlierConfig::default(), 3);
    cluster.fail(0, 5, Duration::ZERO);
    cluster.fail(0, 4, Duration::from_secs(1));
    assert_eq!(cluster.sweep(Duration::from_secs(30)).returned, [0]);
    cluster.fail(0, 4, Duration::from_secs(31));
    assert!(cluster.ejected().is_empty());
    cluster.fail(0, 1, Duration::from_secs(31));
    assert_eq!(cluster.ejected(), [0]);
}

fn split() -> OutlierConfig {
    let local_origin = LocalOrigin { split: true, consecutive: 3, ..LocalOrigin::default() };
    OutlierConfig { local_origin, ..silent() }
}

#[test]
fn told_apart_failures_to_reach_an_endpoint_and_bad_answers_have_streaks_of_their_own() {
    let mut cluster = Cluster::new(OutlierConfig { consecutive_5xx: 3, consecutive_gateway: 3, ..split() }, 3);
    for _ in 0..10 {
        assert_eq!(cluster.miss(0, 2), None);
        assert_eq!(cluster.record(0, Verdict::Success, Duration::ZERO), None, "an answer ends the streak");
        cluster.fail(1, 2, Duration::ZERO);
        assert_eq!(cluster.miss(1, 1), None, "no answer adds nothing to a streak of answers");
        cluster.record(1, Verdict::Success, Duration::ZERO);
    }
    let detection = cluster.miss(0, 3).expect("three in a row");
    assert_eq!((detection.cause, detection.consequence), (Cause::ConsecutiveLocalOrigin, Consequence::Ejected));
    assert_eq!(cluster.ejected(), [0]);
}

#[test]
fn not_told_apart_a_missing_answer_is_a_gateway_error() {
    let mut cluster = Cluster::new(OutlierConfig::default(), 3);
    let detection = cluster.miss(0, 5).expect("five in a row");
    assert_eq!((detection.cause, detection.consequence), (Cause::Consecutive5xx, Consequence::Ejected));
}

#[test]
fn told_apart_each_ground_is_compared_by_itself_and_enforced_by_itself() {
    let rate = SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1000, enforcing: 0 };
    let local_origin = LocalOrigin { split: true, consecutive: 0, ..LocalOrigin::default() };
    let config = OutlierConfig { local_origin, success_rate: rate, ..silent() };
    let mut cluster = Cluster::new(config, 5);
    for key in 0..5 {
        let (missed, bad) = (if key == 1 { 50 } else { 0 }, if key == 2 { 50 } else { 0 });
        cluster.miss(key, missed);
        cluster.fail(key, bad, Duration::ZERO);
        for _ in 0..100 {
            cluster.record(key, Verdict::Success, Duration::ZERO);
        }
    }
    let sweep = cluster.sweep(Duration::from_secs(10));
    let found: Vec<_> = sweep.detections.iter().map(|found| (found.key, found.cause, found.consequence)).collect();
    let expected =
        [(2, Cause::SuccessRate, Consequence::NotEnforced), (1, Cause::LocalOriginSuccessRate, Consequence::Ejected)];
    assert_eq!(found, expected);
    assert_eq!(cluster.detector.counts().read(Cause::LocalOriginSuccessRate, Consequence::Ejected), 1);
    assert_eq!(cluster.detector.counts().read(Cause::SuccessRate, Consequence::NotEnforced), 1);
}

#[test]
fn o28_the_ejected_share_never_exceeds_the_maximum_and_one_is_left_to_take_traffic() {
    let config = OutlierConfig { max_ejection_percent: 75, ..OutlierConfig::default() };
    let mut cluster = Cluster::new(config, 4);
    for round in 0..50 {
        for key in 0..4 {
            cluster.fail(key, 2, Duration::from_secs(round));
            assert!(cluster.detector.ejected() <= 3 && cluster.detector.ejected_share() <= 0.75);
        }
        cluster.sweep(Duration::from_secs(round));
    }
    assert_eq!(cluster.ejected().len(), 3);
    assert!(cluster.detector.counts().read(Cause::Consecutive5xx, Consequence::CapReached) > 0, "said, not silent");
}

#[test]
fn o29_the_only_endpoint_is_never_ejected() {
    let mut cluster = Cluster::new(OutlierConfig { max_ejection_percent: 100, ..OutlierConfig::default() }, 1);
    cluster.fail(0, 100, Duration::ZERO);
    assert!(cluster.ejected().is_empty());
    let counts = cluster.detector.counts();
    assert_eq!(counts.read(Cause::Consecutive5xx, Consequence::Ejected), 0);
    assert_eq!(counts.read(Cause::Consecutive5xx, Consequence::CapReached), 20);
}

#[test]
fn jitter_spreads_returns_and_never_shortens_an_ejection() {
    let jitter = Duration::from_secs(10);
    let config = OutlierConfig { max_ejection_jitter: jitter, consecutive_5xx: 1, ..silent() };
    let mut cluster = Cluster::new(config, 100);
    (0..100).for_each(|key| cluster.fail(key, 1, Duration::ZERO));
    assert!(cluster.sweep(Duration::from_millis(29_999)).returned.is_empty());
    let half = cluster.sweep(Duration::from_secs(35)).returned.len();
    assert!((20..80).contains(&half), "{half}");
    assert_eq!(cluster.sweep(Duration::from_secs(40)).returned.len(), 100 - half);
}

#[test]
fn new_rules_keep_who_is_ejected_and_what_was_counted() {
    let mut cluster = Cluster::new(OutlierConfig::default(), 3);
    cluster.fail(0, 5, Duration::ZERO);
    let off = OutlierConfig { consecutive_5xx: 0, ..OutlierConfig::default() };
    cluster.detector = cluster.detector.under(off).expect("valid");
    assert_eq!(cluster.ejected(), [0]);
    cluster.fail(1, 50, Duration::ZERO);
    assert_eq!(cluster.detector.counts().read(Cause::Consecutive5xx, Consequence::Ejected), 1);
    assert_eq!(cluster.sweep(Duration::from_secs(30)).returned, [0]);
}

#[test]
fn a_streak_that_is_past_a_lowered_limit_is_complete_with_the_next_failure_and_starts_again() {
    let mut cluster = Cluster::new(OutlierConfig { consecutive_5xx: 10, ..silent() }, 3);
    cluster.fail(0, 7, Duration::ZERO);
    let lowered = OutlierConfig { consecutive_5xx: 5, enforcing_consecutive_5xx: 0, ..silent() };
    cluster.detector = cluster.detector.under(lowered).expect("valid");
    let detected = |cluster: &mut Cluster, times| {
        cluster.fail(0, times, Duration::ZERO);
        cluster.detector.counts().read(Cause::Consecutive5xx, Consequence::NotEnforced)
    };
    assert_eq!(detected(&mut cluster, 1), 1);
    assert_eq!((detected(&mut cluster, 4), detected(&mut cluster, 1)), (1, 2), "spared, it is found again after five");
    cluster.fail(0, 4, Duration::ZERO);
    let enforced = OutlierConfig { consecutive_5xx: 3, enforcing_consecutive_5xx: 100, ..silent() };
    cluster.detector = cluster.detector.under(enforced).expect("valid");
    cluster.fail(0, 20, Duration::ZERO);
    assert_eq!(cluster.ejected(), [0]);
    assert_eq!(cluster.detector.counts().read(Cause::Consecutive5xx, Consequence::Ejected), 1, "once");
}

#[test]
fn a_health_check_that_succeeds_ends_an_ejection_unless_told_otherwise() {
    for (uneject_on_check, expected) in [(true, 0), (false, 1)] {
        let mut cluster = Cluster::new(OutlierConfig { uneject_on_check, ..OutlierConfig::default() }, 3);
        cluster.fail(0, 5, Duration::ZERO);
        assert!(!cluster.detector.take_back_early(1), "it was not ejected");
        assert_eq!(cluster.detector.take_back_early(0), uneject_on_check);
        assert_eq!((cluster.detector.ejected(), cluster.ejected().len()), (expected, expected));
    }
}
