//! The policy server fails, in virtual time over a simulated network: for six seconds of every minute, and for good.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status as Verdict;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mesh_core::endpoint::connect::{Connector, Io};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tower::{Layer, ServiceExt};
use turmoil::net::{TcpListener, TcpStream};

struct Simulated;

impl Connector for Simulated {
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) })
    }
}

/// Approves of everybody.
struct Kind;

#[tonic::async_trait]
impl Authorization for Kind {
    async fn check(&self, _: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        Ok(tonic::Response::new(CheckResponse { status: Some(Verdict::default()), ..CheckResponse::default() }))
    }
}

async fn decide() -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let service = TowerToHyperService::new(AuthorizationServer::new(Kind));
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn mesh(checks: &str) -> Mesh {
    let address = SocketAddr::from((turmoil::lookup("policy"), PORT));
    let text = format!(
        "version: 1
listeners: [{{ name: closed }}, {{ name: open }}]
clusters: [{{ name: policy, protocol: http2, endpoints: [{{ address: \"{address}\" }}] }}]
policy:
  checks:
{checks}"
    );
    Mesh::builder().connector(Arc::new(Simulated)).seed(1).from_yaml(&text, "server.yaml").unwrap()
}

/// One request to the application behind a listener.
async fn ask(mesh: &Mesh, listener: &str, user: u64, path: u64) -> u16 {
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let request = Request::get(format!("http://shop/{path}")).header("user", user).header("authorization", SECRET);
    let service = mesh.server_layer(listener).unwrap().layer(answer);
    let answering: Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>> =
        Box::pin(service.oneshot(request.body(Body::empty()).unwrap()));
    answering.await.unwrap().status().as_u16()
}

/// 200 callers and paths that come again and again, and one request of a hundred by somebody new.
async fn load(checks: String, seen: Arc<Mutex<Vec<(u64, u16)>>>) -> turmoil::Result {
    let mesh = mesh(&checks);
    let mut random = fastrand::Rng::with_seed(7);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..SECONDS * u64::from(RATE) {
        ticks.tick().await;
        let user = if random.u8(..100) == 0 { 1000 + number } else { random.u64(..40) };
        let (mesh, path) = (mesh.clone(), random.u64(..5));
        asked.spawn(async move { (number / u64::from(RATE), ask(&mesh, "closed", user, path).await) });
    }
    while let Some(done) = asked.join_next().await {
        seen.lock().unwrap().push(done.unwrap());
    }
    Ok(())
}

fn simulation() -> turmoil::Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(SECONDS + 60))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1024)
        .rng_seed(1)
        .build();
    sim.host("policy", decide);
    sim
}

/// Share of the requests that were served while the policy server is down 6 s of every 60.
fn availability(checks: &str) -> f64 {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut sim = simulation();
    sim.client("shop", load(checks.to_owned(), Arc::clone(&seen)));
    let mut is_down = false;
    while !sim.step().unwrap() {
        let should_be_down = (20..26).contains(&(sim.elapsed().as_secs() % 60));
        if should_be_down != is_down {
            is_down = should_be_down;
            if is_down { sim.crash("policy") } else { sim.bounce("policy") }
        }
    }
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len() as u64, SECONDS * u64::from(RATE));
    seen.iter().filter(|(_, status)| *status == 200).count() as f64 / seen.len() as f64
}

#[test]
fn callers_see_more_of_the_service_than_the_policy_server_is_up() {
    let check = "    - { name: closed, cluster: policy, listeners: [closed]";
    let alone = availability(&format!("{check} }}\n"));
    let with_cache = availability(&format!("{check}, cache: {{ key: [path, header:user], ttl: 30s }} }}\n"));
    let with_grace =
        availability(&format!("{check}, cache: {{ key: [path, header:user], ttl: 30s, grace: 30s }} }}\n"));
    println!("served: {alone:.4} without a cache, {with_cache:.4} with one, {with_grace:.4} with grace");
    assert!(alone < 0.91, "{alone}: the outage was not felt at all");
    // A tenth of the time nobody answers; a server that is back is found at once.
    assert!(alone > 0.885, "{alone}: the outage was felt long after its end");
    assert!(with_grace >= 0.99, "{with_grace}");
    assert!(alone < with_cache && with_cache < with_grace, "{alone} {with_cache} {with_grace}");
}

const BOTH: &str = "    - { name: strict, cluster: policy, listeners: [closed], status_on_error: 503,
        cache: { key: [path, header:user], ttl: 30s, grace: 10s } }
    - { name: lenient, cluster: policy, listeners: [open], failure: open,
        cache: { key: [path, header:user], ttl: 30s, grace: 10s } }
";

/// What a request gets before the policy server is gone, while its answer holds, in its grace, and after.
async fn outlive(told: Arc<Mutex<Vec<(u16, u16)>>>, metrics: Arc<Mutex<String>>) -> turmoil::Result {
    let mesh = mesh(BOTH);
    let began = tokio::time::Instant::now();
    for second in [1, 25, 35, 45] {
        tokio::time::sleep_until(began + Duration::from_secs(second)).await;
        let statuses = (ask(&mesh, "closed", 1, 1).await, ask(&mesh, "open", 1, 1).await);
        told.lock().unwrap().push(statuses);
    }
    *metrics.lock().unwrap() = mesh.metrics_text();
    Ok(())
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn down_for_good_a_check_refuses_or_lets_through_as_it_was_told_and_says_why() {
    let (told, metrics, log) = (Arc::default(), Arc::default(), Log::default());
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut sim = simulation();
        sim.client("shop", outlive(Arc::clone(&told), Arc::clone(&metrics)));
        let mut is_down = false;
        while !sim.step().unwrap() {
            if !is_down && sim.elapsed() > Duration::from_secs(10) {
                is_down = true;
                sim.crash("policy");
            }
        }
    });
    assert_eq!(*told.lock().unwrap(), [(200, 200), (200, 200), (200, 200), (503, 200)]);
    let metrics = metrics.lock().unwrap();
    for (check, outcome) in [("strict", "fail_closed"), ("lenient", "fail_open")] {
        let stale = format!("libmesh_check_cache_stale_total{{check=\"{check}\"}} 1");
        let failed =
            format!("libmesh_check_failures_total{{check=\"{check}\",outcome=\"{outcome}\",reason=\"rpc\"}} 1");
        let covered = format!("libmesh_check_failures_total{{check=\"{check}\",outcome=\"stale\",reason=\"rpc\"}} 1");
        for line in [stale, failed, covered] {
            assert!(metrics.contains(&line), "{line}: {metrics}");
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for check in ["strict", "lenient"] {
        let line = log.lines().find(|line| line.contains("check failed") && line.contains(check));
        assert!(line.is_some_and(|line| line.contains("error.type=\"rpc\"")), "{log}");
    }
    assert!(!log.contains(SECRET) && !metrics.contains(SECRET));
}

const PORT: u16 = 9000;
/// Requests a second.
const RATE: u32 = 50;
/// Virtual seconds of load.
const SECONDS: u64 = 180;
/// A credential, which nothing may show.
const SECRET: &str = "Bearer open-sesame";
