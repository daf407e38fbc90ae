use http::HeaderValue;
use serde_json::Value;

use super::*;
use crate::policy::backoff::Jitter;
use crate::policy::budget::BudgetConfig;
use crate::policy::retry_after::PUSHBACK;
use crate::policy::vectors::{cases, seconds, text, whole};

mod rules;
mod storm;

const HINTS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/retry_after.json"));
const BACKOFFS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/backoff.json"));

/// One logical request under test.
struct Call {
    state: RetryState,
    facts: RequestFacts,
    now: Instant,
    rng: fastrand::Rng,
}

impl Call {
    fn new(policy: RetryPolicy) -> Self {
        Self::sharing(policy, Arc::new(Budget::default()))
    }

    fn sharing(policy: RetryPolicy, budget: Arc<Budget>) -> Self {
        let now = Instant::now();
        let facts = RequestFacts {
            idempotent: true,
            body_replayable: true,
            committed: false,
            deadline: None,
            wall: SystemTime::UNIX_EPOCH,
        };
        let state = RetryState::start(Arc::new(policy), budget, now);
        Self { state, facts, now, rng: fastrand::Rng::with_seed(1) }
    }

    fn decide(&mut self, outcome: &Outcome<'_>) -> Decision {
        self.state.decide(outcome, &self.facts, self.now, &mut self.rng)
    }

    fn status(&mut self, status: u16, headers: &HeaderMap) -> Decision {
        self.decide(&Outcome::Response { status, grpc_status: None, headers })
    }

    fn grpc(&mut self, code: u16, headers: &HeaderMap) -> Decision {
        self.decide(&Outcome::Response { status: 200, grpc_status: Some(code), headers })
    }

    fn failure(&mut self, kind: ErrorKind, sent: Sent) -> Decision {
        self.decide(&Outcome::Failure { kind, sent })
    }
}

fn policy(retry_on: &str, retries: u32) -> RetryPolicy {
    RetryPolicy { retries, conditions: RetryConditions::parse(retry_on).0, ..RetryPolicy::default() }
}

fn retries(decision: Decision) -> bool {
    matches!(decision, Decision::Retry { .. })
}

/// Attempts made against an upstream that always gives the same answer.
fn attempts_against(policy: RetryPolicy, answer: impl Fn(&mut Call) -> Decision) -> u64 {
    let mut call = Call::new(policy);
    let mut attempts = 1;
    while retries(answer(&mut call)) {
        attempts += 1;
    }
    attempts
}

fn small_budget(retries: u32) -> Arc<Budget> {
    Arc::new(Budget::new(BudgetConfig::new(0.0, retries, Duration::from_secs(1)).expect("valid")))
}

fn header(name: &'static str, value: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_str(&value.to_string()).expect("value"));
    headers
}

fn check_cap(case: &Value) {
    let hint_cap = seconds(case, "configured_cap_seconds");
    let mut call = Call::new(RetryPolicy { hint_cap, ..RetryPolicy::default() });
    call.facts.deadline = case["deadline_left_seconds"].as_u64().map(|left| call.now + Duration::from_secs(left));
    let decision = call.status(503, &header("retry-after", &case["hint_seconds"]));
    let expected = match text(&case["expected"], "action") {
        "retry" => Decision::Retry { after: seconds(&case["expected"], "wait_seconds") },
        "return_response_now" => Decision::Stop(StopReason::NoTime),
        other => panic!("unknown action {other}"),
    };
    assert_eq!(decision, expected, "{}", text(case, "id"));
}

fn check_pushback_sequence(case: &Value) {
    let p = &case["policy"];
    let millis = |field| Duration::from_millis(whole(p, field));
    let backoff = Backoff::new(millis("initial_backoff_ms"), millis("max_backoff_ms")).expect("valid");
    let backoff = backoff.with_jitter(Jitter::Off).expect("valid");
    let mut call = Call::new(RetryPolicy { backoff, ..policy("unavailable", whole(p, "max_attempts") as u32 - 1) });
    let mut waits = Vec::new();
    for response in case["responses"].as_array().expect("responses") {
        let code = if response["status"] == "OK" { 0 } else { 14 };
        let headers = match &response["pushback_ms"] {
            Value::Null => HeaderMap::new(),
            ms => header(PUSHBACK, ms),
        };
        match call.grpc(code, &headers) {
            Decision::Retry { after } => waits.push(after.as_millis() as u64),
            Decision::Stop(_) => break,
        }
    }
    let expected: Vec<_> = case["expected"]["waits_ms"].as_array().expect("waits").iter().map(Value::as_u64).collect();
    assert_eq!(waits.into_iter().map(Some).collect::<Vec<_>>(), expected, "{}", text(case, "id"));
}

