//! The server that assigns rate limits dies and comes back, in virtual time over a simulated network.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "quotas/server.rs"]
#[allow(dead_code, reason = "the server of several tests")]
mod server;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::RateLimitQuotaServiceServer;
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mesh_core::endpoint::connect::{Connector, Io};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tower::{Layer, ServiceExt};
use turmoil::net::{TcpListener, TcpStream};

use self::server::{Assigner, Service, per};

struct Simulated;

impl Connector for Simulated {
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
    }
}

async fn assign(assigner: Arc<Assigner>) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(RateLimitQuotaServiceServer::new(Service(Arc::clone(&assigner))));
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Three limits that differ in what holds after an assignment has expired, each on a listener of its own.
fn mesh() -> Mesh {
    let address = SocketAddr::from((turmoil::lookup("assigner"), PORT));
    let mut text = format!(
        "version: 1
listeners: [{{ name: forget }}, {{ name: reuse }}, {{ name: deny }}]
clusters: [{{ name: quotas, protocol: http2, endpoints: [{{ address: \"{address}\" }}] }}]
policy:
  rate_limit_quotas:
"
    );
    for (name, behaviour) in LISTENERS {
        text += &format!(
            "    - {{ name: {name}, listeners: [{name}], cluster: quotas, domain: {name}, reporting_interval: 2s, \
             buckets: [{{ actions: [{{ generic_key: {{ descriptor_value: all }} }}] }}]{behaviour} }}\n"
        );
    }
    Mesh::builder().connector(Arc::new(Simulated)).seed(1).from_yaml(&text, "server.yaml").unwrap()
}

async fn ask(mesh: &Mesh, listener: &str) -> bool {
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let service = mesh.server_layer(listener).unwrap().layer(answer);
    let answering: Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>> =
        Box::pin(service.oneshot(Request::get("http://shop/").body(Body::empty()).unwrap()));
    answering.await.unwrap().status().as_u16() == 200
}

/// Allowed and denied of each limit, in each second.
type Passed = BTreeMap<(&'static str, u64), (u64, u64)>;

async fn load(passed: Arc<Mutex<Passed>>) -> turmoil::Result {
    let mesh = mesh();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
    for number in 0..SECONDS * RATE {
        ticks.tick().await;
        for (listener, _) in LISTENERS {
            let has_passed = ask(&mesh, listener).await;
            let mut passed = passed.lock().unwrap();
            let (allowed, denied) = passed.entry((listener, number / RATE)).or_default();
            *(if has_passed { allowed } else { denied }) += 1;
        }
    }
    // Whatever was counted last is still to be told.
    tokio::time::sleep(Duration::from_secs(5)).await;
    Ok(())
}

fn play(assigner: &Arc<Assigner>, outage: Outage) -> Passed {
    let passed = Arc::new(Mutex::new(Passed::new()));
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(SECONDS + 60))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1024)
        .rng_seed(1)
        .build();
    let host = Arc::clone(assigner);
    sim.host("assigner", move || assign(Arc::clone(&host)));
    sim.client("shop", load(Arc::clone(&passed)));
    let mut is_down = false;
    while !sim.step().unwrap() {
        let should_be_down = (DOWN..BACK).contains(&sim.elapsed().as_secs());
        if should_be_down != is_down {
            is_down = should_be_down;
            match (outage, is_down) {
                (Outage::Crash, true) => sim.crash("assigner"),
                (Outage::Crash, false) => sim.bounce("assigner"),
                (Outage::Silence, true) => sim.partition("shop", "assigner"),
                (Outage::Silence, false) => sim.repair("shop", "assigner"),
            }
        }
    }
    std::mem::take(&mut *passed.lock().unwrap())
}

/// How the server is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// Connections to it end.
    Crash,
    /// Nothing arrives any more, and nothing says so.
    Silence,
}

#[test]
fn an_assignment_outlives_its_server_to_its_end_then_what_is_written_holds_and_a_server_that_is_back_is_heard() {
    // A report that was on its way is lost.
    survive(Outage::Crash, 3 * RATE);
}

#[test]
fn a_server_that_falls_silent_is_found_out_and_heard_again() {
    // Until a PING finds out, after 20 s, reports go nowhere.
    survive(Outage::Silence, 24 * RATE);
}

fn survive(outage: Outage, most_lost: u64) {
    let assigner = Assigner::refreshing(per(5, RateLimitUnit::Second, TTL));
    let passed = play(&assigner, outage);
    let rate = |listener: &'static str, seconds: std::ops::Range<u64>| {
        let length = seconds.end - seconds.start;
        let sum: u64 = seconds.map(|second| passed[&(listener, second)].0).sum();
        // A second of the assignment is none of the test's: one at each end may be shared.
        let bounds = |rate: u64| rate * (length - 1)..=rate * (length + 1);
        [0, 5, RATE].into_iter().find(|rate| bounds(*rate).contains(&sum)).ok_or(sum)
    };
    // The last report before the end came 2 s before at most, and with it the last extension.
    let expired = DOWN + TTL as u64;
    let over = expired + LASTS;
    for (listener, after_expiry) in [("forget", RATE), ("reuse", 5), ("deny", 0)] {
        assert_eq!(rate(listener, 1..DOWN), Ok(5), "{listener}: assigned");
        assert_eq!(rate(listener, DOWN..expired - 3), Ok(5), "{listener}: the server is dead");
        assert_eq!(rate(listener, expired + 1..over - 3), Ok(after_expiry), "{listener}: expired");
        assert_eq!(rate(listener, over + 1..BACK), Ok(RATE), "{listener}: a new bucket");
        // The longest wait between two tries is 30 s.
        assert_eq!(rate(listener, BACK + 32..SECONDS), Ok(5), "{listener}: the server is back");
    }
    assert_eq!(assigner.streams(), 2 * LISTENERS.len(), "a stream ends with its server, and by no timeout");
    for (listener, _) in LISTENERS {
        let decided = passed.iter().filter(|((name, _), _)| *name == listener);
        let decided = decided.fold(0, |sum, (_, (allowed, denied))| sum + allowed + denied);
        let reports = assigner.seen();
        let reported: u64 =
            reports.iter().filter(|seen| seen.domain == listener).map(|seen| seen.allowed + seen.denied).sum();
        println!("{outage:?} {listener}: {reported} of {decided} requests were reported");
        assert!((decided - most_lost..=decided).contains(&reported), "{listener}: {reported} of {decided}");
    }
}

const LISTENERS: [(&str, &str); 3] = [
    ("forget", ""),
    ("reuse", ", expired_assignment_behavior: { reuse_last_assignment: {}, expired_assignment_behavior_timeout: 15s }"),
    (
        "deny",
        ", expired_assignment_behavior: { fallback_rate_limit: { blanket_rule: deny_all }, \
         expired_assignment_behavior_timeout: 15s }",
    ),
];
const PORT: u16 = 9000;
/// Requests a second, of each listener.
const RATE: u64 = 10;
/// Virtual seconds of load.
const SECONDS: u64 = 150;
/// The server is dead from then on.
const DOWN: u64 = 20;
/// And back then.
const BACK: u64 = 90;
/// Seconds that an assignment holds without being extended.
const TTL: i64 = 30;
/// Seconds that the behaviour after it holds.
const LASTS: u64 = 15;
