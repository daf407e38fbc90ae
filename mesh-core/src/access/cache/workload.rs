//! The reference workload: 500 callers, sessions of 30 to 90 requests at 2 a second, then ten minutes of silence,
//! for one hour. Seeded, and compressed in time: `now` is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::*;
use crate::access::AttributesBuf;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/policy_cache.json"));
const CALLERS: usize = 500;
/// Callers share no entry, so a fifth of them shows the same ratio in a fifth of the time.
const SAMPLED_CALLERS: usize = 100;
/// Asserted where it is decided: `policy/lease/tests.rs`.
const KIND_OF_LEASES: &str = "quota_prefetch";

#[test]
fn every_kind_of_vector_is_covered_or_named() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let mut counts = HashMap::<&str, usize>::new();
    for kind in cases(&vectors).filter_map(|case| case["kind"].as_str()) {
        *counts.entry(kind).or_default() += 1;
    }
    let covered = [("formula", 4), ("simulation", 15), ("acceptance", 1), ("status_mapping", 17)];
    assert_eq!(counts.remove(KIND_OF_LEASES), Some(7));
    assert_eq!(counts, covered.into());
}

fn each(kind: &str, assert: impl Fn(&Json)) {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    cases(&vectors).filter(|case| case["kind"] == kind).for_each(assert);
}

fn cases(vectors: &Json) -> impl Iterator<Item = &Json> {
    vectors["cases"].as_array().into_iter().flatten()
}

#[test]
fn one_key_hits_as_often_as_the_formula_says() {
    each("formula", formula);
}

#[test]
fn the_hit_ratio_follows_the_life_of_an_answer_and_the_number_of_paths() {
    each("simulation", simulation);
}

#[test]
fn nine_of_ten_requests_are_answered_locally_and_a_naive_key_answers_none() {
    each("acceptance", acceptance);
}

#[test]
fn a_status_reads_as_http_as_it_always_did() {
    each("status_mapping", status_mapping);
}

/// One key, Poisson arrivals: the measured ratio comes close to rT/(1+rT).
fn formula(case: &Json) {
    let (rate, ttl) = (case["rate_per_s"].as_f64().unwrap(), case["ttl_s"].as_f64().unwrap());
    let mut rng = fastrand::Rng::with_seed(11);
    let mut replay = Replay::new(Duration::from_secs_f64(ttl), Key::Stable);
    let mut seconds = 0.0;
    for _ in 0..20_000 {
        seconds += exponential(&mut rng, rate);
        replay.request(seconds, "caller", "/a");
    }
    let expected = case["expected"]["hit_ratio"].as_f64().unwrap();
    assert!((rate * ttl / (1.0 + rate * ttl) - expected).abs() < 1e-12, "{}", case["id"]);
    assert!((replay.hit_ratio() - expected).abs() < 0.01, "{}: {}", case["id"], replay.hit_ratio());
}

fn simulation(case: &Json) {
    let ttl = Duration::from_secs_f64(case["ttl_s"].as_f64().unwrap());
    let paths = usize::try_from(case["paths_per_caller"].as_u64().unwrap()).unwrap();
    let mut replay = Replay::new(ttl, Key::Stable);
    hour(SAMPLED_CALLERS, paths, &mut replay);
    let (expected, tolerance) = (&case["expected"]["hit_ratio"], &case["expected"]["absolute_tolerance"]);
    let difference = replay.hit_ratio() - expected.as_f64().unwrap();
    assert!(difference.abs() <= tolerance.as_f64().unwrap(), "{}: {}", case["id"], replay.hit_ratio());
}

fn acceptance(case: &Json) {
    let ttl = Duration::from_secs_f64(case["ttl_s"].as_f64().unwrap());
    let paths = usize::try_from(case["paths_per_caller"].as_u64().unwrap()).unwrap();
    let ratio = |key| {
        let mut replay = Replay::new(ttl, key);
        hour(CALLERS, paths, &mut replay);
        let calls_per_request = replay.calls as f64 / replay.requests as f64;
        assert!((calls_per_request + replay.hit_ratio() - 1.0).abs() < 1e-9, "every miss is one call");
        replay.hit_ratio()
    };
    let expected = &case["expected"];
    let bar = expected["hit_ratio_at_least"].as_f64().unwrap();
    let ours = ratio(Key::Stable);
    assert!(ours >= bar, "{ours}");
    assert!(1.0 - ours <= expected["policy_calls_per_request_at_most"].as_f64().unwrap(), "{ours}");
    let naive = ratio(Key::WithRequestId);
    assert!(naive <= expected["naive_key_all_headers_hit_ratio_at_most"].as_f64().unwrap(), "{naive}");
}

