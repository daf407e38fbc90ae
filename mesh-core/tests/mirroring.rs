//! Copies of requests: they arrive, and whatever becomes of them, the caller sees nothing of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ports;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use mesh_core::error::BoxError;
use mesh_core::{Body, CallReport, Mesh};
use tokio::sync::{Notify, mpsc};

use ports::closed_port;

/// A request as the mirror saw it.
struct Seen {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

struct Service {
    port: u16,
    seen: mpsc::UnboundedReceiver<Seen>,
    _mesh: Mesh,
}

/// A server that tells what came; it answers with `status`, once `release` lets it.
async fn service(status: u16, release: Option<Arc<Notify>>) -> Service {
    let mesh = Mesh::from_yaml("listeners: [{name: in, address: \"127.0.0.1:0\"}]", "server.yaml").unwrap();
    let (told, seen) = mpsc::unbounded_channel();
    let answer = tower::service_fn(move |request: Request<Body>| {
        let (told, release) = (told.clone(), release.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_up_to(1 << 20).await?;
            told.send(Seen { path: head.uri.path().to_owned(), headers: head.headers, body })?;
            if let Some(release) = release {
                release.notified().await;
            }
            Ok::<_, BoxError>(Response::builder().status(status).body(Body::from("answer")).unwrap())
        }
    });
    let port = mesh.listen("in", answer).await.unwrap().local_addr().port();
    Service { port, seen, _mesh: mesh }
}

impl Service {
    async fn next(&mut self) -> Seen {
        tokio::time::timeout(Duration::from_secs(20), self.seen.recv()).await.expect("a request").unwrap()
    }
}

fn client(origin: u16, mirror: u16, rule: &str) -> Mesh {
    let text = format!(
        "defaults: {{connect_timeout: 20s}}\n\
         clusters: [{{name: a, endpoints: [{{address: \"127.0.0.1:{origin}\"}}]}}, {{name: m, endpoints: [{{address: \"127.0.0.1:{mirror}\"}}]}}]\n\
         routes: [{{hosts: [a], rules: [{{backends: [{{cluster: a}}], mirror: [{{cluster: m}}]{rule}}}]}}]\n"
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

async fn call(mesh: &Mesh, request: Request<Body>) -> (u16, u32) {
    let response = mesh.client().call(request).await.unwrap();
    let attempts = response.extensions().get::<CallReport>().unwrap().attempts;
    let status = response.status().as_u16();
    assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), "answer");
    (status, attempts)
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://a:8080/x?q").header("x-user", "jason").body(body).unwrap()
}

fn value(mesh: &Mesh, metric: &str, label: &str) -> u64 {
    let text = mesh.metrics_text();
    let lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

/// Waits until so many copies came to this end.
async fn copies(mesh: &Mesh, outcome: &str, count: u64) {
    let label = format!("outcome=\"{outcome}\"");
    let waiting = async {
        while value(mesh, "libmesh_mirrored_requests_total", &label) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "{}", mesh.metrics_text());
    assert_eq!(value(mesh, "libmesh_mirrored_requests_total", &label), count);
}

#[tokio::test]
async fn a_copy_arrives_as_it_was_sent_and_says_that_it_is_one() {
    let (mut origin, mut mirror) = (service(200, None).await, service(500, None).await);
    let mesh = client(origin.port, mirror.port, ", rewrite: {host: \"b:81\"}, request_headers: {set: {x-set: \"1\"}}");
    let streamed = || {
        let (sender, body) = Body::channel(4, None);
        for piece in ["hel", "lo"] {
            sender.try_send(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).unwrap();
        }
        body
    };
    for body in [Body::from("hello"), streamed()] {
        assert_eq!(call(&mesh, post(body)).await, (200, 1));
        let (first, copy) = (origin.next().await, mirror.next().await);
        assert_eq!(
            (&*first.path, &first.body[..], first.headers["host"].to_str().unwrap()),
            ("/x", &b"hello"[..], "b:81")
        );
        assert_eq!(
            (&*copy.path, &copy.body[..], copy.headers["host"].to_str().unwrap()),
            ("/x", &b"hello"[..], "b-shadow:81")
        );
        assert_eq!(
            (&copy.headers["x-user"], &copy.headers["x-set"]),
            (&first.headers["x-user"], &first.headers["x-set"])
        );
        assert_eq!(copy.headers["traceparent"], first.headers["traceparent"]);
    }
    // The mirror's 500 is an answer, is not tried again, and none of the caller's requests.
    copies(&mesh, "answered", 2).await;
    assert_eq!(value(&mesh, "istio_requests_total", ""), 2);
    assert_eq!(value(&mesh, "istio_requests_total", "response_code=\"500\""), 0);
    assert_eq!(value(&mesh, "libmesh_retries_total", ""), 0);
    assert!(mirror.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_mirror_that_is_gone_changes_nothing_for_the_caller() {
    let origin = service(200, None).await;
    let mesh = client(origin.port, closed_port(), "");
    for _ in 0..5 {
        assert_eq!(call(&mesh, post(Body::from("hello"))).await, (200, 1));
    }
    copies(&mesh, "failed", 5).await;
    assert_eq!(value(&mesh, "libmesh_retries_total", ""), 0);
    assert_eq!(value(&mesh, "istio_requests_total", "response_code=\"200\""), 5);
}

#[tokio::test]
async fn a_mirror_that_never_answers_holds_a_bounded_number_of_copies_and_no_caller() {
    let release = Arc::new(Notify::new());
    let (origin, mut mirror) = (service(200, None).await, service(200, Some(Arc::clone(&release))).await);
    let mesh = client(origin.port, mirror.port, "");
    for _ in 0..140 {
        assert_eq!(call(&mesh, post(Body::from("hello"))).await, (200, 1));
    }
    copies(&mesh, "no_place", 12).await;
    for _ in 0..128 {
        mirror.next().await;
    }
    assert!(mirror.seen.try_recv().is_err(), "no copy without a place");
    release.notify_waiters();
    copies(&mesh, "answered", 128).await;
    assert_eq!(call(&mesh, post(Body::from("hello"))).await, (200, 1));
    assert_eq!(mirror.next().await.body, "hello");
}

#[tokio::test]
async fn a_body_that_is_not_held_is_not_copied() {
    let (origin, mut mirror) = (service(200, None).await, service(200, None).await);
    let mesh = client(origin.port, mirror.port, "");
    let (sender, body) = Body::channel(4, None);
    for _ in 0..3 {
        sender.try_send(Ok(Frame::data(Bytes::from(vec![b'x'; 30_000])))).unwrap();
    }
    drop(sender);
    assert_eq!(call(&mesh, post(body)).await, (200, 1));
    assert_eq!(call(&mesh, post(Body::from(vec![b'x'; 65_537]))).await, (200, 1));
    copies(&mesh, "body_not_held", 2).await;
    assert_eq!(call(&mesh, post(Body::from(vec![b'x'; 65_536]))).await, (200, 1));
    assert_eq!(mirror.next().await.body.len(), 65_536);
    assert!(mirror.seen.try_recv().is_err());
}

/// An ingress copies what others send: their bodies are streams.
#[tokio::test]
async fn a_forwarded_request_is_copied_likewise() {
    let (origin, mut mirror) = (service(200, None).await, service(200, None).await);
    let text = format!(
        "defaults: {{connect_timeout: 20s}}\n\
         listeners: [{{name: edge, address: \"127.0.0.1:0\", forward: true}}]\n\
         clusters: [{{name: a, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}, {{name: m, endpoints: [{{address: \"127.0.0.1:{}\"}}]}}]\n\
         routes: [{{hosts: [\"*\"], rules: [{{backends: [{{cluster: a}}], mirror: [{{cluster: m}}]}}]}}]\n",
        origin.port, mirror.port
    );
    let edge = Mesh::from_yaml(&text, "edge.yaml").unwrap();
    let port = edge.forward("edge").await.unwrap().local_addr().port();
    let caller = Mesh::from_yaml(
        &format!("defaults: {{connect_timeout: 20s}}\nclusters: [{{name: edge, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [a], rules: [{{backends: [{{cluster: edge}}]}}]}}]\n"),
        "caller.yaml",
    )
    .unwrap();
    assert_eq!(call(&caller, post(Body::from("hello"))).await, (200, 1));
    let copy = mirror.next().await;
    assert_eq!((&copy.body[..], copy.headers["host"].to_str().unwrap()), (&b"hello"[..], "a-shadow:8080"));
}

#[tokio::test]
async fn a_share_of_nothing_copies_nothing() {
    let (origin, mut mirror) = (service(200, None).await, service(200, None).await);
    let mesh = client(origin.port, mirror.port, "");
    let text = serde_json::to_string(&mesh.config()).unwrap().replace("\"percent\":100.0", "\"percent\":0.0");
    mesh.reload(&text, "client.yaml").unwrap();
    for _ in 0..20 {
        assert_eq!(call(&mesh, post(Body::from("hello"))).await, (200, 1));
    }
    assert!(mirror.seen.try_recv().is_err());
    assert_eq!(value(&mesh, "libmesh_mirrored_requests_total", ""), 0);
}
