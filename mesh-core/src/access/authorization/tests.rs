//! What the vectors do not ask.

use super::*;
use crate::access::AttributesBuf;
use crate::config::authorization::AuthorizationPolicy;

/// One policy for everything in namespace `foo`, of a mesh whose trust domain is `new` and was `old`.
fn policies(spec: serde_json::Value) -> Policies {
    let document = serde_json::json!([{ "metadata": { "name": "p", "namespace": "foo" }, "spec": spec }]);
    let documents: Vec<AuthorizationPolicy> = serde_json::from_value(document).unwrap();
    let workload = Workload { namespace: "foo".to_owned(), ..Workload::default() };
    let mesh = MeshNames {
        trust_domain: "new".to_owned(),
        trust_domain_aliases: vec!["old".to_owned()],
        ..MeshNames::default()
    };
    read(&documents, &workload, &mesh).unwrap()
}

#[test]
fn a_principal_with_a_wildcard_holds_in_every_trust_domain_of_ours() {
    for (pattern, caller, expected) in [
        ("old/ns/a/sa/*", "new/ns/a/sa/b", true),
        ("old/ns/a/sa/b", "new/ns/a/sa/b", true),
        ("cluster.local/ns/a/sa/*", "old/ns/a/sa/b", true),
        ("cluster.local/ns/a/sa/*", "new/ns/a/sa/b", true),
        ("cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b", false),
        ("*ld/ns/a/sa/b", "new/ns/a/sa/b", true),
        ("*ld/ns/a/sa/b", "gold/ns/a/sa/b", true),
        ("*/ns/a/sa/b", "anywhere/ns/a/sa/b", true),
        ("other/ns/a/sa/*", "new/ns/a/sa/b", false),
        ("other/ns/a/sa/*", "other/ns/a/sa/b", true),
        // Not of five parts: as written.
        ("old/ns/a/*", "new/ns/a/sa/b", false),
        ("old/*", "old/ns/a/sa/b", true),
    ] {
        let spec = serde_json::json!({ "rules": [{ "from": [{ "source": { "principals": [pattern] } }] }] });
        let policies = policies(spec);
        let attributes = AttributesBuf { principal: Some(format!("spiffe://{caller}")), ..AttributesBuf::default() };
        let ruling = policies.rule(&attributes.borrow());
        assert_eq!(matches!(ruling, Ruling::Allow(_)), expected, "{pattern} {caller}");
    }
}

#[test]
fn a_host_without_a_port_is_denied_on_every_port_and_allowed_on_none_it_does_not_name() {
    let host = |action: &str, list: &str, host: &str| {
        let spec =
            serde_json::json!({ "action": action, "rules": [{ "to": [{ "operation": { list: ["a.test"] } }] }] });
        let attributes = AttributesBuf { host: host.to_owned(), ..AttributesBuf::default() };
        matches!(policies(spec).rule(&attributes.borrow()), Ruling::Allow(_))
    };
    for (action, list, authority, is_allowed) in [
        ("DENY", "hosts", "a.test", false),
        ("DENY", "hosts", "a.test:80", false),
        ("DENY", "hosts", "b.test:80", true),
        ("DENY", "notHosts", "a.test", true),
        ("DENY", "notHosts", "a.test:80", false),
        ("ALLOW", "hosts", "a.test", true),
        ("ALLOW", "hosts", "a.test:80", false),
    ] {
        assert_eq!(host(action, list, authority), is_allowed, "{action} {list} {authority}");
    }
}

/// One condition, as the only one of an ALLOW policy.
fn when(key: &str, list: &str, values: &[&str]) -> Policies {
    policies(serde_json::json!({ "rules": [{ "when": [{ "key": key, list: values }] }] }))
}

#[test]
fn what_envoy_keeps_among_the_headers_is_found_there() {
    let mut of = AttributesBuf {
        method: "POST".to_owned(),
        path: "/a".to_owned(),
        query: Some("b=1".to_owned()),
        host: "admin.shop".to_owned(),
        scheme: "https".to_owned(),
        ..AttributesBuf::default()
    };
    of.headers.insert("x-a", "1".parse().unwrap());
    for (key, value, expected) in [
        (":authority", "admin.shop", true),
        (":authority", "Admin.Shop", true),
        (":authority", "*.shop", true),
        (":authority", "shop", false),
        ("host", "admin.shop", true),
        ("Host", "shop", false),
        (":method", "POST", true),
        (":method", "GET", false),
        (":path", "/a?b=1", true),
        (":path", "/a", false),
        (":path", "/a*", true),
        (":scheme", "https", true),
        ("X-A", "1", true),
    ] {
        let policies = when(&format!("request.headers[{key}]"), "values", &[value]);
        assert_eq!(matches!(policies.rule(&of.borrow()), Ruling::Allow(_)), expected, "{key} {value}");
    }
}

