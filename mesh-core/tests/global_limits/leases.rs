//! Requests that pass on what was granted before.

use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Quota;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::quota::ExpirationSpecifier;
use envoy_types::pb::google::protobuf::Timestamp;

use crate::ask;
use crate::script::{self, Script, limit, mesh};

#[tokio::test]
async fn most_requests_pass_a_leased_limit_without_a_call() {
    let script = Script::counting(100_000);
    let mesh = mesh(script.serve().await, &format!("{}, lease: {{}}", script::BY_USER));
    for _ in 0..500 {
        assert_eq!(ask(&mesh, "/", "u1").await.0, 200);
    }
    assert!(script.calls() * 5 < 500, "{} calls for 500 requests", script.calls());
    let asked: u32 = script.seen().iter().map(|call| call.hits_addend).sum();
    assert!(asked <= 500 + 1_500, "{asked} asked for: what passed, and one and a half times what is kept in stock");
    let metrics = mesh.metrics_text();
    assert!(metrics.contains("libmesh_rate_limit_calls_total{limit=\"users\",purpose=\"request\"} 0"), "{metrics}");
    assert!(metrics.contains("libmesh_rate_limit_leased_total{limit=\"users\"} 500"), "{metrics}");
    assert!(metrics.contains("libmesh_rate_limit_leases{limit=\"users\"} 1"), "{metrics}");
}

/// Of 10 exactly 10 pass where nothing is spent in advance; where it is, at most `max` more.
#[tokio::test]
async fn a_leased_limit_holds_within_its_documented_bound() {
    for (failure, bound) in [("closed", 0), ("open", 20)] {
        let script = Script::counting(10);
        let settings = format!("{}, failure: {failure}, lease: {{max: 20}}", script::BY_USER);
        let mesh = mesh(script.serve().await, &settings);
        let (mut passed, mut refusals) = (0, Vec::new());
        for _ in 0..200 {
            let (status, headers) = ask(&mesh, "/", "u1").await;
            match status {
                200 => passed += 1,
                429 => refusals.push(headers),
                other => panic!("{other}"),
            }
        }
        assert!((10..=10 + bound).contains(&passed), "{failure}: {passed}");
        let headers = refusals.last().unwrap();
        assert_eq!(headers["x-envoy-ratelimited"], "true");
        assert!((1..=8).contains(&headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap()));
        assert!(script.calls() * 5 < 200, "{failure}: {} calls", script.calls());
        assert_eq!(ask(&mesh, "/", "u2").await.0, if failure == "open" { 200 } else { 429 }, "another set");
    }
}

#[tokio::test]
async fn a_reload_keeps_what_was_granted() {
    let script = Script::counting(10);
    let server = script.serve().await;
    let text = script::document(server, &format!("{}, failure: closed, lease: {{}}", script::BY_USER));
    let mesh = mesh_core::Mesh::from_yaml(&text, "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", "u1").await.0, 200);
    mesh.reload(&text.replace("{name: in}", "{name: in}, {name: other}"), "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", "u1").await.0, 200);
    assert_eq!(script.calls(), 1, "one grant of ten");
    mesh.reload(&text.replace("timeout: 20s", "timeout: 21s"), "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", "u1").await.0, 429, "another limit asks anew, and all ten are granted");
}

/// The `quota` of the protocol: so many until then, then nothing, and nobody is asked.
#[tokio::test]
async fn a_quota_of_the_server_is_used_up_without_a_further_call() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let until = Timestamp { seconds: now.as_secs() as i64 + 3_600, nanos: 0 };
    let mut answer = limit(10, 3);
    answer.quota = Some(Quota {
        requests: 3,
        id: "users".to_owned(),
        expiration_specifier: Some(ExpirationSpecifier::ValidUntil(until)),
    });
    let script = Script::answering([Ok(answer)]);
    let settings = format!("{}, failure: closed, lease: {{ttl: 2h}}", script::BY_USER);
    let mesh = mesh(script.serve().await, &settings);
    let mut statuses = Vec::new();
    let mut wait = String::new();
    for _ in 0..5 {
        let (status, headers) = ask(&mesh, "/", "u1").await;
        statuses.push(status);
        wait = headers.get("retry-after").map_or_else(String::new, |wait| wait.to_str().unwrap().to_owned());
    }
    assert_eq!((statuses, script.calls()), (vec![200, 200, 200, 429, 429], 1));
    assert!((3_500..=3_600).contains(&wait.parse().unwrap()), "{wait}");
}
