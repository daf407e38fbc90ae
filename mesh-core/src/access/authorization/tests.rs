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
