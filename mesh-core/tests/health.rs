//! Stories of health over real loopback sockets: checks, notices, ejections, breakers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ports;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::inbound::ConnectionAddress;
use mesh_core::{Body, CallReport, Error, ErrorKind, Mesh};

use ports::closed_port;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server in this process, and what its application saw.
struct Server {
    mesh: Mesh,
    port: u16,
    /// Answers with this status.
    status: Arc<AtomicU16>,
    hits: Arc<AtomicUsize>,
    /// Remote ports: one per connection.
    connections: Arc<Mutex<BTreeSet<u16>>>,
}

impl Server {
    async fn start(listener: &str) -> Self {
        Self::at(free_port(), listener, "").await
    }

    async fn at(port: u16, listener: &str, extra: &str) -> Self {
        let text = format!("version: 1\n{extra}\nlisteners: [{{name: in, address: \"127.0.0.1:{port}\"{listener}}}]");
        let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
        let (status, hits, connections) = (Arc::new(AtomicU16::new(200)), Arc::default(), Arc::default());
        let server = Self { mesh, port, status, hits, connections };
        let (status, hits, connections) =
            (Arc::clone(&server.status), Arc::clone(&server.hits), Arc::clone(&server.connections));
        let app = tower::service_fn(move |request: Request<Body>| {
            let status = status.load(Ordering::SeqCst);
            if request.uri().path() != "/healthz" {
                hits.fetch_add(1, Ordering::SeqCst);
                let address = request.extensions().get::<ConnectionAddress>().unwrap();
                connections.lock().unwrap().insert(address.remote.port());
            }
            async move { Ok::<_, BoxError>(Response::builder().status(status).body(Body::from("x")).unwrap()) }
        });
        server.mesh.listen("in", app).await.unwrap();
        server
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn config(ports: &[u16], cluster: &str, extra: &str) -> String {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{address: \"127.0.0.1:{port}\"}}")).collect();
    format!(
        "version: 1\nclusters: [{{name: a, {cluster}endpoints: [{}]}}]\nroutes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]\ndefaults: {{retry: {{attempts: 0}}, connect_timeout: 20s{extra}}}",
        endpoints.join(", ")
    )
}

fn client(ports: &[u16], cluster: &str, extra: &str) -> Mesh {
    Mesh::from_yaml(&config(ports, cluster, extra), "client.yaml").unwrap()
}

async fn call(mesh: &Mesh) -> Result<CallReport, Error> {
    let response = mesh.client().call(Request::get("http://a/").body(Body::empty()).unwrap()).await?;
    assert!(!response.headers().contains_key("x-mesh-draining"), "the notice is hidden from the application");
    let report = response.extensions().get::<CallReport>().unwrap().clone();
    response.into_body().collect_up_to(1 << 20).await.unwrap();
    Ok(report)
}

async fn calls(mesh: &Mesh, count: usize) {
    for _ in 0..count {
        call(mesh).await.unwrap();
    }
}

fn health(mesh: &Mesh, index: usize) -> String {
    mesh.status()["clusters"]["a"]["endpoints"][index]["health"].as_str().unwrap().to_owned()
}

/// Turn by turn: the default avoids an endpoint for a while that was slow once, which is not what a story is about.
const IN_TURN: &str = "balancer: round_robin, ";

/// Waits for an event; half a minute is for a machine that is busy with something else.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const CHECK: &str =
    "interval: 50ms, no_traffic_interval: 50ms, timeout: 5s, healthy_threshold: 2, unhealthy_threshold: 2";

#[tokio::test]
async fn an_http_check_takes_an_endpoint_out_and_brings_it_back() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    let check = format!("{IN_TURN}health_check: {{http: {{path: /healthz}}, {CHECK}}}, ");
    let mesh = client(&[a.port, b.port], &check, "");
    mesh.start().unwrap();
    a.answer(503);
    until("a to be unhealthy", || health(&mesh, 0) == "unhealthy").await;
    let before = a.hits();
    calls(&mesh, 50).await;
    assert_eq!((a.hits(), health(&mesh, 1).as_str()), (before, "healthy"));
    assert!(mesh.metrics_text().contains("libmesh_health_checks_total{cluster=\"a\",outcome=\"failed\"}"));
    assert!(mesh.metrics_text().contains("libmesh_endpoints_health{cluster=\"a\",state=\"unhealthy\"} 1"));
    a.answer(200);
    until("a to be healthy", || health(&mesh, 0) == "healthy").await;
    calls(&mesh, 50).await;
    assert!(a.hits() > before, "back in rotation");
}

