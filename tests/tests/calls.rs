//! Retries, hedges, deadlines and explanations of the client, against scripted upstreams. Tests named `oNN`
//! are field reports of other projects.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::layer::compose;
use mesh_core::{Body, CallContext, CallOptions, CallReport, Error, ErrorKind, Mesh, ServiceClient};
use mesh_tests::process::free_port;
use mesh_tests::scenario::Upstream;
use mesh_tests::upstream::{Arrived, Upstreams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

/// Scripted upstreams, as a scenario writes them.
async fn upstreams(written: &str) -> Upstreams {
    let written: BTreeMap<String, Upstream> = serde_saphyr::from_str(written).unwrap();
    Upstreams::start(&written).await.unwrap()
}

/// A mesh with one rule to cluster `a`, whose endpoints are those `$names`; `rule` and `more` are added to it.
fn mesh(upstreams: &Upstreams, endpoints: &[&str], rule: &str, more: &str) -> Mesh {
    let endpoints: Vec<_> = endpoints.iter().map(|name| format!("{{ address: ${name} }}")).collect();
    let text = format!(
        "version: 1\nclusters: [{{ name: a, connect_timeout: 20s, balancer: round_robin, endpoints: [{}] }}]\n\
         routes: [{{ hosts: [a], rules: [{{ name: r, backends: [{{ cluster: a }}], {rule} }}] }}]\n{more}",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&upstreams.fill_in(&text), "test.yaml").unwrap()
}

fn request(method: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri("http://a/").body(body.into()).unwrap()
}

fn get() -> Request<Body> {
    request("GET", Body::empty())
}

fn grpc(timeout: Option<&str>) -> Request<Body> {
    let mut request = request("POST", "\0\0\0\0\0");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    request
}

fn attempts(response: &Response<Body>) -> u32 {
    response.extensions().get::<CallReport>().unwrap().attempts
}

async fn outcome(client: &ServiceClient, request: Request<Body>) -> Result<u16, ErrorKind> {
    client.call(request).await.map(|response| response.status().as_u16()).map_err(|error| error.kind())
}

fn header<'a>(arrived: &'a Arrived, name: &str) -> Option<&'a str> {
    arrived.headers.get(name).map(|value| value.to_str().unwrap())
}

/// Waits until something that must happen has happened.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < patience, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn o12_a_response_that_is_looked_into_loses_and_reorders_nothing() {
    let chunks = ["hex:00000000", "hex:05", "alpha beta ", "gamma ", "delta"];
    for pieces in 1..=chunks.len() {
        let written = format!(
            "a: {{ http2: true, script: [{{ headers: [[content-type, application/grpc]], pause_ms: {}, chunks: {:?}, trailers: [[grpc-status, \"0\"]] }}] }}",
            pieces % 2,
            &chunks[..pieces],
        );
        let upstreams = upstreams(&written).await;
        let mesh = mesh(&upstreams, &["a"], "retry: { conditions: [unavailable], buffer_response: 64 }", "");
        let whole: Vec<u8> = chunks[..pieces].iter().flat_map(|chunk| mesh_tests::scenario::bytes_of(chunk)).collect();
        for _ in 0..40 {
            let response = mesh.client().call(grpc(Some("20S"))).await.unwrap();
            assert_eq!(response.into_body().collect_up_to(1024).await.unwrap(), whole);
        }
    }
}

#[tokio::test]
async fn a_grpc_status_in_the_trailers_is_retried_only_where_the_response_is_held_back() {
    let written = "a: { http2: true, script: [{ headers: [[content-type, application/grpc]], chunks: [x], trailers: [[grpc-status, \"14\"]] }, { headers: [[content-type, application/grpc]], chunks: [y], trailers: [[grpc-status, \"0\"]] }] }";
    for (held_back, seen, body) in [(0, 1, "x"), (64, 2, "y")] {
        let upstreams = upstreams(written).await;
        let rule = format!("retry: {{ conditions: [unavailable], buffer_response: {held_back} }}");
        let mesh = mesh(&upstreams, &["a"], &rule, "");
        let response = mesh.client().call(grpc(Some("20S"))).await.unwrap();
        assert_eq!(attempts(&response), seen);
        assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), body);
    }
}