#[test]
fn a_pushback_beyond_the_cap_ends_the_call_as_a_retry_after_does() {
    for (name, value) in [(PUSHBACK, 2001), ("retry-after", 3), (PUSHBACK, 2000), ("retry-after", 2)] {
        let policy = RetryPolicy { hint_cap: Duration::from_secs(2), ..policy("unavailable", 3) };
        let headers = header(name, &Value::from(value));
        let expected = match value {
            2 | 2000 => Decision::Retry { after: Duration::from_secs(2) },
            _ => Decision::Stop(StopReason::NoTime),
        };
        assert_eq!(Call::new(policy).grpc(14, &headers), expected, "{name} {value}");
    }
}

#[test]
fn every_hint_vector_about_the_decision_holds() {
    let (mut caps, mut sequences, mut read_elsewhere) = (0, 0, 0);
    for case in cases(HINTS) {
        match text(&case, "kind") {
            "cap" => {
                check_cap(&case);
                caps += 1;
            }
            "grpc_pushback_sequence" => {
                check_pushback_sequence(&case);
                sequences += 1;
            }
            // Reading the headers is tested in policy/retry_after.
            "parse" | "grpc_pushback" => read_elsewhere += 1,
            other => panic!("unknown kind {other}"),
        }
    }
    assert_eq!((caps, sequences, read_elsewhere), (8, 2, 67));
}

#[test]
fn a_backoff_that_does_not_fit_the_deadline_ends_the_call() {
    let all = cases(BACKOFFS);
    let case = all.iter().find(|case| case["id"] == "deadline-shorter-than-backoff").expect("vector");
    let delay = Duration::from_millis(whole(&case["parameters"], "computed_delay_ms"));
    let backoff = Backoff::new(delay, delay).expect("valid").with_jitter(Jitter::Off).expect("valid");
    let budget = small_budget(1);
    let mut call = Call::sharing(RetryPolicy { backoff, ..RetryPolicy::default() }, Arc::clone(&budget));
    call.facts.deadline = Some(call.now + Duration::from_millis(whole(&case["parameters"], "deadline_left_ms")));
    assert_eq!(call.status(503, &HeaderMap::new()), Decision::Stop(StopReason::NoTime));
    assert_eq!(budget.balance(call.now), 1, "a retry that cannot happen costs nothing");
}

#[test]
fn a_token_is_charged_for_each_retry_and_deposited_once() {
    let budget = Arc::new(Budget::new(BudgetConfig::new(1.0, 2, Duration::from_secs(1)).expect("valid")));
    let mut call = Call::sharing(policy("5xx", 9), Arc::clone(&budget));
    assert_eq!(budget.balance(call.now), 3);
    for left in [2, 1, 0] {
        assert!(retries(call.status(500, &HeaderMap::new())));
        assert_eq!(budget.balance(call.now), left);
    }
    assert_eq!(call.status(500, &HeaderMap::new()), Decision::Stop(StopReason::BudgetEmpty));
    assert_eq!(call.state.used(), 3);
}

#[test]
fn every_refusal_says_why() {
    type Setup = fn(&mut Call) -> Decision;
    let table: [(Setup, StopReason); 9] = [
        (|call| call.status(200, &HeaderMap::new()), StopReason::Success),
        (|call| call.grpc(5, &HeaderMap::new()), StopReason::NotRetriable),
        (|call| call.status(404, &HeaderMap::new()), StopReason::NotRetriable),
        (|call| call.failure(ErrorKind::Overloaded, Sent::Never), StopReason::NotRetriable),
        (|call| call.failure(ErrorKind::CircuitOpen, Sent::Never), StopReason::NotRetriable),
        (|call| call.status(503, &header(PUSHBACK, &(-1).into())), StopReason::PushbackForbids),
        (
            |call| {
                call.facts.idempotent = false;
                call.failure(ErrorKind::Reset, Sent::Maybe)
            },
            StopReason::NonIdempotent,
        ),
        (
            |call| {
                call.facts.body_replayable = false;
                call.failure(ErrorKind::Connect, Sent::Never)
            },
            StopReason::BodyNotReplayable,
        ),
        (
            |call| {
                while retries(call.status(503, &HeaderMap::new())) {}
                call.status(503, &HeaderMap::new())
            },
            StopReason::AttemptsExhausted,
        ),
    ];
    for (setup, reason) in table {
        assert_eq!(setup(&mut Call::new(RetryPolicy::default())), Decision::Stop(reason), "{}", reason.as_str());
    }
}

