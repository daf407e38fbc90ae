//! Envoy's reference rate limit service, with its Redis, counts for services that share a limit: exactly without a
//! lease, within the documented bound with one; and when it is killed, open and closed limits do what they say.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::{rate_limit_service, redis};
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};

/// A day: the server's windows begin with the wall clock's, and a test must not meet the end of one.
const LIMITS: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: { unit: day, requests_per_unit: 10 }
  - key: plan
    value: gold
    rate_limit: { unit: day, requests_per_unit: 100 }
";

struct Peers {
    _redis: Process,
    service: Process,
    port: u16,
    _directory: TempDir,
}

fn start() -> Peers {
    let directory = tempfile::tempdir().unwrap();
    let redis_port = free_port().unwrap();
    let redis = Process::start(&mut redis_command(redis_port, directory.path())).unwrap();
    wait_for_port(redis_port).unwrap();
    let config = directory.path().join("ratelimit/config");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("shop.yaml"), LIMITS).unwrap();
    let port = free_port().unwrap();
    let service = Process::start(&mut service_command((port, redis_port), directory.path())).unwrap();
    wait_for_port(port).unwrap();
    Peers { _redis: redis, service, port, _directory: directory }
}

fn redis_command(port: u16, directory: &Path) -> Command {
    let mut command = Command::new(redis().unwrap());
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    command.arg("--dir").arg(directory).stdout(Stdio::null());
    command
}

fn service_command((port, redis): (u16, u16), directory: &Path) -> Command {
    let mut command = Command::new(rate_limit_service().unwrap());
    for name in ["HOST", "GRPC_HOST", "DEBUG_HOST"] {
        command.env(name, "127.0.0.1");
    }
    for name in ["PORT", "DEBUG_PORT"] {
        command.env(name, free_port().unwrap().to_string());
    }
    command.env("GRPC_PORT", port.to_string());
    command.env("REDIS_SOCKET_TYPE", "tcp").env("REDIS_URL", format!("127.0.0.1:{redis}"));
    command.env("RUNTIME_ROOT", directory).env("RUNTIME_SUBDIRECTORY", "ratelimit");
    command.stdout(Stdio::null());
    command.env("RUNTIME_WATCH_ROOT", "false").env("DISABLE_STATS", "true").env("LOG_LEVEL", "ERROR");
    command
}

/// A service behind the shared limits. Nobody's patience ends in a test that is about numbers.
fn service(port: u16, extra: &str) -> Mesh {
    let text = format!(
        "defaults: {{ connect_timeout: 20s }}
clusters: [{{ name: limits, protocol: http2, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]
listeners: [{{ name: in }}]
policy:
  global_rate_limits:
    - name: shared
      cluster: limits
      domain: shop
      timeout: 10s
      headers: rate_limit
      descriptors:
        - actions: [{{ request_headers: {{ header_name: x-user, descriptor_key: user }} }}]
        - actions: [{{ request_headers: {{ header_name: x-plan, descriptor_key: plan }} }}]
{extra}"
    );
    Mesh::from_yaml(&text, "service.yaml").unwrap()
}

async fn ask(mesh: &Mesh, header: (&str, &str)) -> (u16, HeaderMap) {
    let answer = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let request = Request::get("http://shop/").header(header.0, header.1).body(Body::empty()).unwrap();
    let response = mesh.server_layer("in").unwrap().layer(answer).oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

fn metric(mesh: &Mesh, series: &str) -> u64 {
    let text = mesh.metrics_text();
    let line = text.lines().find(|line| line.starts_with(series));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_share_a_limit_exactly_and_a_refusal_says_when_to_come_back() {
    let peers = start();
    let services = [service(peers.port, ""), service(peers.port, "")];
    for request in 0..10 {
        let (status, headers) = ask(&services[request % 2], ("x-user", "u1")).await;
        assert_eq!(status, 200, "request {request}");
        let left = format!("\"shared\";r={};t=", 9 - request);
        assert!(headers["ratelimit"].to_str().unwrap().starts_with(&left), "{headers:?}");
        assert_eq!(headers["ratelimit-policy"], "\"shared\";q=10;w=86400");
    }
    for mesh in &services {
        let (status, headers) = ask(mesh, ("x-user", "u1")).await;
        assert_eq!((status, &headers["x-envoy-ratelimited"]), (429, &"true".parse().unwrap()));
        let wait: u32 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&wait), "{wait}");
        assert!(headers["ratelimit"].to_str().unwrap().starts_with("\"shared\";r=0;t="), "{headers:?}");
        assert_eq!(ask(mesh, ("x-user", "u2")).await.0, 200, "each value has a limit of its own");
        assert_eq!(ask(mesh, ("x-plan", "free")).await.0, 200, "no limit is known for it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_keep_the_limit_within_their_bound_for_a_fraction_of_the_calls() {
    const REQUESTS: u64 = 400;
    const MAX: u64 = 20;
    let peers = start();
    for (failure, bound, user) in [("closed", 0, "gold"), ("open", 2 * MAX, "u9")] {
        let (header, limit) = if user == "gold" { ("x-plan", 100) } else { ("x-user", 10) };
        let extra = format!("      failure: {failure}\n      lease: {{ max: {MAX} }}\n");
        let services = [service(peers.port, &extra), service(peers.port, &extra)];
        let mut passed = 0;
        for request in 0..REQUESTS {
            let (status, headers) = ask(&services[request as usize % 2], (header, user)).await;
            assert!(status == 200 || (status == 429 && headers.contains_key("retry-after")), "{status} {headers:?}");
            passed += u64::from(status == 200);
        }
        let calls = |mesh| metric(mesh, "libmesh_rate_limit_calls_total{limit=\"shared\",purpose=\"lease\"}");
        let calls: u64 = services.iter().map(calls).sum();
        println!("{failure}: {passed} of {REQUESTS} passed a limit of {limit}, with {calls} calls");
        assert!(passed <= limit + bound, "{failure}: {passed} passed a limit of {limit}");
        assert!(passed * 2 >= limit, "{failure}: only {passed} passed a limit of {limit}");
        assert!(calls * 5 < REQUESTS, "{failure}: {calls} calls for {REQUESTS} requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o44_a_killed_rate_limit_service_lets_open_limits_pass_and_closed_ones_fail() {
    let mut peers = start();
    let open = service(peers.port, "");
    let closed = service(peers.port, "      failure: closed\n");
    let leased = service(peers.port, "      lease: {}\n");
    for mesh in [&open, &closed, &leased] {
        assert_eq!(ask(mesh, ("x-user", "u3")).await.0, 200);
    }
    peers.service.kill();
    for _ in 0..30 {
        assert_eq!(ask(&open, ("x-user", "u3")).await.0, 200);
        assert_eq!(ask(&leased, ("x-user", "u3")).await.0, 200);
        let (status, headers) = ask(&closed, ("x-user", "u3")).await;
        assert_eq!(status, 500);
        assert!(!headers.contains_key("retry-after") && !headers.contains_key("x-envoy-ratelimited"), "{headers:?}");
    }
    let failures = |mesh, outcome: &str| {
        let series =
            format!("libmesh_rate_limit_failures_total{{limit=\"shared\",outcome=\"{outcome}\",reason=\"rpc\"}}");
        metric(mesh, &series)
    };
    assert_eq!((failures(&open, "passed"), failures(&closed, "refused")), (30, 30));
    assert!(closed.metrics_text().contains("response_flags=\"RLSE\""));
    assert_eq!(metric(&open, "libmesh_rate_limited_total") + metric(&closed, "libmesh_rate_limited_total"), 0);
}
