//! The policy cache vectors: sequences of requests and answers, played through a whole check.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::Struct;
use http::{HeaderMap, HeaderName};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};

use super::script::{Hands, Script, hinted, list, pairs, status, text, value};
use super::*;
use crate::access::attributes::AttributesBuf;
use crate::access::cache::CacheConfig;
use crate::access::fact::Fact;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/policy_cache.json"));

/// Cases that are not a plain sequence, and where they are asserted.
const ELSEWHERE: [(&str, &str); 11] = [
    ("uses-concurrent", "cache::tests::a_grant_of_uses_is_exact_under_contention"),
    ("defect-02-hash-collision", "cache::tests::colliding_hashes_never_mix_verdicts"),
    (
        "defect-03-reference-sets-bounded",
        "cache::tests::a_server_that_varies_its_references_costs_a_bounded_number_of_sets",
    ),
    ("defect-05-no-single-lock", "cache::table::tests::who_inserts_does_not_stop_who_looks_up (8 cores not assumed)"),
    ("defect-06-single-flight", "check::tests::a_burst_on_a_cold_key_makes_one_call"),
    ("defect-06-waiter-deadline", "check::tests::each_waiter_keeps_its_own_deadline"),
    ("defect-06-leader-cancelled", "check::tests::a_call_outlives_the_request_that_began_it"),
    ("defect-06-error-not-shared-for-ever", "check::tests::a_failure_is_shared_by_those_who_wait_and_nobody_else"),
    ("defect-09-epoch-inflight", "cache::tests::an_answer_from_before_a_policy_change_is_not_kept"),
    (
        "defect-10-quota-open",
        "tests/global_limits: o44_a_rate_limit_service_that_is_down_is_never_reported_as_a_limit (open, rpc)",
    ),
    ("not-cacheable-body-sent", "cache::tests::an_answer_to_a_question_with_a_body_is_not_kept"),
];

#[tokio::test]
async fn every_sequence_gives_the_verdicts_the_vectors_say() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let sequences: Vec<&Json> = list(&vectors["cases"]).filter(|case| case.get("kind").is_none()).collect();
    assert_eq!(sequences.len(), 61);
    let is_elsewhere = |case: &Json| ELSEWHERE.iter().any(|(id, _)| case["id"] == *id);
    let mut played = 0;
    for case in sequences.into_iter().filter(|case| !is_elsewhere(case)) {
        play(case).await;
        played += 1;
    }
    assert_eq!(played, 61 - ELSEWHERE.len());
}

struct Stage {
    id: String,
    check: RemoteCheck,
    script: Arc<Script>,
    clock: Hands,
}

async fn play(case: &Json) {
    let stage = Stage {
        id: text(&case["id"]),
        check: RemoteCheck::new(config(&case["config"])),
        script: Script::answering([]),
        clock: Hands::new(),
    };
    for (index, event) in list(&case["events"]).enumerate() {
        stage.clock.set(event["at_s"].as_f64().unwrap());
        match event["do"].as_str().unwrap() {
            "request" => stage.request(index, event).await,
            "store" => {
                let attributes = attributes(&event["attributes"]);
                let answer = interpret(answer(&event["answer"]).unwrap(), 403).unwrap();
                let leader = stage.check.cache.lead_alone(stage.clock.now());
                leader.complete(&attributes.borrow(), answer, None).unwrap();
            }
            "policy_epoch_changed" => stage.check.void_all(),
            other => panic!("{}: unknown event {other}", stage.id),
        }
    }
}

impl Stage {
    async fn request(&self, index: usize, event: &Json) {
        let at = format!("{} event {index}", self.id);
        if let Some(told) = event.get("server_answers") {
            self.script.then(answer(told));
        }
        let (before, calls) = (self.check.stats(), self.script.calls());
        let attributes = attributes(&event["attributes"]);
        let bounds = ["token_expires_at_s", "peer_certificate_not_after_s"];
        let max_expiry = bounds.iter().filter_map(|name| event[*name].as_f64()).map(|s| self.clock.at(s)).min();
        let outcome = self.check.check(self.script.service(), &attributes.borrow(), &self.clock, max_expiry).await;
        let expected = &event["expected"];
        let is_called = expected["server_called"].as_bool().unwrap();
        self.settle(calls + u64::from(is_called)).await;
        assert_eq!(self.script.calls() - calls, u64::from(is_called), "{at}: calls");
        assert_eq!(outcome.is_allowed(), expected["verdict"] == "allow", "{at}: {outcome:?}");
        let after = self.check.stats();
        let was = match (after.hits - before.hits, after.stale_served - before.stale_served) {
            (1, 0) => "hit",
            (0, 1) => "stale",
            _ => "miss",
        };
        match expected["cache"].as_str().unwrap() {
            // Nothing was there before the first request: what it fetched must not be there after it either.
            "uncacheable" if index == 0 => assert_eq!((was, after.entries), ("miss", 0), "{at}"),
            "uncacheable" => assert_eq!(was, "miss", "{at}"),
            expected => assert_eq!(was, expected, "{at}"),
        }
        self.consequences(&at, event, (&outcome, before, after));
    }

