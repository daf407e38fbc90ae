use std::num::NonZeroU32;

use serde_json::Value;

use super::*;
use crate::policy::backoff::{Backoff, Jitter};
use crate::policy::vectors::{cases, seconds, text, whole};

mod paper;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/circuit_breaker.json"));

const OUT_OF_SCOPE: &[(&str, &str)] = &[
    // An operator who wants that writes `force: metrics_only`, or relies on outlier detection alone, which never
    // takes the last endpoint. A breaker that lets everything pass protects nobody (O35).
    ("finagle-fails-open-last-host", "ours refuses at once and says when to come back; one probe at a time passes"),
];

fn number(value: u64) -> NonZeroU32 {
    NonZeroU32::new(value as u32).expect("above zero")
}

fn open_for(config: &Value) -> Backoff {
    let first = config["open_s_first"].as_f64().or(config["open_s"].as_f64()).expect("wait");
    let growth = config["growth"].as_f64().unwrap_or(1.0);
    let most = config["open_s_max"].as_f64().unwrap_or(first);
    let backoff = Backoff::new(Duration::from_secs_f64(first), Duration::from_secs_f64(most)).expect("valid");
    backoff.with_growth(growth).expect("valid").with_jitter(Jitter::Off).expect("valid")
}

fn config_of(config: &Value) -> BreakerConfig {
    let probes = number(whole(config, "half_open_permits"));
    let mut built = BreakerConfig {
        consecutive_failures: None,
        rate: None,
        slow: None,
        open_for: open_for(config),
        half_open: HalfOpen::default(),
        mode: Mode::Automatic,
    };
    // resilience4j closes while less than the failure ratio of its probes failed: 4 of 10 at 50 %.
    let ratio = config["failure_ratio"].as_f64();
    let tolerated = ratio.map_or(0, |ratio| (ratio * f64::from(probes.get())).ceil() as u32 - 1);
    let max_wait = config["max_half_open_s"].as_f64().map_or(Duration::from_secs(30), Duration::from_secs_f64);
    built.half_open = HalfOpen::new(probes, tolerated, max_wait).expect("valid");
    let rate = |window: f64, least: &str, threshold| {
        RateTrip::new(Duration::from_secs_f64(window), whole(config, least) as u32, threshold).expect("valid")
    };
    match text(config, "model") {
        "consecutive failures" => {
            let more = u64::from(config["threshold_rule"] == "more than 5");
            built.consecutive_failures = Some(number(whole(config, "threshold") + more));
        }
        "error ratio" | "error ratio, rolling window" => {
            let share = Threshold::FailuresAtLeast(config["error_ratio"].as_f64().expect("ratio"));
            built.rate = Some(rate(config["window_s"].as_f64().expect("window"), "min_requests", share));
        }
        "success rate" => {
            let share = Threshold::SuccessesBelow(config["success_ratio"].as_f64().expect("ratio"));
            built.rate = Some(rate(config["window_s"].as_f64().expect("window"), "min_requests", share));
        }
        "count window" => {
            let of_last = |share: f64| {
                let (calls, least) = (number(whole(config, "window_calls")), whole(config, "min_calls") as u32);
                RateTrip::of_last(calls, least, Threshold::FailuresAtLeast(share)).expect("valid")
            };
            built.rate = Some(of_last(ratio.expect("ratio")));
            built.slow = config["slow_call_s"].as_f64().map(|after| {
                let trip = of_last(config["slow_ratio"].as_f64().expect("ratio"));
                SlowTrip::new(Duration::from_secs_f64(after), trip).expect("valid")
            });
        }
        other => panic!("unknown model {other}"),
    }
    built
}

/// Plays the events of one case.
struct Timeline {
    breaker: Arc<CircuitBreaker>,
    held: Vec<Permit>,
    early: Vec<Permit>,
    rng: fastrand::Rng,
}

impl Timeline {
    fn of(case: &Value, start: Instant) -> Self {
        let breaker = CircuitBreaker::new(config_of(&case["config"]), start);
        breaker.force(match case["config"]["mode"].as_str() {
            None => Mode::Automatic,
            Some("forced_open") => Mode::ForcedOpen,
            Some("disabled") => Mode::ForcedClosed,
            Some("metrics_only") => Mode::Observe,
            Some(other) => panic!("unknown mode {other}"),
        });
        // Calls that start before anything happens, for the results that come late.
        let early = (0..2).filter_map(|_| breaker.admit(start).ok()).collect();
        Self { breaker, held: Vec::new(), early, rng: fastrand::Rng::with_seed(1) }
    }

