//! Interim responses, trailers, ambiguous framing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use mesh_core::error::BoxError;
use mesh_core::time::ManualClock;
use mesh_core::{Body, CallOptions, ErrorKind, Mesh};
use tokio::sync::Notify;

use crate::peers::{OK, Peer, Wire, answer_all, answered, call, client, client_by, get, mesh, soon, text};

#[tokio::test]
async fn o22_an_interim_answer_is_no_answer() {
    let peer = Peer::start(|_, stream| async {
        let mut wire = Wire::new(stream);
        wire.head().await;
        wire.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
        wire.read_to_end_text().await;
    })
    .await;
    let mesh = client(&[peer.address], "");
    let mut request = get("/");
    request
        .extensions_mut()
        .insert(CallOptions { timeout: Some(Duration::from_millis(200)), ..CallOptions::default() });
    assert_eq!(call(&mesh, request).await.unwrap_err().kind(), ErrorKind::Timeout);
    let metrics = mesh.metrics_text();
    let counted = metrics.lines().any(|line| {
        line.starts_with("istio_requests_total{") && line.contains("response_flags=\"UT\"") && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
}

fn expecting() -> Request<Body> {
    Request::post("http://a/").header("expect", "100-continue").body(Body::from("hello")).unwrap()
}

/// What is sent before the body is here, and after. Tells when the head is here, and nothing of the body with it.
async fn expecter(before: &'static str, after: &'static str) -> (Peer, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let heard = Arc::clone(&asked);
    let peer = Peer::start(move |_, stream| {
        let asked = Arc::clone(&asked);
        async move {
            let mut wire = Wire::new(stream);
            let head = wire.head().await.unwrap();
            assert!(head.contains("expect: 100-continue") && wire.is_empty(), "{head}");
            asked.notify_one();
            wire.write(before).await;
            assert_eq!(wire.exactly(5).await.unwrap(), "hello");
            wire.write(after).await;
            answer_all(wire.stream).await;
        }
    })
    .await;
    (peer, heard)
}

#[tokio::test]
async fn o24_the_body_waits_for_a_100_but_not_for_ever_and_any_1xx_is_skipped() {
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    const TWICE: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    const LATE: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    for (before, after) in [(CONTINUE, OK), (TWICE, OK), ("", OK), ("", LATE)] {
        let (peer, heard) = expecter(before, after).await;
        let clock = ManualClock::new();
        let mesh = client_by(&clock, &[peer.address]);
        let (answer, ()) = tokio::join!(answered(&mesh, expecting()), async {
            soon(heard.notified()).await;
            // Without a word, only time lets the body go; with one, no time passes.
            if before.is_empty() {
                clock.advance(Duration::from_secs(1));
            }
        });
        assert_eq!(answer, (200, "ok".to_owned()), "{before:?} {after:?}");
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
        assert_eq!(peer.accepted(), 1, "the connection serves on: {before:?} {after:?}");
    }
}

#[tokio::test]
async fn o24_a_final_answer_instead_of_a_100_spares_the_body_and_ends_the_connection() {
    for status in ["417 Expectation Failed", "200 OK"] {
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&bodies);
        let peer = Peer::start(move |_, stream| {
            let bodies = Arc::clone(&bodies);
            async move {
                let mut wire = Wire::new(stream);
                wire.head().await;
                wire.write(&format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
                let rest = wire.read_to_end_text().await;
                bodies.lock().unwrap().push(rest);
            }
        })
        .await;
        let mesh = client_by(&ManualClock::new(), &[peer.address]);
        assert_eq!(answered(&mesh, expecting()).await.0.to_string(), status[..3]);
        crate::peers::eventually("the connection to be closed", || !seen.lock().unwrap().is_empty()).await;
        assert_eq!(*seen.lock().unwrap(), [""], "not a byte of the body");
    }
}

/// An ingress with HTTP/1.1 and HTTP/2 on `port`, in front of `cluster`.
async fn ingress(cluster: &str) -> (Mesh, std::net::SocketAddr) {
    let text = format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
listeners: [{{ name: in, address: \"127.0.0.1:0\", forward: true }}]
clusters: [{{ name: a, {cluster} }}]
routes: [{{ hosts: [\"*\"], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
"
    );
    let mesh = mesh(&text);
    let address = mesh.forward("in").await.unwrap().local_addr();
    (mesh, address)
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// An HTTP/2 server whose answers have a length and trailers.
async fn with_trailers(content_type: &'static str, pairs: &'static [(&'static str, &'static str)]) -> Peer {
    Peer::start(move |_, stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let response = Response::builder()
                .header("content-length", "2")
                .header("content-type", content_type)
                .body(())
                .unwrap();
            let mut body = respond.send_response(response, false).unwrap();
            body.send_data("ok".into(), false).unwrap();
            body.send_trailers(trailers(pairs)).unwrap();
        }
    })
    .await
}

const GRPC: &[(&str, &str)] = &[("grpc-status", "5"), ("grpc-message", "gone")];

#[tokio::test]
async fn o25_grpc_trailers_reach_an_http1_caller_that_takes_them() {
    let peer = with_trailers("application/grpc", GRPC).await;
    let (_mesh, address) = ingress(&format!("protocol: http2, endpoints: [{{ address: \"{}\" }}]", peer.address)).await;
    let mut wire = Wire::connect(address).await;
    wire.write(
        "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let head = wire.head().await.unwrap().to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    let body = wire.until(b"\r\n\r\n").await.unwrap();
    assert!(body.contains("grpc-status: 5") && body.contains("grpc-message: gone"), "{body}");
}

#[tokio::test]
async fn o25_trailers_that_cannot_be_delivered_break_the_answer_off() {
    for (te, content_type) in [("", "application/grpc"), ("te: trailers\r\n", "text/plain")] {
        let pairs: &[(&str, &str)] = if te.is_empty() { GRPC } else { &[("x-unannounced", "1")] };
        let peer = with_trailers(content_type, pairs).await;
        let (_mesh, address) =
            ingress(&format!("protocol: http2, endpoints: [{{ address: \"{}\" }}]", peer.address)).await;
        let mut wire = Wire::connect(address).await;
        wire.write(&format!(
            "POST / HTTP/1.1\r\nhost: a\r\n{te}content-type: {content_type}\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let all = soon(wire.read_to_end_text()).await;
        // However much left before the trailers came, the answer has no proper end.
        assert!(all.is_empty() || all.starts_with("HTTP/1.1 200"), "{all:?}");
        assert!(!all.ends_with("0\r\n\r\n"), "{all:?}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_over_both_versions() {
    for protocol in ["http1", "http2"] {
        let text = format!(
            "version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:0\" }}]\nclusters: [{{ name: unused, protocol: {protocol}, endpoints: [] }}]\n"
        );
        let server = mesh(&text);
        // Answers with the trailers of the request as its own.
        let echo = tower::service_fn(|request: Request<Body>| async move {
            let collected = request.into_body().collect().await?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            let frames = [Ok::<_, BoxError>(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))];
            let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
            Ok::<_, BoxError>(Response::builder().header("trailer", "x-sum").body(body)?)
        });
        let address = server.listen("in", echo).await.unwrap().local_addr();
        let (_ingress, front) =
            ingress(&format!("protocol: {protocol}, endpoints: [{{ address: \"{address}\" }}]")).await;
        let mesh = client(&[front], &format!("protocol: {protocol}"));
        let frames = [
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"hello"))),
            Ok(Frame::trailers(trailers(&[("x-sum", "7")]))),
        ];
        let body = Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
        let request =
            Request::post("http://a/").header("te", "trailers").header("trailer", "x-sum").body(body).unwrap();
        let response = call(&mesh, request).await.unwrap();
        let collected = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "7", "{protocol}");
        assert_eq!(collected.to_bytes(), "hello", "{protocol}");
    }
}

#[tokio::test]
async fn o26_ambiguous_framing_is_refused_or_read_in_one_way_only() {
    // Each carries a second request that only a second reading of the framing would find.
    let hidden = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = hidden.len() + 5;
    let chunked = format!("0\r\n\r\n{hidden}");
    let corpus = [
        ("length and chunked", format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n{chunked}")),
        ("chunked and a tab", format!("transfer-encoding: chunked\t\r\ncontent-length: {length}\r\n\r\n{chunked}")),
        ("vertical tab", format!("transfer-encoding: \x0bchunked\r\ncontent-length: {length}\r\n\r\n{chunked}")),
        ("folded", format!("transfer-encoding:\r\n chunked\r\ncontent-length: {length}\r\n\r\n{chunked}")),
        ("space before the colon", format!("transfer-encoding : chunked\r\ncontent-length: {length}\r\n\r\n{chunked}")),
        ("unknown coding", format!("transfer-encoding: xchunked\r\ncontent-length: {length}\r\n\r\n{chunked}")),
        (
            "chunked is not last",
            format!("transfer-encoding: chunked, identity\r\ncontent-length: {length}\r\n\r\n{chunked}"),
        ),
        (
            "chunked twice",
            format!(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked, x\r\ncontent-length: {length}\r\n\r\n{chunked}"
            ),
        ),
        ("two lengths", format!("content-length: 0\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len())),
        ("two lengths in one", format!("content-length: 0, {}\r\n\r\n{hidden}", hidden.len())),
        ("signed length", format!("content-length: +{}\r\n\r\n{hidden}", hidden.len())),
        ("length in hex", format!("content-length: 0x{:x}\r\n\r\n{hidden}", hidden.len())),
        ("length with a space inside", format!("content-length: 1 0\r\n\r\n{hidden}")),
        ("huge chunk", format!("transfer-encoding: chunked\r\n\r\n10000000000000000\r\n{hidden}")),
        ("chunk size with a sign", format!("transfer-encoding: chunked\r\n\r\n+0\r\n\r\n{hidden}")),
    ];
    for (name, framing) in corpus {
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&paths);
        let server = mesh("version: 1\nlisteners: [{ name: in, address: \"127.0.0.1:0\" }]\n");
        let service = tower::service_fn(move |request: Request<Body>| {
            let paths = Arc::clone(&paths);
            async move {
                paths.lock().unwrap().push(request.uri().path().to_owned());
                request.into_body().collect_up_to(1 << 20).await?;
                Ok::<_, BoxError>(Response::new(Body::from("ok")))
            }
        });
        let address = server.listen("in", service).await.unwrap().local_addr();
        let mut wire = Wire::connect(address).await;
        wire.write(&format!("POST /outer HTTP/1.1\r\nhost: a\r\n{framing}")).await;
        let first = soon(wire.head()).await.unwrap_or_default();
        // A broken chunk is found when the body is read, which fails the application's answer.
        let is_refused = first.starts_with("HTTP/1.1 400") || first.starts_with("HTTP/1.1 500");
        // Chunked wins over a length, and then the connection ends (RFC 9112 6.1): whoever read the length instead
        // finds no second request on it.
        let reads_chunked = matches!(name, "length and chunked" | "chunked and a tab");
        assert_eq!(is_refused, !reads_chunked, "{name}: {first:?}");
        assert!(!soon(wire.read_to_end_text()).await.contains("HTTP/1.1 200"), "{name}");
        assert!(!seen.lock().unwrap().iter().any(|path| path == "/hidden"), "{name}");
    }
}

#[tokio::test]
async fn o26_a_request_with_both_framings_is_forwarded_with_one() {
    let (heads, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::start(move |_, stream| {
        let heads = heads.clone();
        async move {
            let mut wire = Wire::new(stream);
            while let Some(head) = wire.head().await {
                heads.send(head.to_ascii_lowercase()).unwrap();
                wire.write(OK).await;
            }
        }
    })
    .await;
    let (_mesh, address) = ingress(&format!("endpoints: [{{ address: \"{}\" }}]", peer.address)).await;
    let mut wire = Wire::connect(address).await;
    wire.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n0\r\n\r\n").await;
    assert!(soon(wire.head()).await.is_some());
    let head = arrived.try_recv().expect("it was forwarded");
    assert!(head.contains("content-length") != head.contains("transfer-encoding"), "{head}");
}

#[tokio::test]
async fn o27_a_grpc_error_without_data_keeps_status_and_message_through_a_hop() {
    let peer = Peer::start(|_, stream| async {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "7")
                .header("grpc-message", "not%20yours")
                .body(())
                .unwrap();
            respond.send_response(response, true).unwrap();
        }
    })
    .await;
    let (_mesh, front) = ingress(&format!("protocol: http2, endpoints: [{{ address: \"{}\" }}]", peer.address)).await;
    let mesh = client(&[front], "protocol: http2");
    let request = Request::post("http://a/svc/m")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::empty())
        .unwrap();
    let response = call(&mesh, request).await.unwrap();
    let header = |name| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("grpc-status"), header("grpc-message")), ("7".to_owned(), "not%20yours".to_owned()));
    assert_eq!(text(response).await, "");
}