fn status_mapping(case: &Json) {
    let name = case["status"].as_str().unwrap();
    let named = |code: &tonic::Code| {
        let camel = format!("{code:?}").to_ascii_lowercase();
        camel == name.replace('_', "").to_ascii_lowercase()
    };
    let code = (0..=16).map(tonic::Code::from_i32).find(named).unwrap();
    let verdict = Verdict::from_code(code);
    assert_eq!(Some(u64::from(verdict.status)), case["expected"]["http_status"].as_u64(), "{name}");
    assert_eq!(verdict.allow, name == "OK");
}

#[derive(Clone, Copy, PartialEq)]
enum Key {
    /// Path and method.
    Stable,
    /// Everything, the request id among it: the control.
    WithRequestId,
}

struct Replay {
    cache: Arc<CheckCache>,
    start: Instant,
    request: AttributesBuf,
    requests: u64,
    calls: u64,
}

impl Replay {
    fn new(ttl: Duration, key: Key) -> Self {
        let mut facts = vec![Fact::Path, Fact::Method];
        if key == Key::WithRequestId {
            facts.push(Fact::parse("header:x-request-id").unwrap());
        }
        let config = CacheConfig::keyed(facts, ttl, Duration::from_secs(5));
        Self {
            cache: Arc::new(CheckCache::new(config)),
            start: Instant::now(),
            request: AttributesBuf::default(),
            requests: 0,
            calls: 0,
        }
    }

    fn request(&mut self, seconds: f64, caller: &str, path: &str) {
        self.requests += 1;
        self.request.principal = Some(caller.to_owned());
        self.request.path = path.to_owned();
        self.request.headers.insert("x-request-id", self.requests.into());
        let attributes = self.request.borrow();
        match self.cache.lookup(&attributes, self.start + Duration::from_secs_f64(seconds)) {
            Lookup::Hit(verdict) => assert!(verdict.allow),
            Lookup::Lead(leader) => {
                self.calls += 1;
                let answer = Answer { verdict: Arc::new(Verdict::allow()), reuse: Reuse::Configured };
                leader.complete(&attributes, answer, None).unwrap();
            }
            _ => panic!("nothing is in flight here"),
        }
    }

    fn hit_ratio(&self) -> f64 {
        let stats = self.cache.stats();
        assert_eq!(stats.hits + stats.misses, self.requests);
        stats.hits as f64 / self.requests as f64
    }
}

/// All requests of the hour in the order of time. Paths get half of what is left, one after the other.
fn hour(callers: usize, paths: usize, replay: &mut Replay) {
    let mut rng = fastrand::Rng::with_seed(2024);
    let mut trace: Vec<(f64, usize, usize)> = Vec::new();
    for caller in 0..callers {
        let mut seconds = rng.f64() * 60.0;
        while seconds < 3600.0 {
            for _ in 0..rng.u32(30..=90) {
                trace.push((seconds, caller, path(&mut rng, paths)));
                seconds += exponential(&mut rng, 2.0);
            }
            seconds += 600.0;
        }
    }
    trace.retain(|(seconds, ..)| *seconds < 3600.0);
    trace.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!((300..400).contains(&(trace.len() / callers)), "{}", trace.len());
    for (seconds, caller, path) in trace {
        replay.request(seconds, &format!("spiffe://td/ns/a/sa/caller-{caller}"), &format!("/path-{path}"));
    }
}

fn path(rng: &mut fastrand::Rng, paths: usize) -> usize {
    let weights: f64 = (0..paths).map(|path| 0.5_f64.powi(i32::try_from(path).unwrap())).sum();
    let mut left = rng.f64() * weights;
    for path in 0..paths {
        left -= 0.5_f64.powi(i32::try_from(path).unwrap());
        if left < 0.0 {
            return path;
        }
    }
    paths - 1
}

fn exponential(rng: &mut fastrand::Rng, rate: f64) -> f64 {
    -(1.0 - rng.f64()).ln() / rate
}