#[tokio::test]
async fn a_response_longer_than_is_held_back_is_handed_on_whole() {
    let upstreams = upstreams("a: { script: [{ chunks: [\"size:40\", \"size:40\", \"size:40\"] }] }").await;
    let mesh = mesh(&upstreams, &["a"], "retry: { buffer_response: 64 }", "");
    let response = mesh.client().call(get()).await.unwrap();
    assert_eq!(response.into_body().collect_up_to(1024).await.unwrap().len(), 120);
}

#[tokio::test]
async fn o13_a_reset_post_is_not_replayed() {
    for (method, key, seen) in [
        ("POST", false, 1),
        ("PATCH", false, 1),
        ("POST", true, 2),
        ("GET", false, 2),
        ("PUT", false, 2),
        ("DELETE", false, 2),
    ] {
        let upstreams = upstreams("a: { script: [{ act: reset }, { status: 200 }] }").await;
        let mesh = mesh(&upstreams, &["a"], "retry: { conditions: [reset], idempotency_key: true }", "");
        let mut request = request(method, "order");
        if key {
            request.headers_mut().insert("idempotency-key", "7f3a".parse().unwrap());
        }
        let outcome = outcome(&mesh.client(), request).await;
        assert_eq!(outcome.is_ok(), seen == 2, "{method} {outcome:?}");
        assert_eq!(upstreams.arrived("a").len(), seen, "{method}");
    }
}

#[tokio::test]
async fn o14_every_attempt_sends_the_whole_body_or_there_is_one_attempt() {
    let written = "a: { script: [{ status: 503, times: 2 }, { status: 200 }] }";
    for size in [64 << 10, 10 << 20] {
        let upstreams = upstreams(written).await;
        let mesh = mesh(&upstreams, &["a"], "timeout: 60s", "");
        let response = mesh.client().call(request("PUT", vec![b'x'; size])).await.unwrap();
        assert_eq!((response.status().as_u16(), attempts(&response)), (200, 3));
        let lengths: Vec<_> = upstreams.arrived("a").iter().map(|arrived| arrived.body.len()).collect();
        assert_eq!(lengths, [size; 3]);
    }
    let upstreams = upstreams(written).await;
    let mesh = mesh(&upstreams, &["a"], "timeout: 60s", "");
    let (sender, body) = Body::channel(1, None);
    let streaming = tokio::spawn(async move {
        for _ in 0..32 {
            sender.send(Ok(http_body::Frame::data(vec![b'x'; 16 << 10].into()))).await.unwrap();
        }
    });
    let response = mesh.client().call(request("PUT", body)).await.unwrap();
    streaming.await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (503, 1));
    assert_eq!(upstreams.arrived("a")[0].body.len(), 512 << 10);
}

#[tokio::test]
async fn o15_a_truncated_response_is_an_error_or_is_tried_again() {
    let written = "a: { script: [{ act: cut, headers: [[content-length, \"100\"]], body: ten }, { body: whole }] }";
    let handed_on = upstreams(written).await;
    let response = mesh(&handed_on, &["a"], "timeout: 20s", "").client().call(get()).await.unwrap();
    assert!(response.into_body().collect_up_to(1024).await.is_err(), "a truncated body must not look whole");
    assert_eq!(handed_on.arrived("a").len(), 1);

    let held_back = upstreams(written).await;
    let mesh = mesh(&held_back, &["a"], "timeout: 20s, retry: { buffer_response: 1024 }", "");
    let response = mesh.client().call(get()).await.unwrap();
    assert_eq!(attempts(&response), 2);
    assert_eq!(response.into_body().collect_up_to(1024).await.unwrap(), "whole");
}

