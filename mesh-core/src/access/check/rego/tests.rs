//! The policy of OPA's story, decided here; and policies that are none, or never end.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde_json::{Value, json};

use super::*;
use crate::access::attributes::AttributesBuf;
use crate::access::check::{
    BodyTerms, CheckConfig, CheckOutcome, Form, Question, RemoteCheck, SentBody, check_request,
};
use crate::time::SystemClock;

const POLICY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/opa/policy.rego"));
const LIMIT: Duration = Duration::from_secs(20);

fn request(path: &str, user: &str) -> AttributesBuf {
    let mut request = AttributesBuf { path: path.to_owned(), ..AttributesBuf::default() };
    if !user.is_empty() {
        request.headers.insert("x-user", HeaderValue::from_str(user).unwrap());
    }
    request
}

fn check(policy: &str, rule: &str) -> RemoteCheck {
    let policy = RegoPolicy::new(policy, rule, LIMIT).unwrap();
    let body = Some(BodyTerms { max_bytes: 64, allow_partial: true, as_bytes: false, timeout: LIMIT });
    RemoteCheck::new(CheckConfig { form: Form::Rego(Arc::new(policy)), body, timeout: LIMIT, ..CheckConfig::default() })
}

/// Nobody is asked.
fn nobody() -> impl crate::access::check::PolicyService {
    tower::service_fn(async |_: http::Request<tonic::body::Body>| {
        Err::<http::Response<tonic::body::Body>, _>(tonic::Status::unavailable("there is no server"))
    })
}

#[tokio::test]
async fn a_policy_decides_as_it_does_in_a_server_and_hints_at_how_long() {
    let check = check(POLICY, "data.mesh.decision");
    let ask =
        async |path: &str, user: &str| check.check(nobody(), &request(path, user).borrow(), &SystemClock, None).await;
    for hits in 0..2 {
        let outcome = ask("/books/1", "ada").await;
        let verdict = outcome.verdict();
        assert!(outcome.is_allowed(), "{outcome:?}");
        let set: Vec<_> = verdict.request_headers.iter().map(|change| (change.name.as_str(), &change.value)).collect();
        assert_eq!(set.len(), 3, "{set:?}");
        assert_eq!(
            (verdict.request_headers_to_remove[0].as_str(), verdict.response_headers[0].name.as_str()),
            ("x-token", "x-decided-by")
        );
        assert_eq!((&verdict.query_to_set[0].1[..], &verdict.query_to_remove[0][..]), ("admin", "debug"));
        assert_eq!(check.stats().hits, hits);
    }
    let outcome = ask("/books/1", "eve").await;
    assert!(matches!(outcome, CheckOutcome::Deny(_)), "{outcome:?}");
    assert_eq!((outcome.verdict().status, &outcome.verdict().body[..]), (423, &b"eve may not see /books/1"[..]));
    assert_eq!(ask("/books/1", "bob").await.verdict().status, 403);
    for path in ["/confused", "/unheard", "/orders"] {
        let outcome = ask(path, "ada").await;
        let is_failure = matches!(outcome, CheckOutcome::Failed { reason: FailureReason::ServerError, .. });
        assert_eq!(is_failure, path != "/orders", "{path}: {outcome:?}");
        assert!(!outcome.is_allowed());
    }
}

