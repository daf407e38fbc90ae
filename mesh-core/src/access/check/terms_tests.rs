//! What a question tells, by each setting; and what of an answer is passed on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tonic::{Code, Status};

use super::script::{Script, check_response, hinted, status};
use super::*;
use crate::access::attributes::AttributesBuf;
use crate::access::rbac::Pattern;
use crate::time::SystemClock;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text)).collect()
}

fn request() -> AttributesBuf {
    let mut request = AttributesBuf { query: Some("q=1".into()), ..AttributesBuf::default() };
    for (name, value) in [
        ("x-a", &b"1"[..]),
        ("x-a", b"2"),
        ("x-b", b"caf\xe9"),
        ("cookie", b"k"),
        ("authorization", b"t"),
        ("x-envoy-auth-partial-body", b"true"),
        ("te", b"trailers"),
        ("content-length", b"7"),
        ("x-mesh-peer", b"me"),
        ("grpc-timeout", b"1S"),
    ] {
        request.headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    request
}

fn sent_body(text: &'static str, is_partial: bool) -> Option<SentBody> {
    Some(SentBody { bytes: Bytes::from_static(text.as_bytes()), is_partial })
}

fn told(config: &CheckConfig, body: Option<SentBody>) -> HttpRequest {
    let request = request();
    let question = Question { body, ..Question::about(request.borrow()) };
    check_request(&question, config).attributes.unwrap().request.unwrap().http.unwrap()
}

#[test]
fn disallowed_headers_win_over_allowed_ones_and_pseudo_headers_are_headers_too() {
    let headers = |allowed: Option<&[&str]>, disallowed: &[&str]| {
        let headers = SentHeaders { allowed: allowed.map(patterns), disallowed: patterns(disallowed), raw: false };
        let mut names: Vec<String> =
            told(&CheckConfig { headers, ..CheckConfig::default() }, None).headers.into_keys().collect();
        names.sort();
        names
    };
    assert_eq!(headers(Some(&["x-*", ":path"]), &["x-b", "x-mesh-*"]), [":path", "x-a"]);
    let all = headers(None, &["cookie"]);
    assert!(all.contains(&":authority".to_owned()) && all.contains(&"x-b".to_owned()), "{all:?}");
    assert!(!all.contains(&"cookie".to_owned()), "{all:?}");
}

#[test]
fn raw_headers_are_told_byte_by_byte_and_apart_and_others_joined_and_cleaned() {
    let joined = told(&CheckConfig::default(), None);
    assert_eq!((joined.headers["x-a"].as_str(), joined.headers["x-b"].as_str()), ("1,2", "caf!"));
    assert_eq!(joined.header_map, None);
    let headers = SentHeaders { raw: true, ..SentHeaders::default() };
    let raw = told(&CheckConfig { headers, ..CheckConfig::default() }, None);
    assert!(raw.headers.is_empty());
    let values = |name: &str| {
        let map = raw.header_map.clone().unwrap().headers.into_iter();
        map.filter(|header| header.key == name && header.value.is_empty())
            .map(|header| header.raw_value)
            .collect::<Vec<_>>()
    };
    assert_eq!(values("x-a"), [b"1".to_vec(), b"2".to_vec()]);
    assert_eq!(values("x-b"), [b"caf\xe9".to_vec()]);
    assert_eq!(values(":path"), [b"/a?q=1".to_vec()]);
}

#[test]
fn a_body_is_told_as_text_or_bytes_and_whether_it_is_all_of_it() {
    let terms = |as_bytes| CheckConfig {
        body: Some(BodyTerms { max_bytes: 4, allow_partial: true, as_bytes, timeout: Duration::MAX }),
        ..CheckConfig::default()
    };
    let mark = |http: &HttpRequest| http.headers.get("x-envoy-auth-partial-body").cloned();
    let none = told(&terms(false), None);
    assert_eq!((none.body.as_str(), mark(&none)), ("", None), "what the caller says of it does not count");
    let whole = told(&terms(false), sent_body("body", false));
    assert_eq!((whole.body.as_str(), mark(&whole).as_deref(), whole.raw_body.len()), ("body", Some("false"), 0));
    let part = told(&terms(true), sent_body("body", true));
    assert_eq!((part.body.as_str(), mark(&part).as_deref(), &part.raw_body[..]), ("", Some("true"), &b"body"[..]));
    let odd = Some(SentBody { bytes: Bytes::from_static(b"a\xff"), is_partial: false });
    assert_eq!(told(&terms(false), odd).body, "a!");
}

#[test]
fn certificate_and_server_name_are_told_only_where_it_is_written() {
    let certificate = Some(vec![0xfb; 60].into());
    let request = AttributesBuf { sni: Some("shop.test".into()), certificate, ..AttributesBuf::default() };
    let ask = |is_on| {
        let question = Question::about(request.borrow());
        let config = CheckConfig { peer_certificate: is_on, tls_session: is_on, ..CheckConfig::default() };
        let context = check_request(&question, &config).attributes.unwrap();
        (context.source.unwrap().certificate, context.tls_session.map(|session| session.sni))
    };
    assert_eq!(ask(false), (String::new(), None));
    let (certificate, sni) = ask(true);
    assert_eq!(sni.as_deref(), Some("shop.test"));
    let decoded = percent_encoding::percent_decode_str(&certificate).decode_utf8().unwrap();
    let lines: Vec<&str> = decoded.lines().collect();
    assert_eq!((lines[0], lines[1].len(), lines[3]), ("-----BEGIN CERTIFICATE-----", 64, "-----END CERTIFICATE-----"));
    assert!(certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A") && !certificate.contains(['/', '+', '=']));
}

#[tokio::test]
async fn an_answer_to_a_body_is_neither_kept_nor_shared_nor_answered_from_what_was_kept() {
    let by_path = json!({"exact": ["request.path"], "absent": [], "valid_duration": "60s"});
    let script = Script::answering([Ok(hinted(Code::Ok, &by_path))]);
    let check = RemoteCheck::new(CheckConfig::default());
    let attributes = AttributesBuf::default();
    let ask = async |body| {
        let question = Question { body, ..Question::about(attributes.borrow()) };
        check.ask(script.service(), &question, &SystemClock).await.is_allowed()
    };
    assert!(ask(sent_body("a", false)).await && ask(sent_body("a", false)).await);
    assert_eq!((script.calls(), check.stats().entries), (2, 0));
    assert!(ask(None).await && ask(None).await);
    assert_eq!((script.calls(), check.stats().entries), (3, 1));
    script.then(Ok(status(Code::PermissionDenied)));
    assert!(!ask(sent_body("a", false)).await, "what was allowed without a body says nothing of one");
    assert_eq!(check.stats().uncacheable, 3);
}

#[tokio::test]
async fn the_body_of_a_refusal_is_cut_where_the_configuration_says() {
    let denied = check_response(&json!({"status": {"code": 7}, "denied_response": {"body": "0123456789"}}));
    for (limit, body) in [(None, "0123456789"), (Some(4), "0123"), (Some(10), "0123456789")] {
        let check = RemoteCheck::new(CheckConfig { max_denied_body: limit, ..CheckConfig::default() });
        let script = Script::answering([Ok(denied.clone())]);
        let outcome = check.check(script.service(), &AttributesBuf::default().borrow(), &SystemClock, None).await;
        assert_eq!(outcome.verdict().body, body);
    }
}

#[test]
fn an_answer_can_not_reach_what_frames_a_message_or_speaks_for_the_mesh() {
    let headers: Vec<_> = ["content-length", "Transfer-Encoding", "connection", "x-mesh-refused", "x-user"]
        .map(|key| json!({"header": {"key": key, "value": "1"}}))
        .into();
    let json = json!({"status": {"code": 0}, "ok_response": {"headers": headers, "response_headers_to_add": headers}});
    let verdict = interpret(check_response(&json), 403).unwrap().verdict;
    let names = |changes: &[crate::access::verdict::HeaderChange]| {
        changes.iter().map(|change| change.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&verdict.request_headers), names(&verdict.response_headers)),
        (vec!["x-user".into()], vec!["x-user".into()])
    );
}

/// A policy server over plain HTTP, and the questions it got.
#[derive(Clone)]
struct Plain {
    answer: Arc<Response<&'static str>>,
    asked: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Plain {
    fn answering(answer: Response<&'static str>) -> Self {
        Self { answer: Arc::new(answer), asked: Arc::default() }
    }
}

impl tower_service::Service<Request<Body>> for Plain {
    type Response = Response<Full<Bytes>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let plain = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            plain.asked.lock().unwrap().push(Request::from_parts(head, body));
            let answer = Response::clone(&plain.answer).map(|text| Full::from(text.to_owned()));
            Ok(answer)
        })
    }
}

