//! How busy and how slow one endpoint is, as this process sees it.
//!
//! Decides: what an endpoint costs: peak EWMA of its response time, times the requests it has.
//! Never: chooses between endpoints and never forgets to count a request down: the slot is a guard.
//! Invariant: reading is one consistent value without a lock, and an endpoint that fails fast never
//! looks better than one that answers.
//!
//! # One word for a decaying value
//! The estimate `e` decays as `e * exp(-dt / tau)`. Its *level* `ln(e) + t / tau` therefore stays
//! constant while nothing is measured, and one atomic word holds estimate and age together; a value
//! and a time stamp in two words could be read torn.
//!
//! All levels of a process count from one moment. So of two endpoints with one tau the higher level is
//! the slower one, by the same factor at any time: a balancer compares them without clock or exponential.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The load of one endpoint. Survives a configuration reload: share it by `Arc`. On a line of its own, so that
/// requests to one endpoint do not slow down those to another, and looking at one costs one miss.
#[derive(Debug)]
#[repr(align(64))]
pub struct Load {
    in_flight: AtomicU32,
    /// Requests of all endpoints of a group, if somebody needs to know.
    group: OnceLock<Arc<AtomicU32>>,
    /// `ln(estimate in ns) + moment of the estimate / tau`, as the bits of an `f64`.
    level: AtomicU64,
    /// The moment of the last sample.
    sampled_at: AtomicI64,
    tau_nanos: f64,
}

impl Load {
    /// An endpoint nothing is known about, with the default decay and seed.
    pub fn new(now: Instant) -> Self {
        Self::with(DECAY, SEED_RTT, now)
    }

    /// The same with other numbers: `decay` is the time constant tau, `seed` the first estimate.
    pub fn with(decay: Duration, seed: Duration, now: Instant) -> Self {
        let (moment, tau_nanos) = (moment(now), nanos(decay));
        Self {
            in_flight: AtomicU32::new(0),
            group: OnceLock::new(),
            level: AtomicU64::new((nanos(seed).ln() + moment as f64 / tau_nanos).to_bits()),
            sampled_at: AtomicI64::new(moment),
            tau_nanos,
        }
    }

    /// Counts what starts from now on in a group, too. Once, and for good.
    pub fn join(&self, group: &Arc<AtomicU32>) {
        let _ = self.group.set(Arc::clone(group));
    }

    /// Requests counted in now over all endpoints of the group; `None` outside one.
    pub fn in_flight_of_group(&self) -> Option<u32> {
        self.group.get().map(|group| group.load(Ordering::Relaxed))
    }

    /// Counts a request in, until the guard is finished or dropped.
    pub fn start(self: &Arc<Self>, now: Instant) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let group = self.group.get().cloned();
        if let Some(group) = &group {
            group.fetch_add(1, Ordering::Relaxed);
        }
        InFlight { group, load: Arc::clone(self), started: now, is_sampled: false }
    }

    /// Requests counted in now.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The response time to expect, in nanoseconds. It fades while nothing is measured, so that an
    /// endpoint that was slow once is tried again.
    pub fn estimate_nanos(&self, now: Instant) -> f64 {
        self.faded(now).exp()
    }

    /// How much slower it is than `other`, as a logarithm: 0 if equally slow, below 0 if faster.
    #[inline]
    pub fn slowness_to(&self, other: &Self, now: Instant) -> f64 {
        // What fades at one pace keeps its distance.
        if self.tau_nanos == other.tau_nanos {
            self.level() - other.level()
        } else {
            self.faded(now) - other.faded(now)
        }
    }

    /// What one more request costs here: `estimate * (requests in flight + 1)`, in nanoseconds.
    pub fn cost(&self, now: Instant) -> f64 {
        self.estimate_nanos(now) * (f64::from(self.in_flight()) + 1.0)
    }

    /// Takes a response time into the estimate.
    ///
    /// One above the present estimate replaces it at once (the "peak"); one below it pulls it down
    /// in proportion to the time since the last sample. Finagle and tower compare with the estimate
    /// of the last *read*; both read so often that it is the present one.
    pub fn observe(&self, rtt: Duration, now: Instant) {
        let moment = self.moment(now);
        let before = self.sampled_at.fetch_max(moment, Ordering::Relaxed);
        let since_last = (moment - before).max(0) as f64 / self.tau_nanos;
        let (rtt, aged) = (nanos(rtt), moment as f64 / self.tau_nanos);
        let update = |bits: u64| {
            let estimate = (f64::from_bits(bits) - aged).exp();
            // `estimate` has decayed since the last sample already; the new one takes what that left free.
            let next = if rtt > estimate { rtt } else { estimate - rtt * (-since_last).exp_m1() };
            Some((next.ln() + aged).to_bits())
        };
        // The closure never gives up, so neither does the update.
        let _ = self.level.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    }

    #[inline]
    fn level(&self) -> f64 {
        f64::from_bits(self.level.load(Ordering::Relaxed))
    }

    /// The logarithm of the estimate.
    fn faded(&self, now: Instant) -> f64 {
        self.level() - self.moment(now) as f64 / self.tau_nanos
    }

    /// `now`, but never before the last sample: clocks of two threads may disagree by a little, and an
    /// injected one may step back.
    fn moment(&self, now: Instant) -> i64 {
        moment(now).max(self.sampled_at.load(Ordering::Relaxed))
    }
}

