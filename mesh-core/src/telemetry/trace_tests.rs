use std::collections::HashSet;

use http::HeaderName;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/trace_context.json"));
/// OpenTelemetry metrics are not written by this module.
const OUT_OF_SCOPE: [&str; 1] = ["metric_attributes"];

fn cases(kind: &str, count: usize) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let all = vectors["cases"].as_array().unwrap();
    let known = ["traceparent", "tracestate", "baggage", "fan_out"];
    for case in all {
        let kind = case["kind"].as_str().unwrap();
        assert!(known.contains(&kind) || OUT_OF_SCOPE.contains(&kind), "{kind} is neither tested nor left out");
    }
    let cases: Vec<Value> = all.iter().filter(|case| case["kind"] == kind).cloned().collect();
    assert_eq!(cases.len(), count);
    cases
}

fn received(case: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for pair in case["received_headers"].as_array().unwrap() {
        let name = HeaderName::from_bytes(pair[0].as_str().unwrap().as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(pair[1].as_str().unwrap().as_bytes()).unwrap());
    }
    headers
}

/// What a server that got these headers sends when it calls on.
fn sent(received: &HeaderMap, rng: &mut fastrand::Rng) -> HeaderMap {
    let mut out = HeaderMap::new();
    TraceContext::join(received, rng, 100.0).child(rng).inject(&mut out);
    out
}