#[tokio::test]
async fn o17_the_deadline_that_is_told_shrinks_from_attempt_to_attempt() {
    for (rule, most) in [("timeout: 20s", 20_000_u64), ("timeout: 20s, attempt_timeout: 10s", 10_000)] {
        let upstreams = upstreams("a: { script: [{ status: 503, after_ms: 400, times: 2 }, {}] }").await;
        let mesh = mesh(&upstreams, &["a"], rule, "");
        assert_eq!(outcome(&mesh.client(), get()).await, Ok(200));
        let arrived = upstreams.arrived("a");
        let told: Vec<u64> = arrived
            .iter()
            .map(|arrived| header(arrived, "x-envoy-expected-rq-timeout-ms").unwrap().parse().unwrap())
            .collect();
        assert_eq!(told.len(), 3, "{rule}: {told:?}");
        assert!(told.is_sorted_by(|earlier, later| earlier >= later), "{rule}: {told:?}");
        for (nth, told) in told.iter().enumerate() {
            // Each earlier attempt has used 400 ms of the 20 s.
            assert!(*told <= most.min(20_000 - 400 * nth as u64), "{rule}: attempt {nth} was told {told}");
        }
    }
}

#[tokio::test]
async fn o22_an_interim_response_does_not_end_the_wait_for_the_answer() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        // Until the client goes away.
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    let text = format!(
        "version: 1\nclusters: [{{ name: a, endpoints: [{{ address: \"{address}\" }}] }}]\n\
         routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}], timeout: 300ms, retry: {{ attempts: 0 }} }}] }}]\n"
    );
    let mesh = Mesh::from_yaml(&text, "test.yaml").unwrap();
    let mut request = request("POST", "body");
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    assert_eq!(outcome(&mesh.client(), request).await, Err(ErrorKind::Timeout));
    let metrics = mesh.metrics_text();
    let counted =
        |line: &str| line.starts_with("istio_requests_total") && line.contains("\"UT\"") && line.ends_with(" 1");
    assert!(metrics.lines().any(counted), "{metrics}");
    server.abort();
}

