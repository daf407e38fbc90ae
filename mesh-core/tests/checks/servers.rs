//! Several policy servers, of which some die or hang; and which requests are asked about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, OkHttpResponse};
use tokio::sync::Notify;
use tonic::Code;

use crate::World;
use crate::policy::{Policy, status};

const REQUESTS: usize = 400;
const CALLERS: usize = 8;
/// Fewer than a third of the requests, which is the share of each of three servers.
const ANSWERED: usize = 30;
/// Long enough never to be the reason.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_policy_servers_is_killed_while_it_is_asked_and_no_request_fails() {
    // After so many answers it answers nobody: what it is asked from then on is in flight when it dies.
    let (heard, is_stuck) = (AtomicUsize::new(0), Arc::new(Notify::new()));
    let stuck = Arc::clone(&is_stuck);
    let mut doomed = Policy::start(move |_| {
        let is_answered = heard.fetch_add(1, Ordering::SeqCst) < ANSWERED;
        if !is_answered {
            stuck.notify_one();
        }
        is_answered.then(|| status(Code::Ok))
    });
    let others = [Policy::start(|_| Some(status(Code::Ok))), Policy::start(|_| Some(status(Code::Ok)))];
    let servers = [doomed.address, others[0].address, others[1].address];
    let world = Arc::new(World::start("failure: closed", &servers).await);
    let (next, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (world, next, failed) = (Arc::clone(&world), Arc::clone(&next), Arc::clone(&failed));
            tokio::spawn(async move {
                loop {
                    let nth = next.fetch_add(1, Ordering::SeqCst);
                    if nth >= REQUESTS {
                        return;
                    }
                    let is_answered = world.get(&format!("/{nth}"), &[]).await.0 == 200;
                    failed.fetch_add(usize::from(!is_answered), Ordering::SeqCst);
                }
            })
        })
        .collect();
    tokio::time::timeout(PATIENCE, is_stuck.notified()).await.expect("it is its turn often enough");
    doomed.kill();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::SeqCst), 0);
    assert_eq!((world.counter("fail_closed"), world.counter("calls")), (0, REQUESTS as u64));
    let asked = others.iter().map(|policy| policy.asked().len()).sum::<usize>() + doomed.asked().len();
    assert!(asked > REQUESTS, "those in flight were asked again: {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_with_a_large_body_is_asked_again_when_its_server_dies() {
    let (mut doomed, other) = (Policy::start(|_| None), Policy::start(|_| Some(status(Code::Ok))));
    let settings = "failure: closed, with_request_body: { max_request_bytes: 300000 }";
    let world = World::start(settings, &[doomed.address, other.address]).await;
    let body = "x".repeat(200_000);
    let sending: Vec<_> = (0..8)
        .map(|_| {
            let request = http::Request::post("http://app/order").body(mesh_core::Body::from(body.clone())).unwrap();
            let client = world.client();
            tokio::spawn(async move { client.call(request).await.unwrap() })
        })
        .collect();
    until("a question", || !doomed.asked().is_empty()).await;
    doomed.kill();
    for sent in sending {
        let response = sent.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.into_body().collect_up_to(300_000).await.unwrap() == body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_asked_in_the_trace_of_the_request_it_is_about() {
    for cache in ["", ", cache: { key: [path] }"] {
        let policy = Policy::start(|_| Some(status(Code::Ok)));
        let world = World::start(&format!("failure: closed{cache}"), &[policy.address]).await;
        for path in ["/a", "/b"] {
            assert_eq!(world.get(path, &[]).await.0, 200);
        }
        let trace = |parent: &str| parent.split('-').nth(1).map(str::to_owned);
        let of_requests: Vec<_> = policy.asked().iter().map(|asked| trace(&asked.headers["traceparent"])).collect();
        let of_questions: Vec<_> = policy.parents().iter().map(|parent| trace(parent)).collect();
        assert_eq!(of_questions, of_requests, "{cache:?}");
        assert!(of_requests.len() == 2 && of_requests[0].is_some() && of_requests[0] != of_requests[1]);
    }
}

/// Looks until it is so; a test that waits in vain fails.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_costs_the_timeout_and_then_the_failure_mode_decides() {
    let policy = Policy::start(|_| None);
    for (failure, expected, counter) in [("closed", 418, "fail_closed"), ("open", 200, "fail_open")] {
        let settings = format!("timeout: 200ms, failure: {failure}, status_on_error: 418");
        let world = World::start(&settings, &[policy.address]).await;
        assert_eq!(world.get("/", &[]).await.0, expected);
        assert_eq!((world.counter(counter), world.counter("calls")), (1, 1));
    }
}

fn changing() -> CheckResponse {
    let header = HeaderValue { key: "x-user".into(), value: "7".into(), ..HeaderValue::default() };
    let ok = OkHttpResponse {
        headers: vec![HeaderValueOption { header: Some(header), ..HeaderValueOption::default() }],
        headers_to_remove: vec!["cookie".into()],
        query_parameters_to_set: vec![QueryParameter { key: "user".into(), value: "a&b".into() }],
        query_parameters_to_remove: vec!["debug".into()],
        ..OkHttpResponse::default()
    };
    CheckResponse { http_response: Some(HttpResponse::OkResponse(ok)), ..status(Code::Ok) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_query_reach_the_application_as_the_server_wants_them() {
    let policy = Policy::start(|_| Some(changing()));
    let world = World::start("failure: closed", &[policy.address]).await;
    let (status, _, seen) = world.get("/a?debug=1&user=me&q=2", &[("cookie", "c"), ("x-user", "me")]).await;
    assert_eq!((status, seen.as_str()), (200, "/a?q=2&user=a%26b\nx-user: 7"));
    assert_eq!(world.get("/a?debug=1", &[]).await.2, "/a?user=a%26b\nx-user: 7");
    assert_eq!(policy.asked()[0].path, "/a?debug=1&user=me&q=2", "the server reads what the caller wrote");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_switched_off_asks_nobody_and_lets_pass_or_refuses() {
    let policy = Policy::start(|_| Some(status(Code::PermissionDenied)));
    for (settings, expected) in [
        ("filter_enabled: 0", 200),
        ("filter_enabled: 0, deny_at_disable: true, status_on_error: 418", 418),
        ("filter_enabled: 100", 403),
    ] {
        let before = policy.asked().len();
        let world = World::start(settings, &[policy.address]).await;
        assert_eq!(world.get("/", &[]).await.0, expected, "{settings}");
        assert_eq!(policy.asked().len() - before, usize::from(expected == 403), "{settings}");
    }
    let custom = "  authorization: { policies: [{ metadata: { name: c }, spec: { action: CUSTOM, provider: { name: opa }, rules: [{}] } }] }\n";
    let world = World::with("filter_enabled: 0", &[policy.address], custom).await;
    assert_eq!(world.get("/", &[]).await.0, 403, "what a policy demands is asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_requests_are_asked_about_if_half_is_written() {
    let policy = Policy::start(|_| Some(status(Code::PermissionDenied)));
    let world = World::start("filter_enabled: 50", &[policy.address]).await;
    let mut refused = 0;
    for _ in 0..200 {
        refused += usize::from(world.get("/", &[]).await.0 == 403);
    }
    // Ten standard deviations either way.
    assert!((30..=170).contains(&refused), "{refused}");
    assert_eq!(policy.asked().len(), refused);
}