fn parts(headers: &HeaderMap) -> Vec<String> {
    let parts: Vec<String> = headers["traceparent"].to_str().unwrap().split('-').map(str::to_owned).collect();
    assert_eq!(parts.iter().map(String::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
    parts
}

#[test]
fn a_traceparent_is_kept_if_valid_and_replaced_if_not() {
    let mut rng = fastrand::Rng::with_seed(1);
    for case in cases("traceparent", 45) {
        let (id, expected) = (&case["id"], &case["expected"]);
        let headers = received(&case);
        let sent = parts(&sent(&headers, &mut rng));
        let kept = TraceContext::from_headers(&headers);
        assert_eq!(kept.is_some(), expected["trace"] == "keep", "{id}");
        for (key, value) in expected.as_object().unwrap() {
            match (key.as_str(), value) {
                ("trace", Value::String(trace)) => assert!(trace == "keep" || trace == "new", "{id}"),
                ("trace_id", value) => assert_eq!(value, &sent[1], "{id}"),
                ("trace_id_not", value) => assert_ne!(value, &sent[1], "{id}"),
                ("parent_id_not", value) => assert_ne!(value, &sent[2], "{id}"),
                ("sent_version", value) => assert_eq!(value, &sent[0], "{id}"),
                ("sampled", Value::Bool(true)) => assert_eq!(sent[3], "01", "{id}"),
                ("random_flag_kept", Value::Bool(true)) => assert_eq!(sent[3], "02", "{id}"),
                ("reserved_bits_sent", value) => assert_eq!((value.as_str(), &*sent[3]), (Some("zero"), "03"), "{id}"),
                other => panic!("{id}: unknown expectation {other:?}"),
            }
        }
    }
}

#[test]
fn a_tracestate_is_passed_on_whole_or_not_at_all() {
    let mut rng = fastrand::Rng::with_seed(2);
    for case in cases("tracestate", 35) {
        let (id, expected) = (&case["id"], &case["expected"]);
        let headers = received(&case);
        let kept = TraceContext::from_headers(&headers).is_some();
        assert_eq!(kept, expected["traceparent"] == "keep", "{id}");
        let out = sent(&headers, &mut rng);
        let members: Vec<&str> =
            out.get("tracestate").map(|line| line.to_str().unwrap().split(',').collect()).unwrap_or_default();
        match (expected.get("tracestate_members"), expected.get("tracestate_members_any_of")) {
            (Some(one), None) => assert_eq!(one, &serde_json::json!(members), "{id}"),
            (None, Some(any)) => assert!(any.as_array().unwrap().contains(&serde_json::json!(members)), "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }
}

#[test]
fn baggage_is_passed_on_in_whole_members() {
    let mut rng = fastrand::Rng::with_seed(3);
    for case in cases("baggage", 16) {
        let (id, expected) = (&case["id"], &case["expected"]);
        let headers = received(&case);
        let out = sent(&headers, &mut rng);
        let read = Baggage::from_headers(&out);
        let original =
            headers.get_all("baggage").iter().map(|line| line.to_str().unwrap()).collect::<Vec<_>>().join(",");
        for member in out.get("baggage").iter().flat_map(|line| line.to_str().unwrap().split(',')) {
            assert!(original.split(',').any(|whole| whole.trim() == member), "{id}: {member} was changed");
        }
        for (key, value) in expected.as_object().unwrap() {
            match key.as_str() {
                "propagated" => {
                    let dropped = original.split(',').filter(|m| !m.is_empty()).count() - read.members().count();
                    assert_eq!((value.as_bool(), dropped), (Some(true), 0), "{id}");
                }
                "member_count" => assert_eq!(value.as_u64(), Some(read.members().count() as u64), "{id}"),
                "propagated_members_at_least" => {
                    assert!(read.members().count() as u64 >= value.as_u64().unwrap(), "{id}")
                }
                "never_partial_member" => assert_eq!(value, true, "{id}"), // held for every case above
                "members" => assert_members(&read, value, id),
                other => panic!("{id}: unknown expectation {other}"),
            }
        }
    }
}

fn assert_members(read: &Baggage, expected: &Value, id: &Value) {
    let members: Vec<Value> = read
        .members()
        .map(|member| {
            let mut json = serde_json::json!({ "key": member.key, "value": member.value });
            if !member.properties.is_empty() {
                json["properties"] = serde_json::json!(member.properties);
            }
            json
        })
        .collect();
    assert_eq!(expected, &Value::Array(members), "{id}");
}

#[test]
fn every_call_and_every_attempt_is_a_span_of_its_own() {
    let mut rng = fastrand::Rng::with_seed(4);
    for case in cases("fan_out", 3) {
        let (id, expected) = (&case["id"], &case["expected"]);
        let server = TraceContext::join(&received(&case), &mut rng, 100.0);
        let calls = case["outgoing_calls"].as_u64().unwrap() * case.get("attempts").map_or(1, |n| n.as_u64().unwrap());
        let sent: Vec<TraceContext> = (0..calls).map(|_| server.child(&mut rng)).collect();
        let traces: HashSet<_> = sent.iter().map(|span| span.trace_id).collect();
        let spans: HashSet<_> = sent.iter().map(|span| span.span_id).collect();
        assert_eq!(expected["distinct_trace_ids"], traces.len(), "{id}");
        assert_eq!(expected["distinct_parent_ids"], spans.len(), "{id}");
        assert!(
            sent.iter().all(|span| span.parent == Some(server.span_id) && span.trace_id == server.trace_id),
            "{id}"
        );
        if let Some(counts) = expected.get("http.request.resend_count") {
            let ours: Vec<_> = (1..=calls as u32).map(resend_count).collect();
            assert_eq!(counts, &serde_json::json!(ours), "{id}");
        }
    }
}

#[test]
fn a_root_is_sampled_as_often_as_asked() {
    let mut rng = fastrand::Rng::with_seed(5);
    for (percent, expected) in [(0.0, 0..=0), (100.0, 1000..=1000), (25.0, 200..=300)] {
        let sampled = (0..1000).filter(|_| TraceContext::root(&mut rng, percent).is_sampled()).count();
        assert!(expected.contains(&sampled), "{sampled} of 1000 at {percent} %");
    }
}

#[test]
fn injecting_replaces_what_the_application_copied() {
    let mut rng = fastrand::Rng::with_seed(6);
    let mut headers = HeaderMap::new();
    headers.append("traceparent", HeaderValue::from_static("00-bad"));
    headers.append("tracestate", HeaderValue::from_static("old=1"));
    headers.append("baggage", HeaderValue::from_static("old=1"));
    let context = TraceContext::root(&mut rng, 100.0);
    context.inject(&mut headers);
    assert_eq!(headers.get_all("traceparent").iter().count(), 1);
    assert_eq!(headers["traceparent"], context.traceparent());
    assert!(!headers.contains_key("tracestate") && !headers.contains_key("baggage"));
}
