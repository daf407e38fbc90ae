//! The same key goes where a running Envoy sends it: ring hash, Maglev and hash policies, compared key by key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_core::{Body, CallReport, Mesh};
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::envoy;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// One comparison: a cluster and a rule of both, and the requests that are sent through both.
struct Case {
    name: &'static str,
    /// Of the cluster, in our words and in Envoy's.
    balancer: (&'static str, Value),
    /// Of the rule.
    policies: (&'static str, Value),
    /// Whether endpoints are known by a key of their own.
    has_keys: bool,
    keys: usize,
}

/// What an upstream is written as: its address, its weight and its own key.
type Host = (SocketAddr, u32, String);

fn cases() -> Vec<Case> {
    let by_header = ("[{ header: x-key }]", json!([{ "header": { "header_name": "x-key" } }]));
    let by_parts = (
        "[{ header: x-key }, { query_parameter: q }, { cookie: { name: shop }, terminal: true }, { header: x-late }]",
        json!([
            { "header": { "header_name": "x-key" } },
            { "query_parameter": { "name": "q" } },
            { "cookie": { "name": "shop" }, "terminal": true },
            { "header": { "header_name": "x-late" } },
        ]),
    );
    let ring = ("balancer: ring_hash", json!({ "lb_policy": "RING_HASH" }));
    let maglev = ("balancer: maglev", json!({ "lb_policy": "MAGLEV" }));
    let case = |name, balancer, policies, has_keys, keys| Case { name, balancer, policies, has_keys, keys };
    vec![
        case("ring", ring.clone(), by_header.clone(), false, 10_000),
        case("maglev", maglev.clone(), by_header.clone(), false, 10_000),
        case(
            "murmur",
            (
                "balancer: ring_hash, ring_hash: { minimum_ring_size: 50, maximum_ring_size: 60, hash_function: murmur_hash_2 }",
                json!({ "lb_policy": "RING_HASH", "ring_hash_lb_config": {
                    "minimum_ring_size": 50, "maximum_ring_size": 60, "hash_function": "MURMUR_HASH_2",
                } }),
            ),
            by_header,
            false,
            1_000,
        ),
        case("ring-of-keys", ring, by_parts.clone(), true, 1_000),
        case("maglev-of-keys", maglev, by_parts, true, 1_000),
    ]
}

fn request(case: &Case, number: usize, target: &str) -> http::request::Builder {
    let request = Request::get(format!("{target}/{}?a=b&q={}", case.name, number / 3)).header("x-key", key(number));
    match number % 5 {
        0 => request.header("x-key", key(number / 7)),
        1 => request.header("cookie", format!("a=b; shop=\"{number}\"")).header("x-late", "ignored"),
        2 => request.header("x-late", number.to_string()),
        _ => request,
    }
}

fn key(number: usize) -> String {
    format!("user-{number}")
}

/// Answers every request; its address is what the answer says.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(move |_: Request<Incoming>| async move {
                    let response = Response::builder().header("x-upstream", address.to_string());
                    Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
                }),
            ));
        }
    });
    address
}