#[tokio::test]
async fn a_cluster_whose_endpoints_never_answer_does_not_starve_the_check_of_another() {
    // Connections wait to be accepted, and nobody does: twice as many as may be asked at once, and some.
    let silent: Vec<_> = (0..140).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let b = Server::start("").await;
    b.answer(503);
    let check = "health_check: {http: {path: /healthz}, interval: 50ms, no_traffic_interval: 50ms, timeout: 400ms, healthy_threshold: 2, unhealthy_threshold: 2}";
    let endpoints: Vec<_> =
        silent.iter().map(|socket| format!("{{address: \"{}\"}}", socket.local_addr().unwrap())).collect();
    let text = format!(
        "version: 1\nclusters:\n- {{name: a, {check}, endpoints: [{}]}}\n- {{name: b, {check}, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}",
        endpoints.join(", "),
        b.port
    );
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    mesh.start().unwrap();
    let of_b = || mesh.status()["clusters"]["b"]["endpoints"][0]["health"].as_str().unwrap().to_owned();
    until("b to be unhealthy", || of_b() == "unhealthy").await;
}

#[tokio::test]
async fn a_reload_keeps_what_the_check_found_and_one_without_a_check_forgets_it() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    let check = format!("health_check: {{http: {{path: /healthz}}, {CHECK}}}, ");
    let mesh = client(&[a.port, b.port], &check, "");
    mesh.start().unwrap();
    a.answer(503);
    until("a to be unhealthy", || health(&mesh, 0) == "unhealthy").await;
    let longer = check.replace("interval: 50ms, no", "interval: 1h, no");
    mesh.reload(&config(&[a.port, b.port], &longer, ""), "client.yaml").unwrap();
    assert_eq!(health(&mesh, 0), "unhealthy");
    mesh.reload(&config(&[a.port, b.port], "", ""), "client.yaml").unwrap();
    assert_eq!(health(&mesh, 0), "healthy");
}

#[tokio::test]
async fn the_standard_grpc_check_is_asked_and_answered_by_the_mesh_itself() {
    let (a, b) = (Server::start(", health: {grpc: true}").await, Server::start(", health: {grpc: true}").await);
    let check = format!("protocol: http2, health_check: {{grpc: {{service: shop.Cart}}, {CHECK}}}, ");
    let mesh = client(&[a.port, b.port], &check, "");
    mesh.start().unwrap();
    let counted = "libmesh_health_checks_total{cluster=\"a\",outcome=\"healthy\"}";
    until("a check", || mesh.metrics_text().contains(counted)).await;
    assert_eq!((health(&mesh, 0), health(&mesh, 1)), ("healthy".to_owned(), "healthy".to_owned()));
    a.mesh.set_serving(false);
    until("NOT_SERVING", || health(&mesh, 0) == "draining").await;
    calls(&mesh, 30).await;
    assert_eq!((a.hits(), b.hits()), (0, 30));
    a.mesh.set_serving(true);
    until("SERVING", || health(&mesh, 0) == "healthy").await;
}

