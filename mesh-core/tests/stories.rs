//! Stories over real loopback sockets: a client mesh and server meshes in one process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use mesh_core::error::BoxError;
use mesh_core::{Body, CallContext, CallReport, ErrorKind, Mesh, PeerIdentity};
use tokio::sync::Notify;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect_up_to(1 << 20).await.unwrap().to_vec()).unwrap()
}

/// Looks until it is so; a test that waits in vain fails.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A service that answers with who called and in which trace.
fn echo()
-> impl tower::Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static
{
    tower::service_fn(|request: Request<Body>| async move {
        let peer = request.extensions().get::<PeerIdentity>().map_or("nobody".to_owned(), |peer| peer.id.to_string());
        let trace = CallContext::current().unwrap().trace.trace_id.to_string();
        Ok::<_, BoxError>(Response::new(Body::from(format!("{peer} {trace} {}", request.uri().path()))))
    })
}

fn server(port: u16, extra: &str) -> Mesh {
    Mesh::from_yaml(
        &format!("version: 1\nlisteners: [{{name: in, address: \"127.0.0.1:{port}\"}}]\n{extra}"),
        "server.yaml",
    )
    .unwrap()
}

fn client(ports: &[u16], extra: &str) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{address: \"127.0.0.1:{port}\"}}")).collect();
    let text = format!(
        "version: 1\nclusters: [{{name: a, connect_timeout: 20s, endpoints: [{}]}}]\nroutes: [{{hosts: [\"a\"], rules: [{{backends: [{{cluster: a}}]}}]}}]\n{extra}",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

#[tokio::test]
async fn a_plaintext_call_reaches_its_service_and_is_counted_on_both_sides() {
    let port = free_port();
    let server = server(port, "node: {service: echo}");
    server.listen("in", echo()).await.unwrap();
    let client = client(&[port], "node: {service: caller}");
    for _ in 0..3 {
        let response = client.client().call(get("http://a/x?secret=1")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let report = response.extensions().get::<CallReport>().unwrap().clone();
        assert_eq!((report.attempts, &*report.cluster, report.revision), (1, "a", 1));
        let body = text(response).await;
        assert!(body.starts_with("nobody ") && body.ends_with(" /x"), "{body}");
    }
    let seen = |metrics: &str, reporter: &str| {
        metrics.lines().any(|line| {
            line.starts_with("istio_requests_total")
                && line.contains(&format!("reporter=\"{reporter}\""))
                && line.ends_with(" 3")
        })
    };
    assert!(seen(&client.metrics_text(), "source"), "{}", client.metrics_text());
    assert!(seen(&server.metrics_text(), "destination"), "{}", server.metrics_text());
    assert!(client.metrics_text().contains("destination_canonical_service=\"echo\""));
    assert!(server.metrics_text().contains("source_canonical_service=\"caller\""));
}

#[tokio::test]
async fn mutual_tls_tells_each_side_who_the_other_is() {
    let ca = tempfile::tempdir().unwrap();
    let identity = |name: &str| {
        format!(
            "identity: {{spiffe_id: \"spiffe://test/ns/default/sa/{name}\", dev_ca: {{directory: \"{}\"}}}}\n",
            ca.path().display()
        )
    };
    let port = free_port();
    let server = server(port, &identity("server"));
    server.listen("in", echo()).await.unwrap();
    let text_of = |id: &str| {
        format!(
            "version: 1\ndefaults: {{connect_timeout: 20s}}\n{}clusters: [{{name: a, tls: {{server_ids: [\"spiffe://test/ns/default/sa/{id}\"]}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}]}}]}}]\n",
            identity("client")
        )
    };
    let right = Mesh::from_yaml(&text_of("server"), "right.yaml").unwrap();
    let response = right.client().call(get("http://a/")).await.unwrap();
    let report = response.extensions().get::<CallReport>().unwrap().clone();
    assert_eq!(report.peer.as_deref(), Some("spiffe://test/ns/default/sa/server"));
    assert!(text(response).await.starts_with("spiffe://test/ns/default/sa/client "));

    let wrong = Mesh::from_yaml(&text_of("somebody-else"), "wrong.yaml").unwrap();
    let error = wrong.client().call(get("http://a/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerIdentity, "{error}");
    assert!(right.metrics_text().contains("destination_principal=\"spiffe://test/ns/default/sa/server\""));
    assert!(server.metrics_text().contains("connection_security_policy=\"mutual_tls\""));
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint_and_a_refused_post_is_sent_once() {
    let (bad, good) = (free_port(), free_port());
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let failing = tower::service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, BoxError>(Response::builder().status(503).body(Body::empty()).unwrap()) }
    });
    server(bad, "").listen("in", failing).await.unwrap();
    let fine = server(good, "");
    fine.listen("in", echo()).await.unwrap();
    let client = client(&[bad, good], "defaults: {balancer: round_robin}");
    for _ in 0..4 {
        let response = client.client().call(get("http://a/")).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert!(hits.load(Ordering::SeqCst) >= 1);
    let before = hits.load(Ordering::SeqCst);
    let mut refused = 0;
    for _ in 0..4 {
        let post = Request::post("http://a/").body(Body::from("x")).unwrap();
        refused += usize::from(client.client().call(post).await.unwrap().status() == 503);
    }
    assert_eq!(hits.load(Ordering::SeqCst) - before, refused, "each POST that failed was seen once");
}

#[tokio::test]
async fn a_reload_moves_traffic_and_a_bad_one_changes_nothing() {
    let (a, b) = (free_port(), free_port());
    let named = |name: &'static str| {
        tower::service_fn(move |_: Request<Body>| async move { Ok::<_, BoxError>(Response::new(Body::from(name))) })
    };
    server(a, "").listen("in", named("a")).await.unwrap();
    server(b, "").listen("in", named("b")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    let document = |port: u16| {
        format!(
            "version: 1\ndefaults: {{connect_timeout: 20s}}\nclusters: [{{name: c, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [c], rules: [{{backends: [{{cluster: c}}]}}]}}]\n"
        )
    };
    std::fs::write(&path, document(a)).unwrap();
    let mesh = Mesh::from_file(&path).unwrap();
    assert_eq!(text(mesh.client().call(get("http://c/")).await.unwrap()).await, "a");

    let replace = |content: &str| {
        std::fs::write(dir.path().join("new"), content).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
    };
    replace(&document(b));
    let moved = async {
        while text(mesh.client().call(get("http://c/")).await.unwrap()).await != "b" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("the change is live");
    assert_eq!(mesh.status()["revision"], 2);

    replace("version: 1\nclusters: [{name: c, endpoint: []}]\n");
    let refused = async {
        while mesh.status()["config"]["refused"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the bad change is counted");
    assert_eq!(mesh.status()["revision"], 2);
    assert_eq!(text(mesh.client().call(get("http://c/")).await.unwrap()).await, "b");
}

#[tokio::test]
async fn an_inbound_trace_continues_in_the_calls_it_causes_without_application_code() {
    let (front, back) = (free_port(), free_port());
    server(back, "").listen("in", echo()).await.unwrap();
    let text_of = format!(
        "version: 1\ndefaults: {{connect_timeout: 20s}}\nlisteners: [{{name: in, address: \"127.0.0.1:{front}\"}}]\nclusters: [{{name: b, endpoints: [{{address: \"127.0.0.1:{back}\"}}]}}]\nroutes: [{{hosts: [b], rules: [{{backends: [{{cluster: b}}]}}]}}]\n"
    );
    let middle = Mesh::from_yaml(&text_of, "middle.yaml").unwrap();
    let inner = middle.client();
    let relay = tower::service_fn(move |_: Request<Body>| {
        let inner = inner.clone();
        async move { Ok::<_, BoxError>(inner.call(get("http://b/")).await?) }
    });
    middle.listen("in", relay).await.unwrap();
    let outer = client(&[front], "");
    let mut request = get("http://a/");
    request
        .headers_mut()
        .insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap());
    let body = text(outer.client().call(request).await.unwrap()).await;
    assert!(body.contains("0af7651916cd43dd8448eb211c80319c"), "{body}");
}

#[tokio::test]
async fn access_rules_refuse_and_the_reason_stays_inside() {
    let port = free_port();
    let policy = "policy: {access: {rules: [{name: only-get, action: allow, methods: [GET]}]}}";
    let server = server(port, policy);
    server.listen("in", echo()).await.unwrap();
    let client = client(&[port], "");
    assert_eq!(client.client().call(get("http://a/")).await.unwrap().status(), 200);
    let refused = client.client().call(Request::put("http://a/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(!format!("{:?}", refused.headers()).contains("only-get"));
    assert_eq!(text(refused).await, "");
}

#[tokio::test]
async fn a_drain_says_goodbye_and_finishes_what_is_in_flight() {
    let port = free_port();
    let server = server(port, "");
    let release = Arc::new(Notify::new());
    let held = Arc::clone(&release);
    let slow = tower::service_fn(move |_: Request<Body>| {
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            Ok::<_, BoxError>(Response::new(Body::from("done")))
        }
    });
    let listening = server.listen("in", slow).await.unwrap();
    let client = client(&[port], "");
    let call = tokio::spawn({
        let client = client.client();
        async move { client.call(get("http://a/")).await }
    });
    until("the request to arrive", || server.status()["requests_in_flight"] == 1).await;
    let draining = tokio::spawn({
        let server = server.clone();
        async move { server.drain(Duration::from_secs(5)).await }
    });
    until("the drain to begin", || server.status()["phase"] == "draining").await;
    release.notify_one();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(text(response).await, "done");
    draining.await.unwrap();
    listening.closed().await;
    let error = client.client().call(get("http://a/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let port = free_port();
    let server = server(port, "");
    let echo =
        tower::service_fn(
            |request: Request<Body>| async move { Ok::<_, BoxError>(Response::new(request.into_body())) },
        );
    server.listen("in", echo).await.unwrap();
    let client = client(&[port], "");
    let (sender, body) = Body::channel(1, None);
    let call = tokio::spawn({
        let client = client.client();
        async move { client.call(Request::post("http://a/").body(body).unwrap()).await }
    });
    for _ in 0..64 {
        sender.send(Ok(http_body::Frame::data(bytes::Bytes::from(vec![7u8; 16 * 1024])))).await.unwrap();
        if call.is_finished() {
            break;
        }
    }
    drop(sender);
    let body = call.await.unwrap().unwrap().into_body().collect_up_to(2 << 20).await.unwrap();
    assert!(!body.is_empty() && body.iter().all(|byte| *byte == 7));
    let _: Result<(), Infallible> = Ok(());
}
