//! Full outages: how much more than what was offered an upstream sees, and how soon it serves again.
//!
//! Open-loop load: requests start on time whatever became of the ones before. Counted at the upstream. Only
//! in a release build: another cannot offer the load, and then measures itself. What the engines alone do is
//! in `mesh-core/src/policy/retry/tests/storm.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use mesh_tests::load::{Load, affordable};
use mesh_tests::process::{free_port, open_file_limit};

/// One storm at a time: two at once offer each other's machine away.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Requests a second, on a machine that serves four times as many.
const PER_SECOND: u32 = 2000;
const OUTAGE: Duration = Duration::from_secs(10);
/// An outage's end, with room for a machine that stands still for a while.
const SOON: Duration = Duration::from_secs(8);
/// Of every budget: 10 retries a second are always allowed, and those of a window may have been saved.
const FLOOR: f64 = 10.0 * (OUTAGE.as_secs() + 10) as f64;

/// A service that can break down, on three addresses.
struct Upstream {
    ports: Vec<u16>,
    seen: Arc<AtomicU64>,
    is_down: Arc<AtomicBool>,
    _servers: Vec<Mesh>,
}

async fn server(service: impl Fn() -> Answering + Clone + Send + Sync + 'static) -> (Mesh, u16) {
    let port = free_port().unwrap();
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let service = tower::service_fn(move |_: Request<Body>| {
        let answering = service();
        async move {
            let status = answering.await;
            Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty()).unwrap())
        }
    });
    mesh.listen("in", service).await.unwrap();
    (mesh, port)
}

type Answering = std::pin::Pin<Box<dyn Future<Output = u16> + Send>>;

impl Upstream {
    async fn start() -> Self {
        open_file_limit(4000).unwrap();
        let (seen, is_down) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(false)));
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (seen, is_down) = (Arc::clone(&seen), Arc::clone(&is_down));
            let (mesh, port) = server(move || {
                seen.fetch_add(1, Ordering::Relaxed);
                let status = if is_down.load(Ordering::Relaxed) { 503 } else { 200 };
                Box::pin(async move { status })
            })
            .await;
            servers.push(mesh);
            ports.push(port);
        }
        Self { ports, seen, is_down, _servers: servers }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }
}

