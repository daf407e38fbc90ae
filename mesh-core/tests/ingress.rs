//! What a forwarding listener knows of its callers: who they are, and how they came.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::identity::SpiffeId;
use mesh_core::{Body, Mesh, PeerIdentity};

fn identity(ca: &Path, id: &str) -> String {
    format!("identity: {{spiffe_id: \"spiffe://test/{id}\", dev_ca: {{directory: \"{}\"}}}}\n", ca.display())
}

/// A caller of the ingress at this port.
fn caller(port: u16, identity: Option<String>) -> Mesh {
    let tls = if identity.is_some() { "server_ids: [\"spiffe://test/ns/edge/sa/edge\"]" } else { "mode: plaintext" };
    let text = format!(
        "{}defaults: {{connect_timeout: 20s}}\nclusters: [{{name: edge, tls: {{{tls}}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\n\
         routes: [{{hosts: [shop.test], rules: [{{backends: [{{cluster: edge}}]}}]}}]\n",
        identity.unwrap_or_default()
    );
    Mesh::from_yaml(&text, "caller.yaml").unwrap()
}

async fn ask(mesh: &Mesh, target: &str) -> Response<Body> {
    let request = Request::get(format!("http://shop.test{target}")).body(Body::empty()).unwrap();
    mesh.client().call(request).await.unwrap()
}