/// Every combination of the limits there are, for HTTP and gRPC: the smallest is the one that is told onward.
#[tokio::test]
async fn o23_limits_are_independent_and_the_smallest_wins() {
    const MS: u64 = 1000;
    for (route, header_max, own_header, application) in (0..16).map(|bits: u64| {
        let set = |bit: u64, value: u64| (bits >> bit & 1 == 1).then_some(value * MS);
        (set(0, 40), set(1, 20), set(2, 30), set(3, 25))
    }) {
        for is_grpc in [false, true] {
            let written = if is_grpc { "a: { http2: true }" } else { "a: {}" };
            let upstreams = upstreams(written).await;
            let rule = format!("timeout: {}ms, timeout_header_max: {}ms", route.unwrap_or(0), header_max.unwrap_or(0));
            let mesh = mesh(&upstreams, &["a"], &rule, "");
            let mut request = if is_grpc { grpc(None) } else { get() };
            if let Some(ms) = own_header {
                let (name, value) = if is_grpc {
                    ("grpc-timeout", format!("{ms}m"))
                } else {
                    ("x-envoy-expected-rq-timeout-ms", ms.to_string())
                };
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            let timeout = application.map(Duration::from_millis);
            request.extensions_mut().insert(CallOptions { timeout, ..CallOptions::default() });
            mesh.client().call(request).await.unwrap();

            let believed = own_header.map(|own| header_max.map_or(own, |cap| own.min(cap)));
            let expected = [route, application, believed].into_iter().flatten().min();
            let arrived = upstreams.arrived("a");
            let name = if is_grpc { "grpc-timeout" } else { "x-envoy-expected-rq-timeout-ms" };
            let told = header(&arrived[0], name).map(|told| {
                if is_grpc {
                    mesh_core::policy::timeout::decode_grpc_timeout(told).unwrap()
                } else {
                    Duration::from_millis(told.parse().unwrap())
                }
            });
            let case =
                format!("route {route:?} cap {header_max:?} header {own_header:?} app {application:?} {is_grpc}");
            assert_eq!(told.is_some(), expected.is_some(), "{case}");
            if let (Some(told), Some(expected)) = (told, expected) {
                let expected = Duration::from_millis(expected);
                assert!(told <= expected && told + Duration::from_secs(4) > expected, "{case}: told {told:?}");
            }
        }
    }
}

#[tokio::test]
async fn named_statuses_headers_and_requests_are_retried_and_no_others() {
    let rule = "retry: { conditions: [retriable-status-codes, retriable-headers], retriable_status_codes: [418], \
                retriable_headers: [{ name: x-again, exact: please }], \
                retriable_request_headers: [{ name: x-never, present: false }] }";
    for (answer, never, seen) in [
        ("status: 418", false, 2),
        ("status: 418", true, 1),
        ("status: 503", false, 1),
        ("status: 200, headers: [[x-again, please]]", false, 2),
        ("status: 200, headers: [[x-again, \"no\"]]", false, 1),
    ] {
        let upstreams = upstreams(&format!("a: {{ script: [{{ {answer} }}, {{ status: 204 }}] }}")).await;
        let mesh = mesh(&upstreams, &["a"], rule, "");
        let mut request = get();
        if never {
            request.headers_mut().insert("x-never", "1".parse().unwrap());
        }
        mesh.client().call(request).await.unwrap();
        assert_eq!(upstreams.arrived("a").len(), seen, "{answer} {never}");
    }
}

#[tokio::test]
async fn a_hint_beyond_the_cap_ends_the_call_at_once() {
    let written = "a: { script: [{ status: 503, headers: [[retry-after, \"2\"]] }, { status: 200 }] }";
    let upstreams = upstreams(written).await;
    let mesh = mesh(&upstreams, &["a"], "timeout: 60s, retry: { max_hint: 1s }", "");
    assert_eq!(outcome(&mesh.client(), get()).await, Ok(503));
    assert_eq!(upstreams.arrived("a").len(), 1);
}

const HEDGE: &str =
    "timeout: 30s, retry: { conditions: [gateway-error, 5xx] }, hedge: { delay: 20ms, min_per_second: 100 }";

#[tokio::test]
async fn a_hedge_goes_to_another_endpoint_and_the_slow_one_is_cancelled() {
    for http2 in [false, true] {
        let written = format!(
            "slow: {{ http2: {http2}, script: [{{ act: hang }}] }}\nfast: {{ http2: {http2}, script: [{{ body: fast }}] }}"
        );
        let upstreams = upstreams(&written).await;
        let protocol = if http2 { "http2" } else { "http1" };
        // Later than the fast one can be.
        let late = HEDGE.replace("20ms", "1s");
        let text = format!(
            "version: 1\nclusters: [{{ name: a, protocol: {protocol}, balancer: round_robin, endpoints: [{{ address: $slow }}, {{ address: $fast }}] }}]\n\
             routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}], {late} }}] }}]\n"
        );
        let mesh = Mesh::from_yaml(&upstreams.fill_in(&text), "test.yaml").unwrap();
        for _ in 0..2 {
            let response = mesh.client().call(get()).await.unwrap();
            let report = response.extensions().get::<CallReport>().unwrap().clone();
            assert_eq!(upstreams.name_of(&report.endpoint), Some("fast"));
            assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), "fast");
        }
        // Turns go on with each copy: one or both of the requests began at the slow one.
        let hedged = upstreams.arrived("slow").len();
        assert!((1..=2).contains(&hedged), "{hedged}");
        assert_eq!(upstreams.arrived("fast").len(), 2);
        let second =
            upstreams.arrived("fast").iter().filter(|seen| header(seen, "x-envoy-attempt-count") == Some("2")).count();
        assert_eq!(second, hedged, "a copy says that it is the second attempt");
        eventually("the loser's place in the load count is free", || {
            mesh.status()["clusters"]["a"]["endpoints"].as_array().unwrap().iter().all(|e| e["in_flight"] == 0)
        })
        .await;
        let metrics = mesh.metrics_text();
        for name in ["libmesh_hedges_total", "libmesh_hedges_won_total"] {
            assert!(metrics.contains(&format!("{name}{{cluster=\"a\"}} {hedged}")), "{metrics}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_fails_is_followed_by_the_next_at_once() {
    let upstreams = upstreams("a: { script: [{ status: 503 }] }\nb: { script: [{ status: 503 }] }\nc: {}").await;
    let rule = "timeout: 30s, retry: { attempts: 0, conditions: [gateway-error] }, hedge: { delay: 25s, max_hedges: 2, min_per_second: 100 }";
    let mesh = mesh(&upstreams, &["a", "b", "c"], rule, "");
    let began = Instant::now();
    let response = mesh.client().call(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(20), "the delay was waited for: {:?}", began.elapsed());
}

#[tokio::test]
async fn what_may_not_be_sent_twice_is_never_hedged() {
    let rule = HEDGE.replace(
        "gateway-error, 5xx]",
        "gateway-error, 5xx], retriable_request_headers: [{ name: x-never, present: false }]",
    );
    for (method, header) in [("POST", "x-other"), ("GET", "x-never")] {
        let upstreams = upstreams("a: { script: [{ after_ms: 150 }] }\nb: { script: [{ after_ms: 150 }] }").await;
        let mesh = mesh(&upstreams, &["a", "b"], &rule, "");
        let mut request = request(method, "order");
        request.headers_mut().insert(header, "1".parse().unwrap());
        assert_eq!(outcome(&mesh.client(), request).await, Ok(200));
        assert_eq!(upstreams.arrived("a").len() + upstreams.arrived("b").len(), 1, "{method} {header}");
    }
}

#[tokio::test]
async fn a_request_that_belongs_to_an_endpoint_gets_no_copy_at_another() {
    let rule = format!("session: {{ header: x-at }}, {HEDGE}");
    for is_composed in [false, true] {
        let upstreams = upstreams("a: { script: [{ after_ms: 150 }] }\nb: { script: [{ after_ms: 150 }] }").await;
        let mesh = mesh(&upstreams, &["a", "b"], &rule, "");
        let send = async |request: Request<Body>| {
            if is_composed {
                return compose(&mesh).oneshot(request).await.unwrap();
            }
            mesh.client().call(request).await.unwrap()
        };
        let first = send(request("POST", "order")).await;
        let mut second = get();
        second.headers_mut().insert("x-at", first.headers()["x-at"].clone());
        assert_eq!(send(second).await.status(), 200);
        let mut seen = [upstreams.arrived("a").len(), upstreams.arrived("b").len()];
        seen.sort_unstable();
        assert_eq!(seen, [0, 2], "{is_composed}");
    }
}

#[tokio::test]
async fn a_single_endpoint_and_an_empty_budget_refuse_hedges_and_it_is_counted() {
    let one = upstreams("a: { script: [{ after_ms: 100 }] }").await;
    let mesh_of_one = mesh(&one, &["a"], HEDGE, "");
    assert_eq!(outcome(&mesh_of_one.client(), get()).await, Ok(200));
    assert_eq!(one.arrived("a").len(), 1);
    assert!(mesh_of_one.metrics_text().contains("reason=\"no_other_endpoint\"} 1"), "{}", mesh_of_one.metrics_text());

    let two = upstreams("a: { script: [{ after_ms: 100 }] }\nb: { script: [{ after_ms: 100 }] }").await;
    let none = "timeout: 30s, hedge: { delay: 10ms, budget_percent: 0, min_per_second: 0 }";
    let mesh_of_two = mesh(&two, &["a", "b"], none, "");
    assert_eq!(outcome(&mesh_of_two.client(), get()).await, Ok(200));
    assert_eq!(two.arrived("a").len() + two.arrived("b").len(), 1);
    assert!(mesh_of_two.metrics_text().contains("reason=\"hedge_budget_empty\"} 1"), "{}", mesh_of_two.metrics_text());
}

#[tokio::test]
async fn a_percentile_is_learned_and_survives_a_reload() {
    let upstreams = upstreams("a: { script: [{ times: 30 }, { act: hang }] }\nb: { script: [{ body: b }] }").await;
    let text = |rule: &str| {
        upstreams.fill_in(&format!(
            "version: 1\nclusters: [{{ name: a, balancer: round_robin, endpoints: [{{ address: $a }}, {{ address: $b }}] }}]\n\
             routes: [{{ hosts: [a], rules: [{{ name: r, backends: [{{ cluster: a }}], {rule} }}] }}]\n"
        ))
    };
    let mesh = Mesh::from_yaml(&text("hedge: { min_samples: 20, min_per_second: 100 }"), "test.yaml").unwrap();
    for _ in 0..20 {
        mesh.client().call(get()).await.unwrap().into_body().collect_up_to(64).await.unwrap();
    }
    mesh.reload(&text("timeout: 30s, hedge: { delay: p99, min_samples: 20, min_per_second: 100 }"), "test.yaml")
        .unwrap();
    // Until one of them hangs; without a percentile from before the reload it would take 30 s and fail.
    for _ in 0..60 {
        assert_eq!(outcome(&mesh.client(), get()).await, Ok(200));
    }
    assert!(upstreams.arrived("a").len() > 30, "none of them met the one that hangs");
    let metrics = mesh.metrics_text();
    assert!(
        metrics.lines().any(|line| line.starts_with("libmesh_hedges_won_total{") && !line.ends_with(" 0")),
        "{metrics}"
    );
}

/// A service that answers with what it gets from cluster `a` of `client`, as one that knows nothing of a mesh.
async fn middle(client: &Mesh) -> (Mesh, u16) {
    let port = free_port().unwrap();
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n");
    let server = Mesh::from_yaml(&text, "middle.yaml").unwrap();
    let client = client.client();
    let service = tower::service_fn(move |_: Request<Body>| {
        let client = client.clone();
        async move {
            let status = match client.call(get()).await {
                Ok(response) => response.status().as_u16(),
                Err(error) => error.kind().status().http,
            };
            let status = if status >= 500 { 503 } else { status };
            Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty()).unwrap())
        }
    });
    server.listen("in", service).await.unwrap();
    (server, port)
}

