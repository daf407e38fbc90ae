//! What stands before the application, and in which order: who must not get in takes nothing from who may.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use mesh_core::error::BoxError;
use mesh_core::inbound::ConnectionAddress;
use mesh_core::{Body, Mesh};
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

/// What the application saw of a request: its host header and its path.
async fn seen(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let hosts: Vec<_> = request.headers().get_all("host").iter().map(|host| host.to_str().unwrap()).collect();
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert("x-hosts", hosts.join("|").parse()?);
    for word in ["x-mesh-refused", "x-mesh-draining", "x-mesh-should-retry"] {
        response.headers_mut().insert(word, "overloaded".parse()?);
    }
    Ok(response)
}

async fn ask(mesh: &Mesh, uri: &str, headers: &[(&'static str, &'static str)]) -> (u16, HeaderMap) {
    let mut request = Request::get(uri).body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let service = mesh.server_layer("in").unwrap().layer(tower::service_fn(seen));
    let (head, _) = service.oneshot(request).await.unwrap().into_parts();
    (head.status.as_u16(), head.headers)
}

fn mesh(policy: &str) -> Mesh {
    Mesh::from_yaml(&format!("listeners: [{{name: in}}]\npolicy: {{{policy}}}\n"), "server.yaml").unwrap()
}

const ADMIN_IS_CLOSED: &str = "access: {rules: [{name: no-admin, action: deny, paths: [\"/admin*\"]}]}";

#[tokio::test]
async fn a_denied_request_takes_no_token() {
    let mesh = mesh(&format!("{ADMIN_IS_CLOSED}, rate_limits: [{{name: one, max_tokens: 1, fill_interval: 1h}}]"));
    for _ in 0..3 {
        assert_eq!(ask(&mesh, "http://a/admin", &[]).await.0, 403);
    }
    assert_eq!(ask(&mesh, "http://a/", &[]).await.0, 200);
    assert_eq!(ask(&mesh, "http://a/", &[]).await.0, 429);
    assert_eq!(ask(&mesh, "http://a/admin", &[]).await.0, 403, "rules come before limits");
}

