//! The policy file of a server changes under load, from allow to deny and back: each language enforces it within a
//! second, and no request meets half of it. The load is 500 requests a second, or what a machine affords that serves
//! less than four times as many in that language; the output says which.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Request;
use mesh_core::{Body, Mesh};
use mesh_tests::load::{Load, PATIENT, Shot, affordable};
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::{LANGUAGES, server};
use serde_json::Value;

/// Requests a second at most; every second one is for `/never`.
const RATE: u32 = 500;
/// Time in which a change has to be enforced: the bound of the requirement.
const BOUND: Duration = Duration::from_secs(1);
/// In one of so many runs each of the two changes has to keep it: a machine stands still for a moment now and then.
const RUNS: usize = 3;
/// Time that no change may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a policy stays once it is in force.
const PHASE: Duration = Duration::from_millis(2500);
/// The request id of what only measures the machine.
const MEASURING: &str = "measuring";

/// What a policy says of the two paths: who is named, and whether it refuses.
struct Policy {
    text: &'static str,
    orders: (&'static str, bool),
    never: (&'static str, bool),
}

/// Nobody ever reaches `/never`: a local rule refuses it in the one policy, a document of Istio's in the other. The rules of
/// the second with the documents of the first would let it pass.
const OPEN: Policy = Policy {
    text: "{ access: { rules: [{ name: no-never, action: deny, paths: [/never] }] } }",
    orders: ("default", false),
    never: ("no-never", true),
};
const CLOSED: Policy = Policy {
    text: "{ authorization: { policies: [{ metadata: { name: closed }, spec: { action: DENY, rules: [{}] } }] } }",
    orders: ("shop/closed", true),
    never: ("shop/closed", true),
};
const PHASES: [&Policy; 3] = [&OPEN, &CLOSED, &OPEN];

struct Served {
    port: u16,
    config: std::path::PathBuf,
    log: std::path::PathBuf,
    _process: Process,
}

impl Served {
    fn start(language: &str, directory: &Path) -> Self {
        let port = free_port().unwrap();
        let (config, log) = (directory.join(format!("{language}.yaml")), directory.join(format!("{language}.log")));
        let program = server(language).unwrap();
        let mut command = Command::new(&program.command[0]);
        command.args(&program.command[1..]).arg(&config).envs(program.environment.iter().cloned());
        put(&config, port, &log, &OPEN);
        let process = Process::start(&mut command).unwrap();
        wait_for_port(port).unwrap();
        Self { port, config, log, _process: process }
    }

    /// Waits until a policy decides, the first one being 1.
    fn comes_to(&self, revision: usize) {
        let sign = format!("\"revision\":\"{revision}\"");
        let is_so = || std::fs::read_to_string(&self.log).unwrap_or_default().contains(&sign);
        tokio::task::block_in_place(|| wait_until("the policy to decide", is_so)).unwrap();
    }

    /// The lines of the access log by request id, once all `count` are there.
    fn lines(&self, count: usize) -> BTreeMap<u64, Value> {
        let read = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let is_told = |line: &&str| !line.contains(MEASURING);
        wait_until("the access log", || read().lines().filter(is_told).count() >= count).unwrap();
        let text = read();
        let lines = text.lines().filter(is_told).map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["request_id"].as_str().unwrap().parse().unwrap(), line)).collect()
    }
}