#[tokio::test]
async fn a_tcp_check_speaks_and_listens() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let answers = Arc::new(AtomicUsize::new(1));
    let word = Arc::clone(&answers);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"PING");
            let answer: &[u8] = if word.load(Ordering::SeqCst) == 1 { b"+PONG" } else { b"-ERR loading" };
            stream.write_all(answer).await.unwrap();
        }
    });
    let check = format!("health_check: {{tcp: {{send: PING, receive: PONG}}, {CHECK}}}, ");
    let mesh = client(&[port, closed_port()], &check, "");
    mesh.start().unwrap();
    until("the closed port to be unhealthy", || health(&mesh, 1) == "unhealthy").await;
    assert_eq!(health(&mesh, 0), "healthy");
    answers.store(0, Ordering::SeqCst);
    until("the wrong answer to count", || health(&mesh, 0) == "unhealthy").await;
    answers.store(1, Ordering::SeqCst);
    until("the right answer to count", || health(&mesh, 0) == "healthy").await;
}

#[tokio::test]
async fn a_check_goes_over_the_clusters_own_transport_and_its_identity_is_verified() {
    let ca = tempfile::tempdir().unwrap();
    let identity = |name: &str| {
        let directory = ca.path().display();
        format!("identity: {{spiffe_id: \"spiffe://test/sa/{name}\", dev_ca: {{directory: \"{directory}\"}}}}\n")
    };
    let right = Server::at(free_port(), ", health: {path: /alive}", &identity("server")).await;
    let wrong = Server::at(free_port(), ", health: {path: /alive}", &identity("stranger")).await;
    let tls = "tls: {server_ids: [\"spiffe://test/sa/server\"]}, ";
    let check = format!("{tls}health_check: {{http: {{path: /alive}}, {CHECK}}}, ");
    let text = format!("{}\n{}", config(&[right.port, wrong.port], &check, ""), identity("client"));
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    mesh.start().unwrap();
    until("the stranger to be unhealthy", || health(&mesh, 1) == "unhealthy").await;
    until("a success", || mesh.metrics_text().contains("outcome=\"healthy\"")).await;
    assert_eq!(health(&mesh, 0), "healthy");
    assert_eq!((right.hits(), wrong.hits()), (0, 0), "the listener answered, not the application");
}

#[tokio::test]
async fn a_server_that_wants_no_more_gets_no_more_once_its_notice_was_seen_and_comes_back_when_it_says_so() {
    for protocol in ["http1", "http2"] {
        let servers = [Server::start("").await, Server::start("").await, Server::start("").await];
        let ports = servers.each_ref().map(|server| server.port);
        let mesh = client(&ports, &format!("{IN_TURN}protocol: {protocol}, "), "");
        calls(&mesh, 30).await;
        // Two of three: fewer than half are left, the panic rule speaks, and still they get nothing.
        servers[0].mesh.set_serving(false);
        servers[1].mesh.set_serving(false);
        assert!(!servers[0].mesh.is_ready());
        for _ in 0..1_000 {
            if health(&mesh, 0) == "draining" && health(&mesh, 1) == "draining" {
                break;
            }
            calls(&mesh, 1).await;
        }
        let before = [servers[0].hits(), servers[1].hits()];
        calls(&mesh, 100).await;
        assert_eq!([servers[0].hits(), servers[1].hits()], before, "{protocol}");
        servers[0].mesh.set_serving(true);
        until("it to be back", || health(&mesh, 0) == "healthy").await;
        calls(&mesh, 50).await;
        assert!(servers[0].hits() > before[0] && servers[1].hits() == before[1], "{protocol}");
    }
}

#[tokio::test]
async fn when_everybody_is_leaving_everybody_is_still_asked() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    let mesh = client(&[a.port, b.port], "", "");
    a.mesh.set_serving(false);
    b.mesh.set_serving(false);
    calls(&mesh, 50).await;
    assert_eq!(a.hits() + b.hits(), 50);
    // A draining endpoint that answers is better than one that is broken.
    let mesh = client(&[a.port, closed_port()], "", ", circuit_breaker: {consecutive_failures: 1, open: 100s}");
    let results = [call(&mesh).await, call(&mesh).await, call(&mesh).await, call(&mesh).await];
    assert!(results.iter().filter(|result| result.is_err()).count() <= 1, "{results:?}");
    calls(&mesh, 20).await;
}