    fn calls(&mut self, count: u64, outcome: Outcome, now: Instant) {
        for _ in 0..count {
            if let Ok(permit) = self.breaker.admit(now) {
                permit.record(outcome, now, &mut self.rng);
            }
        }
    }

    fn finish(&mut self, count: u64, outcome: Outcome, now: Instant) {
        for _ in 0..count {
            let permit = self.held.pop().expect("a probe is out");
            assert!(permit.is_probe());
            permit.record(outcome, now, &mut self.rng);
        }
    }

    fn finish_early(&mut self, outcome: Outcome, now: Instant) {
        self.early.pop().expect("a call started early").record(outcome, now, &mut self.rng);
    }

    fn try_calls(&mut self, count: u64, now: Instant) -> u64 {
        let admitted: Vec<_> = (0..count).filter_map(|_| self.breaker.admit(now).ok()).collect();
        let number = admitted.len() as u64;
        self.held.extend(admitted);
        number
    }

    fn play(&mut self, event: &Value, now: Instant) {
        let count = event["count"].as_u64().unwrap_or(1);
        match text(event, "do") {
            "failures" => self.calls(count, Outcome::Failure, now),
            "successes" => self.calls(count, Outcome::Success, now),
            "slow_successes" => {
                let slow = self.breaker.config().slow.expect("a threshold").after();
                for permit in (0..count).filter_map(|_| self.breaker.admit(now - slow).ok()).collect::<Vec<_>>() {
                    permit.record(Outcome::Success, now, &mut self.rng);
                }
            }
            "status_404" => self.calls(count, Some(Verdict::of_response(404, None)).into(), now),
            "status_429" => self.calls(count, Some(Verdict::of_response(429, None)).into(), now),
            "cancelled" => self.calls(count, Outcome::Ignored, now),
            "probe_success" => self.finish(1, Outcome::Success, now),
            "probe_failure" => self.finish(1, Outcome::Failure, now),
            "probe_status_429" => self.finish(1, Outcome::Throttled, now),
            "probe_future_dropped" => drop(self.held.pop().expect("a probe is out")),
            "ignored_errors" => self.finish(count, Outcome::Ignored, now),
            "probe_results" => {
                self.finish(whole(event, "successes"), Outcome::Success, now);
                self.finish(whole(event, "failures"), Outcome::Failure, now);
            }
            "late_success_of_call_started_before_open" => self.finish_early(Outcome::Success, now),
            "late_failure_of_call_started_before_open" => self.finish_early(Outcome::Failure, now),
            "call" => {
                assert_eq!(
                    self.breaker.is_open(now),
                    event["admitted"] == false,
                    "the balancer sees the same: {event}"
                );
                assert_eq!(self.try_calls(1, now) == 1, event["admitted"] == true, "{event}");
            }
            "concurrent_calls" => {
                let admitted = self.try_calls(count, now);
                assert_eq!(admitted, whole(event, "admitted_count"), "{event}");
                if let Some(rejected) = event["rejected_count"].as_u64() {
                    assert_eq!(count - admitted, rejected, "{event}");
                }
            }
            other => panic!("unknown event {other}"),
        }
    }

    fn label(&self, now: Instant) -> &'static str {
        match (self.breaker.mode(), self.breaker.state(now)) {
            (Mode::ForcedOpen, _) => "forced_open",
            (Mode::ForcedClosed, _) => "disabled",
            (Mode::Observe, _) => "metrics_only",
            (Mode::Automatic, State::Closed) => "closed",
            (Mode::Automatic, State::Open) => "open",
            (Mode::Automatic, State::HalfOpen) => "half_open",
        }
    }
}

