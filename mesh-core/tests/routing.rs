//! Field reports about matching, held from the document to the answer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, ErrorKind, Mesh};
use tower::{Layer, ServiceExt};

/// The status that the rules of this document answer with; 404: no rule.
async fn routed(mesh: &Mesh, url: &str, headers: &[(&'static str, &'static str)]) -> u16 {
    let mut request = Request::get(url).body(Body::empty()).unwrap();
    append(request.headers_mut(), headers);
    match mesh.client().call(request).await {
        Ok(response) => response.status().as_u16(),
        Err(error) if error.kind() == ErrorKind::NoRoute => 404,
        Err(error) => panic!("{url}: {error}"),
    }
}

/// The status of a server with this policy.
async fn judged(policy: &str, headers: &[(&'static str, &'static str)]) -> u16 {
    let text = format!("listeners: [{{name: in}}]\npolicy: {policy}\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let mut request = Request::get("http://a.test/").body(Body::empty()).unwrap();
    append(request.headers_mut(), headers);
    mesh.server_layer("in").unwrap().layer(answer).oneshot(request).await.unwrap().status().as_u16()
}

fn append(map: &mut HeaderMap, headers: &[(&'static str, &'static str)]) {
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
}

#[tokio::test]
async fn o51_an_expression_matches_the_whole_of_what_it_is_asked_about() {
    let text = "routes:
  - hosts: [a]
    rules:
      - {match: {path: {regex: '/svc/.*'}}, direct_response: {status: 201}}
      - {match: {path: {regex: '/a|/b'}}, direct_response: {status: 202}}
      - {match: {headers: [{name: x, regex: 'a|b'}]}, direct_response: {status: 203}}
      - {match: {query: [{name: q, regex: 'a|b'}]}, direct_response: {status: 204}}
";
    let mesh = Mesh::from_yaml(text, "mesh.yaml").unwrap();
    for (path, header, expected) in [
        ("/svc/y", None, 201),
        ("/x/svc/y", None, 404),
        ("/b", None, 202),
        ("/ab", None, 404),
        ("/a/b", None, 404),
        ("/x/b", None, 404),
        ("/", Some("b"), 203),
        ("/", Some("ab"), 404),
        ("/", Some("xa"), 404),
        ("/?q=b", None, 204),
        ("/?q=xb", None, 404),
    ] {
        let headers: Vec<_> = header.map(|value| ("x", value)).into_iter().collect();
        assert_eq!(routed(&mesh, &format!("http://a{path}"), &headers).await, expected, "{path} {header:?}");
    }
}

#[tokio::test]
async fn o52_a_port_in_the_authority_makes_no_other_host() {
    let text = "routes:
  - {hosts: [api.foo], rules: [{direct_response: {status: 201}}]}
  - {hosts: ['*.foo'], rules: [{direct_response: {status: 202}}]}
  - {hosts: ['api.*'], rules: [{direct_response: {status: 203}}]}
  - {hosts: ['*'], rules: [{direct_response: {status: 200}}]}
";
    let mesh = Mesh::from_yaml(text, "mesh.yaml").unwrap();
    for (host, expected) in [("api.foo", 201), ("x.foo", 202), ("x.y.foo", 202), ("api.bar", 203), ("foo", 200)] {
        for port in ["", ":80", ":8080", ".", ".:80"] {
            assert_eq!(routed(&mesh, &format!("http://{host}{port}/"), &[]).await, expected, "{host}{port}");
        }
    }
}

#[tokio::test]
async fn o53_a_second_line_of_a_header_neither_makes_a_match_nor_dodges_a_deny() {
    let text = "routes:
  - hosts: [a]
    rules:
      - {match: {headers: [{name: x-role, exact: admin}]}, direct_response: {status: 201}}
      - {match: {headers: [{name: x-role, contains: admin}]}, direct_response: {status: 202}}
      - {direct_response: {status: 200}}
";
    let mesh = Mesh::from_yaml(text, "mesh.yaml").unwrap();
    let ours = "{access: {rules: [{name: no, action: deny, headers: [{name: x-role, contains: admin}]}]}}";
    let istios = r#"{authorization: {policies: [{metadata: {name: no}, spec: {action: DENY, rules: [{when: [
        {key: "request.headers[x-role]", values: ["admin*", "*admin"]}]}]}}]}}"#;
    for (lines, route, verdict) in [
        (&[("x-role", "admin")][..], 201, 403),
        (&[("x-role", "admin"), ("x-role", "guest")], 202, 403),
        (&[("x-role", "guest"), ("x-role", "admin")], 202, 403),
        (&[("x-role", "guest")], 200, 200),
        (&[("x-role", "guest"), ("x-role", "user")], 200, 200),
    ] {
        assert_eq!(routed(&mesh, "http://a/", lines).await, route, "{lines:?}");
        assert_eq!(judged(ours, lines).await, verdict, "{lines:?}");
        assert_eq!(judged(istios, lines).await, verdict, "{lines:?}");
    }
}

#[test]
fn o56_a_wildcard_in_the_middle_of_a_path_is_refused_where_it_stands() {
    for (text, (line, field)) in [
        (
            "policy:\n  access:\n    rules:\n      - {name: no, action: deny, paths: [\"/service/*health\"]}\n",
            ("mesh.yaml:4:", "policy.access.rules[0].paths[0]"),
        ),
        (
            "policy:\n  authorization:\n    policies:\n      - metadata: {name: no}\n        spec: {action: DENY, rules: [{to: [{operation: {paths: [\"/service/*health\"]}}]}]}\n",
            ("mesh.yaml:5:", "policy.authorization.policies[0].spec.rules[0].to[0].operation.paths"),
        ),
        (
            "routes:\n  - hosts: [a]\n    rules:\n      - {match: {path: {template: \"/service/*health\"}}, direct_response: {status: 200}}\n",
            ("mesh.yaml:4:", "routes[0].rules[0].match.path.template"),
        ),
    ] {
        let refused = Mesh::from_yaml(text, "mesh.yaml").err().expect(text).to_string();
        assert!(refused.contains(line) && refused.contains(&format!(": {field}: ")), "{refused}");
    }
}
