//! What a policy server says for the access log is in the line of its request, also where the answer was kept.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value as PbValue};
use serde_json::{Value, json};
use tonic::Code;

use crate::World;
use crate::policy::{Policy, status};

fn answer(code: Code, fields: &[(&str, String)]) -> CheckResponse {
    let value = |text: &String| PbValue { kind: Some(Kind::StringValue(text.clone())) };
    let fields = fields.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
    CheckResponse { dynamic_metadata: Some(Struct { fields }), ..status(code) }
}

/// The lines of requests for these paths.
async fn lines(check: &str, paths: &[&str]) -> Vec<Value> {
    let policy = Policy::start(|asked| {
        Some(match &*asked.path {
            "/denied" => answer(Code::PermissionDenied, &[("rule", "7".to_owned())]),
            "/long" => answer(Code::Ok, &[("essay", "x".repeat(5000)), ("rule", "8\n9".to_owned())]),
            "/silent" => status(Code::Ok),
            _ => answer(Code::Ok, &[("rule", "1".to_owned()), ("libmesh.check_cache", "no hints".to_owned())]),
        })
    });
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let telemetry = format!("telemetry: {{ access_log: {{ path: \"{}\" }} }}\n", log.display());
    let world = World::with(check, &[policy.address], &telemetry).await;
    for path in paths {
        world.get(path, &[]).await;
    }
    // The last of a log writes what is queued.
    drop(world);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        // The questions are requests, too, and have lines of their own.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let served: Vec<Value> = lines.filter(|line| line["reporter"] == "destination").collect();
        if served.len() == paths.len() {
            return served;
        }
        assert!(Instant::now() < end, "waited 30 s for {} lines: {text}", paths.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answers_metadata_is_in_the_line_of_each_request_it_decides() {
    let paths = ["/", "/denied", "/denied", "/long", "/silent"];
    let lines = lines("log_metadata: true, cache: { key: [path] }", &paths).await;
    let told: Vec<Value> = lines.iter().map(|line| line["check_metadata"].clone()).collect();
    let denied = json!({"opa": {"rule": "7"}});
    let long = json!({"opa": {"rule": "8\n9", "libmesh.omitted": 1}});
    assert_eq!(told, [json!({"opa": {"rule": "1"}}), denied.clone(), denied, long, Value::Null]);
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 403, 403, 200, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_logs_metadata_who_did_not_ask_for_it() {
    let lines = lines("cache: { key: [path] }", &["/", "/denied"]).await;
    assert!(lines.iter().all(|line| line.get("check_metadata").is_none()), "{lines:?}");
}