fn to_port(port: u16, rule: &str) -> Mesh {
    let text = format!(
        "version: 1\nclusters: [{{ name: a, connect_timeout: 20s, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]\n\
         routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}], {rule} }}] }}]\n"
    );
    Mesh::from_yaml(&text, "front.yaml").unwrap()
}

#[tokio::test]
async fn a_failure_that_was_tried_enough_further_down_is_not_tried_again_above() {
    let down = upstreams("a: { script: [{ status: 503 }] }").await;
    let inner = mesh(&down, &["a"], "timeout: 20s", "");
    let (_server, port) = middle(&inner).await;
    let front = to_port(port, "timeout: 20s");
    let response = front.client().call(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (503, 1), "the middle has tried three times");
    assert!(!response.headers().contains_key("x-mesh-should-retry"), "an application never sees the mark");
    assert_eq!(down.arrived("a").len(), 3);
}

#[tokio::test]
async fn a_retry_of_the_caller_is_not_retried_by_the_callee() {
    let down = upstreams("a: { script: [{ status: 500 }, { status: 503 }, { status: 200 }] }").await;
    let inner = mesh(&down, &["a"], "timeout: 20s", "");
    let (_server, port) = middle(&inner).await;
    let front = to_port(port, "timeout: 20s");
    // 500 is not retried in the middle, which answers 503; the front tries again; the 503 that this meets is
    // not retried in the middle either, although it could be: the front may.
    let response = front.client().call(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (200, 3));
    let seen = down.arrived("a");
    let told: Vec<_> = seen.iter().map(|arrived| header(arrived, "x-envoy-attempt-count")).collect();
    assert_eq!(told, [None, Some("2"), Some("3")], "the count is handed on");
}

