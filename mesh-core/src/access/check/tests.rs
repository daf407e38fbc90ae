//! Checks over real time and a real socket: coalescing, deadlines, failures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tonic::{Code, Status};

use super::script::{Script, hinted, status};
use super::*;
use crate::access::CacheConfig;
use crate::access::attributes::AttributesBuf;
use crate::time::SystemClock;

const LATENCY: Duration = Duration::from_millis(200);

fn kept(code: Code) -> CheckResponse {
    hinted(code, &json!({"exact": ["request.path"], "absent": [], "valid_duration": "60s"}))
}

fn patient() -> RemoteCheck {
    RemoteCheck::new(CheckConfig { timeout: Duration::from_secs(60), ..CheckConfig::default() })
}

async fn ask(check: &RemoteCheck, script: &Arc<Script>) -> CheckOutcome {
    check.check(script.service(), &AttributesBuf::default().borrow(), &SystemClock, None).await
}

/// Starts `count` checks at once.
fn burst(check: &Arc<RemoteCheck>, script: &Arc<Script>, count: usize) -> Vec<tokio::task::JoinHandle<CheckOutcome>> {
    let one = || {
        let (check, script) = (check.clone(), script.clone());
        tokio::spawn(async move { ask(&check, &script).await })
    };
    (0..count).map(|_| one()).collect()
}

