//! One of ten endpoints is ten times slower: what each balancer makes of it, over real sockets.
//!
//! The simulated half is `mesh-core/tests/simulation/balancers.rs`. Here timers dominate (200 ms and 2 s),
//! and the three clients run side by side against the same servers, so that what else the machine does
//! falls on all of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, CallReport, Mesh};
use mesh_tests::load::PATIENT;
use mesh_tests::process::free_port;
use tokio::task::JoinSet;

const QUICK: Duration = Duration::from_millis(200);
const SLOW: Duration = Duration::from_secs(2);
/// Requests a second of each client.
const RATE: u32 = 15;
/// Not counted: every balancer has to meet the slow endpoint once.
const WARM_UP: usize = 60;
const COUNTED: usize = 270;
/// One of so many runs has to hold: a machine that stands still for most of a second moves a p99 of 270.
const RUNS: usize = 5;

async fn server(takes: Duration) -> (Mesh, u16) {
    let port = free_port().unwrap();
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let service = tower::service_fn(move |_: Request<Body>| async move {
        tokio::time::sleep(takes).await;
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    mesh.listen("in", service).await.unwrap();
    (mesh, port)
}

fn client(balancer: &str, ports: &[u16]) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}")).collect();
    let balancer = if balancer == "default" { String::new() } else { format!("balancer: {balancer},") };
    let text = format!(
        "version: 1\n{PATIENT}\nclusters: [{{ name: a, {balancer} endpoints: [{}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

struct Run {
    p50: Duration,
    p99: Duration,
    at_slow: usize,
}

async fn run(mesh: Mesh, slow: Arc<str>) -> Run {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut calls = JoinSet::new();
    for number in 0..WARM_UP + COUNTED {
        ticks.tick().await;
        let client = mesh.client();
        calls.spawn(async move {
            let start = Instant::now();
            let response = client.call(Request::get("http://a/").body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            let endpoint = Arc::clone(&response.extensions().get::<CallReport>().unwrap().endpoint);
            (number, start.elapsed(), endpoint)
        });
    }
    let counted: Vec<_> = calls.join_all().await.into_iter().filter(|(number, ..)| *number >= WARM_UP).collect();
    let at_slow = counted.iter().filter(|(.., endpoint)| *endpoint == slow).count();
    let mut took: Vec<_> = counted.into_iter().map(|(_, took, _)| took).collect();
    took.sort();
    Run { p50: took[COUNTED / 2], p99: took[COUNTED * 99 / 100 - 1], at_slow }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_of_ten_endpoints_ten_times_slower_the_default_halves_the_p99_of_round_robin() {
    let mut servers = vec![server(SLOW).await];
    for _ in 0..9 {
        servers.push(server(QUICK).await);
    }
    let ports: Vec<_> = servers.iter().map(|(_, port)| *port).collect();
    let mut found = Vec::new();
    for _ in 0..RUNS {
        match compare(&ports).await {
            Ok(()) => return,
            Err(problem) => found.push(problem),
        }
    }
    panic!("{found:?}");
}

async fn compare(ports: &[u16]) -> Result<(), String> {
    let slow: Arc<str> = format!("127.0.0.1:{}", ports[0]).into();
    let start = |balancer| tokio::spawn(run(client(balancer, ports), Arc::clone(&slow)));
    let [robin, least, default] = ["round_robin", "least_request", "default"].map(start);
    let [robin, least, default] = [robin.await.unwrap(), least.await.unwrap(), default.await.unwrap()];
    for (name, run) in [("round_robin", &robin), ("least_request", &least), ("default", &default)] {
        println!("{name}: p50 {:?}, p99 {:?}, {} of {COUNTED} at the slow endpoint", run.p50, run.p99, run.at_slow);
    }
    let [robin, least, default] = [robin, least, default].map(|run| run.p99.as_secs_f64());
    let told = format!("p99 in seconds: round robin {robin}, least request {least}, default {default}");
    // Round robin sends a tenth to the slow endpoint.
    let is_so = robin >= SLOW.as_secs_f64() && default <= 0.5 * robin && default <= 1.1 * least;
    if is_so { Ok(()) } else { Err(told) }
}
