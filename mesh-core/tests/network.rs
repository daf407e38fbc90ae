//! The real client and the real server side over a simulated network: partitions, slow links, crashes and
//! reloads in virtual time, by seed [turmoil].
//!
//! The mesh needs nothing for it: it runs on the runtime it is called from, its clock is tokio's, and its
//! connector is injected. What is simulated is the network below.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_core::endpoint::connect::{Connector, Io};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tower::{Layer, Service};
use turmoil::net::{TcpListener, TcpStream};

/// Opens streams of the simulated network.
struct Simulated;

impl Connector for Simulated {
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
    }
}

/// How often each order was acted on, by any server, crashed or not.
type Ledger = Arc<Mutex<HashMap<String, usize>>>;

const PORT: u16 = 9000;
const SERVERS: [&str; 3] = ["server-0", "server-1", "server-2"];
/// A call's own deadline.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Calls a second.
const RATE: u64 = 50;
/// Virtual seconds of load; the network is whole again from `HEALED` on.
const SECONDS: u64 = 40;
const HEALED: u64 = 26;
/// What the caller may notice late: a few turns of the simulation.
const SLACK: Duration = Duration::from_millis(50);

/// An HTTP server with the mesh's server layer, as an application that keeps its own server has it.
async fn serve(ledger: Ledger) -> turmoil::Result {
    let mesh = Mesh::from_yaml("version: 1\nlisteners: [{ name: in, concurrency: {} }]\n", "server.yaml").unwrap();
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let application = tower::service_fn(move |request: Request<Body>| {
        let ledger = Arc::clone(&ledger);
        async move {
            if let Some(order) = request.headers().get("x-order") {
                *ledger.lock().unwrap().entry(order.to_str().unwrap().to_owned()).or_default() += 1;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
            Ok::<_, BoxError>(Response::new(Body::from("done")))
        }
    });
    let service = mesh.server_layer("in").unwrap().layer(application);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let mut service = service.clone();
            let answering: Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>> =
                Box::pin(async move { service.call(request).await.map_err(io::Error::other) });
            answering
        });
        tokio::spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn document(protocol: &str, servers: &[&str]) -> String {
    let endpoints: Vec<_> =
        servers.iter().map(|name| format!("{{ address: \"{}:{PORT}\" }}", turmoil::lookup(*name))).collect();
    format!(
        "version: 1
clusters: [{{ name: shop, protocol: {protocol}, endpoints: [{}] }}]
routes: [{{ hosts: [shop], rules: [{{ backends: [{{ cluster: shop }}], timeout: 2s, attempt_timeout: 500ms }}] }}]
",
        endpoints.join(", ")
    )
}

/// One call as its caller saw it.
struct Seen {
    second: u64,
    took: Duration,
    is_order: bool,
    result: Result<u16, String>,
}

async fn call(mesh: Mesh, number: u64, began: tokio::time::Instant) -> Seen {
    let is_order = number.is_multiple_of(2);
    let request = if is_order {
        Request::post("http://shop/").header("x-order", number).body(Body::from("order")).unwrap()
    } else {
        Request::get("http://shop/").body(Body::empty()).unwrap()
    };
    let start = tokio::time::Instant::now();
    let result = match mesh.client().call(request).await {
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().collect_up_to(100).await;
            body.map(|_| status).map_err(|error| format!("body: {error}"))
        }
        Err(error) => Err(error.to_string()),
    };
    Seen { second: start.duration_since(began).as_secs(), took: start.elapsed(), is_order, result }
}