#[test]
fn every_breaker_timeline_plays_as_written() {
    let (mut asserted, mut skipped, mut limits) = (0, 0, 0);
    for case in cases(VECTORS) {
        let id = text(&case, "id");
        if case["kind"] == "concurrency_limit" {
            // Tested in policy/concurrency.
            limits += 1;
            continue;
        }
        if OUT_OF_SCOPE.iter().any(|(name, _)| *name == id) {
            skipped += 1;
            continue;
        }
        let start = Instant::now();
        let mut timeline = Timeline::of(&case, start);
        for event in case["events"].as_array().expect("events") {
            let now = start + seconds(event, "at_s");
            timeline.play(event, now);
            assert_eq!(timeline.label(now), text(event, "state"), "{id}: {event}");
            let counts = timeline.breaker.counts(now);
            for (field, counted) in [("failure_count", counts.failures), ("total_count", counts.total)] {
                assert!(event[field].is_null() || event[field].as_u64() == Some(counted), "{id}: {event} {counts:?}");
            }
            if event["would_be"] == "open" {
                assert_eq!(timeline.breaker.state(now), State::Open, "{id}");
            }
        }
        asserted += 1;
    }
    assert_eq!((asserted, skipped, limits), (36, OUT_OF_SCOPE.len(), 4));
}

fn consecutive(failures: u64, probes: u64, tolerated: u32) -> BreakerConfig {
    let wait = Backoff::new(Duration::from_millis(500), Duration::from_secs(4)).expect("valid");
    BreakerConfig {
        consecutive_failures: Some(number(failures)),
        rate: None,
        slow: None,
        mode: Mode::Automatic,
        open_for: wait.with_jitter(Jitter::Off).expect("valid"),
        half_open: HalfOpen::new(number(probes), tolerated, Duration::from_secs(2)).expect("valid"),
    }
}

fn opened(config: BreakerConfig, now: Instant) -> Arc<CircuitBreaker> {
    let breaker = CircuitBreaker::new(config, now);
    let mut rng = fastrand::Rng::with_seed(1);
    while let Ok(permit) = breaker.admit(now) {
        permit.record(Outcome::Failure, now, &mut rng);
    }
    breaker
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let start = Instant::now();
    let breaker = opened(consecutive(1, 1, 0), start);
    let later = start + Duration::from_millis(200);
    assert_eq!(breaker.admit(later).map(drop), Err(Refused { retry_after: Some(Duration::from_millis(300)) }));
    breaker.force(Mode::ForcedOpen);
    assert_eq!(breaker.admit(later).map(drop), Err(Refused { retry_after: None }));
}

#[test]
fn the_default_wait_is_jittered_between_half_and_whole() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..100 {
        let breaker = CircuitBreaker::new(BreakerConfig::default(), start);
        for _ in 0..5 {
            breaker.admit(start).expect("closed").record(Outcome::Failure, start, &mut rng);
        }
        assert!(breaker.is_open(start + Duration::from_millis(2_499)));
        assert!(!breaker.is_open(start + Duration::from_millis(5_001)));
    }
}

#[test]
fn a_probe_of_a_given_up_period_changes_nothing() {
    let start = Instant::now();
    let breaker = opened(consecutive(1, 1, 0), start);
    let mut rng = fastrand::Rng::with_seed(1);
    let stuck = breaker.admit(start + Duration::from_millis(500)).expect("probe");
    let now = start + Duration::from_secs(3);
    let fresh = breaker.admit(now).expect("a new period");
    stuck.record(Outcome::Failure, now, &mut rng);
    assert_eq!(breaker.state(now), State::HalfOpen);
    fresh.record(Outcome::Success, now, &mut rng);
    assert_eq!(breaker.state(now), State::Closed);
}

#[test]
fn a_breaker_that_cannot_work_is_refused() {
    let second = Duration::from_secs(1);
    for share in [0.0, -0.5, 1.1, f64::NAN] {
        assert!(RateTrip::new(second, 5, Threshold::FailuresAtLeast(share)).is_err());
        assert!(RateTrip::new(second, 5, Threshold::SuccessesBelow(share)).is_err());
    }
    assert!(RateTrip::new(Duration::ZERO, 5, Threshold::FailuresAtLeast(0.5)).is_err());
    assert!(RateTrip::new(second, 0, Threshold::FailuresAtLeast(0.5)).is_err());
    assert!(HalfOpen::new(NonZeroU32::MIN, 1, second).is_err());
    assert!(HalfOpen::new(NonZeroU32::MIN, 0, Duration::ZERO).is_err());
}