#[tokio::test]
async fn a_policy_reads_claims_where_they_are_told() {
    let policy = r#"package mesh
default allow := false
allow if input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].payload.level >= 7
"#;
    for (claims, is_told, expected) in [
        (Some(json!({"level": 7})), true, true),
        (Some(json!({"level": 6.5})), true, false),
        (Some(json!({"level": 7})), false, false),
        (None, true, false),
    ] {
        let form = Form::Rego(Arc::new(RegoPolicy::new(policy, "data.mesh.allow", LIMIT).unwrap()));
        let check = RemoteCheck::new(CheckConfig { form, claims: is_told, timeout: LIMIT, ..CheckConfig::default() });
        let claims = claims.and_then(|claims| claims.as_object().cloned()).map(Arc::new);
        let request = AttributesBuf { claims, ..request("/", "") };
        let outcome = check.check(nobody(), &request.borrow(), &SystemClock, None).await;
        assert_eq!(outcome.is_allowed(), expected, "{:?} {is_told}", request.claims);
        assert!(!matches!(outcome, CheckOutcome::Failed { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_policy_reads_the_body() {
    let check = check(POLICY, "data.mesh.decision");
    for (body, expected) in [("{\"amount\": 7}", true), ("{\"amount\": 700}", false)] {
        let mut request = request("/orders", "");
        request.headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = Some(SentBody { bytes: body.into(), is_partial: false });
        let question = Question { body, ..Question::about(request.borrow()) };
        assert_eq!(check.ask(nobody(), &question, &SystemClock).await.is_allowed(), expected);
    }
}

#[test]
fn the_input_is_the_question_in_the_form_of_the_plugin() {
    let mut request = request("/a%20b/c", "ada");
    request.query = Some("q=1&q=%32&flag".to_owned());
    request.source_address = Some("127.0.0.1:4711".parse().unwrap());
    let config = CheckConfig { context_extensions: [("shop".into(), "eu".into())].into(), ..CheckConfig::default() };
    let input = input::of(&check_request(&Question::about(request.borrow()), &config)).unwrap();
    assert_eq!(
        (&input["parsed_path"], &input["parsed_query"]),
        (&json!(["a b", "c"]), &json!({"q": ["1", "2"], "flag": [""]}))
    );
    assert_eq!((&input["parsed_body"], &input["truncated_body"]), (&Value::Null, &json!(false)));
    assert_eq!(input["source_principal"], "spiffe://cluster.local/ns/default/sa/caller");
    let attributes = &input["attributes"];
    assert_eq!(attributes["source"]["address"]["socketAddress"], json!({"address": "127.0.0.1", "portValue": 4711}));
    assert_eq!(attributes["source"]["principal"], "spiffe://cluster.local/ns/default/sa/caller");
    assert_eq!(attributes["contextExtensions"], json!({"shop": "eu"}));
    let http = &attributes["request"]["http"];
    assert_eq!(
        (&http["path"], &http["size"], &http["headers"]["x-user"]),
        (&json!("/a%20b/c?q=1&q=%32&flag"), &json!("-1"), &json!("ada"))
    );
    assert_eq!(http.get("body"), None, "what has its default is left out");
    assert_eq!(attributes["request"]["time"], "1970-01-01T00:00:00Z");
}

#[test]
fn a_body_is_taken_apart_by_its_kind_if_all_of_it_is_there() {
    let parsed = |kind: &str, body: &str, more: (&'static str, &'static str)| {
        let mut request = request("/orders", "");
        request.headers.insert("content-type", kind.parse().unwrap());
        request.headers.insert(more.0, HeaderValue::from_static(more.1));
        let body = Some(SentBody { bytes: body.to_owned().into(), is_partial: false });
        let question = Question { body, ..Question::about(request.borrow()) };
        let input = input::of(&check_request(&question, &CheckConfig::default()))?;
        Ok::<_, String>((input["parsed_body"].clone(), input["truncated_body"] == true))
    };
    let (json_kind, form, none) =
        ("application/json; charset=utf-8", "application/x-www-form-urlencoded", ("x-a", "1"));
    assert_eq!(parsed(json_kind, "{\"a\": 1}", none), Ok((json!({"a": 1}), false)));
    assert_eq!(parsed(form, "a=1&b=x+y&a=%32", none), Ok((json!({"a": ["1", "2"], "b": ["x y"]}), false)));
    assert_eq!(parsed("text/plain", "{}", none), Ok((Value::Null, false)));
    assert_eq!(parsed(json_kind, "{\"a\"", ("content-length", "99")), Ok((Value::Null, true)));
    for (kind, body) in [(json_kind, "{"), (form, "a=%zz"), (form, "a=1;b=2")] {
        assert!(parsed(kind, body, none).is_err(), "{body}");
    }
}

#[tokio::test]
async fn a_question_that_cannot_be_read_is_denied_as_the_callers_mistake() {
    let check = check(POLICY, "data.mesh.decision");
    let mut request = request("/books/1", "ada");
    request.query = Some("a=%zz".to_owned());
    let outcome = check.check(nobody(), &request.borrow(), &SystemClock, None).await;
    let verdict = outcome.verdict();
    assert!(matches!(outcome, CheckOutcome::Deny(_)), "{outcome:?}");
    assert!(verdict.status == 400 && verdict.body.starts_with(b"request_parse_error: "), "{verdict:?}");
}

#[tokio::test]
async fn a_question_that_cannot_be_read_is_denied_to_who_asked_it_alone() {
    let key = ["method", "path"].map(|name| crate::access::Fact::parse(name).unwrap());
    let minute = Duration::from_secs(60);
    let cache = crate::access::CacheConfig::keyed(key.into(), minute, minute);
    let policy = Arc::new(RegoPolicy::new("package a\ndefault allow := true", "data.a.allow", LIMIT).unwrap());
    let check =
        RemoteCheck::new(CheckConfig { form: Form::Rego(policy), timeout: LIMIT, cache, ..CheckConfig::default() });
    for (query, status) in [(Some("x=%zz"), 400), (Some("x=1"), 200), (None, 200)] {
        let request = AttributesBuf { query: query.map(str::to_owned), ..AttributesBuf::default() };
        let outcome = check.check(nobody(), &request.borrow(), &SystemClock, None).await;
        assert_eq!(outcome.verdict().status, status, "{query:?}");
    }
    assert_eq!((check.stats().hits, check.stats().uncacheable), (1, 1));
}

#[test]
fn a_policy_that_is_none_is_refused_with_its_place_and_one_without_the_rule_with_the_rule() {
    let refused = |policy: &str, rule: &str| RegoPolicy::new(policy, rule, LIMIT).unwrap_err();
    let why = refused("package a\nallow if {\n", "data.a.allow");
    assert!(why.starts_with("policy: ") && why.contains("policy.rego:"), "{why}");
    let why = refused("package a\nimport rego.v1\nallow := true\n", "data.a.alow");
    assert!(why.contains("data.a.alow"), "{why}");
}

#[tokio::test]
async fn a_policy_without_an_end_is_given_up_and_refuses() {
    let endless = "package a
import rego.v1
allow if { some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j < 0 }
";
    let policy = RegoPolicy::new(endless, "data.a.allow", Duration::from_millis(20)).unwrap();
    let check = RemoteCheck::new(CheckConfig { form: Form::Rego(Arc::new(policy)), ..CheckConfig::default() });
    let outcome = check.check(nobody(), &AttributesBuf::default().borrow(), &SystemClock, None).await;
    assert!(matches!(outcome, CheckOutcome::Failed { .. }) && !outcome.is_allowed(), "{outcome:?}");
}
