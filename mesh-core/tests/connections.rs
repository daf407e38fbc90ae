//! Bare connections over real loopback sockets: dialled by one mesh, accepted by another.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ports;

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, DialOptions, ErrorKind, Mesh, MeshStream, TcpListening};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use ports::closed_port;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn identity(ca: &Path, id: &str) -> String {
    format!("identity: {{spiffe_id: \"spiffe://test/{id}\", dev_ca: {{directory: \"{}\"}}}}\n", ca.display())
}

fn server(port: u16, fields: &str, extra: &str) -> (Mesh, TcpListening) {
    let text = format!(
        "node: {{service: ledger, namespace: shop}}\nlisteners: [{{name: in, address: \"127.0.0.1:{port}\", protocol: tcp{fields}}}]\n{extra}"
    );
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let listening = mesh.listen_tcp("in").unwrap();
    (mesh, listening)
}

/// A mesh whose cluster `ledger` has these endpoints; `fields` are further ones of the cluster.
fn client(ports: &[u16], fields: &str, extra: &str) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{address: \"127.0.0.1:{port}\"}}")).collect();
    // Unless a story is about it, no connection fails because the machine is busy.
    let patience = if fields.contains("connect_timeout") { "" } else { ", connect_timeout: 20s" };
    let text = format!(
        "node: {{service: page, namespace: web}}\nclusters: [{{name: ledger, protocol: tcp, service: {{namespace: shop}}, endpoints: [{}]{fields}{patience}}}]\n{extra}",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

const SERVER: &str = "ns/shop/sa/ledger";
const SERVER_IDS: &str = ", tls: {server_ids: [\"spiffe://test/ns/shop/sa/ledger\"]}";

/// Bounds what must happen; it decides nothing.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it happens")
}

async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Reads what the other end says, to its end.
async fn rest(stream: &mut MeshStream) -> std::io::Result<String> {
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.map(|_| text)
}