    fn consequences(&self, at: &str, event: &Json, result: (&CheckOutcome, CacheStats, CacheStats)) {
        let (outcome, before, after) = result;
        match event["counter"].as_str() {
            Some("fail_closed +1") => assert_eq!(after.fail_closed - before.fail_closed, 1, "{at}"),
            Some("fail_open +1") => assert_eq!(after.fail_open - before.fail_open, 1, "{at}"),
            Some(other) => panic!("{at}: unknown counter {other}"),
            None => {}
        }
        if let Some(pair) = event["request_header_added"].as_array() {
            let mut headers = HeaderMap::new();
            self.check.apply_to_request(outcome, &mut headers);
            assert_eq!(headers[pair[0].as_str().unwrap()], pair[1].as_str().unwrap(), "{at}");
        }
        if let Some(status) = event["response_status"].as_u64() {
            assert_eq!(u64::from(outcome.verdict().status), status, "{at}");
        }
    }

    /// Lets a background refresh come to its end.
    async fn settle(&self, calls: u64) {
        for _ in 0..100 {
            if self.script.calls() >= calls {
                break;
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

fn config(json: &Json) -> CheckConfig {
    let seconds = |name: &str, default: Duration| json[name].as_f64().map_or(default, Duration::from_secs_f64);
    let count = |name: &str| usize::try_from(json[name].as_u64().unwrap()).unwrap();
    let defaults = CacheConfig::default();
    let key = json["local_key"].as_array().map(|names| names.iter().map(|name| Fact::parse(&text(name)).unwrap()));
    let cache = CacheConfig {
        key: key.map(Iterator::collect),
        ttl: seconds("local_ttl_s", defaults.ttl),
        max_ttl: seconds("max_ttl_s", defaults.max_ttl),
        max_negative_ttl: seconds("max_negative_ttl_s", defaults.max_negative_ttl),
        max_entries: count("max_entries"),
        max_reference_sets: count("max_reference_sets"),
        refresh_ahead: json["refresh_ahead_ratio"].as_f64(),
        stale_if_error: json["stale_if_error"].as_bool().unwrap_or_default(),
        cache_header_changes: json["cache_header_ops"].as_bool().unwrap_or_default(),
        ..defaults
    };
    let failure = if json["fail_mode"] == "open" { FailureMode::Open } else { FailureMode::Closed };
    CheckConfig { failure, cache, ..CheckConfig::default() }
}

/// The vectors also use bare names. `a` and `b` become facts that may hold any byte.
fn fact_name(name: &str) -> String {
    match name {
        "a" => "request.path".to_owned(),
        "b" => "request.query".to_owned(),
        "x" | "y" => format!("header:{name}"),
        name => name.to_owned(),
    }
}

fn attributes(json: &Json) -> AttributesBuf {
    let mut attributes = AttributesBuf::default();
    for (name, value) in json.as_object().unwrap() {
        let value = value.as_str().unwrap_or_default();
        match fact_name(name).as_str() {
            "source.principal" => attributes.principal = Some(value.to_owned()),
            "destination.service" => attributes.service = value.to_owned(),
            "request.method" => attributes.method = value.to_owned(),
            "request.path" => attributes.path = value.to_owned(),
            "request.query" => attributes.query = Some(value.to_owned()),
            "source.ip" => attributes.source_address = Some((value.parse::<std::net::IpAddr>().unwrap(), 1).into()),
            "request.auth.exp" => {} // reaches the check as max_expiry
            name => {
                let name = name.strip_prefix("header:").or(name.strip_prefix("request.headers[")).unwrap();
                let name = HeaderName::from_bytes(name.trim_end_matches(']').as_bytes()).unwrap();
                attributes.headers.insert(name, value.parse().unwrap());
            }
        }
    }
    attributes
}

fn answer(json: &Json) -> Result<CheckResponse, Status> {
    let Some(name) = json["status"].as_str() else {
        return Err(Status::new(code(json.as_str().unwrap()), ""));
    };
    let mut response = status(code(name));
    if let Some(referenced) = json.get("referenced") {
        let names =
            |list: &Json| list.as_array().unwrap().iter().map(|name| fact_name(&text(name))).collect::<Vec<_>>();
        let mut hints = json!({"exact": names(&referenced["exact"]), "absent": names(&referenced["absent"])});
        for (from, to) in
            [("valid_duration_s", "valid_duration"), ("valid_use_count", "valid_use_count"), ("grace_s", "grace")]
        {
            if json[from].is_number() {
                hints[to] = json[from].clone();
            }
        }
        for condition in ["regex", "derived"] {
            if let Some(names) = json.get(condition) {
                hints[condition] = names.clone();
            }
        }
        response = hinted(code(name), &hints);
    }
    if let Some(metadata) = json["dynamic_metadata"].as_object() {
        let fields = metadata.iter().map(|(name, json)| (name.clone(), value(json))).collect();
        response.dynamic_metadata = Some(Struct { fields });
    }
    let (request, reply) = (pairs(&json["request_headers"]), pairs(&json["response_headers_to_add"]));
    if !request.is_empty() || !reply.is_empty() {
        let ok = OkHttpResponse { headers: request, response_headers_to_add: reply, ..OkHttpResponse::default() };
        response.http_response = Some(HttpResponse::OkResponse(ok));
    }
    if let Some(direct) = json.get("direct_response") {
        let code = i32::try_from(direct["status"].as_i64().unwrap()).unwrap();
        response.http_response = Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            body: text(&direct["body"]),
            ..DeniedHttpResponse::default()
        }));
    }
    Ok(response)
}

fn code(name: &str) -> Code {
    match name {
        "OK" => Code::Ok,
        "UNKNOWN" => Code::Unknown,
        "PERMISSION_DENIED" => Code::PermissionDenied,
        "INTERNAL" => Code::Internal,
        "UNAVAILABLE" => Code::Unavailable,
        other => panic!("unknown status {other}"),
    }
}
