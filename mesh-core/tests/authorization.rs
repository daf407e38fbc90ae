//! Istio's authorization policies over real sockets: documents as they are, identities from mutual TLS.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::Path;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tower::{Layer, ServiceExt};

const POLICIES: &str = r#"
policy:
  authorization:
    policies:
      - apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata: { name: readers, namespace: shop, labels: { team: a } }
        spec:
          selector: { matchLabels: { app: orders } }
          rules:
            - from: [{ source: { namespaces: [web] } }]
              to: [{ operation: { methods: [GET], paths: ["/orders/{*}"] } }]
            - from: [{ source: { serviceAccounts: [admin] } }]
      - metadata: { name: no-secrets, namespace: istio-system }
        spec: { action: DENY, rules: [{ to: [{ operation: { paths: ["/orders/secret*"] } }] }] }
      - metadata: { name: elsewhere, namespace: other }
        spec: { action: DENY, rules: [{}] }
      - metadata: { name: planned, namespace: shop, annotations: { istio.io/dry-run: "true" } }
        spec: { action: DENY, rules: [{}] }
"#;

fn identity(ca: &Path, id: &str) -> String {
    format!("identity: {{spiffe_id: \"spiffe://test/{id}\", dev_ca: {{directory: \"{}\"}}}}\n", ca.display())
}

fn server(port: u16, ca: &Path, policies: &str) -> String {
    format!(
        "node: {{service: orders, namespace: shop, labels: {{app: orders}}}}\n{}listeners: [{{name: in, address: \"127.0.0.1:{port}\"}}]\n{policies}",
        identity(ca, "ns/shop/sa/orders")
    )
}

fn client(port: u16, ca: &Path, id: &str) -> Mesh {
    let text = format!(
        "{}clusters: [{{name: orders, tls: {{server_ids: [\"spiffe://test/ns/shop/sa/orders\"]}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\nroutes: [{{hosts: [orders], rules: [{{backends: [{{cluster: orders}}]}}]}}]\n",
        identity(ca, id)
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

async fn status(mesh: &Mesh, method: &str, path: &str) -> u16 {
    let request = Request::builder().method(method).uri(format!("http://orders{path}")).body(Body::empty()).unwrap();
    mesh.client().call(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn istios_documents_decide_as_they_are_and_follow_a_reload() {
    let ca = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server_mesh = Mesh::from_yaml(&server(port, ca.path(), POLICIES), "server.yaml").unwrap();
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    server_mesh.listen("in", answer).await.unwrap();
    let web = client(port, ca.path(), "ns/web/sa/page");
    let admin = client(port, ca.path(), "ns/shop/sa/admin");
    let stranger = client(port, ca.path(), "ns/other/sa/page");
    for (who, mesh, method, path, expected) in [
        ("web", &web, "GET", "/orders/7", 200),
        ("web", &web, "GET", "/orders/7?x=/y", 200),
        ("web", &web, "POST", "/orders/7", 403),
        ("web", &web, "GET", "/orders/7/8", 403),
        ("web", &web, "GET", "/orders/secret", 403),
        // Paths are normalised before they are judged.
        ("web", &web, "GET", "/orders/x/../secret", 403),
        ("web", &web, "GET", "/orders/%73ecret", 403),
        ("admin", &admin, "DELETE", "/anything", 200),
        ("admin", &admin, "GET", "/orders/secret/9", 403),
        ("stranger", &stranger, "GET", "/orders/7", 403),
    ] {
        assert_eq!(status(mesh, method, path).await, expected, "{who} {method} {path}");
    }
    let refused = server_mesh.reload(&server(port, ca.path(), &POLICIES.replace("GET", "\"G*T\"")), "server.yaml");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("policy.authorization.policies[0].spec.rules[0].to[0].operation.methods"), "{refused}");
    assert_eq!(status(&web, "GET", "/orders/7").await, 200, "a refused document changes nothing");
    server_mesh.reload(&server(port, ca.path(), &POLICIES.replace("[web]", "[other]")), "server.yaml").unwrap();
    assert_eq!(status(&web, "GET", "/orders/7").await, 403);
    assert_eq!(status(&stranger, "GET", "/orders/7").await, 200);
}

#[test]
fn a_custom_policy_names_a_check_of_the_document() {
    let text = "policy: {authorization: {policies: [{metadata: {name: c}, spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}}]}}";
    let refused = Mesh::from_yaml(text, "server.yaml").err().unwrap().to_string();
    assert!(refused.contains("no check is called \"opa\""), "{refused}");
}

#[tokio::test]
async fn a_second_value_of_a_header_dodges_no_deny_rule_and_opens_no_allow_rule() {
    let document = |action: &str, test: &str| {
        format!(
            "listeners: [{{name: in}}]\npolicy: {{access: {{rules: [{{name: r, action: {action}, headers: [{{name: x-role, {test}}}]}}]}}}}"
        )
    };
    let mesh = Mesh::from_yaml(&document("deny", "exact: a"), "server.yaml").unwrap();
    for (action, test, values, expected) in [
        ("deny", "exact: admin", &["admin", "user"][..], 403),
        ("deny", "exact: admin", &["user", "admin"], 403),
        ("deny", "suffix: root", &["the-root", "user"], 403),
        ("deny", "exact: admin, invert: true", &["admin", "user"], 403),
        ("deny", "exact: admin", &["user", "guest"], 200),
        ("allow", "exact: admin", &["admin", "user"], 403),
        ("allow", "exact: admin", &["admin"], 200),
    ] {
        mesh.reload(&document(action, test), "server.yaml").unwrap();
        let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
        let service = mesh.server_layer("in").unwrap().layer(answer);
        let request = Request::get("/").header("host", "a");
        let request = values.iter().fold(request, |request, value| request.header("x-role", *value));
        let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), expected, "{action} {test} {values:?}");
    }
}
