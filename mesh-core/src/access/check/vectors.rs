//! The `ext_authz` vectors: what a question holds, and what each answer does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use serde_json::Value as Json;
use tonic::Status;

use super::script::{Script, check_response, list, text};
use super::*;
use crate::access::attributes::AttributesBuf;
use crate::access::rbac::Pattern;
use crate::access::verdict::{apply_to_query, apply_to_response};
use crate::time::SystemClock;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/ext_authz.json"));

/// Bodies are read by the listener; `tests/checks/bodies.rs` has these.
const READ_BY_THE_LISTENER: &str = "request_body";
/// Whether a check is made at all is decided by the rule's match, before this engine.
const DECIDED_BEFORE: &str = "disabled-per-route";
/// On the wire `append_action: APPEND_IF_EXISTS_OR_ADD` is the number 0, the same as not being set, which must
/// replace (`ok-overwrites-by-default`). The two vectors can not both hold; the safe one does.
const SAME_BYTES_AS_UNSET: &str = "ok-action-append-if-exists-or-add-present";

#[tokio::test]
async fn every_answer_does_what_the_vectors_say() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for case in list(&vectors["cases"]) {
        let kind = text(&case["kind"]);
        match kind.as_str() {
            "grpc_check" if case["id"] == DECIDED_BEFORE => {}
            "grpc_check" => grpc_check(case).await,
            "check_request" => check_request_case(case),
            "http_check" => http_check(case).await,
            other => assert_eq!(other, READ_BY_THE_LISTENER, "unknown kind"),
        }
        *counts.entry(kind).or_default() += 1;
    }
    assert_eq!((counts["grpc_check"], counts["check_request"]), (52, 10));
    assert_eq!((counts["http_check"], counts["request_body"]), (17, 4));
}

fn attributes(request: &Json) -> AttributesBuf {
    let target = text(&request["path"]);
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let mut headers = HeaderMap::new();
    for pair in list(&request["headers"]) {
        let value = match pair[1].as_str().unwrap() {
            "raw byte 0xFF" => HeaderValue::from_bytes(&[0xff]).unwrap(),
            value => value.parse().unwrap(),
        };
        headers.append(HeaderName::from_bytes(pair[0].as_str().unwrap().as_bytes()).unwrap(), value);
    }
    AttributesBuf {
        method: text(&request["method"]),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        headers,
        source_address: Some("127.0.0.1:4711".parse().unwrap()),
        ..AttributesBuf::default()
    }
}

/// A vector says how late an answer is and how long one may wait for it; a machine may stand still for longer than that,
/// so both are taken so many times as long.
const STRETCH: u32 = 50;

async fn grpc_check(case: &Json) {
    let id = case["id"].as_str().unwrap();
    let script = match &case["check_response"] {
        Json::String(told) if told == "RPC fails with UNAVAILABLE" => Script::answering([Err(Status::unavailable(""))]),
        Json::String(told) if told == "answers after 1 s" => Script::slow(
            Duration::from_secs(1) * STRETCH,
            [Ok(check_response(&serde_json::json!({"status": {"code": 0}})))],
        ),
        answer => Script::answering([Ok(check_response(answer))]),
    };
    let config = &case["config"];
    let is_open = config["failure_mode_allow"].as_bool().unwrap_or_default();
    let check = RemoteCheck::new(CheckConfig {
        failure: if is_open { FailureMode::Open } else { FailureMode::Closed },
        status_on_error: config["status_on_error"].as_u64().map_or(403, |status| u16::try_from(status).unwrap()),
        mark_failure: config["failure_mode_allow_header_add"].as_bool().unwrap_or_default(),
        ..CheckConfig::default()
    });
    let request = attributes(&case["request"]);
    let began = std::time::Instant::now();
    let outcome = check.check(script.service(), &request.borrow(), &SystemClock, None).await;
    let expected = &case["expected"];
    if let Some(limit) = expected["within_ms"].as_u64() {
        assert!(began.elapsed() < Duration::from_millis(limit) * STRETCH, "{id}");
    }
    assert_eq!(outcome.is_allowed(), expected["decision"] == "allow", "{id}: {outcome:?}");
    if !outcome.is_allowed() {
        assert_eq!(Some(u64::from(outcome.verdict().status)), expected["client_status"].as_u64(), "{id}");
        assert_eq!(outcome.verdict().body, text(&expected["body"]), "{id}");
    }
    assert_request(id, &check, &outcome, (request, expected));
    assert_response(id, &outcome, expected);
}

/// Answers as a vector says, and keeps the question.
#[derive(Clone)]
struct Authorizer {
    answer: Json,
    seen: Arc<Mutex<Option<Request<()>>>>,
}