#[tokio::test]
async fn the_notice_is_for_peers_of_the_mesh_only() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let a = Server::start(", health: {path: /alive}").await;
    a.mesh.set_serving(false);
    let ask = |path: &'static str| {
        let port = a.port;
        async move {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    let answer = ask("/").await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("x-mesh-draining"), "{answer}");
    let alive = ask("/alive").await;
    assert!(alive.starts_with("HTTP/1.1 503") && alive.contains("DRAINING"), "{alive}");
    a.mesh.set_serving(true);
    let alive = ask("/alive").await;
    assert!(alive.starts_with("HTTP/1.1 200") && alive.contains("SERVING"), "{alive}");
    assert_eq!(a.hits(), 1, "the application saw no health check");
}

#[tokio::test]
async fn one_of_three_drains_under_load_nothing_fails_and_after_its_notice_it_gets_nothing_new() {
    for protocol in ["http1", "http2"] {
        let servers = [Server::start("").await, Server::start("").await, Server::start("").await];
        let ports = servers.each_ref().map(|server| server.port);
        let mesh = client(&ports, &format!("{IN_TURN}protocol: {protocol}, "), "");
        let load = |count: usize| {
            let mesh = mesh.clone();
            async move { calls(&mesh, count).await }
        };
        let running: Vec<_> = (0..8).map(|_| tokio::spawn(load(200))).collect();
        until("load", || servers[0].hits() > 20).await;
        let leaving = servers[0].mesh.clone();
        let drain = tokio::spawn(async move { leaving.drain(Duration::from_secs(5)).await });
        for caller in running {
            caller.await.unwrap();
        }
        until("the notice", || health(&mesh, 0) == "draining").await;
        let before = servers[0].hits();
        calls(&mesh, 100).await;
        assert_eq!(servers[0].hits(), before, "{protocol}");
        drain.await.unwrap();
        calls(&mesh, 20).await;
    }
}

#[tokio::test]
async fn o36_a_server_that_restarts_on_its_address_loses_no_request_and_is_back_without_a_health_check() {
    let mut servers = vec![Server::start("").await, Server::start("").await, Server::start("").await];
    let ports: Vec<_> = servers.iter().map(|server| server.port).collect();
    let retry = "retry: {attempts: 2, base: 1ms}";
    let mesh =
        Mesh::from_yaml(&config(&ports, IN_TURN, "").replace("retry: {attempts: 0}", retry), "client.yaml").unwrap();
    calls(&mesh, 30).await;
    let restarting = servers.remove(0);
    let leaving = restarting.mesh.clone();
    let drain = tokio::spawn(async move { leaving.drain(Duration::from_millis(300)).await });
    while !drain.is_finished() {
        calls(&mesh, 1).await;
    }
    drain.await.unwrap();
    calls(&mesh, 30).await;
    let back = Server::at(restarting.port, "", "").await;
    until("it to be healthy", || health(&mesh, 0) == "healthy").await;
    let end = Instant::now() + Duration::from_secs(30);
    while back.hits() == 0 {
        assert!(Instant::now() < end, "back in rotation");
        calls(&mesh, 1).await;
    }
}

#[tokio::test]
async fn an_endpoint_declared_draining_gets_nothing_while_there_is_another() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (Server::start("").await, Server::start("").await);
    let file = directory.path().join("endpoints.yaml");
    let write = |health: &str| {
        let text = format!(
            "- {{address: \"127.0.0.1:{}\", health: {health}}}\n- {{address: \"127.0.0.1:{}\"}}\n",
            a.port, b.port
        );
        // Renamed over, so that no reader meets half of it.
        std::fs::write(directory.path().join("new"), text).unwrap();
        std::fs::rename(directory.path().join("new"), &file).unwrap();
    };
    write("draining");
    let text = format!(
        "version: 1\nclusters: [{{name: a, {IN_TURN}endpoints_file: \"{}\"}}]\nroutes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]",
        file.display()
    );
    let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
    calls(&mesh, 30).await;
    assert_eq!((a.hits(), b.hits()), (0, 30));
    write("healthy");
    until("the file to be read", || health(&mesh, 0) == "healthy").await;
    calls(&mesh, 50).await;
    assert!(a.hits() > 0);
    write("unhealthy");
    until("the file to be read", || health(&mesh, 0) == "unhealthy").await;
}

