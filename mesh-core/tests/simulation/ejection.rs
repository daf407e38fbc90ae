//! One endpoint that fails half of its requests, and an outage of all: how much of it a caller sees, and for
//! how long.
//!
//! The cluster is the real one, compiled from a document: picker, load, breakers, outlier detection, budget.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use mesh_core::cluster::group::{Cluster, Wanted};
use mesh_core::cluster::member::Endpoint;
use mesh_core::compile::{Context, compile};
use mesh_core::policy::retry::{Decision, Outcome, RequestFacts, RetryPolicy, RetryState};
use mesh_core::time::Clock;

use crate::curve::Table;
use crate::timeline::arrival;

/// A clock that stands where it was put.
struct Standing(Mutex<Instant>);

impl Standing {
    fn put(&self, at: Instant) {
        *self.0.lock().unwrap() = at;
    }
}

impl Clock for Standing {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

struct World {
    clock: Arc<Standing>,
    cluster: Arc<Cluster>,
    base: Instant,
    rng: fastrand::Rng,
    /// Whether outlier detection looks at the intervals.
    sweeps: bool,
}

/// Which share of its requests an endpoint fails at a time: endpoint number, seconds.
type Fault = fn(usize, f64) -> f64;

impl World {
    fn new(settings: &str, seed: u64) -> Self {
        let base = Instant::now();
        let clock = Arc::new(Standing(Mutex::new(base)));
        let addresses: Vec<_> = (0..10).map(|n| format!("{{ address: \"10.0.0.{n}:80\" }}")).collect();
        let endpoints = addresses.join(", ");
        let text = format!("version: 1\nclusters: [{{ name: shop, endpoints: [{endpoints}]{settings} }}]\n");
        let parsed = mesh_core::config::parse(&text, "simulation.yaml").unwrap();
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let context = Context {
            origin: "simulation.yaml",
            base: Path::new("."),
            clock: &shared,
            identity: None,
            previous: None,
            sources: None,
            is_followed: false,
            revision: 1,
        };
        let snapshot = compile(parsed, &context).unwrap_or_else(|problems| panic!("{problems:?}"));
        let cluster = Arc::clone(&snapshot.clusters["shop"]);
        Self { clock, cluster, base, rng: fastrand::Rng::with_seed(seed), sweeps: settings != BARE }
    }

    /// One request with its retries; whether it was answered.
    fn call(&mut self, mut seconds: f64, fault: Fault) -> bool {
        let start = self.base + Duration::from_secs_f64(seconds);
        let policy = Arc::new(RetryPolicy::default());
        let mut retry = RetryState::start(policy, Arc::clone(&self.cluster.budget), start);
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let headers = HeaderMap::new();
        loop {
            let now = self.base + Duration::from_secs_f64(seconds);
            self.clock.put(now);
            let wanted = Wanted { now, tried: &tried, hash: None, subset: None, last_wait: None };
            let Ok(mut taken) = self.cluster.pick(wanted, &mut self.rng) else { return false };
            let number = usize::from(taken.endpoint.name.as_bytes()[7] - b'0');
            let fails = self.rng.f64() < fault(number, seconds);
            // Answers and failures both take 5 ms.
            let now = now + Duration::from_millis(5);
            let status = if fails { 503 } else { 200 };
            let outcome = Outcome::Response { status, grpc_status: None, headers: &headers };
            let facts = RequestFacts {
                idempotent: true,
                body_replayable: true,
                committed: false,
                deadline: None,
                wall: SystemTime::UNIX_EPOCH,
            };
            let decision = retry.decide(&outcome, &facts, now, &mut self.rng);
            taken.judge(&outcome, now, &mut self.rng);
            tried.push(Arc::clone(&taken.endpoint));
            taken.finish();
            match decision {
                Decision::Retry { after } => seconds += 0.005 + after.as_secs_f64(),
                Decision::Stop(_) => return !fails,
            }
        }
    }