#[tokio::test]
async fn an_ingress_routes_by_who_proved_to_ask_and_redirects_to_how_it_was_asked() {
    let ca = tempfile::tempdir().unwrap();
    let text = format!(
        "{}listeners: [{{name: edge, address: \"127.0.0.1:0\", forward: true, tls: permissive}}]
routes:
  - hosts: [shop.test]
    rules:
      - {{match: {{path: {{prefix: /old}}}}, redirect: {{prefix: /new}}}}
      - {{match: {{source: {{namespaces: [web]}}}}, direct_response: {{status: 201}}}}
      - {{match: {{source: {{principals: [\"spiffe://test/ns/shop/*\"]}}}}, direct_response: {{status: 202}}}}
      - {{match: {{source: {{principals: [\"*\"]}}}}, direct_response: {{status: 203}}}}
      - {{direct_response: {{status: 403}}}}
",
        identity(ca.path(), "ns/edge/sa/edge")
    );
    let edge = Mesh::from_yaml(&text, "edge.yaml").unwrap();
    let port = edge.forward("edge").await.unwrap().local_addr().port();
    for (id, status) in [("ns/web/sa/page", 201), ("ns/shop/sa/orders", 202), ("ns/other/sa/x", 203)] {
        let mesh = caller(port, Some(identity(ca.path(), id)));
        assert_eq!(ask(&mesh, "/").await.status(), status, "{id}");
        assert_eq!(ask(&mesh, "/old/x").await.headers()["location"], "https://shop.test/new/x");
        // A path that looks like an authority stays a path.
        assert_eq!(ask(&mesh, "/old//evil.test/x").await.headers()["location"], "https://shop.test/new//evil.test/x");
    }
    let stranger = caller(port, None);
    assert_eq!(ask(&stranger, "/").await.status(), 403, "who proves nothing is nobody");
    assert_eq!(ask(&stranger, "/old").await.headers()["location"], "http://shop.test/new");
}

#[tokio::test]
async fn an_application_asks_as_itself_also_while_it_serves_somebody() {
    let ca = tempfile::tempdir().unwrap();
    let routes = "routes:
  - hosts: [a]
    rules:
      - {match: {source: {namespaces: [shop]}}, direct_response: {status: 200, body: itself}}
      - {direct_response: {status: 200, body: somebody else}}
";
    let text = format!(
        "{}listeners: [{{name: edge, address: \"127.0.0.1:0\"}}]\n{routes}",
        identity(ca.path(), "ns/edge/sa/edge").replace("ns/edge/sa/edge", "ns/shop/sa/orders")
    );
    let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let onward = server.client();
    let answer = tower::service_fn(move |_: Request<Body>| {
        let onward = onward.clone();
        async move { Ok::<_, BoxError>(onward.call(Request::get("http://a/").body(Body::empty())?).await?) }
    });
    let port = server.listen("edge", answer).await.unwrap().local_addr().port();
    let text = format!(
        "{}defaults: {{connect_timeout: 20s}}\nclusters: [{{name: s, tls: {{server_ids: [\"spiffe://test/ns/shop/sa/orders\"]}}, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]\n\
         routes: [{{hosts: [shop.test], rules: [{{backends: [{{cluster: s}}]}}]}}]\n",
        identity(ca.path(), "ns/web/sa/page")
    );
    let web = Mesh::from_yaml(&text, "web.yaml").unwrap();
    let response = ask(&web, "/").await;
    assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), "itself");
}

/// What the listener keeps, the routes keep.
#[tokio::test]
async fn o55_an_ingress_forwards_an_escaped_slash_byte_for_byte() {
    let origin = Mesh::from_yaml("listeners: [{name: in, address: \"127.0.0.1:0\"}]", "origin.yaml").unwrap();
    let answer = tower::service_fn(|request: Request<Body>| async move {
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        Ok::<_, BoxError>(Response::new(Body::from(target)))
    });
    let port = origin.listen("in", answer).await.unwrap().local_addr().port();
    let text = format!(
        "listeners: [{{name: edge, address: \"127.0.0.1:0\", forward: true, path_with_escaped_slashes_action: reject_request, keep_escaped_slashes: [/projects]}}]
defaults: {{connect_timeout: 20s}}
clusters: [{{name: a, endpoints: [{{address: \"127.0.0.1:{port}\"}}]}}]
routes: [{{hosts: [\"*\"], rules: [{{match: {{path: {{template: \"/projects/{{*}}/files\"}}}}, backends: [{{cluster: a}}]}}, {{direct_response: {{status: 404}}}}]}}]
"
    );
    let edge = Mesh::from_yaml(&text, "edge.yaml").unwrap();
    let port = edge.forward("edge").await.unwrap().local_addr().port();
    let client = caller(port, None);
    let response = ask(&client, "/projects/a%2Fb/files?x=%2F&y=a%2fb").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect_up_to(64).await.unwrap(), "/projects/a%2Fb/files?x=%2F&y=a%2fb");
    assert_eq!(ask(&client, "/projects/a/b/files").await.status(), 404);
    assert_eq!(ask(&client, "/other/a%2Fb").await.status(), 400);
}

/// A decoded path that begins with two slashes would send the caller to another host.
#[tokio::test]
async fn a_redirect_to_the_decoded_path_stays_on_its_host() {
    let text = "listeners: [{name: in, path_with_escaped_slashes_action: unescape_and_redirect}]";
    let mesh = Mesh::from_yaml(text, "server.yaml").unwrap();
    let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    for (path, grpc, status, location) in [
        ("/a%2Fb?x=%2F", false, 307, Some("/a/b?x=%2F")),
        ("/%2Fevil.test", false, 307, Some("/evil.test")),
        ("/%5c%5cevil.test", false, 307, Some("/evil.test")),
        ("/a/b", false, 200, None),
        ("/a%2Fb", true, 200, None),
    ] {
        let mut request = Request::get(format!("http://a{path}"));
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        let service = tower::Layer::layer(&mesh.server_layer("in").unwrap(), answer);
        let response = tower::ServiceExt::oneshot(service, request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let told = response.headers().get("location").map(|location| location.to_str().unwrap());
        assert_eq!(told, location, "{path}");
        assert_eq!(grpc, response.headers().get("grpc-status").is_some_and(|status| status == "13"), "{path}");
    }
}

/// Checks and rate limits know the caller as routes do.
#[tokio::test]
async fn a_check_and_a_limit_may_be_about_some_callers_only() {
    let source = "match: {source: {namespaces: [web]}}";
    for (policy, refused) in [
        (
            format!(
                "checks: [{{name: opa, cluster: opa, timeout: 1s, failure: closed, status_on_error: 418, {source}}}]"
            ),
            418,
        ),
        (format!("rate_limits: [{{name: few, max_tokens: 1, fill_interval: 1h, {source}}}]"), 429),
        (
            format!(
                "global_rate_limits: [{{name: all, cluster: opa, domain: shop, timeout: 1s, failure: closed, \
                 status_on_error: 503, {source}, descriptors: [{{actions: [{{generic_key: {{descriptor_value: r}}}}]}}]}}]"
            ),
            503,
        ),
    ] {
        let text = format!(
            "listeners: [{{name: in}}]\nclusters: [{{name: opa, protocol: http2, endpoints: [{{address: \"127.0.0.1:1\"}}]}}]\npolicy: {{{policy}}}\n"
        );
        let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
        let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
        let layer = mesh.server_layer("in").unwrap();
        let status = async |id: Option<&str>| {
            let mut request = Request::get("http://a.test/").body(Body::empty()).unwrap();
            if let Some(id) = id {
                let id = SpiffeId::parse(id).unwrap();
                let not_after = SystemTime::now() + Duration::from_secs(600);
                request.extensions_mut().insert(PeerIdentity {
                    id,
                    serial: "7".to_owned(),
                    not_after,
                    certificate: None,
                    server_name: None,
                });
            }
            let service = tower::Layer::layer(&layer, answer);
            tower::ServiceExt::oneshot(service, request).await.unwrap().status().as_u16()
        };
        // The first takes the only token there is.
        let first = status(Some("spiffe://test/ns/web/sa/page")).await;
        assert_eq!(first, if refused == 429 { 200 } else { refused }, "{policy}");
        assert_eq!(status(Some("spiffe://test/ns/web/sa/page")).await, refused, "{policy}");
        assert_eq!(status(Some("spiffe://test/ns/shop/sa/orders")).await, 200, "{policy}");
        assert_eq!(status(None).await, 200, "{policy}");
    }
}