/// Vector `timeline-ejected-host-keeps-connection` (gRFC A50).
#[tokio::test]
async fn a_connection_outlives_the_ejection_of_its_endpoint() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    let outlier = "outlier: {consecutive_5xx: 2, interval: 1s, base_ejection: 8s}, protocol: http2, ";
    let breaker = "circuit_breaker: {force: metrics_only}, balancer: round_robin, ";
    let mesh = client(&[a.port, b.port], &format!("{outlier}{breaker}"), "");
    a.answer(500);
    mesh.start().unwrap();
    calls(&mesh, 10).await;
    let status = || mesh.status()["clusters"]["a"]["endpoints"][0].clone();
    assert_eq!((status()["ejected"].as_bool(), status()["ejections"].as_u64()), (Some(true), Some(1)));
    let metrics = mesh.metrics_text();
    assert!(metrics.contains("libmesh_ejections_total{cluster=\"a\",reason=\"consecutive_5xx\"} 1"), "{metrics}");
    assert!(metrics.contains("libmesh_ejected_share{cluster=\"a\"} 0.5"), "{metrics}");
    let before = a.hits();
    calls(&mesh, 20).await;
    assert_eq!((a.hits(), status()["connections"].as_u64()), (before, Some(1)), "left alone, still connected");
    a.answer(200);
    until("its return", || status()["ejected"] == false).await;
    calls(&mesh, 20).await;
    assert!(a.hits() > before);
    assert_eq!(a.connections.lock().unwrap().len(), 1, "over the connection it had");
}

#[tokio::test]
async fn o35_however_all_are_down_the_refusal_is_the_same_and_comes_at_once() {
    let breaker = ", circuit_breaker: {consecutive_failures: 1, open: 100s, max_open: 100s}";
    let refused = async |mesh: &Mesh| {
        for _ in 0..20 {
            drop(call(mesh).await);
        }
        let error = call(mesh).await.unwrap_err();
        let place = error.place();
        assert!(place.retry_after.is_some_and(|wait| wait > Duration::from_secs(30)), "{error}");
        (error.kind(), error.sent(), place.attempts)
    };
    let by_connect = client(&[closed_port(), closed_port()], "", breaker);
    let (a, b) = (Server::start("").await, Server::start("").await);
    a.answer(503);
    b.answer(503);
    let by_answer = client(&[a.port, b.port], "", breaker);
    let check = format!("health_check: {{http: {{path: /healthz}}, {CHECK}}}, ");
    let by_health = client(&[a.port, b.port], &check, breaker);
    by_health.start().unwrap();
    until("both to be unhealthy", || (0..2).all(|index| health(&by_health, index) == "unhealthy")).await;
    let expected = refused(&by_connect).await;
    assert_eq!(expected.0, ErrorKind::CircuitOpen);
    assert_eq!(expected, refused(&by_answer).await);
    assert_eq!(expected, refused(&by_health).await);
}