fn mesh(hosts: &[Host]) -> Mesh {
    let (mut clusters, mut rules) = (String::new(), String::new());
    for Case { name, balancer, policies, has_keys, .. } in cases() {
        let endpoints = hosts.iter().map(|(address, weight, key)| {
            let key = if has_keys { format!(", hash_key: {key}") } else { String::new() };
            format!("{{ address: \"{address}\", weight: {weight}{key} }}")
        });
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        clusters += &format!("  - {{ name: {name}, endpoints: [{endpoints}], {} }}\n", balancer.0);
        rules += &format!(
            "      - {{ match: {{ path: {{ prefix: /{name} }} }}, backends: [{{ cluster: {name} }}], hash_policy: {} }}\n",
            policies.0
        );
    }
    let text = format!("version: 1\nclusters:\n{clusters}routes:\n  - hosts: [shop]\n    rules:\n{rules}");
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn start_envoy(hosts: &[Host]) -> (Process, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let cluster = |case: &Case| {
        let endpoints = hosts.iter().map(|(address, weight, key)| {
            let mut endpoint = json!({ "endpoint": { "address": socket(*address) }, "load_balancing_weight": weight });
            if case.has_keys {
                endpoint["metadata"] = json!({ "filter_metadata": { "envoy.lb": { "hash_key": key } } });
            }
            endpoint
        });
        let endpoints: Vec<_> = endpoints.collect();
        let mut cluster = json!({
            "name": case.name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": { "cluster_name": case.name, "endpoints": [{ "lb_endpoints": endpoints }] },
        });
        let balancer = case.balancer.1.as_object().unwrap().clone();
        cluster.as_object_mut().unwrap().extend(balancer);
        cluster
    };
    let route = |case: &Case| {
        json!({
            "match": { "path_separated_prefix": format!("/{}", case.name) },
            "route": { "cluster": case.name, "hash_policy": case.policies.1 },
        })
    };
    let cases = cases();
    let connection_manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "hashing",
        "route_config": { "virtual_hosts": [
            { "name": "shop", "domains": ["*"], "routes": cases.iter().map(route).collect::<Vec<_>>() },
        ] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager });
    let bootstrap = json!({ "static_resources": {
        "listeners": [{ "name": "in", "address": socket(address), "filter_chains": [{ "filters": [filter] }] }],
        "clusters": cases.iter().map(cluster).collect::<Vec<_>>(),
    } });
    let mut command = Command::new(envoy().unwrap());
    command.args(["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]);
    let process = Process::start(command.arg("--config-yaml").arg(bootstrap.to_string())).unwrap();
    wait_for_port(address.port()).unwrap();
    (process, address)
}

/// Who answered each request that went through Envoy, in their order.
async fn through_envoy(address: SocketAddr, case: &Case) -> Vec<String> {
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(stream).await.unwrap();
        tokio::spawn(connection);
        senders.push(sender);
    }
    let share = |(first, mut sender): (usize, SendRequest<Empty<Bytes>>)| async move {
        let mut answered = Vec::new();
        for number in (first..case.keys).step_by(CONNECTIONS) {
            let request = request(case, number, "").header("host", "shop").body(Empty::new()).unwrap();
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200, "{} {number}", case.name);
            answered.push((number, response.headers()["x-upstream"].to_str().unwrap().to_owned()));
            response.into_body().collect().await.unwrap();
        }
        answered
    };
    in_order(futures_util::future::join_all(senders.into_iter().enumerate().map(share)).await)
}

/// Who answered each request that went through the mesh.
async fn through_mesh(mesh: &Mesh, case: &Case) -> Vec<String> {
    let share = |first: usize| async move {
        let mut answered = Vec::new();
        for number in (first..case.keys).step_by(CONNECTIONS) {
            let request = request(case, number, "http://shop").body(Body::empty()).unwrap();
            let response = mesh.client().call(request).await.unwrap();
            let report: Arc<str> = Arc::clone(&response.extensions().get::<CallReport>().unwrap().endpoint);
            assert_eq!(response.headers()["x-upstream"].to_str().unwrap(), &*report);
            answered.push((number, report.to_string()));
            response.into_body().collect_up_to(1024).await.unwrap();
        }
        answered
    };
    in_order(futures_util::future::join_all((0..CONNECTIONS).map(share)).await)
}

fn in_order(shares: Vec<Vec<(usize, String)>>) -> Vec<String> {
    let mut answered: Vec<_> = shares.into_iter().flatten().collect();
    answered.sort();
    answered.into_iter().map(|(_, endpoint)| endpoint).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ring_hash_and_maglev_pick_what_a_running_envoy_picks() {
    let version = Command::new(envoy().unwrap()).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains("/1.40."), "the comparison is with Envoy 1.40, not {version}");

    let mut hosts = Vec::new();
    for (number, weight) in [1, 2, 3, 1, 5, 1, 2].into_iter().enumerate() {
        hosts.push((upstream().await, weight, format!("host-{number}")));
    }
    let mesh = mesh(&hosts);
    let (_process, address) = start_envoy(&hosts);
    for case in cases() {
        let (theirs, ours) = (through_envoy(address, &case).await, through_mesh(&mesh, &case).await);
        assert_eq!((theirs.len(), ours.len()), (case.keys, case.keys));
        let differing: Vec<_> = (0..case.keys).filter(|number| theirs[*number] != ours[*number]).collect();
        assert!(differing.is_empty(), "{}: {} of {} keys differ", case.name, differing.len(), case.keys);
        for (host, ..) in &hosts {
            assert!(theirs.contains(&host.to_string()), "{}: {host} got nothing, which compares nothing", case.name);
        }
        println!("{}: {} keys of {} go to the same of {} endpoints", case.name, case.keys, case.keys, hosts.len());
    }
}

const CONNECTIONS: usize = 8;
