//! How often a policy server is asked: the reference workload, played through the check cache in compressed time.
//!
//! 500 callers; each sends 30 to 90 requests at two a second, is silent for ten minutes, and so on for an hour. Half
//! of its requests go to its first path, half of the rest to the second, and so on. An answer holds for its time to
//! live, however often it is used. Seeded: the numbers are the same on every machine.
//!
//! # What fails
//! A time to live of 60 s and five paths have to give at least 90 % of hits and at most 10 % of calls, and the control,
//! a key that holds every header, the request id among them, at most 5 %.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use http::HeaderMap;
use mesh_core::access::cache::{Answer, Lookup, Reuse};
use mesh_core::access::{Attributes, CacheConfig, CheckCache, Fact, Verdict};

use crate::Failure;

mod curve;

/// What to play.
#[derive(Debug, Clone, Args)]
pub struct Task {
    /// Also draw the hit ratio over the time to live, as SVG, into this file.
    #[arg(long)]
    pub svg: Option<PathBuf>,
}

/// Plays the workload and prints what came of it.
pub fn run(task: &Task) -> Result<(), Failure> {
    let curves: Vec<(usize, Vec<(f64, Played)>)> = PATHS
        .map(|paths| (paths, TTLS.map(|ttl| (ttl, played(ttl, paths, Key::Stable))).into_iter().collect()))
        .into_iter()
        .collect();
    print!("{}", table(&curves));
    let (ours, naive) = (played(60.0, 5, Key::Stable), played(60.0, 5, Key::EveryHeader));
    println!(
        "\nreference (60 s, 5 paths): {} requests, hits {:.1} %, calls {:.1} % of requests; a key of every header: hits {:.1} %",
        ours.requests,
        100.0 * ours.hit_ratio(),
        100.0 * ours.calls_ratio(),
        100.0 * naive.hit_ratio()
    );
    if let Some(file) = &task.svg {
        let lines = curves.iter().map(|(paths, points)| {
            let points = points.iter().map(|(ttl, played)| (*ttl, played.hit_ratio())).collect();
            (named(*paths), points)
        });
        std::fs::write(file, curve::draw(&lines.collect::<Vec<_>>()))?;
    }
    ours.check()?;
    if naive.hit_ratio() > 0.05 {
        return Err(format!("the control hits {:.3}: the trace shows nothing", naive.hit_ratio()).into());
    }
    Ok(())
}

/// Which facts the answers depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Path and method, and the caller, as always.
    Stable,
    /// What a proxy that knows no better would take: every header, the request id among them.
    EveryHeader,
}

/// What came of a trace.
#[derive(Debug, Clone, Copy)]
struct Played {
    requests: u64,
    hits: u64,
    calls: u64,
}

impl Played {
    fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.requests as f64
    }

    fn calls_ratio(&self) -> f64 {
        self.calls as f64 / self.requests as f64
    }

    fn check(&self) -> Result<(), Failure> {
        if self.hit_ratio() < 0.90 || self.calls_ratio() > 0.10 {
            return Err(format!("hits {:.3}, calls {:.3}", self.hit_ratio(), self.calls_ratio()).into());
        }
        Ok(())
    }
}

fn played(ttl_seconds: f64, paths: usize, key: Key) -> Played {
    let mut replay = Replay::new(Duration::from_secs_f64(ttl_seconds), key);
    for (seconds, caller, path) in hour(CALLERS, paths) {
        replay.request(seconds, &format!("spiffe://td/ns/a/sa/caller-{caller}"), &format!("/path-{path}"));
    }
    replay.played()
}

/// A cache, and a policy server that approves of everything.
struct Replay {
    cache: Arc<CheckCache>,
    start: Instant,
    headers: HeaderMap,
    requests: u64,
    calls: u64,
}

impl Replay {
    fn new(ttl: Duration, key: Key) -> Self {
        let mut facts = vec![Fact::Path, Fact::Method];
        if key == Key::EveryHeader {
            let header = |name: &str| Fact::parse(&format!("header:{name}")).ok();
            facts.extend(["host", "user-agent", "x-request-id"].into_iter().filter_map(header));
        }
        let cache = Arc::new(CheckCache::new(CacheConfig::keyed(facts, ttl, Duration::from_secs(5))));
        let mut headers = HeaderMap::new();
        headers.insert(http::header::HOST, http::HeaderValue::from_static("details"));
        headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static("trace"));
        Self { cache, start: Instant::now(), headers, requests: 0, calls: 0 }
    }

    fn request(&mut self, seconds: f64, caller: &str, path: &str) {
        self.requests += 1;
        self.headers.insert("x-request-id", self.requests.into());
        let attributes = attributes(caller, path, &self.headers);
        if let Lookup::Lead(leader) = self.cache.lookup(&attributes, self.start + Duration::from_secs_f64(seconds)) {
            self.calls += 1;
            let answer = Answer { verdict: Arc::new(Verdict::allow()), reuse: Reuse::Configured, epoch: None };
            // Not kept means asked again: the count of calls shows it.
            let _ = leader.complete(&attributes, answer, None);
        }
    }

    fn played(&self) -> Played {
        Played { requests: self.requests, hits: self.cache.stats().hits, calls: self.calls }
    }
}

