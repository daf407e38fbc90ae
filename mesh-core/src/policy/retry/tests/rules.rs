//! The published rules: methods, Envoy's `retry_on`, gRPC's statuses, Gateway API's codes.

use std::collections::BTreeMap;

use http::header::RETRY_AFTER;

use super::*;

const RULES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/retry_rules.json"));

/// Kinds of `retry_rules.json` that other engines or other products decide.
const OTHER_KINDS: &[(&str, &str)] = &[
    ("retry_budget", "policy/budget"),
    ("retry_budget_interleaved", "policy/budget"),
    ("retry_budget_simulation", "policy/budget"),
    ("retry_budget_timeline", "policy/budget"),
    ("retry_budget_validity", "policy/budget"),
    ("envoy_budget", "a budget by concurrency; ours is by rate"),
    ("envoy_max_retries", "a budget by concurrency; ours is by rate"),
    ("grpc_throttle", "a budget by outcome; ours is by rate"),
    ("grpc_throttle_validity", "a budget by outcome; ours is by rate"),
    ("aws_bucket", "a budget by outcome; ours is by rate"),
    ("grpc_policy_validity", "gRPC service config is not read"),
    ("grpc_hedging", "policy/hedge"),
];

/// Transparent retries happen below this engine, where the connection is known.
const TRANSPARENT: &[&str] = &["grpc-transparent-never-left-client", "grpc-transparent-refused-by-server"];

fn check_method_phase(case: &Value) {
    use ErrorKind::{AttemptTimeout, Cancelled, Connect, ConnectionClosed, Reset, Timeout};
    let method = Method::from_bytes(text(case, "method").as_bytes()).expect("method");
    let opted_in = case["opt_in"].is_string();
    let mut call = Call::new(RetryPolicy { non_idempotent: opted_in, ..RetryPolicy::default() });
    call.facts.idempotent = is_idempotent(&method);
    call.facts.body_replayable = case["body"].as_str() != Some("streaming, larger than the buffer limit");
    let phase = text(case, "phase");
    call.facts.committed = phase == "reset-mid-response" || phase.ends_with("10 bytes handed over");
    let mut headers = HeaderMap::new();
    if let Some(hint) = case["retry_after"].as_str() {
        headers.insert(RETRY_AFTER, HeaderValue::from_str(hint).expect("value"));
    }
    let decision = match phase {
        "connect-refused" => call.failure(Connect, Sent::Never),
        "h2-refused-stream" => call.failure(Reset, Sent::Unprocessed),
        "goaway-above-last-id" => call.failure(ConnectionClosed, Sent::Unprocessed),
        "response-503" => call.status(503, &headers),
        "per-try-timeout" | "100 Continue received, then per-try timeout" => call.failure(AttemptTimeout, Sent::Maybe),
        "caller-cancelled" => call.failure(Cancelled, Sent::Maybe),
        "overall-deadline" => call.failure(Timeout, Sent::Maybe),
        "reset-after-send" | "reset-mid-response" | "reset before first byte on a brand-new connection" => {
            call.failure(Reset, Sent::Maybe)
        }
        "stale-reused-connection"
        | "10 of 100 body bytes, then close; response buffered, nothing handed over"
        | "10 of 100 body bytes, then close; 10 bytes handed over" => call.failure(ConnectionClosed, Sent::Maybe),
        other => panic!("unknown phase {other}"),
    };
    assert_eq!(retries(decision), case["expected"]["retry"] == true, "{}: {decision:?}", text(case, "id"));
}

fn check_envoy_retry_on(case: &Value) {
    let (status, headers) = (whole(case, "upstream_status") as u16, HeaderMap::new());
    let policy = policy(text(case, "retry_on"), whole(case, "num_retries") as u32);
    let attempts = attempts_against(policy, |call| call.status(status, &headers));
    assert_eq!(attempts, whole(&case["expected"], "attempts"), "{}", text(case, "id"));
}

fn check_envoy_grpc_on(case: &Value) {
    let (code, headers) = (whole(case, "grpc_status") as u16, HeaderMap::new());
    let policy = policy(text(case, "retry_on"), whole(case, "num_retries") as u32);
    let attempts = attempts_against(policy, |call| {
        // As it really is: every gRPC call is a POST.
        call.facts.idempotent = false;
        call.grpc(code, &headers)
    });
    assert_eq!(attempts, whole(&case["expected"], "attempts"), "{}", text(case, "id"));
}

