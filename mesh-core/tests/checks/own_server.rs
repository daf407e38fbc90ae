//! Checks of a server that is the application's own: waited for, told the body, and heeded.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, OkHttpResponse};
use http::Request;
use mesh_core::Mesh;
use mesh_core::inbound::own_server::{Begun, Given, InboundCheck, Wanted};
use mesh_core::time::{Clock, ManualClock};
use tonic::Code;

use crate::policy::{Policy, status};

fn mesh(check: &str, policy: &Policy) -> Mesh {
    Mesh::from_yaml(&document(check, policy), "server.yaml").unwrap()
}

fn document(check: &str, policy: &Policy) -> String {
    format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
listeners: [{{ name: in }}]
clusters: [{{ name: opa, protocol: http2, endpoints: [{{ address: \"{}\" }}] }}]
policy:
  checks: [{{ name: opa, cluster: opa, failure: closed, timeout: 20s, {check} }}]
",
        policy.address
    )
}

fn post(body: Given) -> Request<Given> {
    Request::post("/order?debug=1").header("host", "shop").body(body).unwrap()
}

fn changing() -> CheckResponse {
    let header = HeaderValue { key: "x-user".into(), value: "7".into(), ..HeaderValue::default() };
    let ok = OkHttpResponse {
        headers: vec![HeaderValueOption { header: Some(header.clone()), ..HeaderValueOption::default() }],
        response_headers_to_add: vec![HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }],
        query_parameters_to_set: vec![QueryParameter { key: "user".into(), value: "7".into() }],
        query_parameters_to_remove: vec!["debug".into()],
        ..OkHttpResponse::default()
    };
    CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..status(Code::Ok) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_check_is_waited_for_and_its_changes_reach_request_and_response() {
    let policy = Policy::start(|_| Some(changing()));
    let mesh = mesh("cache: { key: [path], ttl: 60s, header_changes: true }", &policy);
    let check = mesh.inbound_check("in").unwrap();
    let mut first = Box::pin(check.begin(post(Given::Whole(Bytes::new()))));
    let at_once = first.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(at_once.is_pending(), "the server was not asked yet");
    for (nth, begun) in
        [first.await.unwrap(), now(check.begin(post(Given::Whole(Bytes::new())))).unwrap()].into_iter().enumerate()
    {
        let Begun::Admitted(mut ticket) = begun else { panic!("{nth} was refused") };
        assert_eq!(ticket.head().uri, "/order?user=7");
        assert_eq!(ticket.head().headers["x-user"], "7");
        let head = ticket.answer(http::Response::new(())).unwrap();
        assert_eq!(head.headers()["x-user"], "7");
        ticket.end(0, None);
    }
    assert_eq!(policy.asked().len(), 1, "the second was answered from the cache, at the first poll");
}

fn status_of(begun: Begun) -> u16 {
    match begun {
        Begun::Admitted(_) => 200,
        Begun::Answered(answer) => answer.response.status().as_u16(),
        Begun::Wanted(_) => panic!("it was handed over"),
    }
}

/// What is ready at the first poll.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_a_check_wants_is_told_or_the_request_goes_no_further() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let whole = mesh("with_request_body: { max_request_bytes: 4 }", &policy);
    let partial = mesh("with_request_body: { max_request_bytes: 4, allow_partial_message: true }", &policy);
    let bytes = Bytes::from_static;
    for (mesh, given, expected, told) in [
        (&whole, Given::Whole(bytes(b"abcd")), 200, Some("abcd")),
        (&whole, Given::Whole(bytes(b"abcde")), 413, None),
        (&whole, Given::Beginning(bytes(b"abcde")), 413, None),
        // What is kept back cannot dodge a rule about it.
        (&whole, Given::Beginning(bytes(b"abc")), 400, None),
        (&whole, Given::Beginning(bytes(b"")), 400, None),
        (&partial, Given::Beginning(bytes(b"abcde")), 200, Some("abcd")),
        (&partial, Given::Beginning(bytes(b"")), 400, None),
    ] {
        let check = mesh.inbound_check("in").unwrap();
        assert_eq!(check.body_limit(), 4);
        let before = policy.asked().len();
        let status = status_of(check.begin(post(given.clone())).await.unwrap());
        let asked = policy.asked().split_off(before);
        assert_eq!((status, asked.first().map(|asked| asked.body.as_str())), (expected, told), "{given:?}");
    }
    let without = Mesh::from_yaml("{version: 1, listeners: [{name: in}]}", "mesh.yaml").unwrap();
    assert_eq!(without.inbound_check("in").unwrap().body_limit(), 0);
}

const UPLOADS: &str = "with_request_body: { max_request_bytes: 4 }, match: { path: { prefix: /order } }";

fn later(target: &str, headers: &[(&'static str, &'static str)]) -> Request<Given> {
    let mut request = Request::post(target).header("host", "shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Given::Later).unwrap()
}

fn wanted(check: &InboundCheck, headers: &[(&'static str, &'static str)]) -> Wanted {
    match now(check.begin(later("/order", headers))).unwrap() {
        Begun::Wanted(wanted) => wanted,
        begun => panic!("{}", status_of(begun)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_later_is_asked_for_once_a_check_wants_it() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let text = format!(
        "{}  access: {{ rules: [{{ name: no, action: deny, methods: [PUT] }}] }}\n",
        document(UPLOADS, &policy)
    );
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let check = mesh.inbound_check("in").unwrap();
    let mut refused = later("/order", &[]);
    *refused.method_mut() = http::Method::PUT;
    let mut tunnel = later("/order", &[]);
    *tunnel.method_mut() = http::Method::CONNECT;
    let long = later("/order", &[("content-length", "5")]);
    for (request, expected) in [(later("/chat", &[]), 200), (refused, 403), (long, 413)] {
        assert_eq!(status_of(now(check.begin(request)).unwrap()), expected, "it does not wait for a body");
    }
    assert_eq!(status_of(check.begin(tunnel).await.unwrap()), 200, "what follows a CONNECT is no body");
    let told = policy.asked().len();
    let bytes = Bytes::from_static;
    for (given, expected) in [
        (Given::Whole(bytes(b"abcd")), 200),
        (Given::Whole(bytes(b"")), 200),
        (Given::Beginning(bytes(b"abcde")), 413),
        (Given::Beginning(bytes(b"abc")), 400),
        (Given::Beginning(bytes(b"")), 400),
    ] {
        let wanted = wanted(&check, &[]);
        assert_eq!(wanted.limit(), 4);
        assert_eq!(status_of(wanted.give(given.clone()).await), expected, "{given:?}");
    }
    let bodies: Vec<_> = policy.asked().split_off(told).into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies, ["abcd", ""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_waited_for_until_the_deadline_and_a_request_without_it_was_given_up() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let clock = Arc::new(ManualClock::new());
    let builder = Mesh::builder().clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let mesh = builder.from_yaml(&document(UPLOADS, &policy), "server.yaml").unwrap();
    let check = mesh.inbound_check("in").unwrap();
    let late = wanted(&check, &[("x-envoy-expected-rq-timeout-ms", "2000")]);
    assert!(late.deadline() <= clock.now() + Duration::from_secs(2));
    clock.advance(Duration::from_secs(2));
    assert_eq!(status_of(late.give(Given::Later).await), 504);
    drop(wanted(&check, &[]));
    let page = mesh.metrics_text();
    assert!(page.lines().any(|line| line.starts_with("istio_requests_total") && line.contains("\"DC\"")), "{page}");
    assert!(policy.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_too_late_is_none_and_its_place_is_free() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let clock = Arc::new(ManualClock::new());
    let builder = Mesh::builder().clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let text = document(UPLOADS, &policy).replace("{ name: in }", "{ name: in, concurrency: { max_requests: 1 } }");
    let mesh = builder.from_yaml(&text, "server.yaml").unwrap();
    let check = mesh.inbound_check("in").unwrap();
    for given in [Given::Later, Given::Whole(Bytes::from_static(b"abcd"))] {
        let late = wanted(&check, &[]);
        assert_eq!(late.deadline(), clock.now() + Duration::from_secs(5));
        clock.advance(Duration::from_secs(5));
        assert_eq!(status_of(late.give(given.clone()).await), 408, "{given:?}");
    }
    assert!(policy.asked().is_empty());
    let in_time = wanted(&check, &[]);
    clock.advance(Duration::from_secs(4));
    assert_eq!(status_of(in_time.give(Given::Whole(Bytes::from_static(b"abcd"))).await), 200);
}

/// A stream that waits for an answer before it goes on would hang if more were waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_a_body_is_asked_for_than_the_checks_look_at_that_are_due() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let beginning = "with_request_body: { max_request_bytes: 16, allow_partial_message: true }";
    let checks = format!(
        "{beginning}, match: {{ path: {{ prefix: /chat }} }} }}, {{ name: other, cluster: opa, failure: closed, timeout: 20s, with_request_body: {{ max_request_bytes: 1000 }}, match: {{ path: {{ prefix: /chat/upload }} }}"
    );
    let mesh = mesh(&checks, &policy);
    let check = mesh.inbound_check("in").unwrap();
    assert_eq!(check.body_limit(), 1000);
    for (target, headers, limit, given, told) in [
        ("/chat", None, 15, Given::Beginning(Bytes::from(vec![b'x'; 16])), &[16][..]),
        ("/chat", None, 15, Given::Whole(Bytes::from(vec![b'x'; 15])), &[15]),
        ("/chat", Some("16"), 15, Given::Beginning(Bytes::from(vec![b'x'; 16])), &[16]),
        ("/chat/upload", None, 1000, Given::Whole(Bytes::from(vec![b'x'; 900])), &[16, 900]),
    ] {
        let headers: Vec<_> = headers.map(|length| ("content-length", length)).into_iter().collect();
        let Begun::Wanted(wanted) = now(check.begin(later(target, &headers))).unwrap() else { panic!("{target}") };
        assert_eq!(wanted.limit(), limit, "{target}");
        let before = policy.asked().len();
        assert_eq!(status_of(wanted.give(given).await), 200, "{target}");
        let asked: Vec<_> = policy.asked().split_off(before).into_iter().map(|asked| asked.body.len()).collect();
        assert_eq!(asked, told, "{target}");
    }
    let partial = |asked: &envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest| {
        asked.headers.get("x-envoy-auth-partial-body").cloned()
    };
    let all: Vec<_> = policy.asked().iter().map(|asked| partial(asked).unwrap_or_default()).collect();
    assert_eq!(all, ["true", "false", "false", "true", "false"]);
}
