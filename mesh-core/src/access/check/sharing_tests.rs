//! What a call gives those who wait for it: an answer, a use of it, a failure, or nothing.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse};
use serde_json::json;
use tonic::{Code, Status};

use super::script::{Hands, Script, hinted, status};
use super::*;
use crate::access::attributes::AttributesBuf;
use crate::access::cache::CacheConfig;
use crate::time::SystemClock;

fn kept() -> CheckResponse {
    hinted(Code::Ok, &json!({"exact": ["request.path"], "valid_duration": "60s"}))
}

/// Long enough never to be the reason.
const PATIENCE: Duration = Duration::from_secs(60);

fn check(timeout: Duration) -> Arc<RemoteCheck> {
    Arc::new(RemoteCheck::new(CheckConfig { timeout, ..CheckConfig::default() }))
}

fn spawn(
    check: &Arc<RemoteCheck>,
    script: &Arc<Script>,
    clock: &Arc<impl Clock>,
) -> tokio::task::JoinHandle<CheckOutcome> {
    let (check, script, clock) = (check.clone(), script.clone(), clock.clone());
    tokio::spawn(async move { check.check(script.service(), &AttributesBuf::default().borrow(), &*clock, None).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_on_an_answer_for_few_asks_exactly_as_often_as_that_needs() {
    for uses in [1, 3, 24, 98, 99, 1000] {
        let few = json!({"exact": ["request.path"], "valid_duration": "60s", "valid_use_count": uses});
        let script = Script::slow(Duration::from_millis(1), [Ok(hinted(Code::Ok, &few))]);
        // Its time stands still: nobody grows tired of waiting.
        let (check, clock) = (check(PATIENCE), Arc::new(Hands::new()));
        let burst: Vec<_> = (0..100).map(|_| spawn(&check, &script, &clock)).collect();
        for one in burst {
            assert!(one.await.unwrap().is_allowed());
        }
        assert_eq!(script.calls(), 100_u64.div_ceil(uses + 1), "{uses}");
    }
}

/// Behind a gateway all have one identity; whose answer it is not has nothing to stand in line for.
#[tokio::test]
async fn an_answer_for_few_of_another_user_holds_nobody_up() {
    let few = json!({"exact": ["request.path", "header:x-user"], "valid_duration": "60s", "valid_use_count": 10});
    let (script, check) = (Script::held([Ok(hinted(Code::Ok, &few))]), check(PATIENCE));
    let ask = |user: usize| {
        let (check, script) = (check.clone(), script.clone());
        let mut of = AttributesBuf::default();
        of.headers.insert("x-user", user.into());
        tokio::spawn(async move { check.check(script.service(), &of.borrow(), &SystemClock, None).await })
    };
    let burst: Vec<_> = (0..10).map(ask).collect();
    let asked = async |calls: u64| {
        while script.calls() < calls {
            tokio::task::yield_now().await;
        }
    };
    asked(1).await;
    script.let_go(1);
    tokio::time::timeout(PATIENCE, asked(10)).await.expect("all ask at once, while nobody is answered");
    script.let_go(9);
    for one in burst {
        assert!(one.await.unwrap().is_allowed());
    }
}

#[tokio::test]
async fn who_stood_in_line_for_half_of_the_time_asks_alone() {
    let once = json!({"exact": ["request.path"], "valid_duration": "60s", "valid_use_count": 1});
    let script = Script::slow(Duration::from_millis(1), [Ok(hinted(Code::Ok, &once))]);
    let (check, clock) = (check(Duration::from_secs(2)), Arc::new(Hands::new()));
    let burst: Vec<_> = (0..10).map(|_| spawn(&check, &script, &clock)).collect();
    tokio::task::yield_now().await;
    clock.set(1.0);
    for one in burst {
        assert!(one.await.unwrap().is_allowed());
    }
    assert!(script.calls() > 5, "{} calls, not one after the other", script.calls());
}

#[tokio::test]
async fn what_a_server_could_not_answer_is_no_failure_of_another_question() {
    let reply = HttpResponse::ErrorResponse(DeniedHttpResponse::default());
    let error = CheckResponse { http_response: Some(reply), ..status(Code::Internal) };
    let odd = CheckResponse { status: None, ..CheckResponse::default() };
    for failure in [Err(Status::internal("odd header")), Err(Status::invalid_argument("no")), Ok(error), Ok(odd)] {
        let script = Script::slow(Duration::from_millis(5), [failure.clone(), Ok(kept())]);
        let (check, clock) = (check(PATIENCE), Arc::new(SystemClock));
        let mut allowed = 0;
        let burst: Vec<_> = (0..4).map(|_| spawn(&check, &script, &clock)).collect();
        for one in burst {
            allowed += u32::from(one.await.unwrap().is_allowed());
        }
        assert_eq!((allowed, check.stats().fail_closed), (3, 1), "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaders_time_is_not_that_of_who_came_later() {
    // Nobody answers the first call.
    let script = Script::answering([]);
    let (check, clock) = (check(Duration::from_millis(200)), Arc::new(SystemClock));
    let first = spawn(&check, &script, &clock);
    tokio::time::sleep(Duration::from_millis(190)).await;
    let second = spawn(&check, &script, &clock);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(script.calls(), 1, "the second waits");
    script.then(Ok(kept()));
    assert!(matches!(first.await.unwrap(), CheckOutcome::Failed { reason: FailureReason::Timeout, .. }));
    assert!(second.await.unwrap().is_allowed());
    assert_eq!((script.calls(), check.stats().fail_closed), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_his_own_time_however_many_leaders_fail() {
    let script = Script::answering([]);
    let (check, clock) = (check(Duration::from_millis(200)), Arc::new(SystemClock));
    let began = clock.now();
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push((clock.now(), spawn(&check, &script, &clock)));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let mut last = began;
    for (at, one) in asked {
        assert!(matches!(one.await.unwrap(), CheckOutcome::Failed { reason: FailureReason::Timeout, .. }));
        last = at;
    }
    assert!(clock.now() <= last + Duration::from_millis(201));
}

#[tokio::test]
async fn a_check_that_is_told_the_certificate_or_the_server_name_keeps_an_answer_for_each() {
    let request = |der: &[u8], sni: &str| AttributesBuf {
        certificate: Some(der.into()),
        sni: Some(sni.to_owned()),
        ..AttributesBuf::default()
    };
    let all = [request(b"1", "a"), request(b"2", "a"), request(b"1", "b")];
    for (peer_certificate, tls_session, calls) in
        [(false, false, 1), (true, false, 2), (false, true, 2), (true, true, 3)]
    {
        let check = RemoteCheck::new(CheckConfig { peer_certificate, tls_session, ..CheckConfig::default() });
        let script = Script::answering([Ok(kept())]);
        for request in all.iter().chain(&all) {
            assert!(check.check(script.service(), &request.borrow(), &SystemClock, None).await.is_allowed());
        }
        assert_eq!(script.calls(), calls, "certificate {peer_certificate}, name {tls_session}");
    }
}

#[tokio::test]
async fn a_server_says_with_any_answer_that_its_policy_has_changed() {
    let check = RemoteCheck::new(CheckConfig::default());
    let script = Script::answering([]);
    let ask = async |path: &str| {
        let request = AttributesBuf { path: path.to_owned(), ..AttributesBuf::default() };
        check.check(script.service(), &request.borrow(), &SystemClock, None).await;
        script.calls()
    };
    let of = |epoch: &serde_json::Value| {
        Ok(hinted(Code::Ok, &json!({"exact": ["request.path"], "valid_duration": "60s", "epoch": epoch})))
    };
    script.then(of(&json!(7)));
    assert_eq!((ask("/a").await, ask("/a").await), (1, 1));
    script.then(of(&json!(8)));
    assert_eq!((ask("/b").await, ask("/a").await, ask("/a").await), (2, 3, 3));
    script.then(of(&json!(1.5)));
    assert_eq!(ask("/c").await, 4);
    assert_eq!((check.stats().malformed_hints, check.stats().voided), (1, 1));
}

#[tokio::test]
async fn an_epoch_alone_leaves_to_the_configuration_how_long_an_answer_holds() {
    let cache =
        crate::access::CacheConfig::keyed(vec![crate::access::Fact::Path], Duration::from_secs(3), Duration::ZERO);
    let check = RemoteCheck::new(CheckConfig { cache, ..CheckConfig::default() });
    let (script, clock) = (Script::answering([Ok(hinted(Code::Ok, &json!({"epoch": "v1"})))]), Hands::new());
    for (seconds, calls) in [(0.0, 1), (2.9, 1), (3.0, 2)] {
        clock.set(seconds);
        check.check(script.service(), &AttributesBuf::default().borrow(), &clock, None).await;
        assert_eq!(script.calls(), calls, "{seconds}");
    }
}

#[tokio::test]
async fn a_failure_that_nobody_feels_is_counted() {
    let script = Script::answering([Ok(kept()), Err(Status::unavailable("down"))]);
    let cache = CacheConfig { refresh_ahead: Some(0.5), ..CacheConfig::default() };
    let check = Arc::new(RemoteCheck::new(CheckConfig { timeout: PATIENCE, cache, ..CheckConfig::default() }));
    let clock = Arc::new(Hands::new());
    assert!(spawn(&check, &script, &clock).await.unwrap().is_allowed());
    clock.set(40.0);
    assert!(spawn(&check, &script, &clock).await.unwrap().is_allowed(), "the answer holds for 20 s more");
    let counted = async {
        while check.failures(Fate::Refresh, "rpc") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("the refresh fails");
    assert_eq!((script.calls(), check.failures(Fate::FailClosed, "rpc")), (2, 0));
}