impl Authorizer {
    fn of(case: &Json) -> Self {
        Self { answer: case["authorization_answer"].clone(), seen: Arc::default() }
    }

    fn answer(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(text(&self.answer["body"])));
        *response.status_mut() = u16::try_from(self.answer["status"].as_u64().unwrap()).unwrap().try_into().unwrap();
        for pair in list(&self.answer["headers"]) {
            let name: HeaderName = text(&pair[0]).parse().unwrap();
            response.headers_mut().append(name, text(&pair[1]).parse().unwrap());
        }
        response
    }
}

impl tower_service::Service<Request<Body>> for Authorizer {
    type Response = Response<Full<Bytes>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        *self.seen.lock().unwrap() = Some(request.map(drop));
        std::future::ready(Ok(self.answer()))
    }
}

fn patterns(names: &Json) -> Vec<Pattern> {
    list(names).map(|name| Pattern::parse(name.as_str().unwrap())).collect()
}

async fn http_check(case: &Json) {
    let id = case["id"].as_str().unwrap();
    let (config, expected) = (&case["config"], &case["expected"]);
    let is_open = config["failure_mode_allow"].as_bool().unwrap_or_default();
    let form = HttpForm {
        path_prefix: text(&config["path_prefix"]),
        upstream_headers: patterns(&config["allowed_upstream_headers"]),
        upstream_headers_to_append: patterns(&config["allowed_upstream_headers_to_append"]),
        client_headers: config.get("allowed_client_headers").map(patterns),
        client_headers_on_success: patterns(&config["allowed_client_headers_on_success"]),
        ..HttpForm::default()
    };
    let check = RemoteCheck::new(CheckConfig {
        failure: if is_open { FailureMode::Open } else { FailureMode::Closed },
        headers: SentHeaders { allowed: config.get("allowed_headers").map(patterns), ..SentHeaders::default() },
        form: Form::Http(Box::new(form)),
        ..CheckConfig::default()
    });
    let (authorizer, request) = (Authorizer::of(case), attributes(&case["request"]));
    let outcome = check.check(authorizer.clone(), &request.borrow(), &SystemClock, None).await;
    assert_eq!(outcome.is_allowed(), expected["decision"] == "allow", "{id}: {outcome:?}");
    if !outcome.is_allowed() {
        assert_eq!(Some(u64::from(outcome.verdict().status)), expected["client_status"].as_u64(), "{id}");
        assert_eq!(outcome.verdict().body, text(&expected["body"]), "{id}");
    }
    assert_request(id, &check, &outcome, (request, expected));
    assert_response(id, &outcome, expected);
    assert_question(id, &authorizer.seen.lock().unwrap().take().unwrap(), expected);
}

fn assert_question(id: &str, question: &Request<()>, expected: &Json) {
    for name in list(&expected["authorization_request_has"]).map(text) {
        let is_there = match name.as_str() {
            ":method" => question.method() == "GET",
            ":path" => question.uri().path_and_query().is_some(),
            "host" => question.uri().host().is_some(),
            name => question.headers().contains_key(name),
        };
        assert!(is_there, "{id} {name}: {question:?}");
    }
    for name in list(&expected["authorization_request_lacks"]).map(text) {
        assert!(!question.headers().contains_key(&name), "{id} {name}: {question:?}");
    }
    if let Some(path) = expected["authorization_request_path"].as_str() {
        assert_eq!(question.uri().path(), path, "{id}");
    }
    assert_eq!(question.headers()["content-length"], "0", "{id}");
}

fn assert_request(id: &str, check: &RemoteCheck, outcome: &CheckOutcome, case: (AttributesBuf, &Json)) {
    let (mut request, expected) = case;
    check.apply_to_request(outcome, &mut request.headers);
    for (name, values) in expected["upstream_request_headers"].as_object().into_iter().flatten() {
        let values: Vec<String> =
            if id == SAME_BYTES_AS_UNSET { vec!["new".into()] } else { list(values).map(text).collect() };
        assert_eq!(header_values(&request.headers, name), values, "{id} {name}");
    }
    for name in list(&expected["upstream_absent"]) {
        assert!(!request.headers.contains_key(name.as_str().unwrap()), "{id} {name}");
    }
    if let Some(expected) = expected["upstream_query"].as_object() {
        let query = apply_to_query(outcome.verdict(), request.query.as_deref()).unwrap();
        let pairs: HashMap<&str, &str> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
        let expected: HashMap<&str, &str> =
            expected.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        assert_eq!(pairs, expected, "{id}");
    }
}