#[test]
fn a_burst_of_threads_at_the_transition_admits_one_probe_and_recovers() {
    for _ in 0..50 {
        let start = Instant::now();
        let breaker = opened(consecutive(1, 1, 0), start);
        let now = start + Duration::from_millis(500);
        let admitted: Vec<Permit> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| breaker.admit(now).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("thread")).collect()
        });
        assert_eq!(admitted.len(), 1);
        let mut rng = fastrand::Rng::with_seed(1);
        admitted.into_iter().for_each(|probe| probe.record(Outcome::Success, now, &mut rng));
        assert_eq!(breaker.state(now), State::Closed);
    }
}

fn slow(after: Duration, share: f64) -> SlowTrip {
    let trip = RateTrip::new(Duration::from_secs(10), 4, Threshold::FailuresAtLeast(share)).expect("valid");
    SlowTrip::new(after, trip).expect("valid")
}

#[test]
fn slow_answers_open_it_and_a_slow_probe_has_failed() {
    let start = Instant::now();
    let (slow_after, mut rng) = (Duration::from_secs(1), fastrand::Rng::with_seed(1));
    let config = BreakerConfig { slow: Some(slow(slow_after, 0.5)), ..consecutive(1, 1, 0) };
    let breaker = CircuitBreaker::new(config, start);
    for (took, expected) in [(999, State::Closed), (1_000, State::Closed), (10, State::Closed), (1_500, State::Open)] {
        let end = start + Duration::from_millis(took);
        breaker.admit(start).expect("closed").record(Outcome::Success, end, &mut rng);
        assert_eq!(breaker.state(start + Duration::from_millis(1_500)), expected, "{took} ms");
    }
    let at = |millis| start + Duration::from_millis(millis);
    breaker.admit(at(2_000)).expect("probe").record(Outcome::Success, at(3_000), &mut rng);
    assert_eq!(breaker.state(at(3_000)), State::Open, "answered, but slowly");
    breaker.admit(at(4_000)).expect("probe").record(Outcome::Success, at(4_999), &mut rng);
    assert_eq!(breaker.state(at(4_999)), State::Closed);
    let count = |state| breaker.transitions.read(state);
    assert_eq!((count(State::Open), count(State::HalfOpen), count(State::Closed)), (2, 2, 1));
}

#[test]
fn new_rules_close_nothing_and_send_their_own_probe() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let at = |millis| start + Duration::from_millis(millis);
    let old = opened(consecutive(1, 1, 0), start);
    let open = old.under(consecutive(3, 1, 0), at(100));
    assert_eq!(open.admit(at(100)).map(drop), Err(Refused { retry_after: Some(Duration::from_millis(400)) }));
    let stuck = old.admit(at(500)).expect("the old one's probe");
    let probing = old.under(consecutive(3, 1, 0), at(600));
    let probe = probing.admit(at(600)).expect("the new one's probe");
    stuck.record(Outcome::Failure, at(700), &mut rng);
    probe.record(Outcome::Success, at(700), &mut rng);
    assert_eq!(probing.state(at(700)), State::Closed);
    let forced = probing.under(BreakerConfig { mode: Mode::ForcedOpen, ..consecutive(3, 1, 0) }, at(800));
    assert_eq!(forced.admit(at(800)).map(drop), Err(Refused { retry_after: None }));
    assert_eq!(forced.refusal(at(800)), Some(Refused { retry_after: None }));
    assert_eq!(forced.under(consecutive(3, 1, 0), at(900)).refusal(at(900)), None, "given back to the results");
}

#[test]
fn o39_a_probe_that_is_dropped_or_never_ends_leaves_no_breaker_half_open() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let at = |millis| start + Duration::from_millis(millis);
    let breaker = opened(consecutive(1, 1, 0), start);
    drop(breaker.admit(at(500)).expect("a probe, cancelled"));
    let lost = breaker.admit(at(501)).expect("the next caller probes");
    assert!(breaker.admit(at(2_499)).is_err(), "one probe is out");
    let next = breaker.admit(at(2_500)).expect("2 s after the first it is given up");
    std::mem::forget(lost);
    next.record(Outcome::Success, at(2_501), &mut rng);
    assert_eq!(breaker.state(at(2_501)), State::Closed);
}