fn check_gateway_api(case: &Value) {
    let number = |value: &Value| value.as_u64().expect("status") as u16;
    let codes = case["retry_codes"].as_array().expect("codes").iter().map(number).collect();
    let base = policy("retriable-status-codes", whole(case, "retries") as u32);
    let mut call = Call::new(RetryPolicy { retriable_codes: codes, ..base });
    let (mut attempts, mut last) = (0, 0);
    for status in case["upstream_statuses"].as_array().expect("statuses").iter().map(number) {
        (attempts, last) = (attempts + 1, status);
        if !retries(call.status(status, &HeaderMap::new())) {
            break;
        }
    }
    assert_eq!(u64::from(last), whole(&case["expected"], "final_status"), "{}", text(case, "id"));
    assert_eq!(attempts, whole(&case["expected"], "attempts"), "{}", text(case, "id"));
}

/// The server answers UNAVAILABLE until its counter of retry attempts reaches 4.
fn check_grpc_num_retries(case: &Value) {
    let mut call = Call::new(policy("unavailable", whole(case, "num_retries") as u32));
    call.facts.idempotent = false;
    let mut attempts = 1;
    let last = loop {
        let code = if attempts > 4 { 0 } else { 14 };
        if !retries(call.grpc(code, &HeaderMap::new())) {
            break code;
        }
        attempts += 1;
    };
    assert_eq!(if last == 0 { "OK" } else { "UNAVAILABLE" }, text(&case["expected"], "final_status"));
    assert_eq!(attempts, whole(&case["expected"], "attempts"));
}

fn check_grpc_rule(case: &Value) {
    let mut call = Call::new(policy("unavailable", 1));
    let decision = match text(case, "id") {
        "grpc-lb-drop-fails-at-once" => call.failure(ErrorKind::Overloaded, Sent::Never),
        "grpc-lb-transient-failure-uses-policy" => call.failure(ErrorKind::NoEndpoint, Sent::Never),
        "grpc-committed-after-headers" => {
            call.facts.committed = true;
            call.grpc(14, &HeaderMap::new())
        }
        "grpc-buffer-exceeded-commits" => {
            call.facts.body_replayable = false;
            call.grpc(14, &HeaderMap::new())
        }
        other => panic!("unknown rule {other}"),
    };
    assert_eq!(retries(decision), case["expected"]["retry"] == true, "{}: {decision:?}", text(case, "id"));
}

fn check_rule(case: &Value) {
    let headers = HeaderMap::new();
    match text(case, "id") {
        "budget-denied-returns-last-error" => {
            let mut call = Call::sharing(RetryPolicy::default(), small_budget(0));
            assert_eq!(call.status(503, &headers), Decision::Stop(StopReason::BudgetEmpty));
        }
        "budget-shared-by-layers" => {
            let budget = small_budget(1);
            let mut first = Call::sharing(RetryPolicy::default(), Arc::clone(&budget));
            let mut second = Call::sharing(RetryPolicy::default(), budget);
            second.now = first.now;
            assert!(retries(first.status(503, &headers)));
            assert_eq!(second.status(503, &headers), Decision::Stop(StopReason::BudgetEmpty));
        }
        "cancellation-is-not-an-error" => {
            let budget = small_budget(1);
            let mut call = Call::sharing(RetryPolicy::default(), Arc::clone(&budget));
            assert!(!retries(call.failure(ErrorKind::Cancelled, Sent::Maybe)));
            assert_eq!(budget.balance(call.now), 1);
        }
        other => panic!("unknown rule {other}"),
    }
}

#[test]
fn every_retry_rule_vector_holds() {
    let mut count = BTreeMap::new();
    for case in cases(RULES) {
        let kind = text(&case, "kind").to_owned();
        match kind.as_str() {
            "method_phase" => check_method_phase(&case),
            "envoy_retry_on" => check_envoy_retry_on(&case),
            "envoy_retry_grpc_on" => check_envoy_grpc_on(&case),
            "gateway_api_retry" => check_gateway_api(&case),
            "grpc_num_retries" => check_grpc_num_retries(&case),
            "grpc_rule" if TRANSPARENT.contains(&text(&case, "id")) => continue,
            "grpc_rule" => check_grpc_rule(&case),
            "rule" => check_rule(&case),
            other if OTHER_KINDS.iter().any(|(name, _)| *name == other) => continue,
            other => panic!("unknown kind {other}"),
        }
        *count.entry(kind).or_insert(0) += 1;
    }
    let expected = [
        ("method_phase", 109),
        ("envoy_retry_on", 90),
        ("envoy_retry_grpc_on", 40),
        ("gateway_api_retry", 5),
        ("grpc_num_retries", 2),
        ("grpc_rule", 4),
        ("rule", 3),
    ];
    assert_eq!(count, expected.map(|(kind, n)| (kind.to_owned(), n)).into());
}
