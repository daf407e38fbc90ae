//! Balancing over real sockets: what is written in a document decides where requests go.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ports;

use std::collections::{BTreeSet, HashMap};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::load_report::{self, LoadReport};
use mesh_core::{Body, CallReport, ErrorKind, Mesh, Sent};

use ports::closed_port;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that says how busy it is.
async fn server(utilization: f64) -> (Mesh, u16) {
    let port = free_port();
    let text = format!("version: 1\nlisteners: [{{name: in, address: \"127.0.0.1:{port}\"}}]");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let report =
        LoadReport { application_utilization: utilization, rps_fractional: 100.0, ..LoadReport::default() }.to_header();
    let service = tower::service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(load_report::HEADER, report.clone());
        std::future::ready(Ok::<_, BoxError>(response))
    });
    mesh.listen("in", service).await.unwrap();
    (mesh, port)
}

async fn servers(count: usize) -> (Vec<Mesh>, Vec<u16>) {
    let mut started = Vec::new();
    for _ in 0..count {
        started.push(server(0.0).await);
    }
    started.into_iter().unzip()
}

/// The endpoint that answered.
async fn call(mesh: &Mesh, url: &str) -> Result<String, mesh_core::Error> {
    let response = mesh.client().call(Request::get(url).body(Body::empty()).unwrap()).await?;
    let endpoint = response.extensions().get::<CallReport>().unwrap().endpoint.to_string();
    response.into_body().collect_up_to(1 << 20).await.unwrap();
    Ok(endpoint)
}

async fn shares(mesh: &Mesh, url: &str, calls: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..calls {
        *counts.entry(call(mesh, url).await.unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn o34_a_dead_cluster_of_a_split_fails_its_share_at_once_and_touches_no_other() {
    let (_servers, ports) = servers(1).await;
    let text = format!(
        "version: 1
clusters:
  - {{name: alive, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}
  - {{name: dead, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}
routes:
  - hosts: [a]
    rules: [{{backends: [{{cluster: alive, weight: 1}}, {{cluster: dead, weight: 2}}], retry: {{attempts: 0}}}}]",
        ports[0],
        closed_port()
    );
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    let (mut answered, mut failed) = (0, 0);
    for _ in 0..600 {
        match call(&mesh, "http://a/").await {
            Ok(endpoint) => {
                assert_eq!(endpoint, format!("127.0.0.1:{}", ports[0]));
                answered += 1;
            }
            Err(error) => {
                assert_eq!(error.sent(), Sent::Never, "{error}");
                assert!(matches!(error.kind(), ErrorKind::Connect | ErrorKind::CircuitOpen), "{error}");
                failed += 1;
            }
        }
    }
    // One third and two thirds, and five standard deviations (11.5) either way.
    assert!((142..=258).contains(&answered), "{answered} answered, {failed} failed");
}

#[tokio::test]
async fn endpoints_that_report_a_high_load_get_fewer_requests() {
    let (busy, idle) = (server(0.9).await, server(0.1).await);
    let text = format!(
        "version: 1
clusters:
  - name: a
    endpoints: [{{address: \"127.0.0.1:{}\"}}, {{address: \"127.0.0.1:{}\"}}]
    balancer: weighted_round_robin
    balancing: {{weighted_round_robin: {{blackout_period: 0s, weight_update_period: 100ms}}}}
routes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]",
        busy.1, idle.1
    );
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let counts = shares(&mesh, "http://a/", 100).await;
        let of = |port: u16| counts.get(&format!("127.0.0.1:{port}")).copied().unwrap_or(0);
        if of(idle.1) >= 3 * of(busy.1) && of(busy.1) > 0 {
            break;
        }
        assert!(Instant::now() < patience, "{counts:?}");
    }
    // The balancer asked for itself; a caller that asks is answered.
    for (asks, is_told) in [(false, false), (true, true)] {
        let mut request = Request::get("http://a/").body(Body::empty()).unwrap();
        if asks {
            request.headers_mut().insert("endpoint-load-metrics-format", "JSON".parse().unwrap());
        }
        let response = mesh.client().call(request).await.unwrap();
        assert_eq!(response.headers().contains_key("endpoint-load-metrics"), is_told, "{asks}");
    }
}

/// The endpoints in use, which have to be so many. One that was slow once is avoided for a while.
async fn used(mesh: &Mesh, expected: usize) -> BTreeSet<String> {
    let patience = Instant::now() + Duration::from_secs(60);
    let mut used = BTreeSet::new();
    while used.len() < expected {
        assert!(Instant::now() < patience, "only {used:?}");
        used.insert(call(mesh, "http://a/").await.unwrap());
    }
    used.extend(shares(mesh, "http://a/", 60).await.into_keys());
    assert_eq!(used.len(), expected, "{used:?}");
    used
}

#[tokio::test]
async fn a_client_with_subsetting_uses_the_same_few_endpoints_also_after_a_reload() {
    let (_servers, ports) = servers(6).await;
    let text = |size: usize, seed: &str| {
        let endpoints: Vec<_> = ports.iter().map(|port| format!("{{address: \"127.0.0.1:{port}\"}}")).collect();
        format!(
            "version: 1
clusters:
  - name: a
    endpoints: [{}]
    balancing: {{subsetting: {{size: {size}{seed}}}}}
routes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]",
            endpoints.join(", ")
        )
    };
    let mesh = Mesh::from_yaml(&text(2, ""), "client.yaml").unwrap();
    let before = used(&mesh, 2).await;
    mesh.reload(&text(3, ""), "client.yaml").unwrap();
    let after = used(&mesh, 3).await;
    assert!(before.is_subset(&after), "a seed that is not written stays: {before:?} {after:?}");
    mesh.reload(&text(6, ", seed: 1"), "client.yaml").unwrap();
    used(&mesh, 6).await;
}

#[tokio::test]
async fn priorities_and_localities_are_reloaded() {
    let (_servers, ports) = servers(2).await;
    let text = |more: &str, balancing: &str| {
        format!(
            "version: 1
clusters:
  - name: a
    endpoints:
      - {{address: \"127.0.0.1:{}\", locality: {{region: r, zone: a}}}}
      - {{address: \"127.0.0.1:{}\", locality: {{region: r, zone: b}}{more}}}
    balancer: random
    balancing: {balancing}
routes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]",
            ports[0], ports[1]
        )
    };
    let mesh = Mesh::from_yaml(&text(", priority: 1", "{}"), "client.yaml").unwrap();
    let first = format!("127.0.0.1:{}", ports[0]);
    assert_eq!(shares(&mesh, "http://a/", 40).await.get(&first), Some(&40), "the second is for when the first is down");
    mesh.reload(
        &text("", "{locality_weights: [{region: r, zone: a, weight: 0}, {region: r, zone: b}]}"),
        "client.yaml",
    )
    .unwrap();
    assert_eq!(shares(&mesh, "http://a/", 40).await.get(&first), None, "no weight, no traffic");
    mesh.reload(&text("", "{}"), "client.yaml").unwrap();
    assert!((1..100).contains(shares(&mesh, "http://a/", 100).await.get(&first).unwrap()));
}