#[test]
fn o40_a_thousand_cancelled_calls_count_nowhere() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let breaker = CircuitBreaker::new(BreakerConfig::default(), start);
    for n in 0..1_000 {
        let permit = breaker.admit(start).expect("closed");
        if n % 2 == 0 {
            permit.record(Outcome::Ignored, start, &mut rng);
        } else {
            drop(permit);
        }
    }
    assert_eq!((breaker.state(start), breaker.counts(start)), (State::Closed, Counts::default()));
    assert_eq!(State::ALL.map(|state| breaker.transitions.read(state)), [0; 3]);
}

/// 64 threads; time is a counter they all push, so that the scheduler decides the order and nothing else.
#[test]
fn o41_under_sixty_four_threads_a_recovered_service_closes_its_breaker_within_two_windows() {
    for run in 0..1_000_u64 {
        let start = Instant::now();
        let breaker = opened(consecutive(1, 1, 0), start);
        // The first probe fails in half the runs: then the second window (1 s) has to do.
        let fails = std::sync::atomic::AtomicBool::new(run % 2 == 0);
        let clock = AtomicU64::new(450);
        std::thread::scope(|scope| {
            for seed in 0..64 {
                let (breaker, fails, clock) = (&breaker, &fails, &clock);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for _ in 0..40 {
                        let now = start + Duration::from_millis(clock.fetch_add(1, Ordering::Relaxed));
                        let Ok(permit) = breaker.admit(now) else { continue };
                        let is_bad = permit.is_probe() && fails.swap(false, Ordering::Relaxed);
                        let outcome = if is_bad { Outcome::Failure } else { Outcome::Success };
                        permit.record(outcome, now, &mut rng);
                    }
                });
            }
        });
        // Threads may end with the failed probe: from there two windows, 1 s and 2 s, have to do.
        let mut end = start + Duration::from_millis(clock.load(Ordering::Relaxed));
        for _ in 0..2 {
            end += Duration::from_secs(1);
            let Ok(permit) = breaker.admit(end) else { continue };
            permit.record(Outcome::Success, end, &mut fastrand::Rng::with_seed(run));
        }
        assert_eq!(breaker.state(end), State::Closed, "run {run}");
        assert_eq!(breaker.transitions.read(State::Closed), 1, "run {run}: closed once and for all");
    }
}

/// One that opens at the first failure, for 5 s, then for 10 s and so on.
fn quick_to_open(now: Instant) -> Arc<CircuitBreaker> {
    let open_for = Backoff::new(Duration::from_secs(5), Duration::from_secs(300)).unwrap();
    let open_for = open_for.with_growth(2.0).unwrap().with_jitter(Jitter::Off).unwrap();
    let config = BreakerConfig { consecutive_failures: NonZeroU32::new(1), open_for, ..BreakerConfig::default() };
    CircuitBreaker::new(config, now)
}

#[test]
fn where_nothing_else_is_left_a_wait_ends_after_the_first_one_or_sooner_if_that_is_wanted() {
    let rng = &mut fastrand::Rng::with_seed(1);
    for (at_most, wait_ms) in [(None, 5000), (Some(500), 500), (Some(60_000), 5000)] {
        let at_most = at_most.map(Duration::from_millis);
        let (began, wait) = (Instant::now(), Duration::from_millis(wait_ms));
        let breaker = quick_to_open(began);
        breaker.admit(began).unwrap().record(Outcome::Failure, began, rng);
        // Also after the third probe that failed, when it would be open for 40 s.
        let mut opened = began;
        for _ in 0..3 {
            let due = opened + wait;
            let early = due - Duration::from_millis(1);
            assert!(breaker.admit_last(early, at_most).is_err(), "{wait_ms}");
            assert!(opened == began || breaker.admit(due).is_err(), "for others it waits as long as it says");
            let probe = breaker.admit_last(due, at_most).unwrap();
            assert!(probe.is_probe() && breaker.admit_last(due, at_most).is_err(), "one at a time");
            opened = due + Duration::from_millis(200);
            probe.record(Outcome::Failure, opened, rng);
        }
        let probe = breaker.admit_last(opened + wait, at_most).unwrap();
        probe.record(Outcome::Success, opened + wait, rng);
        assert_eq!(breaker.state(opened + wait), State::Closed);
    }
}