#[tokio::test]
async fn grpc_attempts_say_how_many_came_before() {
    let written = "a: { http2: true, script: [{ headers: [[content-type, application/grpc], [grpc-status, \"14\"]], times: 2 }, { headers: [[content-type, application/grpc], [grpc-status, \"0\"]] }] }";
    let upstreams = upstreams(written).await;
    let mesh = mesh(&upstreams, &["a"], "timeout: 20s, retry: { conditions: [unavailable] }", "");
    mesh.client().call(grpc(None)).await.unwrap();
    let seen = upstreams.arrived("a");
    let told: Vec<_> = seen.iter().map(|arrived| header(arrived, "grpc-previous-rpc-attempts")).collect();
    assert_eq!(told, [None, Some("1"), Some("2")]);
}

#[tokio::test]
async fn a_detached_call_outlives_the_deadline_of_its_caller() {
    let upstreams = upstreams("a: {}").await;
    let mesh = mesh(&upstreams, &["a"], "timeout: 20s", "");
    let past = CallContext { deadline: Some(Instant::now()), ..context() };
    let call = |detached| {
        let (client, past) = (mesh.client(), std::sync::Arc::new(past.clone()));
        let mut request = get();
        request.extensions_mut().insert(CallOptions { detached, ..CallOptions::default() });
        CallContext::scope(past, async move { outcome(&client, request).await })
    };
    assert_eq!(call(false).await, Err(ErrorKind::Timeout));
    assert_eq!(call(true).await, Ok(200));
    assert_eq!(upstreams.arrived("a").len(), 1, "expired work is not begun");
}