/// Waits until the server has so many questions.
async fn asked(script: &Arc<Script>, count: u64) {
    let all = async {
        while script.calls() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("they ask");
}

/// What answers from the cache moves with the request that is answered.
#[test]
fn a_check_is_not_as_large_as_the_call_it_might_make() {
    let (check, script) = (patient(), Script::answering([]));
    let request = AttributesBuf::default();
    let attributes = request.borrow();
    let about = About { attributes, has_body: false };
    let prepared = || (script.service(), Question::about(attributes));
    let checking = check.ask_if_needed(&about, &SystemClock, prepared);
    assert!(size_of_val(&checking) <= 1024, "{} bytes", size_of_val(&checking));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_on_a_cold_key_makes_one_call() {
    let (check, script) = (Arc::new(patient()), Script::slow(LATENCY, [Ok(kept(Code::Ok))]));
    for task in burst(&check, &script, 100) {
        assert!(matches!(task.await.unwrap(), CheckOutcome::Allow(_)));
    }
    assert_eq!(script.calls(), 1);
    let stats = check.stats();
    assert_eq!((stats.calls, stats.hits + stats.misses), (1, 100));
    assert_eq!(stats.coalesced + stats.hits, 99);
}

#[tokio::test]
async fn each_waiter_keeps_its_own_deadline() {
    let (check, script) = (Arc::new(patient()), Script::held([Ok(kept(Code::Ok))]));
    let mut tasks = burst(&check, &script, 1);
    asked(&script, 1).await;
    let hurried = tokio::time::timeout(Duration::from_millis(50), ask(&check, &script)).await;
    assert!(hurried.is_err());
    script.let_go(1);
    assert!(tasks.remove(0).await.unwrap().is_allowed());
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn a_call_outlives_the_request_that_began_it() {
    let (check, script) = (Arc::new(patient()), Script::slow(LATENCY, [Ok(kept(Code::Ok))]));
    let mut tasks = burst(&check, &script, 1);
    while script.calls() == 0 {
        tokio::task::yield_now().await;
    }
    tasks.extend(burst(&check, &script, 2));
    tokio::time::sleep(Duration::from_millis(50)).await;
    tasks.remove(0).abort();
    for task in tasks {
        assert!(task.await.unwrap().is_allowed());
    }
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn a_failure_is_shared_by_those_who_wait_and_nobody_else() {
    let check = Arc::new(patient());
    let script = Script::slow(Duration::from_millis(50), [Err(Status::unavailable("down"))]);
    for task in burst(&check, &script, 3) {
        let outcome = task.await.unwrap();
        assert!(matches!(outcome, CheckOutcome::Failed { reason: FailureReason::Rpc(Code::Unavailable), .. }));
        assert!(!outcome.is_allowed());
    }
    assert_eq!((script.calls(), check.stats().fail_closed), (1, 3));
    script.then(Ok(kept(Code::Ok)));
    assert!(ask(&check, &script).await.is_allowed());
    assert_eq!(script.calls(), 2);
}

#[tokio::test]
async fn an_answer_is_shared_only_with_requests_it_is_about() {
    let check = Arc::new(patient());
    let by_user = json!({"exact": ["header:x-user"], "absent": [], "valid_duration": "60s"});
    let script = Script::slow(
        Duration::from_millis(50),
        [Ok(hinted(Code::Ok, &by_user)), Ok(hinted(Code::PermissionDenied, &by_user))],
    );
    let request = |user: &str| {
        let mut attributes = AttributesBuf::default();
        attributes.headers.insert("x-user", user.parse().unwrap());
        attributes
    };
    let (good, bad) = (request("good"), request("bad"));
    let (good, bad) = (good.borrow(), bad.borrow());
    let (first, second, third) = tokio::join!(
        check.check(script.service(), &good, &SystemClock, None),
        check.check(script.service(), &bad, &SystemClock, None),
        check.check(script.service(), &good, &SystemClock, None),
    );
    assert!(first.is_allowed() && !second.is_allowed() && third.is_allowed());
    assert_eq!(script.calls(), 2);
}

#[tokio::test]
async fn a_failed_question_with_a_body_neither_gets_nor_uses_up_what_was_kept() {
    let cache = CacheConfig { stale_if_error: true, ..CacheConfig::default() };
    let check = RemoteCheck::new(CheckConfig { cache, ..CheckConfig::default() });
    let once = json!({"exact": ["request.path"], "absent": [], "valid_duration": "60s", "valid_use_count": 1});
    let script = Script::answering([Ok(hinted(Code::Ok, &once)), Err(Status::unavailable("down"))]);
    assert!(ask(&check, &script).await.is_allowed());
    let attributes = AttributesBuf::default();
    let body = Some(SentBody { bytes: Bytes::from_static(b"order"), is_partial: false });
    let question = Question { body, ..Question::about(attributes.borrow()) };
    assert!(!check.ask(script.service(), &question, &SystemClock).await.is_allowed());
    assert_eq!((check.stats().stale_served, check.stats().fail_closed), (0, 1));
    assert!(ask(&check, &script).await.is_allowed(), "the one use is still there");
    assert_eq!((script.calls(), check.stats().hits), (2, 1));
}

#[tokio::test]
async fn an_answer_that_may_not_be_kept_is_not_shared_either() {
    let check = Arc::new(patient());
    let script = Script::held([Ok(status(Code::Ok))]);
    // Three wait for the first one's answer, which is not theirs. After that nobody waits for another's.
    for (while_held, at_last) in [(1, 4), (8, 8)] {
        let tasks = burst(&check, &script, 4);
        asked(&script, while_held).await;
        script.let_go(4);
        for task in tasks {
            assert!(task.await.unwrap().is_allowed());
        }
        assert_eq!(script.calls(), at_last);
    }
}

#[tokio::test]
async fn an_error_answer_follows_the_failure_mode_and_keeps_the_servers_reply() {
    let reply = DeniedHttpResponse { body: "try later".into(), ..DeniedHttpResponse::default() };
    let error = CheckResponse { http_response: Some(HttpResponse::ErrorResponse(reply)), ..status(Code::Internal) };
    for (failure, is_allowed) in [(FailureMode::Closed, false), (FailureMode::Open, true)] {
        let check = RemoteCheck::new(CheckConfig { failure, status_on_error: 503, ..CheckConfig::default() });
        let outcome = ask(&check, &Script::answering([Ok(error.clone())])).await;
        let CheckOutcome::Failed { verdict, reason } = &outcome else { panic!("{outcome:?}") };
        assert_eq!((*reason, verdict.allow), (FailureReason::ServerError, is_allowed));
        if !is_allowed {
            assert_eq!((verdict.status, &verdict.body[..]), (503, &b"try later"[..]));
        }
    }
}

#[tokio::test]
async fn a_marker_the_caller_sent_itself_does_not_survive() {
    let check = RemoteCheck::new(CheckConfig { mark_failure: true, ..CheckConfig::default() });
    let outcome = ask(&check, &Script::answering([Ok(status(Code::Ok))])).await;
    let mut headers = HeaderMap::from_iter([(FAILURE_MARK.parse().unwrap(), HeaderValue::from_static("true"))]);
    check.apply_to_request(&outcome, &mut headers);
    assert!(headers.is_empty());
}

/// A client over one real connection, as a mesh client would be.
#[derive(Clone)]
struct Connection(hyper::client::conn::http2::SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn serve(script: &Arc<Script>) -> (Connection, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(script.service());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, driver) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    (Connection(sender), server)
}

#[tokio::test]
async fn a_server_behind_a_socket_allows_denies_fails_and_hangs() {
    let script = Script::answering([]);
    let (connection, server) = serve(&script).await;
    let waits = |seconds| CheckConfig { timeout: Duration::from_secs(seconds), ..CheckConfig::default() };
    // Longer than a busy machine takes to answer; and one for a server that does not.
    let (patient, hurried) = (RemoteCheck::new(waits(60)), RemoteCheck::new(waits(1)));
    let ask = async |check: &RemoteCheck| {
        check.check(connection.clone(), &AttributesBuf::default().borrow(), &SystemClock, None).await
    };
    script.then(Ok(status(Code::Ok)));
    assert!(matches!(ask(&patient).await, CheckOutcome::Allow(_)));
    let question = script.seen.lock().unwrap()[0].clone().attributes.unwrap();
    assert_eq!(question.source.unwrap().principal, "spiffe://cluster.local/ns/default/sa/caller");
    script.then(Ok(status(Code::PermissionDenied)));
    assert!(matches!(ask(&patient).await, CheckOutcome::Deny(_)));
    script.then(Err(Status::internal("broken")));
    assert!(matches!(ask(&patient).await, CheckOutcome::Failed { reason: FailureReason::Rpc(Code::Internal), .. }));
    script.answers.lock().unwrap().clear();
    let began = Instant::now();
    let outcome = ask(&hurried).await;
    assert!(matches!(outcome, CheckOutcome::Failed { reason: FailureReason::Timeout, .. }), "{outcome:?}");
    assert!(!outcome.is_allowed() && began.elapsed() < Duration::from_secs(20));
    server.abort();
    let _ = server.await;
    assert!(matches!(ask(&hurried).await, CheckOutcome::Failed { .. }));
    let counted = [patient.stats(), hurried.stats()].map(|stats| (stats.calls, stats.fail_closed));
    assert_eq!(counted, [(3, 1), (2, 2)]);
}

/// What a log subscriber wrote.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failure_is_logged_and_a_credential_never_is() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let check = RemoteCheck::new(CheckConfig { failure: FailureMode::Open, ..CheckConfig::default() });
    let mut request = AttributesBuf::default();
    request.headers.insert("authorization", "Bearer open-sesame".parse().unwrap());
    let script = Script::answering([Err(Status::unavailable("open-sesame"))]);
    let outcome = check.check(script.service(), &request.borrow(), &SystemClock, None).await;
    assert!(outcome.is_allowed());
    tracing::info!(?request, attributes = ?request.borrow(), ?check, "debug forms");
    let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("check failed") && log.contains("debug forms"), "{log}");
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn a_question_about_a_connection_holds_no_request() {
    let of = |is_tcp| {
        let attributes = AttributesBuf { is_tcp, ..AttributesBuf::default() };
        let request = check_request(&Question::about(attributes.borrow()), &CheckConfig::default());
        let context = request.attributes.unwrap();
        (context.source.unwrap().principal, context.request.unwrap().http.is_some())
    };
    let principal = AttributesBuf::default().principal.unwrap();
    assert_eq!(of(true), (principal.clone(), false));
    assert_eq!(of(false), (principal, true));
}

#[tokio::test]
async fn an_answer_that_hints_at_claims_is_for_equal_claims() {
    let check = RemoteCheck::new(CheckConfig { claims: true, ..CheckConfig::default() });
    let by = |fact: &str| hinted(Code::Ok, &json!({"exact": ["request.path", fact], "valid_duration": "60s"}));
    let script = Script::answering([Ok(by("request.auth.claims[role]")), Ok(by("request.auth.claims"))]);
    let of = |role: &str, level: u64| {
        let claims = json!({"iss": "a", "sub": "b", "role": role, "level": level}).as_object().cloned().map(Arc::new);
        AttributesBuf { claims, ..AttributesBuf::default() }
    };
    for (role, level, calls) in [("x", 1, 1), ("x", 2, 1), ("y", 1, 2), ("y", 1, 2), ("y", 2, 3), ("x", 3, 3)] {
        check.check(script.service(), &of(role, level).borrow(), &SystemClock, None).await;
        assert_eq!(script.calls(), calls, "{role} {level}");
    }
}