fn client(ports: &[u16], defaults: &str) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}")).collect();
    let text = format!(
        "version: 1\ndefaults: {{ {defaults} }}\nclusters: [{{ name: a, endpoints: [{}] }}]\n\
         routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

fn get(_: u64) -> Request<Body> {
    Request::get("http://a/").body(Body::empty()).unwrap()
}

/// What a full outage of `OUTAGE` under load came to.
struct Outage {
    per_second: u32,
    offered: u64,
    seen: u64,
    /// From the end of the outage to the first second in which every request was served.
    recovery: Duration,
}

async fn outage(defaults: &str) -> Outage {
    let upstream = Upstream::start().await;
    let mesh = client(&upstream.ports, defaults);
    let per_second = affordable(client(&upstream.ports, defaults).client(), PER_SECOND, get).await;
    let offered = Arc::<AtomicU64>::default();
    let count = Arc::clone(&offered);
    let load = Load::start(mesh.client(), per_second, move |number| {
        count.fetch_add(1, Ordering::Relaxed);
        get(number)
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (offered_before, seen_before) = (offered.load(Ordering::Relaxed), upstream.seen());
    upstream.set_down(true);
    tokio::time::sleep(OUTAGE).await;
    let (offered_by_then, seen) = (offered.load(Ordering::Relaxed) - offered_before, upstream.seen() - seen_before);
    upstream.set_down(false);
    let back = Instant::now();
    let probing = mesh.client();
    let mut in_a_row = 0;
    while in_a_row < 50 && back.elapsed() < Duration::from_secs(60) {
        let is_served = probing.call(get(0)).await.is_ok_and(|response| response.status() == 200);
        in_a_row = if is_served { in_a_row + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let recovery = back.elapsed();
    assert_eq!(in_a_row, 50, "never served again");
    load.stop().await;
    Outage { per_second, offered: offered_by_then, seen, recovery }
}

#[cfg_attr(debug_assertions, ignore = "offers 2,000 requests a second: run it with --release")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o21_a_full_outage_is_not_made_worse_by_retries_and_ends_soon_after_it_ends() {
    let _alone = ALONE.lock().await;
    let Outage { per_second, offered, seen, recovery } = outage("").await;
    let ratio = seen as f64 / offered as f64;
    println!("defaults: offered {offered}, seen {seen} ({ratio:.3}x), served again after {recovery:?}");
    assert!(offered > u64::from(per_second) * 4, "the load was not offered: {offered}");
    assert!(ratio <= 1.2, "{seen} of {offered}");
    assert!(recovery < SOON, "{recovery:?}");
}

/// With nothing but the budget between the callers and the upstream.
#[cfg_attr(debug_assertions, ignore = "offers 2,000 requests a second: run it with --release")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_alone_bounds_a_storm() {
    let _alone = ALONE.lock().await;
    let off = "circuit_breaker: { consecutive_failures: 0, min_success_percent: 0 }, outlier: { consecutive_5xx: 0 }";
    let Outage { offered, seen, recovery, .. } = outage(off).await;
    let ratio = (seen as f64 - FLOOR) / offered as f64;
    println!(
        "budget alone: offered {offered}, seen {seen} ({ratio:.3}x without the floor), served again after {recovery:?}"
    );
    // What is in flight while the counters are read is counted on one side only.
    assert!(seen as f64 > offered as f64 * 0.8, "the upstream was spared by something else: {seen} of {offered}");
    assert!(ratio <= 1.21, "{seen} of {offered}");
    assert!(recovery < SOON, "{recovery:?}");
}

/// Three services in a row in front of the upstream, each with a mesh of its own, and a client of the first one, which
/// comes first.
async fn chain(upstream: &Upstream, defaults: &str) -> Vec<Mesh> {
    let mut meshes = vec![client(&upstream.ports, defaults)];
    for _ in 0..3 {
        let calling = meshes[0].client();
        let (mesh, port) = server(move || {
            let calling = calling.clone();
            Box::pin(async move {
                match calling.call(get(0)).await {
                    Ok(response) if response.status() == 200 => 200,
                    Ok(_) | Err(_) => 503,
                }
            })
        })
        .await;
        meshes.push(mesh);
        meshes.insert(0, client(&[port], defaults));
    }
    meshes
}

/// Four services in a row, each with a mesh of its own, in front of one that is down: breakers off, so that
/// only budgets and what the services tell each other bound the storm.
#[cfg_attr(debug_assertions, ignore = "offers 2,000 requests a second: run it with --release")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_four_services_multiplies_nothing() {
    let _alone = ALONE.lock().await;
    let off = "circuit_breaker: { consecutive_failures: 0, min_success_percent: 0 }, outlier: { consecutive_5xx: 0 }";
    let upstream = Upstream::start().await;
    let per_second = affordable(chain(&upstream, off).await[0].client(), PER_SECOND / 2, get).await;
    let meshes = chain(&upstream, off).await;
    let front = &meshes[0];
    upstream.set_down(true);
    let seen_before = upstream.seen();
    let load = Load::start(front.client(), per_second, get);
    tokio::time::sleep(OUTAGE).await;
    let offered = load.stop().await.len() as f64;
    let seen = (upstream.seen() - seen_before) as f64;
    println!("chain: offered {offered}, the last saw {seen} ({:.3}x)", seen / offered);
    assert!(offered > f64::from(per_second) * 2.0, "the load was not offered: {offered}");
    assert!(seen / offered <= 1.5, "{seen} of {offered}");
}
