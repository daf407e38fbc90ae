//! A policy server that speaks plain HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};

use crate::World;

type Asked = Arc<Mutex<Vec<String>>>;

/// Allows `/ok*` and `/plain`, sends `/login` away, breaks at `/broken`. It is a listener of the mesh itself, and tells no `x-*` of
/// its own but what it says here.
async fn authorizer() -> (Mesh, SocketAddr, Asked) {
    let mesh = Mesh::from_yaml("{version: 1, listeners: [{name: in, address: '127.0.0.1:0'}]}", "opa.yaml").unwrap();
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let heard = Arc::clone(&heard);
        async move { answer(request, &heard).await }
    });
    let address = mesh.listen("in", service).await.unwrap().local_addr();
    (mesh, address, asked)
}

async fn answer(request: Request<Body>, heard: &Asked) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
    let header = |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap_or("?")).to_owned();
    let path = head.uri.path().strip_prefix("/check").unwrap_or("?").to_owned();
    heard.lock().unwrap().push(format!(
        "{} {path} host={} token={} cookie={} length={} body={body}",
        head.method,
        header("host"),
        header("authorization"),
        header("cookie"),
        header("content-length"),
    ));
    let response = Response::builder().header("x-user", "7").header("x-info", "i").header("x-other", "o");
    Ok(match path.as_str() {
        "/plain" => response.body(Body::empty()),
        path if path.starts_with("/ok") => {
            response.header("x-envoy-auth-headers-to-remove", "x-secret, cookie").body(Body::from("ignored"))
        }
        path if path.starts_with("/broken") => response.status(500).body(Body::from("stack trace")),
        _ => response.status(302).header("location", "/sign-in").body(Body::from("sign in first")),
    }?)
}

const SETTINGS: &str =
    "http: { path_prefix: /check, allowed_upstream_headers: [x-user], allowed_client_headers_on_success: [x-info] }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_over_http_changes_the_request_and_the_response_as_it_is_written() {
    let (_mesh, address, asked) = authorizer().await;
    let world = World::start(SETTINGS, &[address]).await;
    let sent = [("authorization", "t"), ("cookie", "c"), ("x-secret", "s"), ("x-user", "me"), ("x-kept", "k")];
    let (status, headers, seen) = world.get("/ok?a=1", &sent).await;
    assert_eq!((status, seen.as_str()), (200, "/ok?a=1\nx-kept: k\nx-user: 7"));
    assert_eq!((&headers["x-info"], &headers["x-app"]), (&"i".parse().unwrap(), &"1".parse().unwrap()));
    assert!(!headers.contains_key("x-other") && !headers.contains_key("x-user"));
    assert_eq!(*asked.lock().unwrap(), ["GET /ok host=app token=t cookie=- length=0 body="]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_over_http_is_the_callers_answer_and_a_broken_server_follows_the_failure_mode() {
    let (_mesh, address, _) = authorizer().await;
    let world = World::start(&format!("{SETTINGS}, status_on_error: 418"), &[address]).await;
    let (status, headers, body) = world.get("/login", &[]).await;
    assert_eq!((status, body.as_str(), &headers["location"]), (302, "sign in first", &"/sign-in".parse().unwrap()));
    assert!(headers.contains_key("x-other") && !headers.contains_key("x-app"));
    let (status, _, body) = world.get("/broken", &[]).await;
    assert_eq!((status, body.as_str()), (418, ""), "nothing of a broken server is passed on");
    let settings = format!("{SETTINGS}, failure: open, failure_mode_allow_header_add: true");
    let world = World::start(&settings, &[address]).await;
    let (status, _, seen) = world.get("/broken", &[("x-envoy-auth-failure-mode-allowed", "no")]).await;
    assert_eq!((status, seen.as_str()), (200, "/broken\nx-envoy-auth-failure-mode-allowed: true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_http_are_kept_by_the_configured_key_and_bodies_are_sent() {
    let (_mesh, address, asked) = authorizer().await;
    let cache = "cache: { key: [path], ttl: 60s, negative_ttl: 60s }";
    let settings = format!("http: {{ path_prefix: /check }}, {cache}, with_request_body: {{ max_request_bytes: 9 }}");
    let world = World::start(&settings, &[address]).await;
    for (path, expected) in [("/plain", 200), ("/plain", 200), ("/login", 302), ("/login", 302)] {
        assert_eq!(world.get(path, &[]).await.0, expected);
    }
    let met = (asked.lock().unwrap().len(), world.counter("hits"));
    assert_eq!(met, (3, 1), "a redirect may be for one request, and is not kept unless it is said so");
    let request = Request::post("http://app/plain").body(Body::from("body")).unwrap();
    let response = world.client().call(request).await.unwrap();
    assert_eq!(response.into_body().collect_up_to(99).await.unwrap(), "body");
    assert_eq!(asked.lock().unwrap()[3], "POST /plain host=app token=- cookie=- length=4 body=body");
    for _ in 0..2 {
        assert_eq!(world.get("/ok", &[]).await.0, 200);
    }
    assert_eq!(asked.lock().unwrap().len(), 6, "nor is an approval that changes headers");
    let said = settings.replace("cache: {", "cache: { header_changes: true,");
    let world = World::start(&said, &[address]).await;
    for (path, expected) in [("/ok", 200), ("/ok", 200), ("/login", 302), ("/login", 302)] {
        assert_eq!(world.get(path, &[]).await.0, expected);
    }
    assert_eq!((asked.lock().unwrap().len(), world.counter("hits")), (8, 2));
}
