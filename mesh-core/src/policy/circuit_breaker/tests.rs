use std::num::NonZeroU32;

use serde_json::Value;

use super::*;
use crate::policy::backoff::{Backoff, Jitter};
use crate::policy::vectors::{cases, seconds, text, whole};

mod paper;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/circuit_breaker.json"));

const OUT_OF_SCOPE: &[(&str, &str)] = &[
    ("r4j-sliding", "a window of calls; ours is a window of time"),
    ("r4j-slow-calls", "slow calls have no threshold of their own: the per-attempt timeout makes them failures"),
    ("r4j-slow-below-ratio", "slow calls have no threshold of their own"),
    ("finagle-fails-open-last-host", "what to do when nothing else is up is the balancer's decision"),
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
        open_for: open_for(config),
        half_open: HalfOpen::default(),
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
        // The cases in scope never slide: a window of time that holds every call is the same.
        "count window" => {
            built.rate = Some(rate(3600.0, "min_calls", Threshold::FailuresAtLeast(ratio.expect("ratio"))));
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
    assert_eq!((asserted, skipped, limits), (33, OUT_OF_SCOPE.len(), 4));
}

fn consecutive(failures: u64, probes: u64, tolerated: u32) -> BreakerConfig {
    let wait = Backoff::new(Duration::from_millis(500), Duration::from_secs(4)).expect("valid");
    BreakerConfig {
        consecutive_failures: Some(number(failures)),
        rate: None,
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