#[test]
fn conditions_match_the_failures_they_name_and_no_others() {
    use ErrorKind::{AttemptTimeout, Connect, NoEndpoint, Reset, Tls};
    for (retry_on, kind, sent, expected) in [
        ("connect-failure", Connect, Sent::Never, true),
        ("connect-failure", Tls, Sent::Never, true),
        ("connect-failure", Reset, Sent::Maybe, false),
        ("refused-stream", Reset, Sent::Unprocessed, true),
        ("refused-stream", Reset, Sent::Maybe, false),
        ("reset", Reset, Sent::Maybe, true),
        ("reset-before-request", Reset, Sent::Maybe, false),
        ("reset-before-request", Reset, Sent::Never, true),
        ("attempt-timeout", AttemptTimeout, Sent::Maybe, true),
        ("attempt-timeout", Reset, Sent::Maybe, false),
        ("deadline-exceeded", AttemptTimeout, Sent::Maybe, true),
        ("unavailable", Connect, Sent::Never, true),
        ("UNAVAILABLE", NoEndpoint, Sent::Never, true),
        ("5xx", NoEndpoint, Sent::Never, false),
        ("retriable-4xx", Reset, Sent::Maybe, false),
    ] {
        let decision = Call::new(policy(retry_on, 1)).failure(kind, sent);
        assert_eq!(retries(decision), expected, "{retry_on} on {kind} {sent:?}");
    }
}

#[test]
fn no_condition_retries_our_own_refusals() {
    let names = "5xx,gateway-error,reset,connect-failure,refused-stream,reset-before-request,attempt-timeout,unavailable,\
                 cancelled,deadline-exceeded,internal,resource-exhausted,envoy-ratelimited,retriable-status-codes";
    let transport = ["no_endpoint", "connect", "connect_timeout", "tls", "peer_identity", "connection_closed", "reset"];
    let retriable: Vec<_> = transport.into_iter().chain(["protocol", "attempt_timeout"]).collect();
    for kind in ErrorKind::ALL {
        let decision = Call::new(policy(names, 1)).failure(*kind, Sent::Never);
        assert_eq!(retries(decision), retriable.contains(&kind.as_str()), "{kind}");
    }
}

#[test]
fn unknown_condition_names_are_reported_and_match_nothing() {
    let (conditions, unknown) = RetryConditions::parse("gateway-error, nope,,OK, RESOURCE_EXHAUSTED");
    assert_eq!(unknown, ["nope", "OK"]);
    let both = RetryConditions::named("gateway-error").expect("known").with_grpc_code(8);
    assert_eq!(conditions, both);
    assert!(RetryConditions::parse("").0.is_empty());
    assert_eq!(RetryConditions::NONE.with_grpc_code(17), RetryConditions::NONE);
    assert_eq!(RetryConditions::named(""), None);
}

#[test]
fn a_rate_limited_response_is_retried_only_by_its_own_condition() {
    let limited = header("x-envoy-ratelimited", &true.into());
    assert!(!retries(Call::new(policy("5xx", 1)).status(503, &limited)));
    assert!(retries(Call::new(policy("envoy-ratelimited", 1)).status(429, &limited)));
}

#[test]
fn a_reset_grpc_call_is_not_repeated_although_its_status_would_be() {
    let mut call = Call::new(policy("unavailable", 1));
    call.facts.idempotent = false;
    assert_eq!(call.failure(ErrorKind::Reset, Sent::Maybe), Decision::Stop(StopReason::NonIdempotent));
    assert!(retries(call.grpc(14, &HeaderMap::new())));
}

#[test]
fn a_response_header_that_the_policy_names_is_retried_by_its_own_condition() {
    let marked = header("x-again", &true.into());
    let named = |retry_on| RetryPolicy {
        retriable_headers: Some(HeaderRule::new(|headers| headers.contains_key("x-again"))),
        ..policy(retry_on, 1)
    };
    assert!(retries(Call::new(named("retriable-headers")).status(200, &marked)));
    assert!(!retries(Call::new(named("retriable-headers")).status(200, &HeaderMap::new())));
    assert!(!retries(Call::new(named("5xx")).status(200, &marked)));
}