    /// Failed requests of each second.
    fn play(&mut self, seconds: usize, fault: Fault) -> Vec<f64> {
        let (mut now, mut swept) = (0.0, 0.0);
        let mut failed = vec![(0_usize, 0_usize); seconds];
        while now < seconds as f64 {
            if self.sweeps && now - swept >= 10.0 {
                swept = now;
                self.cluster.sweep(self.base + Duration::from_secs_f64(now), &mut self.rng);
            }
            let is_answered = self.call(now, fault);
            let of = &mut failed[now as usize];
            *of = (of.0 + usize::from(!is_answered), of.1 + 1);
            now += arrival(200.0, &mut self.rng).as_secs_f64();
        }
        failed.iter().map(|(failed, all)| *failed as f64 / (*all).max(1) as f64).collect()
    }
}

const OFF: &str =
    ", circuit_breaker: { consecutive_failures: 0, min_success_percent: 0 }, outlier: { consecutive_5xx: 0 }";
/// Neither retries nor anything else hides the fault.
const BARE: &str = ", balancer: round_robin, circuit_breaker: { consecutive_failures: 0, min_success_percent: 0 }, outlier: { consecutive_5xx: 0 }, retry_budget: { percent: 0, min_per_second: 0 }";

fn one_fails_half(number: usize, seconds: f64) -> f64 {
    if number == 3 && seconds >= 10.0 { 0.5 } else { 0.0 }
}

fn mean(shares: &[f64]) -> f64 {
    100.0 * shares.iter().sum::<f64>() / shares.len() as f64
}

pub fn partial_failure() -> Table {
    let mut table = Table::new("partial_failure", &["settings", "fault", "failed_percent"]);
    for (name, settings) in [("bare", BARE), ("no_breaker_no_ejection", OFF), ("default", "")] {
        let failed = World::new(settings, 23).play(60, one_fails_half);
        table.row(name, "1 of 10 fails half", &[mean(&failed[10..])]);
    }
    table
}

#[test]
fn an_endpoint_that_fails_half_of_its_requests_costs_the_caller_almost_nothing() {
    let table = partial_failure();
    table.print();
    let failed = |settings: &str| table.value(settings, "1 of 10 fails half", "failed_percent");
    assert!(failed("bare") > 4.0, "round robin sends a tenth there, half of it fails: {}", failed("bare"));
    assert!(failed("default") < 0.05, "{}", failed("default"));
}

/// Seconds from the end of an outage of all endpoints to the first second in which 99 % were answered.
fn recovery(outage: usize, seed: u64) -> f64 {
    let fault: Fault = match outage {
        5 => |_, seconds| f64::from(u8::from((10.0..15.0).contains(&seconds))),
        30 => |_, seconds| f64::from(u8::from((10.0..40.0).contains(&seconds))),
        _ => |_, seconds| f64::from(u8::from((10.0..130.0).contains(&seconds))),
    };
    let failed = World::new("", seed).play(outage + 10 + 60, fault);
    let back = failed[outage + 10..].iter().position(|share| *share < 0.01);
    back.map_or(f64::INFINITY, |seconds| seconds as f64)
}

pub fn recovery_time() -> Table {
    let mut table = Table::new("recovery", &["settings", "outage_seconds", "best_seconds", "worst_seconds"]);
    for outage in [5, 30, 120] {
        let seen: Vec<_> = (0..3).map(|seed| recovery(outage, seed)).collect();
        let (best, worst) = seen.iter().fold((f64::INFINITY, 0.0_f64), |(b, w), s| (b.min(*s), w.max(*s)));
        table.row("default", outage, &[best, worst]);
    }
    table
}

/// What an open breaker costs after the outage is over: up to one of its own waits.
#[test]
fn a_recovered_cluster_is_in_use_again_within_the_longest_wait_of_its_breakers() {
    let table = recovery_time();
    table.print();
    for (outage, bound) in [("5", 10.0), ("30", 20.0), ("120", 40.0)] {
        let worst = table.value("default", outage, "worst_seconds");
        assert!(worst <= bound, "after {outage} s: {worst}");
    }
}