fn put(config: &Path, port: u16, log: &Path, policy: &Policy) {
    let text = format!(
        "version: 1
node: {{ service: orders, namespace: shop }}
listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]
policy: {}
telemetry: {{ access_log: {{ path: \"{}\" }} }}
",
        policy.text,
        log.display()
    );
    let new = config.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, config).unwrap();
}

fn path(number: u64) -> &'static str {
    if number.is_multiple_of(2) { "/orders" } else { "/never" }
}

fn client(port: u16) -> Mesh {
    let text = format!(
        "version: 1
{PATIENT}
clusters:
  - name: a
    endpoints: [{{ address: \"127.0.0.1:{port}\" }}]
    concurrency_limit: {{ max_requests: 10000 }}
    connection_pool: {{ max_connections: 200, max_pending: 10000 }}
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
"
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

fn request(path: &str, id: &str) -> Request<Body> {
    Request::get(format!("http://a{path}")).header("x-request-id", id).body(Body::empty()).unwrap()
}

fn measuring(_: u64) -> Request<Body> {
    request("/orders", MEASURING)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_policy_is_enforced_within_a_second_in_every_language_and_never_by_half() {
    let mut best = [[PATIENCE; 2]; LANGUAGES.len()];
    for (language, best) in LANGUAGES.into_iter().zip(&mut best) {
        for _ in 0..RUNS {
            let took = run(language).await;
            *best = [best[0].min(took[0]), best[1].min(took[1])];
            if best.iter().all(|took| *took <= BOUND) {
                break;
            }
        }
    }
    let is_in_time = best.as_flattened().iter().all(|took| *took <= BOUND);
    assert!(is_in_time, "closed and opened, {LANGUAGES:?}: {best:?}");
}

/// A server in that language is closed and opened again under load. How long each took.
async fn run(language: &str) -> [Duration; 2] {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(language, directory.path());
    let rate = affordable(client(served.port).client(), RATE, measuring).await;
    let mesh = client(served.port);
    let load = Load::start(mesh.client(), rate, |number| request(path(number), &number.to_string()));
    let mut changed = vec![Instant::now()];
    for (nth, policy) in PHASES.iter().enumerate() {
        if nth > 0 {
            put(&served.config, served.port, &served.log, policy);
            changed.push(Instant::now());
        }
        served.comes_to(nth + 1);
        tokio::time::sleep(PHASE).await;
    }
    let shots = load.stop().await;
    let took = judge_answers(language, &shots, &changed);
    judge_log(language, &shots, &served.lines(shots.len()));
    println!("{language}: {rate} requests a second were offered; closed and opened within {took:?}");
    took
}

/// What began later than a while after a change and ended before the next one has the verdict of that policy. How long
/// it was until the door was closed, and until it was open again.
fn judge_answers(language: &str, shots: &[Shot], changed: &[Instant]) -> [Duration; 2] {
    let answered = |shot: &Shot| *shot.result.as_ref().unwrap_or_else(|error| panic!("{language}: {error}"));
    let mut took = [Duration::ZERO; PHASES.len()];
    for (phase, policy) in PHASES.iter().enumerate() {
        let is_within =
            |shot: &&Shot| shot.began >= changed[phase] && changed.get(phase + 1).is_none_or(|next| shot.ended < *next);
        let is_as_said = |shot: &Shot| {
            let (_, is_refused) = if shot.number.is_multiple_of(2) { policy.orders } else { policy.never };
            answered(shot) == if is_refused { 403 } else { 200 }
        };
        let within: Vec<_> = shots.iter().filter(is_within).collect();
        let last_other = within.iter().filter(|shot| !is_as_said(shot)).map(|shot| shot.began).max();
        took[phase] = last_other.map_or(Duration::ZERO, |began| began - changed[phase]);
        let telling = within.iter().filter(|shot| last_other.is_none_or(|last| shot.began > last)).count();
        assert!(telling > RATE as usize / 10, "{language}: only {telling} requests tell of phase {phase}");
    }
    let [at_first, closed, opened] = took;
    assert_eq!(at_first, Duration::ZERO, "{language}: the first policy did not hold from the beginning");
    assert!(closed.max(opened) <= PATIENCE, "{language}: {closed:?}, {opened:?}");
    assert!(shots.iter().all(|shot| matches!(answered(shot), 200 | 403)), "{language}: neither passed nor refused");
    let passed = shots.iter().filter(|shot| !shot.number.is_multiple_of(2) && answered(shot) != 403).count();
    assert_eq!(passed, 0, "{language}: met the rules of one policy and the documents of the other");
    [closed, opened]
}

/// Each line names the revision that decided, and what decided is of that revision; who began after another had ended
/// met no older one.
fn judge_log(language: &str, shots: &[Shot], lines: &BTreeMap<u64, Value>) {
    let revision = |number: u64| lines[&number]["revision"].as_str().unwrap().parse::<usize>().unwrap();
    let mut met = [0; PHASES.len()];
    for shot in shots {
        let (line, revision) = (&lines[&shot.number], revision(shot.number));
        met[revision - 1] += 1;
        let policy = PHASES[revision - 1];
        let (by, is_refused) = if shot.number.is_multiple_of(2) { policy.orders } else { policy.never };
        assert_eq!(line["access_rule"], by, "{language}: {line}");
        assert_eq!(line["error_type"] == "denied", is_refused, "{language}: {line}");
    }
    assert!(met.iter().all(|count| *count > 0), "{language}: {met:?}");
    let mut by_end: Vec<_> = shots.iter().map(|shot| (shot.ended, revision(shot.number))).collect();
    by_end.sort();
    let mut by_beginning: Vec<_> = shots.iter().map(|shot| (shot.began, revision(shot.number))).collect();
    by_beginning.sort();
    let (mut ended, mut newest) = (by_end.into_iter().peekable(), 0);
    for (began, revision) in by_beginning {
        while let Some((_, earlier)) = ended.next_if(|(end, _)| *end < began) {
            newest = newest.max(earlier);
        }
        assert!(revision >= newest, "{language}: revision {revision} after {newest}");
    }
    println!("{language}: {} requests, by revision {met:?}", shots.len());
}