#[test]
fn o13_an_idempotency_key_makes_a_post_repeatable_only_where_the_policy_believes_it() {
    let keyed = header("idempotency-key", &"7f".into());
    let believing = RetryPolicy { idempotency_key: true, ..RetryPolicy::default() };
    assert!(believing.is_idempotent(&Method::POST, &keyed));
    assert!(!believing.is_idempotent(&Method::POST, &HeaderMap::new()));
    assert!(!RetryPolicy::default().is_idempotent(&Method::POST, &keyed));
    assert!(RetryPolicy::default().is_idempotent(&Method::PUT, &HeaderMap::new()));
}

/// A call that the policy reaches only so far.
fn reaching(policy: RetryPolicy, headers: &HeaderMap, attempt: u32) -> Call {
    let budget = Arc::new(Budget::default());
    let mut call = Call::sharing(policy, Arc::clone(&budget));
    let policy = Arc::clone(&call.state.policy);
    call.state = RetryState::reaching(policy.reach(headers, attempt), (policy, budget), call.now);
    call
}

#[test]
fn a_retry_of_our_caller_is_repeated_only_if_it_was_proven_unprocessed() {
    let plain = HeaderMap::new();
    assert!(retries(reaching(RetryPolicy::default(), &plain, 1).status(503, &plain)));
    let mut nested = reaching(RetryPolicy::default(), &plain, 2);
    assert_eq!(nested.status(503, &plain), Decision::Stop(StopReason::NestedRetry));
    assert_eq!(nested.failure(ErrorKind::Reset, Sent::Maybe), Decision::Stop(StopReason::NestedRetry));
    assert!(retries(nested.failure(ErrorKind::Connect, Sent::Never)));
    assert!(retries(nested.failure(ErrorKind::Reset, Sent::Unprocessed)));
    let allowed = RetryPolicy { nested: true, ..RetryPolicy::default() };
    assert!(retries(reaching(allowed, &plain, 2).status(503, &plain)));
}

#[test]
fn a_retry_of_our_caller_earns_no_budget() {
    let plain = HeaderMap::new();
    let config = BudgetConfig::new(1.0, 0, Duration::from_secs(1)).expect("valid");
    for (attempt, earned) in [(1, 1), (2, 0)] {
        let (budget, policy) = (Arc::new(Budget::new(config)), Arc::<RetryPolicy>::default());
        let now = Instant::now();
        let reach = policy.reach(&plain, attempt);
        let _state = RetryState::reaching(reach, (policy, Arc::clone(&budget)), now);
        assert_eq!(budget.balance(now), earned, "attempt {attempt}");
    }
}

#[test]
fn requests_that_the_policy_is_not_about_are_never_repeated() {
    let about = RetryPolicy {
        request_headers: Some(HeaderRule::new(|headers| headers.contains_key("x-retry"))),
        ..RetryPolicy::default()
    };
    let plain = HeaderMap::new();
    assert!(retries(reaching(about.clone(), &header("x-retry", &1.into()), 1).status(503, &plain)));
    assert_eq!(reaching(about, &plain, 1).status(503, &plain), Decision::Stop(StopReason::NotRetriable));
}

#[test]
fn a_peer_that_gave_up_itself_is_not_asked_again() {
    let gave_up = header("x-mesh-should-retry", &false.into());
    assert_eq!(Call::new(RetryPolicy::default()).status(503, &gave_up), Decision::Stop(StopReason::PeerGaveUp));
    let may = header("x-mesh-should-retry", &true.into());
    assert!(retries(Call::new(RetryPolicy::default()).status(503, &may)));
    assert_eq!(Call::new(RetryPolicy::default()).status(200, &gave_up), Decision::Stop(StopReason::Success));
}

#[test]
fn only_a_call_that_was_tried_enough_tells_its_caller_so() {
    let plain = HeaderMap::new();
    let after = |policy: RetryPolicy, budget: Arc<Budget>| {
        let mut call = Call::sharing(policy, budget);
        loop {
            if let Decision::Stop(reason) = call.status(503, &plain) {
                return call.state.gave_up(reason);
            }
        }
    };
    let off = RetryPolicy { retries: 0, ..RetryPolicy::default() };
    assert!(after(RetryPolicy::default(), Arc::new(Budget::default())));
    assert!(after(RetryPolicy::default(), small_budget(0)));
    assert!(!after(off, Arc::new(Budget::default())));
    assert!(!after(policy("reset", 2), Arc::new(Budget::default())));
}
