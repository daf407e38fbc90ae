//! Endpoints that move while a thousand callers keep their connections.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh, ServiceClient};
use mesh_tests::heap::{Heap, held};
use mesh_tests::load::PATIENT;
use mesh_tests::process::{free_port, open_file_limit, wait_until};
use tokio::sync::watch;
use tokio::task::JoinSet;

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Opens when so many requests are here at once: each then has a connection of its own.
struct Gate {
    opens_at: usize,
    arrived: AtomicUsize,
    is_open: watch::Sender<bool>,
}

impl Gate {
    fn new(opens_at: usize) -> Arc<Self> {
        Arc::new(Self { opens_at, arrived: AtomicUsize::new(0), is_open: watch::Sender::new(false) })
    }

    async fn pass(&self) {
        if self.arrived.fetch_add(1, Ordering::Relaxed) + 1 >= self.opens_at {
            self.is_open.send_replace(true);
        }
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }

    async fn opened(&self) {
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }
}

/// A server that holds each request for a while.
async fn server(address: &str, gate: &Arc<Gate>, holds: Duration) -> Mesh {
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"{address}\" }}]\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let gate = Arc::clone(gate);
    let answer = tower::service_fn(move |_: Request<Body>| {
        let gate = Arc::clone(&gate);
        async move {
            gate.pass().await;
            tokio::time::sleep(holds).await;
            Ok::<_, BoxError>(Response::new(Body::from("fine")))
        }
    });
    mesh.listen("in", answer).await.unwrap();
    mesh
}

/// Open file descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[global_allocator]
static HEAP: Heap = Heap;

/// Callers that each send one request after the other.
struct Callers {
    stopping: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<String>>,
}

impl Callers {
    fn start(client: &ServiceClient, count: usize) -> Self {
        let (stopping, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (client, stopping, answered) = (client.clone(), Arc::clone(&stopping), Arc::clone(&answered));
            tasks.spawn(async move {
                let mut failures = Vec::new();
                while !stopping.load(Ordering::Relaxed) {
                    match get(&client).await {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failures.push(error),
                    }
                }
                failures
            });
        }
        Self { stopping, answered, tasks }
    }

    /// Waits for what is in flight; the number of answers, and every failure.
    async fn stop(self) -> (usize, Vec<String>) {
        self.stopping.store(true, Ordering::Relaxed);
        let failures = self.tasks.join_all().await.concat();
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

async fn get(client: &ServiceClient) -> Result<(), String> {
    let response = client.call(Request::get("http://a/").body(Body::empty()).unwrap()).await;
    let response = response.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect_up_to(1 << 10).await.map_err(|error| error.to_string())?;
    if status == 200 && &body[..] == b"fine" { Ok(()) } else { Err(format!("{status} {body:?}")) }
}

/// Three places where a server runs, and the file that says where they are.
struct Fleet<'a> {
    file: &'a Path,
    gate: Arc<Gate>,
    ports: Vec<u16>,
    servers: Vec<Mesh>,
    leaving: JoinSet<()>,
}

impl<'a> Fleet<'a> {
    async fn start(file: &'a Path, gate: Arc<Gate>) -> Self {
        let mut fleet = Self { file, gate, ports: Vec::new(), servers: Vec::new(), leaving: JoinSet::new() };
        for _ in 0..3 {
            let (port, server) = fleet.one().await;
            fleet.ports.push(port);
            fleet.servers.push(server);
        }
        fleet.announce();
        fleet
    }

    async fn one(&self) -> (u16, Mesh) {
        let port = free_port().unwrap();
        (port, server(&format!("127.0.0.1:{port}"), &self.gate, HOLDS).await)
    }

    fn announce(&self) {
        let list: String = self.ports.iter().map(|port| format!("- address: 127.0.0.1:{port}\n")).collect();
        replace(self.file, &list);
    }

    /// One server moves: the new one serves, the file says so, the old one leaves as a server does.
    async fn moves(&mut self, place: usize) {
        let (port, server) = self.one().await;
        self.ports[place] = port;
        let old = std::mem::replace(&mut self.servers[place], server);
        self.announce();
        self.leaving.spawn(async move {
            old.drain(Duration::from_secs(10)).await;
            let _ = tokio::task::spawn_blocking(move || old.close(Duration::from_secs(2))).await;
        });
    }

    async fn stop(mut self) {
        for server in self.servers.drain(..) {
            server.drain(Duration::from_millis(500)).await;
            let _ = tokio::task::spawn_blocking(move || server.close(Duration::from_secs(2))).await;
        }
        self.leaving.join_all().await;
    }
}

async fn round(file: &Path, (callers, moves, each): (usize, usize, Duration)) -> (usize, Vec<String>, usize) {
    let gate = Gate::new(callers);
    let mut fleet = Fleet::start(file, Arc::clone(&gate)).await;
    let text = format!(
        "version: 1
{PATIENT}
clusters: [{{ name: a, endpoints_file: \"{}\", max_idle_connections: 1000, concurrency_limit: {{ max_requests: 2000 }} }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
",
        file.display()
    );
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    let load = Callers::start(&mesh.client(), callers);
    gate.opened().await;
    let most = descriptors();
    let mut ticks = tokio::time::interval(each);
    for n in 0..moves {
        ticks.tick().await;
        fleet.moves(n % 3).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (answered, failures) = load.stop().await;
    tokio::task::spawn_blocking(move || mesh.close(Duration::from_secs(2))).await.unwrap();
    fleet.stop().await;
    (answered, failures, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_by_the_thousand_see_no_failure_while_endpoints_move_a_hundred_times() {
    open_file_limit(4000).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.yaml");
    // What is allocated once and kept is not a leak.
    let (_, failures, _) = round(&file, (1000, 6, Duration::from_millis(600))).await;
    assert_eq!(failures, Vec::<String>::new());
    wait_until("the sockets of the first round to close", || descriptors() < 200).unwrap();
    let (sockets, bytes) = (descriptors(), held());
    let (answered, failures, most) = round(&file, (1000, 100, Duration::from_millis(600))).await;
    println!("{answered} requests, {most} descriptors with every caller's request in flight");
    assert_eq!(failures, Vec::<String>::new(), "of {answered}");
    assert!(answered >= 1000, "{answered} requests");
    // Both ends are in this process: a connection is two descriptors.
    assert!(most > 2000, "{most} descriptors: the callers did not keep a thousand connections");
    wait_until("sockets back to the baseline", || descriptors() <= sockets + 5).unwrap();
    let left = wait_until("memory back to the baseline", || held() <= bytes + SETTLED);
    println!("{} KiB after the first round, {} KiB after the second", bytes >> 10, held() >> 10);
    left.unwrap();
}

/// What a round may leave: less than 50 bytes for each of its connections.
const SETTLED: usize = 1 << 20;
/// How long a server holds a request: 1 000 callers are then 2 000 requests a second at most.
const HOLDS: Duration = Duration::from_millis(500);