/// How an attempt ended, as far as its endpoint's load is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the time it took is a sample.
    Answered,
    /// It failed: charged a penalty instead of the time it took.
    Failed {
        /// What the endpoint asked callers to wait.
        retry_after: Option<Duration>,
    },
    /// It was not waited for, because another copy was faster: it would have taken at least this long.
    Overtaken,
    /// It says nothing about the endpoint (the caller went away): no sample.
    Neutral,
}

/// One request in flight. Dropping it counts the request out, without a sample.
#[derive(Debug)]
#[must_use = "the request counts only while this is held"]
pub struct InFlight {
    load: Arc<Load>,
    /// Set if it was counted in there: the endpoint may have joined later.
    group: Option<Arc<AtomicU32>>,
    started: Instant,
    is_sampled: bool,
}

impl InFlight {
    /// Records the outcome at the head of the response, while the body still keeps the slot.
    /// Only the first outcome of a request counts.
    pub fn respond(&mut self, now: Instant, outcome: Outcome) {
        if std::mem::replace(&mut self.is_sampled, true) {
            return;
        }
        let elapsed = now.saturating_duration_since(self.started);
        match outcome {
            Outcome::Answered => self.load.observe(elapsed, now),
            Outcome::Failed { retry_after } => {
                self.load.observe(penalty(retry_after).max(elapsed.min(MAX_PENALTY)), now)
            }
            // A lower bound can raise the estimate, and never lowers it.
            Outcome::Overtaken if nanos(elapsed) > self.load.estimate_nanos(now) => self.load.observe(elapsed, now),
            Outcome::Overtaken | Outcome::Neutral => {}
        }
    }

