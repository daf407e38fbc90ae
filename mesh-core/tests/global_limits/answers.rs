//! What an answer does to a request and its response.

use envoy_types::pb::envoy::config::core::v3::HeaderValue as WireHeader;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use mesh_core::Mesh;
use serde_json::Value;
use tonic::Status;

use crate::script::{self, Script, limit, mesh, over};
use crate::{ask, ask_grpc, request};

const VECTORS: &str = include_str!("../../../tests/vectors/rls_descriptors.json");

/// Refused when the document is read, which says so instead of answering otherwise than written; asserted below.
const LEFT_OUT: &[&str] = &["answer-over-status-200-becomes-429"];

#[tokio::test]
async fn an_answer_means_what_it_means_to_envoy() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let mut asserted = 0;
    let answers = vectors["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "answer");
    for case in answers.filter(|case| !LEFT_OUT.contains(&case["id"].as_str().unwrap())) {
        answer(case).await;
        asserted += 1;
    }
    assert_eq!(asserted, 13);
}

async fn answer(case: &Value) {
    let (id, expected) = (case["id"].as_str().unwrap(), &case["expected"]);
    let (script, hurry) = match said(&case["server"]) {
        Some(answer) => (Script::answering([answer]), ""),
        None => (Script::silent(), ", timeout: 500ms"),
    };
    let limit = format!("{}{}{hurry}", script::BY_USER, settings(&case["config"]));
    let mesh = mesh(script.serve().await, &limit);
    if let Some(status) = expected["grpc_status"].as_u64() {
        let (http, headers) = ask_grpc(&mesh).await;
        assert_eq!(Some(u64::from(http)), expected["http_status"].as_u64(), "{id}");
        assert_eq!(headers["grpc-status"].to_str().unwrap(), status.to_string(), "{id}");
        return;
    }
    let (response, seen) = script::send(&mesh, request("/", "u1")).await;
    assert_eq!(Some(u64::from(response.status().as_u16())), expected["status"].as_u64(), "{id}");
    for (wanted, headers) in [("headers", response.headers()), ("upstream_headers", &seen)] {
        for pair in expected[wanted].as_array().into_iter().flatten() {
            let (name, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            assert_eq!(headers[name], value, "{id}: {wanted}");
        }
    }
    for name in expected["absent_headers"].as_array().into_iter().flatten() {
        assert!(!response.headers().contains_key(name.as_str().unwrap()), "{id}");
    }
    if let Some(body) = expected["body"].as_str() {
        assert_eq!(&response.into_body().collect_up_to(100).await.unwrap()[..], body.as_bytes(), "{id}");
    }
}

/// `None`: nobody answers within the timeout, whatever it is.
fn said(server: &Value) -> Option<Result<RateLimitResponse, Status>> {
    let code = match server.as_str() {
        Some("UNAVAILABLE") => return Some(Err(script::refused())),
        Some(_) => return None,
        None => Code::from_str_name(server["overall_code"].as_str().unwrap()).unwrap(),
    };
    Some(Ok(RateLimitResponse {
        overall_code: code as i32,
        response_headers_to_add: headers(&server["response_headers_to_add"]),
        request_headers_to_add: headers(&server["request_headers_to_add"]),
        raw_body: server["raw_body"].as_str().unwrap_or_default().into(),
        ..RateLimitResponse::default()
    }))
}

fn headers(written: &Value) -> Vec<WireHeader> {
    let header = |pair: &Value| WireHeader {
        key: pair[0].as_str().unwrap().to_owned(),
        value: pair[1].as_str().unwrap().to_owned(),
        ..WireHeader::default()
    };
    written.as_array().into_iter().flatten().map(header).collect()
}

/// Envoy's settings in our words.
fn settings(config: &Value) -> String {
    let fields = config.as_object().unwrap().iter().filter(|(name, _)| *name != "request");
    let one = |(name, value): (&String, &Value)| match name.as_str() {
        "failure_mode_deny" => ", failure: closed".to_owned(),
        "rate_limited_status" => format!(", status: {value}"),
        name => format!(", {name}: {value}"),
    };
    fields.map(one).collect()
}

#[test]
fn a_status_that_is_no_refusal_is_refused() {
    let text = script::document(script::dead(), &format!("{}, status: 200", script::BY_USER));
    let refused = Mesh::from_yaml(&text, "limits.yaml").err().unwrap().to_string();
    assert!(refused.contains("policy.global_rate_limits[0].status"), "{refused}");
}

#[tokio::test]
async fn a_response_says_what_is_left_in_either_form() {
    for (form, name, on_pass, on_refusal) in [
        ("rate_limit", "ratelimit", "\"users\";r=3;t=8", "\"users\";r=0;t=8"),
        ("rate_limit", "ratelimit-policy", "\"users\";q=10;w=3600", "\"users\";q=10;w=3600"),
        ("x_rate_limit", "x-ratelimit-limit", "10, 10;w=3600", "10, 10;w=3600"),
        ("x_rate_limit", "x-ratelimit-remaining", "3", "0"),
        ("x_rate_limit", "x-ratelimit-reset", "8", "8"),
    ] {
        let script = Script::answering([Ok(limit(10, 3)), Ok(over())]);
        let mesh = mesh(script.serve().await, &format!("{}, headers: {form}", script::BY_USER));
        let (passed, refused) = (ask(&mesh, "/", "u1").await, ask(&mesh, "/", "u1").await);
        assert_eq!((passed.0, &passed.1[name]), (200, &on_pass.parse().unwrap()), "{form}");
        assert_eq!((refused.0, &refused.1[name]), (429, &on_refusal.parse().unwrap()), "{form}");
        assert_eq!(refused.1["retry-after"], "8", "7.5 s, rounded up");
        assert!(!passed.1.contains_key("retry-after"));
    }
}

/// Envoy adds to what the caller sent. What a server of limits says should not stand beside a caller's own word.
#[tokio::test]
async fn a_header_of_the_server_takes_the_place_of_the_callers() {
    let mut answer = limit(10, 3);
    answer.request_headers_to_add = headers(&serde_json::json!([["x-user", "known"], ["content-length", "9"]]));
    let mesh = mesh(Script::answering([Ok(answer)]).serve().await, script::BY_USER);
    let (response, seen) = script::send(&mesh, request("/", "forged")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(seen.get_all("x-user").iter().collect::<Vec<_>>(), ["known"]);
    assert!(!seen.contains_key("content-length"));
}

#[tokio::test]
async fn a_local_limit_refuses_in_the_same_forms() {
    let local = |extra: &str| {
        let text = format!(
            "listeners: [{{name: in}}]\npolicy: {{rate_limits: [{{name: all, max_tokens: 1, fill_interval: 1h{extra}}}]}}\n"
        );
        Mesh::from_yaml(&text, "limits.yaml").unwrap()
    };
    let mesh = local(", headers: rate_limit");
    let (passed, refused) = (ask(&mesh, "/", "u1").await, ask(&mesh, "/", "u1").await);
    assert_eq!((passed.0, refused.0), (200, 429));
    assert_eq!(refused.1["ratelimit-policy"], "\"all\";q=1;w=3600");
    let left = refused.1["ratelimit"].to_str().unwrap().strip_prefix("\"all\";r=0;t=").unwrap().to_owned();
    assert_eq!(refused.1["retry-after"].to_str().unwrap(), left);
    assert!(!passed.1.contains_key("ratelimit"));

    let mesh = local("");
    assert_eq!(ask_grpc(&mesh).await.0, 200);
    let (status, headers) = ask_grpc(&mesh).await;
    assert_eq!((status, headers["grpc-status"].as_bytes()), (200, &b"8"[..]), "RESOURCE_EXHAUSTED, as documented");
    assert!(headers.contains_key("retry-after") && !headers.contains_key("ratelimit"));
}