#[tokio::test]
async fn a_detached_call_that_gave_up_says_nothing_of_the_request_that_is_being_served() {
    for (is_composed, detached) in [(false, false), (false, true), (true, false), (true, true)] {
        let upstreams = upstreams("a: { script: [{ status: 503 }] }").await;
        let mesh = mesh(&upstreams, &["a"], "retry: { attempts: 1, conditions: [gateway-error] }", "");
        let served = std::sync::Arc::new(context());
        let mut request = get();
        request.extensions_mut().insert(CallOptions { detached, ..CallOptions::default() });
        let sending = CallContext::scope(std::sync::Arc::clone(&served), async move {
            match is_composed {
                true => compose(&mesh).oneshot(request).await.map(|answer| answer.status()),
                false => mesh.client().call(request).await.map(|answer| answer.status()).map_err(Into::into),
            }
        });
        assert_eq!(sending.await.unwrap(), 503);
        assert_eq!(served.gave_up.is_set(), !detached, "{is_composed} {detached}");
    }
}

fn context() -> CallContext {
    CallContext::new(mesh_core::telemetry::TraceContext::root(&mut fastrand::Rng::with_seed(1), 100.0))
}

#[tokio::test]
async fn a_finished_call_says_which_rule_endpoints_attempts_and_decisions_it_had() {
    let upstreams = upstreams("bad: { script: [{ status: 503 }] }\ngood: { script: [{ status: 200 }] }").await;
    let mesh = mesh(&upstreams, &["bad", "good"], "timeout: 20s", "telemetry: { explain: { sample_percent: 0 } }");
    let mut explained = None;
    for number in 0..4 {
        let mut request = Request::get(format!("http://a/x?secret={number}")).body(Body::empty()).unwrap();
        request.headers_mut().insert("authorization", "secret".parse().unwrap());
        request.extensions_mut().insert(CallOptions { explain: true, ..CallOptions::default() });
        let response = mesh.client().call(request).await.unwrap();
        let told = response.extensions().get::<CallReport>().unwrap().explained.clone().unwrap();
        if told.attempts.len() == 2 {
            explained = Some(told);
        }
    }
    let explained = explained.expect("turns begin at the bad one every second time");
    assert_eq!((explained.route.as_deref(), explained.cluster.as_deref()), (Some("r"), Some("a")));
    assert_eq!(explained.why_cluster, "drawn by weight 1 of 1");
    let [first, second] = &explained.attempts[..] else { panic!("{explained:?}") };
    assert_eq!((first.kind, first.outcome.as_str(), first.decision), ("first", "503", "retry"));
    assert_eq!((second.kind, second.outcome.as_str(), second.decision), ("retry", "200", "success"));
    assert!(first.candidates.iter().all(|candidate| candidate.skipped.is_none() && candidate.cost_ms > 0.0));
    let tried: Vec<_> = second.candidates.iter().filter(|candidate| candidate.skipped == Some("tried")).collect();
    assert_eq!(tried.len(), 1, "{second:?}");
    assert_eq!(upstreams.name_of(&tried[0].endpoint), Some("bad"));
    assert!(first.wait.is_some() && explained.budget_before > explained.budget_after, "{explained:?}");
    let text = serde_json::to_string(&*explained).unwrap();
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn an_explanation_names_the_endpoints_of_the_rules_subset_and_their_breakers_as_metrics_do() {
    let upstreams = upstreams("old: {}\nnew: { script: [{ status: 503 }, { status: 200 }] }").await;
    let text = "version: 1\nclusters: [{ name: a, circuit_breaker: { consecutive_failures: 1, open: 1ms, max_open: 1ms }, endpoints: [{ address: $old, labels: { v: one } }, { address: $new, labels: { v: two } }] }]\n\
        routes: [{ hosts: [a], rules: [{ backends: [{ cluster: a, subset: { v: two } }], retry: { attempts: 0 } }] }]\n";
    let mesh = Mesh::from_yaml(&upstreams.fill_in(text), "test.yaml").unwrap();
    let mut breakers = Vec::new();
    for _ in 0..2 {
        let mut request = get();
        request.extensions_mut().insert(CallOptions { explain: true, ..CallOptions::default() });
        let response = mesh.client().call(request).await.unwrap();
        let told = response.extensions().get::<CallReport>().unwrap().explained.clone().unwrap();
        let [candidate] = &told.attempts[0].candidates[..] else { panic!("{told:?}") };
        assert_eq!(upstreams.name_of(&candidate.endpoint), Some("new"));
        breakers.push(candidate.breaker);
        // The breaker has opened, and is open no longer.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(breakers, ["closed", "half_open"]);
}

#[tokio::test]
async fn failed_calls_are_kept_with_the_reason_and_others_only_if_sampled_or_asked_for() {
    let upstreams = upstreams("a: { script: [{ status: 200, times: 2 }, { status: 503 }] }").await;
    let telemetry = "telemetry: { explain: { keep: 2, sample_percent: 0, by_header: true } }";
    let mesh = mesh(&upstreams, &["a"], "timeout: 20s", telemetry);
    mesh.client().call(get()).await.unwrap();
    assert!(mesh.explained().is_empty());
    let mut asking = get();
    asking.headers_mut().insert("x-mesh-explain", "1".parse().unwrap());
    mesh.client().call(asking).await.unwrap();
    assert_eq!(mesh.explained().len(), 1);
    assert!(!upstreams.arrived("a")[1].headers.contains_key("x-mesh-explain"));
    for _ in 0..2 {
        let mut request = request("POST", "x");
        request.headers_mut().insert("x-request-id", "find-me".parse().unwrap());
        mesh.client().call(request).await.unwrap();
    }
    let kept = mesh.explained();
    assert_eq!(kept.len(), 2, "the oldest went");
    assert!(kept.iter().all(|call| call.is_failure && call.request_id.as_deref() == Some("find-me")));
    let last = kept[0].attempts.last().unwrap();
    assert_eq!((last.outcome.as_str(), last.decision), ("503", "non_idempotent"));
}

#[tokio::test]
async fn an_error_is_explained_with_every_attempt() {
    let upstreams = upstreams("a: { dead: true }\nb: { dead: true }").await;
    let mesh = mesh(&upstreams, &["a", "b"], "timeout: 20s", "telemetry: { explain: {} }");
    let error: Error = mesh.client().call(get()).await.unwrap_err();
    let kept = mesh.explained();
    assert_eq!(kept[0].attempts.len() as u32, error.place().attempts);
    assert!(kept[0].outcome.starts_with("connect"), "{}", kept[0].outcome);
    assert_eq!(kept[0].attempts[0].sent, Some("never"));
    assert_eq!(kept[0].attempts.last().unwrap().decision, "attempts_exhausted");
}
