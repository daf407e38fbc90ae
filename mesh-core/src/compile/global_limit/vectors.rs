//! The vectors of descriptors, through the configuration and its compiler: Envoy's actions are ours.

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::compile_rules;
use crate::access::AttributesBuf;
use crate::access::descriptor::describe;
use crate::config::global_limit::DescriptorRule as Written;
use crate::policy::vectors::{cases, text};

const VECTORS: &str = include_str!("../../../../tests/vectors/rls_descriptors.json");

/// Envoy attaches limits to virtual hosts and routes; ours stand beside listeners, and `match` says which requests.
const LEFT_OUT: &[&str] = &[
    "vhost-override",
    "vhost-include",
    "vhost-ignore",
    "vhost-override-route-empty",
    "vhost-include-route-empty",
    "vhost-ignore-route-empty",
];

#[test]
fn a_request_makes_the_descriptors_it_makes_in_envoy() {
    let mut asserted = 0;
    for case in &cases(VECTORS) {
        let id = text(case, "id");
        match text(case, "kind") {
            _ if LEFT_OUT.contains(&id) => continue,
            // Asserted where requests are answered: `mesh-core/tests/global_limits/answers.rs`.
            "answer" => continue,
            "descriptors" => assert_eq!(described(case), case["expected"], "{id}"),
            other => panic!("{id}: a case of kind {other} is neither asserted nor left out"),
        }
        asserted += 1;
    }
    assert_eq!(asserted, 34);
}

fn described(case: &Value) -> Value {
    let written: Vec<Written> = serde_json::from_value(ours(case["rate_limits"].clone())).unwrap();
    let rules = compile_rules((&written, "descriptors"), text(&case["context"], "source_cluster")).unwrap();
    let request = request(case);
    let attributes = request.borrow();
    let made = describe(&rules, &attributes);
    json!({ "descriptors": made, "server_called": !made.is_empty() })
}

/// Envoy's matchers say `string_match: {exact: x}` where ours say `exact: x`.
fn ours(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut flat = serde_json::Map::new();
            for (name, value) in fields {
                match name.as_str() {
                    "string_match" => flat.extend(value.as_object().unwrap().clone()),
                    "present_match" => drop(flat.insert("present".to_owned(), value)),
                    _ => drop(flat.insert(name, ours(value))),
                }
            }
            Value::Object(flat)
        }
        Value::Array(items) => items.into_iter().map(ours).collect(),
        other => other,
    }
}

fn request(case: &Value) -> AttributesBuf {
    let request = &case["request"];
    let (path, query) = match text(request, "path").split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (text(request, "path"), None),
    };
    let mut headers = HeaderMap::new();
    for header in request["headers"].as_array().unwrap() {
        let name: HeaderName = header[0].as_str().unwrap().parse().unwrap();
        headers.append(name, header[1].as_str().unwrap().parse().unwrap());
    }
    AttributesBuf {
        method: text(request, "method").to_owned(),
        path: path.to_owned(),
        query,
        headers,
        service: text(&case["context"], "destination_cluster").to_owned(),
        source_address: Some(format!("{}:4000", text(request, "remote_address")).parse().unwrap()),
        ..AttributesBuf::default()
    }
}

fn describe_one(action: Value, change: impl FnOnce(&mut AttributesBuf)) -> Vec<String> {
    let written: Vec<Written> = serde_json::from_value(json!([{ "actions": [action] }])).unwrap();
    let rules = compile_rules((&written, "descriptors"), "me").unwrap();
    let mut request = AttributesBuf::default();
    change(&mut request);
    let attributes = request.borrow();
    let made = describe(&rules, &attributes);
    made.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect()
}

#[test]
fn what_envoy_does_not_know_has_entries_of_its_own() {
    let claims = |request: &mut AttributesBuf| {
        let claims = json!({ "sub": "u1", "realm": { "plan": "gold", "seats": 7 }, "aud": ["a"] });
        request.claims = claims.as_object().cloned().map(std::sync::Arc::new);
    };
    let claim = |path: Value| json!({ "claim": { "path": path, "descriptor_key": "c" } });
    assert_eq!(describe_one(claim(json!(["sub"])), claims), ["c=u1"]);
    assert_eq!(describe_one(claim(json!(["realm", "seats"])), claims), ["c=7"]);
    assert!(describe_one(claim(json!(["aud"])), claims).is_empty(), "a list is no value");
    assert!(describe_one(claim(json!(["sub"])), |_| ()).is_empty(), "no token");
    let otherwise = json!({ "claim": { "path": ["sub"], "descriptor_key": "c", "default_value": "nobody" } });
    assert_eq!(describe_one(otherwise, |_| ()), ["c=nobody"]);

    let principal = json!({ "attribute": { "name": "principal" } });
    assert_eq!(describe_one(principal.clone(), |_| ()), ["principal=spiffe://cluster.local/ns/default/sa/caller"]);
    assert!(describe_one(principal, |request| request.principal = None).is_empty());
}

#[test]
fn a_bare_connection_has_an_address_and_nothing_of_a_request() {
    let connection = |request: &mut AttributesBuf| {
        request.is_tcp = true;
        request.source_address = Some("[::ffff:10.1.2.3]:4".parse().unwrap());
    };
    let network = json!({ "masked_remote_address": { "v4_prefix_mask_len": 16 } });
    assert_eq!(describe_one(network, connection), ["masked_remote_address=10.1.0.0/16"]);
    for name in [":path", ":method", ":authority", ":scheme"] {
        let action = json!({ "request_headers": { "header_name": name, "descriptor_key": "k" } });
        assert!(describe_one(action, connection).is_empty(), "{name}");
    }
}