/// Calls at the rate; a reload takes a server out while it is down, another brings it back.
async fn load(protocol: &'static str, seen: Arc<Mutex<Vec<Seen>>>) -> turmoil::Result {
    let mesh = Mesh::builder()
        .connector(Arc::new(Simulated))
        .seed(1)
        .from_yaml(&document(protocol, &SERVERS), "client.yaml")
        .unwrap();
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..SECONDS * RATE {
        ticks.tick().await;
        match number {
            // The crash is at 4 s: in the middle of it the document changes.
            201 => drop(mesh.reload(&document(protocol, &SERVERS[1..]), "fewer.yaml").unwrap()),
            350 => drop(mesh.reload(&document(protocol, &SERVERS), "all.yaml").unwrap()),
            _ => {}
        }
        calls.spawn(call(mesh.clone(), number, began));
    }
    while let Some(done) = calls.join_next().await {
        seen.lock().unwrap().push(done.unwrap());
    }
    Ok(())
}

/// What happens to the network, in milliseconds from the start.
fn disturb(sim: &mut turmoil::Sim<'_>, step: usize) {
    match step {
        0 => sim.crash("server-0"),
        1 => sim.bounce("server-0"),
        2 => sim.partition("client", "server-1"),
        3 => sim.repair("client", "server-1"),
        4 => sim.set_link_latency("client", "server-2", Duration::from_millis(300)),
        5 => sim.set_link_latency("client", "server-2", Duration::from_millis(1)),
        6 => SERVERS.iter().for_each(|server| sim.crash(*server)),
        _ => SERVERS.iter().for_each(|server| sim.bounce(*server)),
    }
}

const DISTURBANCES: [u64; 8] = [4_000, 6_500, 9_000, 13_000, 15_000, 19_000, 22_000, 24_000];

fn run(protocol: &'static str, seed: u64) -> (Vec<Seen>, HashMap<String, usize>) {
    let (ledger, seen) = (Ledger::default(), Arc::new(Mutex::new(Vec::new())));
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(SECONDS + 20))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1024)
        .rng_seed(seed)
        .build();
    for name in SERVERS {
        let ledger = Arc::clone(&ledger);
        sim.host(name, move || serve(Arc::clone(&ledger)));
    }
    sim.client("client", load(protocol, Arc::clone(&seen)));
    let mut next = 0;
    while !sim.step().unwrap() {
        while DISTURBANCES.get(next).is_some_and(|at| sim.elapsed() >= Duration::from_millis(*at)) {
            disturb(&mut sim, next);
            next += 1;
        }
    }
    drop(sim);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    (seen, ledger)
}

fn hold_invariants(protocol: &'static str, seed: u64) {
    let (seen, ledger) = run(protocol, seed);
    assert_eq!(seen.len(), (SECONDS * RATE) as usize);
    let twice: Vec<_> = ledger.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{protocol} {seed}: acted on twice: {twice:?}");
    let late: Vec<_> = seen.iter().filter(|seen| seen.took > TIMEOUT + SLACK).map(|seen| seen.took).collect();
    assert!(late.is_empty(), "{protocol} {seed}: beyond their deadline: {late:?}");

    let failed = |seconds: std::ops::Range<u64>, orders: bool| -> Vec<String> {
        let seen = seen.iter().filter(|seen| seconds.contains(&seen.second) && (orders || !seen.is_order));
        seen.filter(|seen| seen.result != Ok(200)).map(|seen| format!("{}: {:?}", seen.second, seen.result)).collect()
    };
    let count = |seconds| failed(seconds, true).len();
    println!(
        "{protocol} {seed}: failed of {RATE}/s: crash {}, partition {}, slow {}, outage {}, after {}",
        count(4..7),
        count(9..13),
        count(15..19),
        count(22..HEALED),
        count(HEALED..SECONDS)
    );
    let reads = failed(0..22, false);
    assert!(reads.is_empty(), "{protocol} {seed}: reads had other endpoints: {reads:?}");
    assert!(!failed(22..24, true).is_empty(), "the outage was not felt at all");
    let after = failed(HEALED + 8..SECONDS, true);
    assert!(after.is_empty(), "{protocol} {seed}: not recovered: {after:?}");
}

#[test]
fn over_http1_nothing_is_done_twice_hangs_or_stays_broken() {
    hold_invariants("http1", 1);
}

#[test]
fn over_http2_nothing_is_done_twice_hangs_or_stays_broken() {
    hold_invariants("http2", 2);
}