#[test]
fn a_name_that_no_header_has_is_a_mistake() {
    for name in [":status", ":protocol", "x y", "", "x:y"] {
        let written = serde_json::json!([{ "metadata": { "name": "p" }, "spec": {
            "rules": [{ "when": [{ "key": format!("request.headers[{name}]"), "values": ["a"] }] }] } }]);
        let documents: Vec<AuthorizationPolicy> = serde_json::from_value(written).unwrap();
        let problems = read(&documents, &Workload::default(), &MeshNames::default()).unwrap_err();
        assert_eq!(problems.len(), 1, "{name:?}");
        assert!(problems[0].to_string().contains("when[0]"), "{}", problems[0]);
    }
}

#[test]
fn a_claim_that_is_a_list_in_one_text_has_each_word_as_a_value() {
    let claims = serde_json::json!({ "scope": "read write", "permission": ["a b"], "other": "read write",
        "nested": { "scope": "read write" } });
    let of = AttributesBuf { claims: Some(Arc::new(claims.as_object().unwrap().clone())), ..AttributesBuf::default() };
    for (claim, list, value, expected) in [
        ("scope", "values", "write", true),
        ("scope", "values", "wri", false),
        ("scope", "values", "read write", false),
        ("scope", "notValues", "write", false),
        ("scope", "notValues", "admin", true),
        ("permission", "values", "a b", true),
        ("permission", "values", "a", false),
        ("other", "values", "write", false),
        ("nested][scope", "values", "write", false),
    ] {
        let policies = when(&format!("request.auth.claims[{claim}]"), list, &[value]);
        assert_eq!(matches!(policies.rule(&of.borrow()), Ruling::Allow(_)), expected, "{claim} {list} {value}");
    }
}

#[test]
fn a_provider_is_asked_about_a_connection_as_if_what_only_http_has_matched() {
    let asks = |rule: serde_json::Value, is_tcp: bool| {
        let policies = policies(serde_json::json!({
            "action": "CUSTOM", "provider": { "name": "opa" }, "rules": [rule],
        }));
        let of = AttributesBuf {
            is_tcp,
            source_address: Some("192.0.2.1:4000".parse().unwrap()),
            ..AttributesBuf::default()
        };
        policies.providers(&of.borrow(), Draw::STRICT).count() == 1
    };
    let from = |block: &str| serde_json::json!([{ "source": { "ipBlocks": [block] } }]);
    let methods = serde_json::json!([{ "operation": { "methods": ["PUT"] } }]);
    for (rule, is_tcp, expected) in [
        (serde_json::json!({ "to": methods }), true, true),
        (serde_json::json!({ "to": methods }), false, false),
        (serde_json::json!({ "from": from("192.0.2.0/24"), "to": methods }), true, true),
        (serde_json::json!({ "from": from("198.51.100.0/24"), "to": methods }), true, false),
    ] {
        assert_eq!(asks(rule.clone(), is_tcp), expected, "{rule} {is_tcp}");
    }
}

#[test]
fn a_second_value_of_a_header_dodges_no_deny_and_opens_no_allow() {
    let verdict = |action: &str, list: &str, values: &[&str]| {
        let spec = serde_json::json!({
            "action": action,
            "rules": [{ "when": [{ "key": "request.headers[x-role]", list: ["admin", "*root", "op*"] }] }],
        });
        let mut attributes = AttributesBuf::default();
        for value in values {
            attributes.headers.append("x-role", value.parse().unwrap());
        }
        matches!(policies(spec).rule(&attributes.borrow()), Ruling::Allow(_))
    };
    for (action, list, values, is_allowed) in [
        ("DENY", "values", &["admin", "user"][..], false),
        ("DENY", "values", &["user", "admin"], false),
        ("DENY", "values", &["the-root", "user"], false),
        ("DENY", "values", &["user", "ops"], false),
        ("DENY", "values", &["user", "guest"], true),
        ("DENY", "notValues", &["ops", "user"], false),
        ("DENY", "notValues", &["user", "the-root"], false),
        ("DENY", "notValues", &["ops", "the-root"], true),
        ("ALLOW", "values", &["admin", "user"], false),
        ("ALLOW", "values", &["user", "admin"], false),
        ("ALLOW", "notValues", &["user", "ops"], false),
        ("ALLOW", "notValues", &["admin", "user"], false),
        ("ALLOW", "notValues", &["user", "guest"], true),
    ] {
        assert_eq!(verdict(action, list, values), is_allowed, "{action} {list} {values:?}");
    }
}
