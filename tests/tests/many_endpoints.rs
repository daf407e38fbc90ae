//! A hundred thousand endpoints that change a hundred times a second. A process of its own: it measures memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::config::Endpoint;
use mesh_core::discovery::{EndpointSet, EndpointSource, Sink};
use mesh_core::error::BoxError;
use mesh_core::{Body, CallReport, Mesh, ServiceClient};
use mesh_tests::process::{free_port, open_file_limit, wait_until};
use tokio::task::{JoinHandle, JoinSet};

const MANY: usize = 100_000;

/// Memory of this process, in bytes.
fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A server on every loopback address.
async fn server(port: u16) -> Mesh {
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"0.0.0.0:{port}\" }}]\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::from("fine"))) });
    mesh.listen("in", answer).await.unwrap();
    mesh
}

/// The endpoint that answered.
async fn get(client: &ServiceClient) -> Result<String, String> {
    let response = client.call(Request::get("http://a/").body(Body::empty()).unwrap()).await;
    let response = response.map_err(|error| error.to_string())?;
    let endpoint = response.extensions().get::<CallReport>().unwrap().endpoint.to_string();
    if response.status() == 200 { Ok(endpoint) } else { Err(response.status().to_string()) }
}

/// Hands its sink out.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<Option<Sink>>>);

impl EndpointSource for Registry {
    fn follow(&self, _: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        *self.0.lock().unwrap() = Some(sink);
        Box::pin(async {})
    }
}

fn at(address: &str) -> Arc<Endpoint> {
    Arc::new(Endpoint::at(address.parse().unwrap()))
}

/// 127.0.0.0/8 is all ours: one server on every address.
fn everywhere(port: u16) -> Vec<Arc<Endpoint>> {
    let hosts = (0..MANY).map(|n| format!("127.{}.{}.{}:{port}", 1 + (n >> 16), (n >> 8) & 255, n & 255));
    hosts.map(|address| at(&address)).collect()
}

/// Sends 200 requests a second for `span` and times each, in microseconds.
async fn timed(client: &ServiceClient, span: Duration) -> Result<Vec<u64>, String> {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut calls = JoinSet::new();
    let end = Instant::now() + span;
    while Instant::now() < end {
        ticks.tick().await;
        let client = client.clone();
        calls.spawn(async move {
            let started = Instant::now();
            get(&client).await.map(|_| started.elapsed().as_micros() as u64)
        });
    }
    let mut times = calls.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    Ok(times)
}

/// Publishes all endpoints but one, another one each time, a hundred times a second.
fn churn(sink: &Sink, all: &[Arc<Endpoint>]) -> JoinHandle<usize> {
    let (sink, all) = (sink.clone(), all.to_vec());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut said = 0;
        while said < 1000 {
            ticks.tick().await;
            let mut list = all.clone();
            list.remove(said * 97 % all.len());
            sink.publish(EndpointSet::new(list));
            said += 1;
        }
        said
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_updates_a_second_of_a_hundred_thousand_endpoints_fail_no_request() {
    open_file_limit(4000).unwrap();
    let port = free_port().unwrap();
    let _server = server(port).await;
    let registry = Registry::default();
    let text = "version: 1
defaults: { connect_timeout: 20s, timeout: 60s }
clusters: [{ name: a, endpoint_source: registry, idle_timeout: 1s }]
routes: [{ hosts: [a], rules: [{ backends: [{ cluster: a }] }] }]
";
    let mesh = Mesh::builder().endpoint_source("registry", Arc::new(registry.clone()));
    let mesh = mesh.from_yaml(text, "client.yaml").unwrap();
    mesh.start().unwrap();
    wait_until("the source to be followed", || registry.0.lock().unwrap().is_some()).unwrap();
    let sink = registry.0.lock().unwrap().clone().unwrap();
    let before = memory();
    let all = everywhere(port);
    let written = memory();
    sink.publish(EndpointSet::new(all.clone()));
    let known = || mesh.metrics_text().contains("libmesh_endpoints{cluster=\"a\"} 100000");
    wait_until("all endpoints", known).unwrap();
    println!(
        "{} bytes for each endpoint as its source holds it, {} more in the mesh",
        (written - before) / MANY,
        (memory() - written) / MANY
    );
    let quiet = timed(&mesh.client(), Duration::from_secs(10)).await.unwrap();
    let churning = churn(&sink, &all);
    let one_less = || mesh.metrics_text().contains("libmesh_endpoints{cluster=\"a\"} 99999\n");
    wait_until("updates in force", one_less).unwrap();
    let busy = timed(&mesh.client(), Duration::from_secs(10)).await.unwrap();
    println!("{} updates were published", churning.await.unwrap());
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let [quiet, busy] = [&quiet, &busy].map(|times| times[(times.len() as f64 * share) as usize].max(1));
        println!("{name}: {quiet} us without updates, {busy} us with; ratio {:.2}", busy as f64 / quiet as f64);
    }
    let last = format!("127.200.0.1:{port}");
    sink.publish(EndpointSet::new(vec![at(&last)]));
    wait_until("the last state", || mesh.metrics_text().contains("libmesh_endpoints{cluster=\"a\"} 1\n")).unwrap();
    for _ in 0..20 {
        assert_eq!(get(&mesh.client()).await.unwrap(), last);
    }
}