/// The sum of a metric's samples with all of these labels.
fn sum(mesh: &Mesh, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let page = mesh.metrics_text();
    let of_metric = page.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
    let wanted = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect::<Vec<_>>();
    let having = of_metric.filter(|line| wanted.iter().all(|label| line.contains(label)));
    having.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

const COUNTS: [&str; 4] = [
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_sent_bytes_total",
    "istio_tcp_received_bytes_total",
];

#[tokio::test]
async fn a_server_may_speak_first_each_half_ends_by_itself_and_both_ends_count_the_same() {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let log = |name: &str| directory.path().join(name);
    let logging = |name: &str| format!("telemetry: {{access_log: {{path: \"{}\"}}}}\n", log(name).display());
    let extra = format!("{}{}", identity(directory.path(), SERVER), logging("server.log"));
    let (server, listening) = server(port, "", &extra);
    let routes = "routes: [{hosts: [\"ledger.internal\"], rules: [{match: {path: {prefix: /admin}}, backends: [{cluster: other}]}, {name: all, backends: [{cluster: ledger}]}]}]\n";
    let other = "- {name: other, tls: {mode: plaintext}, endpoints: [{address: \"127.0.0.1:1\"}]}";
    let text = format!(
        "node: {{service: page, namespace: web}}\ndefaults: {{connect_timeout: 20s}}\n{}{}{routes}clusters:\n  - {{name: ledger, protocol: tcp, service: {{namespace: shop}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]{SERVER_IDS}}}\n  {other}\n",
        identity(directory.path(), "ns/web/sa/page"),
        logging("client.log")
    );
    let client = Mesh::from_yaml(&text, "client.yaml").unwrap();

    let mut ours = soon(client.dial("ledger.internal:5432")).await.unwrap();
    let mut theirs = soon(listening.accept()).await.unwrap();
    assert_eq!(ours.peer().unwrap().id.as_str(), "spiffe://test/ns/shop/sa/ledger");
    assert_eq!(theirs.peer().unwrap().id.as_str(), "spiffe://test/ns/web/sa/page");
    assert_eq!(theirs.local_addr(), Some(listening.local_addr()));
    assert_eq!((ours.cluster(), ours.attempts()), (Some("ledger"), 1));

    theirs.write_all(b"welcome\n").await.unwrap();
    theirs.flush().await.unwrap();
    let mut banner = [0; 8];
    soon(ours.read_exact(&mut banner)).await.unwrap();
    assert_eq!(&banner, b"welcome\n");
    ours.write_all(b"balance?").await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(rest(&mut theirs).await.unwrap(), "balance?", "the end of one half is the end of what is said");
    theirs.write_all(b"forty-two").await.unwrap();
    theirs.shutdown().await.unwrap();
    assert_eq!(rest(&mut ours).await.unwrap(), "forty-two", "and the other half goes on");
    assert_eq!((ours.bytes_written(), ours.bytes_read()), (8, 17));
    assert_eq!((theirs.bytes_written(), theirs.bytes_read()), (17, 8));

    assert_eq!(sum(&client, COUNTS[1], &[]), 0.0, "it is still open");
    drop((ours, theirs));
    for (mesh, reporter, policy) in [(&client, "source", "unknown"), (&server, "destination", "mutual_tls")] {
        let labels = [
            ("reporter", reporter),
            ("source_principal", "spiffe://test/ns/web/sa/page"),
            ("source_workload_namespace", "web"),
            ("destination_principal", "spiffe://test/ns/shop/sa/ledger"),
            ("destination_workload_namespace", "shop"),
            ("destination_canonical_service", "ledger"),
            ("destination_service", "ledger.shop.svc.cluster.local"),
            ("request_protocol", "tcp"),
            ("response_flags", "-"),
            ("connection_security_policy", policy),
        ];
        assert_eq!(COUNTS.map(|metric| sum(mesh, metric, &labels)), [1.0, 1.0, 17.0, 8.0], "{}", mesh.metrics_text());
        assert_eq!(COUNTS.map(|metric| sum(mesh, metric, &[])), [1.0, 1.0, 17.0, 8.0], "{reporter}");
    }
    for (name, wanted) in [("client.log", "\"route\":\"all\""), ("server.log", "\"listener\":\"in\"")] {
        until(|| std::fs::read_to_string(log(name)).is_ok_and(|text| text.ends_with('\n'))).await;
        let text = std::fs::read_to_string(log(name)).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            wanted,
            "\"protocol\":\"tcp\"",
            "\"flags\":\"-\"",
            "\"request_bytes\":8,\"response_bytes\":17",
            "\"duration_ms\":",
            "\"peer\":\"spiffe://test/",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("\"path\"") && !text.contains("error_type"), "{text}");
    }
}

