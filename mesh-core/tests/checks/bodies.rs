//! A check that reads the body: what it is told, and that the application misses nothing.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use mesh_core::Body;
use mesh_core::time::{Clock, ManualClock};
use serde_json::Value as Json;
use tokio::sync::Notify;
use tonic::Code;

use std::sync::Arc;
use std::time::Duration;

use crate::World;
use crate::policy::{Policy, status};
use crate::servers::until;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/ext_authz.json"));

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect()
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://app/order").body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_told_as_the_vectors_say_and_the_application_reads_all_of_it() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let cases: Vec<_> =
        vectors["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "request_body").collect();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let (id, config, expected) = (case["id"].as_str().unwrap(), &case["config"], &case["expected"]);
        let policy = Policy::start(|_| Some(status(Code::Ok)));
        let failure = if config["failure_mode_allow"] == true { "open" } else { "closed" };
        let settings = format!("failure: {failure}, with_request_body: {}", config["with_request_body"]);
        let world = World::start(&settings, &[policy.address]).await;
        let body = pattern(usize::try_from(case["body_bytes"].as_u64().unwrap()).unwrap());
        // A body whose length is known, and one whose end nobody knows before it comes.
        for is_streamed in [false, true] {
            let before = policy.asked().len();
            let (head, got) = match is_streamed {
                true => stream(&world, body.clone()).await,
                false => send(&world, Body::from(body.clone())).await,
            };
            let asked = policy.asked().split_off(before);
            assert_eq!(
                !asked.is_empty(),
                expected["check_called"] == true || expected["check_called"].is_null(),
                "{id}"
            );
            if let Some(status) = expected["client_status"].as_u64() {
                assert_eq!(u64::from(head.status.as_u16()), status, "{id}");
                continue;
            }
            assert_eq!((head.status.as_u16(), &got), (200, &body), "{id}");
            let told = expected["body_bytes_sent"].as_u64().unwrap();
            assert_eq!(asked[0].body.as_bytes(), &body[..usize::try_from(told).unwrap()], "{id}");
            let mark = if expected["header"].is_array() { "true" } else { "false" };
            assert_eq!(asked[0].headers["x-envoy-auth-partial-body"], mark, "{id}");
        }
    }
}

async fn send(world: &World, body: Body) -> (http::response::Parts, Bytes) {
    let (head, body) = world.client().call(post(body)).await.unwrap().into_parts();
    (head, body.collect_up_to(64 << 20).await.unwrap())
}

async fn stream(world: &World, whole: Bytes) -> (http::response::Parts, Bytes) {
    let (sender, body) = Body::channel(1, None);
    let feeding = tokio::spawn(async move {
        for chunk in whole.chunks(700) {
            // A refused request reads no further.
            if sender.send(Ok(Frame::data(Bytes::copy_from_slice(chunk)))).await.is_err() {
                return;
            }
        }
        let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), HeaderValue::from_static("1"))]);
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let answer = send(world, body).await;
    feeding.await.unwrap();
    if answer.0.status == 200 {
        assert_eq!(answer.0.headers["x-end"], "1", "trailers arrive, too");
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_a_long_body_is_asked_about_before_the_rest_was_sent() {
    let asked = Arc::new(Notify::new());
    let heard = Arc::clone(&asked);
    let policy = Policy::start(move |_| {
        heard.notify_one();
        Some(status(Code::Ok))
    });
    let world = World::start(
        "with_request_body: { max_request_bytes: 1000, allow_partial_message: true, pack_as_bytes: true }",
        &[policy.address],
    )
    .await;
    let whole = pattern(3_000_000);
    let (sender, body) = Body::channel(1, None);
    let client = world.client();
    let answering = tokio::spawn(async move { client.call(post(body)).await.unwrap() });
    sender.send(Ok(Frame::data(whole.slice(..1500)))).await.unwrap();
    asked.notified().await;
    for chunk in whole.slice(1500..).chunks(60_000) {
        sender.send(Ok(Frame::data(Bytes::copy_from_slice(chunk)))).await.unwrap();
    }
    drop(sender);
    let response = answering.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect_up_to(4 << 20).await.unwrap() == whole);
    assert_eq!(policy.asked()[0].raw_body, whole[..1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_never_reaches_the_application_and_a_request_without_one_is_asked_about_as_always() {
    let policy = Policy::start(|http| {
        let is_bad = http.body.contains("drop table");
        Some(status(if is_bad { Code::PermissionDenied } else { Code::Ok }))
    });
    let world =
        World::start("with_request_body: { max_request_bytes: 100 }, cache: { key: [path] }", &[policy.address]).await;
    for (body, expected) in [("hello", 200), ("drop table", 403), ("hello", 200)] {
        assert_eq!(send(&world, Body::from(body)).await.0.status, expected, "{body}");
    }
    assert_eq!((policy.asked().len(), world.counter("entries")), (3, 0), "answers to bodies are not kept");
    for _ in 0..2 {
        assert_eq!(world.get("/a", &[]).await.0, 200);
    }
    let asked = policy.asked();
    assert_eq!((asked.len(), world.counter("hits")), (4, 1), "without a body, they are");
    assert!(!asked[3].headers.contains_key("x-envoy-auth-partial-body"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_body_beyond_the_callers_deadline() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let world = World::start("failure: open, with_request_body: { max_request_bytes: 100 }", &[policy.address]).await;
    let (sender, body) = Body::channel(1, None);
    sender.send(Ok(Frame::data(Bytes::from_static(b"a")))).await.unwrap();
    let mut request = post(body);
    request.headers_mut().insert("x-envoy-expected-rq-timeout-ms", HeaderValue::from_static("100"));
    let answer = world.client().call(request).await;
    // Whoever sees it first: the server answers 504, or the client gives up.
    assert!(
        answer.as_ref().map_or_else(|error| error.kind().as_str() == "timeout", |answer| answer.status() == 504),
        "{answer:?}"
    );
    assert!(policy.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_no_body_gives_his_place_back() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let settings = "with_request_body: { max_request_bytes: 100, timeout: 50ms }";
    let clock = ManualClock::new();
    let listener = ("concurrency: { max_requests: 1 }", Arc::new(clock.clone()) as Arc<dyn Clock>);
    let world = World::of_listener(settings, &[policy.address], listener).await;
    // Nothing comes, and it does not end.
    let (sender, body) = Body::channel(1, None);
    let client = world.client();
    let waiting = tokio::spawn(async move { client.call(post(body)).await.unwrap().status() });
    until("the request to arrive", || world.in_flight() == 1).await;
    // No more than passes anyway: the caller's own deadline, which the server was told, is far away.
    let timeout = Duration::from_millis(50);
    while !waiting.is_finished() {
        clock.advance(timeout);
        tokio::time::sleep(timeout).await;
    }
    assert_eq!((waiting.await.unwrap().as_u16(), policy.asked().len()), (408, 0));
    // Time stands still again: this one has all that it needs.
    assert_eq!(send(&world, Body::from("hello")).await.0.status, 200, "the one place is free");
    drop(sender);
}