/// A GET of a path by a caller.
pub fn attributes<'a>(caller: &'a str, path: &'a str, headers: &'a HeaderMap) -> Attributes<'a> {
    Attributes {
        principal: Some(caller),
        own_principal: Some("spiffe://td/ns/a/sa/details"),
        service: "details",
        listener: "inbound",
        method: "GET",
        path,
        query: None,
        host: "details",
        scheme: "https",
        protocol: "HTTP/2",
        headers,
        source_address: None,
        destination_address: None,
        request_id: "",
        time: SystemTime::UNIX_EPOCH,
        remote_address: None,
        sni: None,
        certificate: None,
        claims: None,
        is_tcp: false,
    }
}

/// All requests of the hour in the order of time: second, caller, path.
fn hour(callers: usize, paths: usize) -> Vec<(f64, usize, usize)> {
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
    trace
}

/// Each path gets half of what is left, one after the other.
fn path(rng: &mut fastrand::Rng, paths: usize) -> usize {
    let weights = || (0..paths).map(|path| 0.5_f64.powi(path as i32));
    let mut left = rng.f64() * weights().sum::<f64>();
    for (path, weight) in weights().enumerate() {
        left -= weight;
        if left < 0.0 {
            return path;
        }
    }
    paths - 1
}

fn exponential(rng: &mut fastrand::Rng, rate: f64) -> f64 {
    -(1.0 - rng.f64()).ln() / rate
}

fn named(paths: usize) -> String {
    format!("{paths} {} a caller", if paths == 1 { "path" } else { "paths" })
}

fn table(curves: &[(usize, Vec<(f64, Played)>)]) -> String {
    let mut text = format!("\n{:<28}", "hits in % by time to live");
    for ttl in TTLS {
        let _ = write!(text, "{:>9}", format!("{ttl} s"));
    }
    for (paths, points) in curves {
        let _ = write!(text, "\n{:<28}", named(*paths));
        for (_, played) in points {
            let _ = write!(text, "{:>9.1}", 100.0 * played.hit_ratio());
        }
    }
    text + "\n"
}

const CALLERS: usize = 500;
const PATHS: [usize; 3] = [1, 3, 5];
const TTLS: [f64; 7] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0];

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/policy_cache.json"));

    fn each(kind: &str, assert: impl Fn(&Json)) -> usize {
        let vectors: Json = serde_json::from_str(VECTORS).unwrap_or_default();
        let cases: Vec<&Json> = vectors["cases"].as_array().into_iter().flatten().collect();
        cases.iter().filter(|case| case["kind"] == kind).map(|case| assert(case)).count()
    }

    fn number(case: &Json, name: &str) -> f64 {
        case[name].as_f64().unwrap_or(f64::NAN)
    }

    /// One key, Poisson arrivals: the measured ratio comes close to rT/(1+rT).
    #[test]
    fn one_key_hits_as_often_as_the_formula_says() {
        let cases = each("formula", |case| {
            let (rate, ttl) = (number(case, "rate_per_s"), number(case, "ttl_s"));
            let mut rng = fastrand::Rng::with_seed(11);
            let mut replay = Replay::new(Duration::from_secs_f64(ttl), Key::Stable);
            let mut seconds = 0.0;
            for _ in 0..20_000 {
                seconds += exponential(&mut rng, rate);
                replay.request(seconds, "caller", "/a");
            }
            let expected = number(&case["expected"], "hit_ratio");
            assert!((rate * ttl / (1.0 + rate * ttl) - expected).abs() < 1e-12, "{}", case["id"]);
            let ratio = replay.played().hit_ratio();
            assert!((ratio - expected).abs() < 0.01, "{}: {ratio}", case["id"]);
        });
        assert_eq!(cases, 4);
    }

    #[test]
    fn the_hit_ratio_follows_the_life_of_an_answer_and_the_number_of_paths() {
        let cases = each("simulation", |case| {
            let paths = number(case, "paths_per_caller") as usize;
            let ratio = played(number(case, "ttl_s"), paths, Key::Stable).hit_ratio();
            let (expected, most) = (&case["expected"], number(&case["expected"], "absolute_tolerance"));
            assert!((ratio - number(expected, "hit_ratio")).abs() <= most, "{}: {ratio}", case["id"]);
        });
        assert_eq!(cases, 15);
    }

    #[test]
    fn nine_of_ten_requests_are_answered_locally_and_a_naive_key_answers_none() {
        let cases = each("acceptance", |case| {
            let (ttl, paths) = (number(case, "ttl_s"), number(case, "paths_per_caller") as usize);
            let expected = &case["expected"];
            let ours = played(ttl, paths, Key::Stable);
            assert!(ours.hit_ratio() >= number(expected, "hit_ratio_at_least"), "{ours:?}");
            assert!(ours.calls_ratio() <= number(expected, "policy_calls_per_request_at_most"), "{ours:?}");
            assert_eq!(ours.hits + ours.calls, ours.requests, "every miss is one call");
            assert!(ours.check().is_ok());
            let naive = played(ttl, paths, Key::EveryHeader);
            assert!(naive.hit_ratio() <= number(expected, "naive_key_all_headers_hit_ratio_at_most"), "{naive:?}");
            assert!(naive.check().is_err());
        });
        assert_eq!(cases, 1);
    }
}