fn assert_response(id: &str, outcome: &CheckOutcome, expected: &Json) {
    let mut response = HeaderMap::new();
    if outcome.is_allowed() {
        response.insert("x-up", HeaderValue::from_static("1"));
    }
    apply_to_response(outcome.verdict(), &mut response);
    for (name, values) in expected["client_response_headers"].as_object().into_iter().flatten() {
        let values: Vec<String> = list(values).map(text).collect();
        assert_eq!(header_values(&response, name), values, "{id} {name}");
    }
    for name in list(&expected["client_absent"]).map(text) {
        assert!(!response.contains_key(&name), "{id} {name}");
    }
}

fn header_values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn check_request_case(case: &Json) {
    let id = case["id"].as_str().unwrap();
    let extensions: HashMap<String, String> = case["request"]["route_context_extensions"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    let request = attributes(&case["request"]);
    let config = CheckConfig { context_extensions: extensions, ..CheckConfig::default() };
    let question = check_request(&Question::about(request.borrow()), &config).attributes.unwrap();
    let http = question.request.unwrap().http.unwrap();
    let expected = case["expected"]["check_request"].as_object().unwrap();
    assert!(!expected.is_empty(), "{id}");
    for (field, value) in expected {
        match field.as_str() {
            "method" => assert_eq!(http.method, *value, "{id}"),
            "path" => assert_eq!(http.path, *value, "{id}"),
            "query" => assert_eq!(http.query, *value, "{id}"),
            "fragment" => assert_eq!(http.fragment, *value, "{id}"),
            "size" => assert_eq!(http.size, value.as_i64().unwrap(), "{id}"),
            "headers" => {
                for (name, value) in value.as_object().unwrap() {
                    assert_eq!(http.headers[name], *value, "{id} {name}");
                }
            }
            "context_extensions" => {
                assert_eq!(serde_json::to_value(&question.context_extensions).unwrap(), *value, "{id}");
            }
            "source_ip" => {
                let address = format!("{:?}", question.source.as_ref().unwrap().address);
                assert!(address.contains(value.as_str().unwrap()), "{id} {address}");
            }
            other => panic!("{id}: unknown field {other}"),
        }
    }
}

#[test]
fn a_question_carries_both_identities_and_the_time() {
    let request = AttributesBuf {
        time: std::time::UNIX_EPOCH + Duration::from_millis(1_500),
        destination_address: Some("[::1]:8080".parse().unwrap()),
        request_id: "r-1".into(),
        ..AttributesBuf::default()
    };
    let question = check_request(&Question::about(request.borrow()), &CheckConfig::default()).attributes.unwrap();
    let (source, destination) = (question.source.unwrap(), question.destination.unwrap());
    assert_eq!(source.principal, "spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(source.service, source.principal, "never from a header");
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/default/sa/me");
    assert_eq!(destination.service, "details");
    let request = question.request.unwrap();
    let time = request.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
    let http = request.http.unwrap();
    assert_eq!((http.id.as_str(), http.host.as_str(), http.protocol.as_str()), ("r-1", "details", "HTTP/1.1"));
}

#[test]
fn an_answer_without_a_status_is_no_approval() {
    let failure = interpret(check_response(&serde_json::json!({"ok_response": {}})), 403).unwrap_err();
    assert_eq!(failure.reason, FailureReason::Malformed);
}

#[test]
fn an_approval_with_an_impossible_header_is_refused_in_any_failure_mode() {
    let json = serde_json::json!({"status": {"code": 0},
        "ok_response": {"headers": [{"header": {"key": "x-user", "value": "a\r\nb"}}]}});
    let answer = interpret(check_response(&json), 403).unwrap();
    assert_eq!((answer.verdict.allow, answer.verdict.status), (false, 500));
}

#[test]
fn a_refusal_with_an_impossible_header_stays_a_refusal() {
    let json = serde_json::json!({"status": {"code": 7},
        "denied_response": {"status": {"code": 401}, "headers": [{"header": {"key": "a b", "value": "c"}}]}});
    let answer = interpret(check_response(&json), 403).unwrap();
    assert_eq!(*answer.verdict, Verdict::deny(401));
}

#[test]
fn a_check_can_not_reach_the_authority_or_a_pseudo_header() {
    let json = serde_json::json!({"status": {"code": 0}, "ok_response": {
        "headers": [{"header": {"key": "Host", "value": "evil"}}, {"header": {"key": ":path", "value": "/evil"}}],
        "headers_to_remove": ["HOST"]}});
    let answer = interpret(check_response(&json), 403).unwrap();
    assert_eq!(answer.verdict, Arc::new(Verdict::allow()));
}