#[tokio::test]
async fn connections_are_balanced_and_count_as_load_until_they_are_dropped() {
    let ports = [free_port(), free_port()];
    let servers = ports.map(|port| server(port, "", ""));
    let client = client(&ports, ", balancer: least_request", "");
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(soon(client.dial("ledger")).await.unwrap());
    }
    let loads = |mesh: &Mesh| {
        let status = mesh.status();
        let endpoints = status["clusters"]["ledger"]["endpoints"].as_array().unwrap().clone();
        endpoints
            .iter()
            .map(|endpoint| (endpoint["in_flight"].clone(), endpoint["open_connections"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(loads(&client), [(3.into(), 3.into()), (3.into(), 3.into())], "least request sees open connections");
    for (_, listening) in &servers {
        for _ in 0..3 {
            soon(listening.accept()).await.unwrap();
        }
    }
    drop(open);
    assert_eq!(loads(&client), [(0.into(), 0.into()), (0.into(), 0.into())]);
}

#[tokio::test]
async fn a_connection_that_fails_is_opened_elsewhere_within_attempts_and_budget() {
    let ca = tempfile::tempdir().unwrap();
    let (dead, good) = (closed_port(), free_port());
    // It takes connections and never says a word of TLS.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = silent.local_addr().unwrap().port();
    let (_server, _listening) = server(good, "", &identity(ca.path(), SERVER));
    let ours = identity(ca.path(), "ns/web/sa/page");
    let fields = format!("{SERVER_IDS}, connect_timeout: 3s, balancer: round_robin");
    for bad in [dead, mute] {
        let client = client(&[bad, good], &fields, &ours);
        let mut attempts = 0;
        for _ in 0..2 {
            let stream = soon(client.dial("ledger")).await.unwrap();
            assert_eq!(stream.endpoint(), format!("127.0.0.1:{good}"));
            attempts += stream.attempts();
        }
        // A retry takes a turn, too: whether one or both began at the bad endpoint depends on who was first.
        assert!((3..=4).contains(&attempts), "{attempts}");
        assert_eq!(sum(&client, "libmesh_retries_total", &[("cluster", "ledger")]), f64::from(attempts - 2));
        assert_eq!(sum(&client, COUNTS[0], &[]), 2.0, "attempts are not connections");
    }
    for (terms, why) in [
        ("defaults: {retry: {attempts: 0}}\n", "attempts_exhausted"),
        ("defaults: {retry_budget: {percent: 0, min_per_second: 0}}\n", "budget_empty"),
    ] {
        let client = client(&[dead, good], &fields, &format!("{ours}{terms}"));
        let results = [soon(client.dial("ledger")).await, soon(client.dial("ledger")).await];
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert_eq!(failed.len(), 1, "{terms}");
        assert_eq!((failed[0].kind(), failed[0].place().attempts), (ErrorKind::Connect, 1));
        assert_eq!(failed[0].place().endpoint.as_deref(), Some(&*format!("127.0.0.1:{dead}")));
        assert_eq!(sum(&client, "libmesh_retries_refused_total", &[("reason", why)]), 1.0, "{}", client.metrics_text());
    }
}

#[tokio::test]
async fn a_further_attempt_never_goes_to_the_endpoint_that_just_failed() {
    let (dead, good) = (closed_port(), free_port());
    let (_server, _listening) = server(good, "", "");
    let text = format!(
        "defaults: {{retry: {{attempts: 1}}, balancer: random, connect_timeout: 20s}}\nclusters: [{{name: ledger, protocol: tcp, endpoints: [{{address: \"127.0.0.1:{dead}\", weight: 1000}}, {{address: \"127.0.0.1:{good}\"}}]}}]"
    );
    let client = Mesh::from_yaml(&text, "client.yaml").unwrap();
    for _ in 0..3 {
        assert_eq!(soon(client.dial("ledger")).await.unwrap().endpoint(), format!("127.0.0.1:{good}"));
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_left_alone() {
    let (dead, good) = (closed_port(), free_port());
    let (_server, _listening) = server(good, "", "");
    let fields = ", balancer: round_robin, circuit_breaker: {consecutive_failures: 2, open: 60s, max_open: 60s}";
    let client = client(&[dead, good], fields, "");
    let state = || client.status()["clusters"]["ledger"]["endpoints"][0]["breaker"].clone();
    for _ in 0..8 {
        soon(client.dial("ledger")).await.unwrap();
    }
    assert_eq!(state(), "open");
    for _ in 0..8 {
        assert_eq!(soon(client.dial("ledger")).await.unwrap().attempts(), 1);
    }
}

#[tokio::test]
async fn a_server_of_another_identity_gets_no_byte() {
    let (ca, port) = (tempfile::tempdir().unwrap(), free_port());
    let (server, _listening) = server(port, "", &identity(ca.path(), "ns/shop/sa/somebody-else"));
    let extra = format!("{}defaults: {{retry: {{attempts: 0}}}}\n", identity(ca.path(), "ns/web/sa/page"));
    let client = client(&[port], SERVER_IDS, &extra);
    let error = soon(client.dial("ledger")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerIdentity, "{error}");
    let labels = [("response_flags", "UF"), ("destination_service", "ledger.shop.svc.cluster.local")];
    assert_eq!(COUNTS.map(|metric| sum(&client, metric, &labels)), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(sum(&client, COUNTS[0], &[("destination_principal", "unknown")]), 1.0);
    assert_eq!(sum(&server, COUNTS[3], &[]), 0.0);
}

const POLICIES: &str = r#"
policy:
  authorization:
    policies:
      - metadata: { name: web-only, namespace: shop }
        spec: { rules: [{ from: [{ source: { namespaces: [web, lab] } }] }, { to: [{ operation: { methods: [GET] } }] }] }
      - metadata: { name: no-lab, namespace: shop }
        spec: { action: DENY, rules: [{ from: [{ source: { namespaces: [lab] } }], to: [{ operation: { paths: ["/admin*"] } }] }] }
  access:
    rules:
      - { name: not-eve, action: deny, principals: ["spiffe://test/ns/web/sa/eve"], paths: ["/secret*"] }
"#;

#[tokio::test]
async fn rules_decide_about_connections_and_what_asks_for_requests_never_lets_one_in() {
    let (ca, port) = (tempfile::tempdir().unwrap(), free_port());
    let (server, listening) = server(port, "", &format!("{}{POLICIES}", identity(ca.path(), SERVER)));
    // In the order they come, so that whoever is accepted first was let in first.
    for (id, why) in [
        ("ns/other/sa/page", "no ALLOW policy matches, the one on methods least of all"),
        ("ns/lab/sa/page", "a DENY policy on paths denies connections"),
        ("ns/web/sa/eve", "so does a local rule"),
    ] {
        let client = client(&[port], SERVER_IDS, &identity(ca.path(), id));
        let mut stream = soon(client.dial("ledger")).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.as_ref().is_err() || answer.is_ok_and(|text| text.is_empty()), "{why}");
    }
    until(|| sum(&server, "libmesh_access_decisions_total", &[("outcome", "denied")]) == 3.0).await;
    let client = client(&[port], SERVER_IDS, &identity(ca.path(), "ns/web/sa/page"));
    let _ours = soon(client.dial("ledger")).await.unwrap();
    let theirs = soon(listening.accept()).await.unwrap();
    assert_eq!(theirs.peer().unwrap().id.as_str(), "spiffe://test/ns/web/sa/page", "the first that got in");
    assert_eq!(COUNTS.map(|metric| sum(&server, metric, &[])), [4.0, 3.0, 0.0, 0.0]);
}

#[tokio::test]
async fn limits_and_checks_hold_for_connections_too() {
    let port = free_port();
    let limit = "policy: {rate_limits: [{name: slowly, max_tokens: 1, fill_interval: 1h}, {name: writes, match: {methods: [POST]}, max_tokens: 1, fill_interval: 1h}]}\n";
    let (server_mesh, listening) = server(port, "", limit);
    let first = client(&[port], "", "");
    let mut streams = [soon(first.dial("ledger")).await.unwrap(), soon(first.dial("ledger")).await.unwrap()];
    let mut taken = soon(listening.accept()).await.unwrap();
    until(|| sum(&server_mesh, "libmesh_rate_limited_total", &[("limit", "slowly")]) == 1.0).await;
    assert_eq!(sum(&server_mesh, "libmesh_rate_limited_total", &[("limit", "writes")]), 0.0);
    assert_eq!(sum(&server_mesh, COUNTS[1], &[("response_flags", "RL")]), 1.0);
    taken.write_all(b"!").await.unwrap();
    let mut heard = 0;
    for stream in &mut streams {
        // Which of the two came first at the server is not ours to know.
        heard += usize::from(soon(stream.read_u8()).await.is_ok());
    }
    assert_eq!(heard, 1);

    let port = free_port();
    let check = format!(
        "clusters: [{{name: opa, protocol: http2, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}]\npolicy: {{checks: [{{name: opa, cluster: opa, match: {{path: {{prefix: /admin}}}}}}]}}\n",
        closed_port()
    );
    let (server_mesh, _listening) = server(port, "", &check);
    let client = client(&[port], "", "");
    let mut stream = soon(client.dial("ledger")).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.as_ref().is_err() || answer.is_ok_and(|text| text.is_empty()));
    until(|| sum(&server_mesh, COUNTS[1], &[("response_flags", "UAEX")]) == 1.0).await;
}

/// Long enough for what happens within it, on a machine that is busy with something else.
const GRACE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_drain_takes_no_new_connection_and_gives_those_that_are_open_its_grace() {
    let port = free_port();
    let (server, listening) = server(port, "", "");
    let client = client(&[port], "", "defaults: {retry: {attempts: 0}}\n");
    let mut ours = soon(client.dial("ledger")).await.unwrap();
    let mut theirs = soon(listening.accept()).await.unwrap();
    // Came before the drain, taken after it began.
    let _queued = soon(client.dial("ledger")).await.unwrap();
    let (draining, ends) = (theirs.draining(), std::time::Instant::now() + GRACE);
    let drain = tokio::spawn({
        let server = server.clone();
        async move { server.drain(GRACE).await }
    });
    soon(draining).await;
    soon(listening.accept()).await.unwrap();
    let error = soon(listening.accept()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Draining);
    assert_eq!(soon(client.dial("ledger")).await.unwrap_err().kind(), ErrorKind::Connect);

    ours.write_all(b"x").await.unwrap();
    assert_eq!(soon(theirs.read_u8()).await.unwrap(), b'x', "what is open goes on");
    let cut = soon(theirs.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(std::time::Instant::now() >= ends, "not before the grace is over");
    assert_eq!(theirs.write(b"y").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    theirs.shutdown().await.unwrap();
    drop(theirs);
    soon(drain).await.unwrap();
    soon(listening.closed()).await;
    assert_eq!(rest(&mut ours).await.unwrap(), "");
}

#[tokio::test]
async fn an_endpoint_has_no_more_connections_than_it_may() {
    let ports = [free_port(), free_port()];
    let _servers = ports.map(|port| server(port, "", ""));
    let fields = ", balancer: round_robin, connection_pool: {max_connections: 2}";
    let client = client(&ports, fields, "defaults: {retry: {attempts: 0}}\n");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(soon(client.dial("ledger")).await.unwrap());
    }
    let error = soon(client.dial("ledger")).await.unwrap_err();
    assert_eq!((error.kind(), error.place().attempts), (ErrorKind::Overloaded, 0), "{error}");
    assert_eq!(sum(&client, COUNTS[1], &[("response_flags", "UO")]), 1.0);
    let left = open.remove(1).endpoint().to_owned();
    let again = soon(client.dial("ledger")).await.unwrap();
    assert_eq!(again.endpoint(), left, "the one with room, whoever's turn it is");
}

#[tokio::test]
async fn a_permissive_listener_takes_both_on_one_port() {
    let (ca, port) = (tempfile::tempdir().unwrap(), free_port());
    let (_server, listening) = server(port, ", tls: permissive", &identity(ca.path(), SERVER));
    let page = identity(ca.path(), "ns/web/sa/page");
    for (mesh, who) in
        [(client(&[port], SERVER_IDS, &page), Some("spiffe://test/ns/web/sa/page")), (client(&[port], "", ""), None)]
    {
        let mut ours = soon(mesh.dial("ledger")).await.unwrap();
        ours.write_all(b"hello").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut theirs = soon(listening.accept()).await.unwrap();
        assert_eq!(theirs.peer().map(|peer| peer.id.as_str()), who);
        assert_eq!(rest(&mut theirs).await.unwrap(), "hello", "the byte that was looked at is not lost");
    }
}

#[tokio::test]
async fn a_unix_socket_carries_connections_too_and_its_file_goes_with_the_drain() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.sock");
    let address = format!("unix:{}", path.display());
    let text = format!("listeners: [{{name: in, address: \"{address}\", protocol: tcp}}]");
    let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let listening = server.listen_tcp("in").unwrap();
    assert_eq!(listening.address(), address);
    let text = format!(
        "clusters: [{{name: ledger, protocol: tcp, connect_timeout: 20s, endpoints: [{{address: \"{address}\"}}]}}]"
    );
    let client = Mesh::from_yaml(&text, "client.yaml").unwrap();
    let mut ours = soon(client.dial("ledger")).await.unwrap();
    let mut theirs = soon(listening.accept()).await.unwrap();
    assert_eq!((ours.endpoint(), ours.remote_addr(), theirs.remote_addr()), (&*address, None, None));
    theirs.write_all(b"hello").await.unwrap();
    drop(theirs);
    assert_eq!(rest(&mut ours).await.unwrap(), "hello");
    soon(server.drain(Duration::ZERO)).await;
    soon(listening.accept()).await.unwrap_err();
    until(|| !path.exists()).await;
}

#[tokio::test]
async fn a_dial_ends_by_its_deadline_and_a_given_up_one_is_counted() {
    let ca = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(
        &[silent.local_addr().unwrap().port()],
        &format!("{SERVER_IDS}, connect_timeout: 60s"),
        &identity(ca.path(), "ns/web/sa/page"),
    );
    let options = DialOptions { timeout: Some(Duration::from_millis(100)), ..DialOptions::default() };
    let error = soon(client.dial_with("ledger", options)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(tokio::time::timeout(Duration::from_millis(100), client.dial("ledger")).await.is_err());
    assert_eq!(sum(&client, COUNTS[1], &[("response_flags", "DC")]), 1.0, "{}", client.metrics_text());
    let status = client.status();
    assert_eq!(status["clusters"]["ledger"]["endpoints"][0]["in_flight"], 0);
    assert_eq!(status["clusters"]["ledger"]["endpoints"][0]["open_connections"], 0);
}

#[tokio::test]
async fn connections_and_requests_do_not_pass_for_each_other() {
    let port = free_port();
    let (mesh, _listening) = server(port, "", "");
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    assert_eq!(mesh.listen("in", answer).await.err().unwrap().kind(), ErrorKind::Config);
    assert_eq!(mesh.server_layer("in").err().unwrap().kind(), ErrorKind::Config);
    let http = Mesh::from_yaml(&format!("listeners: [{{name: in, address: \"127.0.0.1:{}\"}}]", free_port()), "h.yaml");
    assert_eq!(http.unwrap().listen_tcp("in").err().unwrap().kind(), ErrorKind::Config);

    let routes = "routes: [{hosts: [ledger], rules: [{backends: [{cluster: ledger}]}]}]\n";
    let client = client(&[port], "", routes);
    let error = client.client().call(Request::get("http://ledger/").body(Body::empty()).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest, "{error}");
    assert_eq!(client.dial("nobody").await.unwrap_err().kind(), ErrorKind::NoRoute);
    let text = "routes: [{hosts: [a], rules: [{direct_response: {status: 200}}]}]\n";
    let answering = Mesh::from_yaml(text, "c.yaml").unwrap();
    assert_eq!(answering.dial("a").await.unwrap_err().kind(), ErrorKind::NoRoute, "an answer is no endpoint");
    let text = "clusters: [{name: a, endpoints: [{address: \"127.0.0.1:1\"}]}]\nroutes: [{hosts: [a], rules: [{match: {path: {prefix: /}}, backends: [{cluster: a}]}]}]\n";
    let conditional = Mesh::from_yaml(text, "c.yaml").unwrap();
    assert_eq!(conditional.dial("a").await.unwrap_err().kind(), ErrorKind::NoRoute, "a connection meets no condition");
}