#[tokio::test]
async fn the_breaker_of_a_cluster_refuses_before_anything_is_sent_and_obeys_a_reload_at_once() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    a.answer(500);
    b.answer(500);
    let with = |rules: &str| {
        let endpoints = "circuit_breaker: {force: closed}, outlier: {consecutive_5xx: 0}, ";
        config(&[a.port, b.port], &format!("{endpoints}cluster_circuit_breaker: {{force: none, {rules}}}, "), "")
    };
    let trips = "consecutive_failures: 4, min_requests: 100, open: 100s, max_open: 100s";
    let mesh = Mesh::from_yaml(&with(trips), "client.yaml").unwrap();
    calls(&mesh, 4).await;
    let error = call(&mesh).await.unwrap_err();
    assert_eq!((error.kind(), error.place().attempts), (ErrorKind::CircuitOpen, 0));
    assert!(error.place().retry_after.is_some_and(|wait| wait >= Duration::from_secs(40)), "half of 100 s at least");
    assert_eq!(a.hits() + b.hits(), 4);
    let metrics = mesh.metrics_text();
    assert!(metrics.contains("libmesh_circuit_breaker_state{cluster=\"a\",scope=\"cluster\",state=\"open\"} 1"));
    let transitions = "libmesh_circuit_breaker_transitions_total{cluster=\"a\",scope=\"cluster\",state=\"open\"} 1";
    assert!(metrics.contains(transitions), "{metrics}");
    assert_eq!(mesh.status()["clusters"]["a"]["breaker"], "open");

    mesh.reload(&with(&format!("{trips}, slow_call: 9s")), "client.yaml").unwrap();
    assert_eq!(call(&mesh).await.unwrap_err().kind(), ErrorKind::CircuitOpen, "new rules close nothing");
    mesh.reload(&with(trips).replace("force: none", "force: closed"), "client.yaml").unwrap();
    calls(&mesh, 10).await;
    mesh.reload(&with(trips).replace("force: none", "force: open"), "client.yaml").unwrap();
    let error = call(&mesh).await.unwrap_err();
    assert_eq!((error.kind(), error.place().retry_after), (ErrorKind::CircuitOpen, None));
    assert_eq!(a.hits() + b.hits(), 14);
}

#[tokio::test]
async fn other_breaker_rules_keep_connections_and_open_breakers() {
    let (a, b) = (Server::start("").await, Server::start("").await);
    a.answer(500);
    let with = |rules: &str| {
        let cluster = format!("protocol: http2, balancer: round_robin, circuit_breaker: {{open: 100s, {rules}}}, ");
        config(&[a.port, b.port], &cluster, "")
    };
    let mesh = Mesh::from_yaml(&with("consecutive_failures: 2"), "client.yaml").unwrap();
    calls(&mesh, 10).await;
    let status = |index: usize| mesh.status()["clusters"]["a"]["endpoints"][index].clone();
    assert_eq!(status(0)["breaker"], "open");
    mesh.reload(&with("consecutive_failures: 3"), "client.yaml").unwrap();
    assert_eq!((&status(0)["breaker"], status(1)["connections"].as_u64()), (&"open".into(), Some(1)));
    let before = a.hits();
    calls(&mesh, 10).await;
    assert_eq!((a.hits(), b.connections.lock().unwrap().len()), (before, 1));
    mesh.reload(&with("force: closed"), "client.yaml").unwrap();
    calls(&mesh, 10).await;
    assert!(a.hits() > before, "forced closed from one revision to the next");
}

/// O40 over real sockets: callers that go away say nothing about the endpoint.
#[tokio::test]
async fn o40_callers_that_go_away_open_no_breaker() {
    let mesh_server = Mesh::from_yaml(
        &format!("version: 1\nlisteners: [{{name: in, address: \"127.0.0.1:{}\"}}]", free_port()),
        "server.yaml",
    )
    .unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let slow = tower::service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<Response<Body>, BoxError>>()
    });
    let listening = mesh_server.listen("in", slow).await.unwrap();
    let mesh = client(&[listening.local_addr().port()], "protocol: http2, ", "");
    for n in 0..100 {
        let waiting = tokio::spawn({
            let mesh = mesh.clone();
            async move { call(&mesh).await }
        });
        until("the request to arrive", || asked.load(Ordering::SeqCst) > n).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
    }
    let endpoint = mesh.status()["clusters"]["a"]["endpoints"][0].clone();
    assert_eq!((&endpoint["breaker"], &endpoint["ejections"]), (&"closed".into(), &0.into()));
}