#[tokio::test]
async fn a_denied_request_is_refused_for_what_it_is_while_there_is_no_room() {
    let text = format!(
        "listeners: [{{name: in, concurrency: {{max_requests: 1, queue: {{max_requests: 0}}}}}}]\npolicy: {{{ADMIN_IS_CLOSED}}}\n"
    );
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let inside = (Arc::clone(&arrived), Arc::clone(&release));
    let hold = tower::service_fn(move |_: Request<Body>| {
        let (arrived, release) = inside.clone();
        async move {
            arrived.notify_one();
            release.notified().await;
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    // One layer is one listener: both services share its places.
    let layer = mesh.server_layer("in").unwrap();
    let get = |path: &str| Request::get(format!("http://a{path}")).body(Body::empty()).unwrap();
    let held = tokio::spawn(layer.layer(hold).oneshot(get("/")));
    arrived.notified().await;
    let status = async |path: &str| layer.layer(tower::service_fn(seen)).oneshot(get(path)).await.unwrap().status();
    assert_eq!(status("/").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status("/admin").await, StatusCode::FORBIDDEN);
    release.notify_one();
    assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(status("/").await, StatusCode::OK);
}

#[tokio::test]
async fn a_check_that_a_custom_policy_demands_is_asked_whatever_the_check_matches() {
    let document = |policies: &str| {
        format!(
            "listeners: [{{name: in}}, {{name: other}}]
clusters: [{{name: opa, protocol: http2, endpoints: [{{address: \"127.0.0.1:1\"}}]}}]
policy:
  checks: [{{name: opa, cluster: opa, timeout: 1s, failure: closed, status_on_error: 418, match: {{path: {{prefix: /elsewhere}}}}}}]
  authorization: {{policies: [{policies}]}}
"
        )
    };
    let custom = "{metadata: {name: c}, spec: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {hosts: [a.test], paths: [/asked]}}]}]}}";
    for (policies, uri, expected) in [
        ("", "http://a.test/asked", 200),
        ("", "http://a.test/elsewhere", 418),
        (custom, "http://a.test/asked", 418),
        (custom, "http://A.TEST.:8080/asked", 418),
        (custom, "http://a.test/elsewhere", 418),
        (custom, "http://a.test/", 200),
        (custom, "http://b.test/asked", 200),
    ] {
        let mesh = Mesh::from_yaml(&document(policies), "server.yaml").unwrap();
        assert_eq!(ask(&mesh, uri, &[]).await.0, expected, "{uri} under {policies:?}");
    }
    let partly = document(custom).replace("timeout: 1s", "timeout: 1s, listeners: [in]");
    let refused = Mesh::from_yaml(&partly, "server.yaml").err().unwrap().to_string();
    assert!(refused.contains("provider.name") && refused.contains("not asked on listener \"other\""), "{refused}");
}

#[tokio::test]
async fn a_host_has_one_form_for_rules_limits_and_the_application() {
    let mesh = mesh(
        "access: {rules: [{name: no, action: deny, hosts: [secret.test]}]}, rate_limits: [{name: host, by: [host], max_tokens: 1, fill_interval: 1h}]",
    );
    for uri in ["http://secret.test/", "http://SECRET.test./", "http://user@secret.test:80/"] {
        assert_eq!(ask(&mesh, uri, &[]).await.0, 403, "{uri}");
    }
    // The authority decides, and the application reads no other host.
    assert_eq!(ask(&mesh, "http://secret.test/", &[("host", "open.test")]).await.0, 403);
    let (status, headers) = ask(&mesh, "http://open.test/", &[("host", "secret.test")]).await;
    assert_eq!((status, headers["x-hosts"].to_str().unwrap()), (200, "open.test"));
    assert_eq!(ask(&mesh, "/", &[("host", "secret.test")]).await.0, 403);
    assert_eq!(ask(&mesh, "/", &[("host", "open2.test"), ("host", "secret.test")]).await.0, 400);
    for (uri, expected) in [
        ("http://OPEN.test/", 429),
        ("http://open.test./", 429),
        ("http://open.test:8080/", 429),
        ("http://third.test:1/", 200),
        ("http://third.test:2/", 429),
    ] {
        assert_eq!(ask(&mesh, uri, &[]).await.0, expected, "{uri}: another spelling is no other bucket");
    }
    // HTTP/2 leaves the field out; whoever asks for it finds it all the same.
    let (status, headers) = ask(&mesh, "http://fourth.test/", &[]).await;
    assert_eq!((status, headers["x-hosts"].to_str().unwrap()), (200, "fourth.test"));
}

#[tokio::test]
async fn an_ipv4_caller_of_a_socket_for_both_families_is_an_ipv4_caller() {
    let mesh = mesh(
        "access: {rules: [{name: no, action: deny, condition: \"source.ip == '203.0.113.7'\"}]}, rate_limits: [{name: net, by: [\"cidr(source.ip, 24)\"], max_tokens: 1, fill_interval: 1h}]",
    );
    for (remote, expected) in [
        ("[::ffff:203.0.113.7]:4000", 403),
        ("203.0.113.7:4000", 403),
        ("[::ffff:203.0.113.8]:4000", 200),
        ("203.0.113.9:4000", 429),
        ("[::ffff:192.0.2.1]:4000", 200),
        ("[2001:db8::1]:4000", 200),
    ] {
        let local = "[::ffff:203.0.113.1]:80".parse().unwrap();
        let address = ConnectionAddress { local, remote: remote.parse().unwrap() };
        let mut request = Request::get("http://a.test/").body(Body::empty()).unwrap();
        request.extensions_mut().insert(address);
        let response = mesh.server_layer("in").unwrap().layer(tower::service_fn(seen)).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{remote}");
    }
}

#[tokio::test]
async fn an_application_cannot_speak_for_the_mesh() {
    let (status, headers) = ask(&mesh(""), "http://a/", &[]).await;
    assert_eq!(status, 200);
    assert_eq!(headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-hosts"]);
}