    /// Records the outcome, unless there is one already, and counts the request out.
    pub fn finish(mut self, now: Instant, outcome: Outcome) {
        self.respond(now, outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(group) = &self.group {
            group.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The response time a failure is recorded as: the server's own `Retry-After`, or the base penalty.
/// A `Retry-After` of zero is no hint, or failing fast would pay.
pub fn penalty(retry_after: Option<Duration>) -> Duration {
    retry_after.filter(|wait| !wait.is_zero()).unwrap_or(BASE_PENALTY).min(MAX_PENALTY)
}

/// Nanoseconds from the first moment that was ever asked about; less than none for an earlier one.
fn moment(at: Instant) -> i64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(|| at);
    match at.checked_duration_since(first) {
        Some(since) => since.as_nanos() as i64,
        None => -(first.saturating_duration_since(at).as_nanos() as i64),
    }
}

/// In nanoseconds, at least one: the logarithm of zero is no level.
fn nanos(duration: Duration) -> f64 {
    (duration.as_secs() as f64 * 1e9 + f64::from(duration.subsec_nanos())).max(1.0)
}

/// Time constant of the decay: 10 s (Finagle, tower, linkerd).
const DECAY: Duration = Duration::from_secs(10);
/// First estimate of an unknown endpoint: 30 ms (linkerd's default profile).
const SEED_RTT: Duration = Duration::from_millis(30);
/// What a failure without a hint is recorded as: 5 s (linkerd load biaser).
const BASE_PENALTY: Duration = Duration::from_secs(5);
/// Most a failure is recorded as: 300 s (linkerd load biaser).
const MAX_PENALTY: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn cases() -> Vec<Value> {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/peak_ewma.json"));
        let vectors: Value = serde_json::from_str(text).unwrap();
        vectors["cases"].as_array().unwrap().clone()
    }

    fn close(got: f64, case: &Value, event: &Value, field: &str) {
        let expected = event[field].as_f64().unwrap();
        let tolerance = case["relative_tolerance"].as_f64().unwrap();
        assert!((got / 1e6 - expected).abs() <= tolerance * expected, "{} {event}: {got}", case["id"]);
    }

    fn replay(case: &Value) {
        let base = Instant::now();
        let duration = |field: &str, unit: f64| Duration::from_secs_f64(case[field].as_f64().unwrap() * unit);
        let load = Arc::new(Load::with(duration("decay_tau_s", 1.0), duration("default_rtt_ms", 1e-3), base));
        let mut slots = std::collections::VecDeque::new();
        for event in case["events"].as_array().unwrap() {
            let now = base + Duration::from_secs_f64(event["at_s"].as_f64().unwrap());
            match event["do"].as_str().unwrap() {
                "start" => slots.push_back(load.start(now)),
                "complete" => {
                    slots.pop_front().unwrap().finish(now, Outcome::Neutral);
                    load.observe(Duration::from_secs_f64(event["rtt_ms"].as_f64().unwrap() / 1e3), now);
                }
                "read" => {
                    assert_eq!(u64::from(load.in_flight()), event["pending"].as_u64().unwrap(), "{}", case["id"]);
                    close(load.estimate_nanos(now), case, event, "expected_estimate_ms");
                    close(load.cost(now), case, event, "expected_cost_ms");
                }
                other => panic!("unknown event {other}"),
            }
        }
    }

    #[test]
    fn estimates_follow_the_vectors() {
        let (mut replayed, mut apart) = (0, Vec::new());
        let cases = cases();
        for case in &cases {
            match case["variant"].as_str().unwrap() {
                "tower" => {
                    replay(case);
                    replayed += 1;
                }
                _ => apart.push(case["id"].as_str().unwrap()),
            }
        }
        // The second is Finagle's seeding, which we do not use: an unknown endpoint starts at 30 ms.
        assert_eq!(apart, ["failure-recorded-as-penalty", "unknown-host-finagle", "clock-goes-backwards"]);
        assert_eq!(replayed + apart.len(), 18);
    }

    #[test]
    fn a_failure_is_recorded_as_its_penalty() {
        let case = cases().into_iter().find(|case| case["id"] == "failure-recorded-as-penalty").unwrap();
        let events = case["events"].as_array().unwrap();
        for (event, hint) in events.iter().zip([None, Some(60), Some(100_000)]) {
            let text = event["failure"].as_str().unwrap();
            assert_eq!(hint.is_some_and(|hint: u64| text.ends_with(&format!("Retry-After {hint}"))), hint.is_some());
            let (load, now) = (Arc::new(Load::new(Instant::now())), Instant::now());
            load.start(now).finish(now, Outcome::Failed { retry_after: hint.map(Duration::from_secs) });
            let seconds = load.estimate_nanos(now) / 1e9;
            assert!((seconds - event["expected_synthetic_rtt_s"].as_f64().unwrap()).abs() < 1e-6, "{text} {seconds}");
        }
        assert_eq!(events.len(), 3);
        assert_eq!(penalty(Some(Duration::ZERO)), BASE_PENALTY);
    }

    #[test]
    fn a_clock_that_steps_back_leaves_the_estimate_unchanged() {
        let base = Instant::now();
        let at = |seconds| base + Duration::from_secs(seconds);
        let load = Load::new(base);
        load.observe(Duration::from_secs(1), at(5));
        let before = load.estimate_nanos(at(5));
        assert_eq!(load.estimate_nanos(at(4)), before);
        load.observe(Duration::from_millis(10), at(3));
        assert!((load.estimate_nanos(at(5)) - before).abs() < 1.0);
    }

    #[test]
    fn a_dropped_request_is_counted_out_and_leaves_no_sample() {
        let now = Instant::now();
        let load = Arc::new(Load::new(now));
        let before = load.estimate_nanos(now);
        let slots: Vec<_> = (0..3).map(|_| load.start(now)).collect();
        assert_eq!(load.in_flight(), 3);
        drop(slots);
        assert_eq!((load.in_flight(), load.estimate_nanos(now)), (0, before));
    }

    #[test]
    fn a_group_counts_what_starts_after_an_endpoint_joined() {
        let (now, group) = (Instant::now(), Arc::default());
        let [one, two] = [Arc::new(Load::new(now)), Arc::new(Load::new(now))];
        let before = one.start(now);
        [&one, &two].into_iter().for_each(|load| load.join(&group));
        let after = (one.start(now), two.start(now));
        assert_eq!((one.in_flight(), one.in_flight_of_group()), (2, Some(2)));
        drop((before, after));
        assert_eq!((one.in_flight(), two.in_flight_of_group()), (0, Some(0)));
    }

    #[test]
    fn the_first_outcome_counts_and_the_slot_is_kept_until_the_body_ends() {
        let now = Instant::now();
        let load = Arc::new(Load::new(now));
        let mut slot = load.start(now);
        slot.respond(now + Duration::from_millis(50), Outcome::Answered);
        assert_eq!(load.in_flight(), 1);
        slot.finish(now + Duration::from_millis(50), Outcome::Failed { retry_after: None });
        assert_eq!(load.in_flight(), 0);
        let estimate = load.estimate_nanos(now + Duration::from_millis(50));
        assert!((estimate - 50e6).abs() < 1.0, "{estimate}");
    }

    #[test]
    fn no_request_is_lost_when_many_threads_count() {
        let now = Instant::now();
        let load = Arc::new(Load::new(now));
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let load = &load;
                scope.spawn(move || {
                    for n in 0..1000 {
                        let later = now + Duration::from_micros(n * 4 + thread);
                        load.start(now).finish(later, Outcome::Answered);
                    }
                });
            }
        });
        assert_eq!(load.in_flight(), 0);
        let estimate = load.estimate_nanos(now + Duration::from_millis(4));
        assert!((1e6..=30e6).contains(&estimate), "{estimate}");
    }
}