async fn ask_plain(config: CheckConfig, plain: &Plain, body: Option<SentBody>) -> CheckOutcome {
    let request = request();
    let question = Question { body, ..Question::about(request.borrow()) };
    RemoteCheck::new(config).ask(plain.clone(), &question, &SystemClock).await
}

fn over_http(form: HttpForm) -> CheckConfig {
    let timeout = Duration::from_secs(5);
    CheckConfig { form: Form::Http(Box::new(form)), timeout, ..CheckConfig::default() }
}

#[tokio::test]
async fn a_question_over_http_is_the_request_with_its_body_and_nothing_of_its_connection() {
    let plain = Plain::answering(Response::new(""));
    let form = HttpForm {
        path_prefix: "/check".into(),
        headers_to_add: vec![("x-b".parse().unwrap(), HeaderValue::from_static("ours"))],
        ..HttpForm::default()
    };
    let headers = SentHeaders { allowed: Some(patterns(&["*"])), disallowed: patterns(&["cookie"]), raw: true };
    assert!(ask_plain(CheckConfig { headers, ..over_http(form) }, &plain, sent_body("body", true)).await.is_allowed());
    let asked = plain.asked.lock().unwrap().remove(0);
    assert_eq!((asked.method().as_str(), asked.uri().to_string()), ("GET", "http://details/check/a?q=1".to_owned()));
    assert_eq!(asked.body(), "body");
    let mut found: Vec<_> =
        asked.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    found.sort_unstable();
    let expected = [
        ("authorization", "t"),
        ("content-length", "4"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-b", "ours"),
        ("x-envoy-auth-partial-body", "true"),
    ];
    assert_eq!(found, expected);
    let form = HttpForm { path_override: Some("/only".parse().unwrap()), ..HttpForm::default() };
    let headers = SentHeaders { allowed: Some(patterns(&["x-*"])), ..SentHeaders::default() };
    ask_plain(CheckConfig { headers, ..over_http(form) }, &plain, None).await;
    let asked = plain.asked.lock().unwrap().remove(0);
    assert_eq!(
        (asked.uri().path_and_query().unwrap().as_str(), &asked.headers()["x-a"]),
        ("/only", &"1,2".parse().unwrap())
    );
    assert_eq!(asked.headers()["x-b"], "caf!");
}

#[tokio::test]
async fn of_an_answer_over_http_nothing_is_passed_on_that_frames_it_and_every_value_of_a_name_is() {
    let answer = Response::builder()
        .header("x-user", "a")
        .header("x-user", "b")
        .header("content-length", "99")
        .header("connection", "close")
        .header("x-envoy-auth-headers-to-remove", "cookie, content-length ,host")
        .header("set-cookie", "c");
    let everything = HttpForm {
        upstream_headers: patterns(&["*"]),
        client_headers_on_success: patterns(&["*"]),
        ..HttpForm::default()
    };
    let outcome = ask_plain(over_http(everything), &Plain::answering(answer.body("").unwrap()), None).await;
    let verdict = outcome.verdict();
    assert_eq!(verdict.request_headers_to_remove, ["cookie"]);
    let mut headers = request().headers;
    apply_to_request(verdict, &mut headers);
    assert_eq!(headers.get_all("x-user").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        (&headers["content-length"], headers.get("connection"), headers.get("cookie")),
        (&"7".parse().unwrap(), None, None)
    );
    let mut response = HeaderMap::new();
    crate::access::verdict::apply_to_response(verdict, &mut response);
    let mut names: Vec<_> = response.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["set-cookie", "x-user"]);
}

#[tokio::test]
async fn a_refusal_over_http_is_passed_on_with_its_status_and_the_headers_that_are_named() {
    let answer = || {
        let head = Response::builder().status(302).header("location", "/login").header("x-a", "1").header("x-b", "2");
        Plain::answering(head.body("go there").unwrap())
    };
    for (client_headers, expected) in
        [(None, vec!["location", "x-a", "x-b"]), (Some(patterns(&["x-b"])), vec!["location", "x-b"])]
    {
        let config =
            CheckConfig { max_denied_body: Some(2), ..over_http(HttpForm { client_headers, ..HttpForm::default() }) };
        let outcome = ask_plain(config, &answer(), None).await;
        let CheckOutcome::Deny(verdict) = &outcome else { panic!("{outcome:?}") };
        assert_eq!((verdict.status, &verdict.body[..]), (302, &b"go"[..]));
        let mut names: Vec<_> = verdict.response_headers.iter().map(|change| change.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
    }
}
