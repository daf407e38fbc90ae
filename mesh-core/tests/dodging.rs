//! Ways around a deny rule, over a raw socket, so that nothing tidies the request for us.
//!
//! The property: however an application reads the path it gets, it never reads one that the deny names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RULES: &str = r#"access: {rules: [{name: no, action: deny, paths: ["/admin", "/admin/*"]}]}"#;
const PREFIX_RULE: &str = r#"access: {rules: [{name: no, action: deny, paths: ["/admin*"]}]}"#;
const POLICIES: &str = r#"authorization: {policies: [{metadata: {name: no}, spec: {action: DENY,
    rules: [{to: [{operation: {paths: ["/admin", "/admin/*"]}}]}]}}]}"#;
const TEMPLATES: &str = r#"authorization: {policies: [{metadata: {name: no}, spec: {action: DENY,
    rules: [{to: [{operation: {paths: ["/admin", "/admin/{**}"]}}]}]}}]}"#;
const ALLOWED: &str = r#"access: {rules: [{name: yes, action: allow, paths: ["/public/*", "/", "/ADMIN", "/x*"]}]}"#;

#[path = "dodging/corpus.rs"]
mod corpus;

use corpus::{HOSTS, TARGETS};

/// What the application got: path and host.
type Seen = Arc<Mutex<Vec<(String, String)>>>;

struct Server {
    address: std::net::SocketAddr,
    seen: Seen,
    _mesh: Mesh,
}

async fn server(listener: &str, policy: &str) -> Server {
    let text = format!("listeners: [{{name: in, address: \"127.0.0.1:0\"{listener}}}]\npolicy: {{{policy}}}\n");
    let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let answer = tower::service_fn(move |request: Request<Body>| {
        let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap());
        let authority = request.uri().authority().map_or(host, |authority| authority.as_str());
        noted.lock().unwrap().push((request.uri().path().to_owned(), authority.to_owned()));
        async { Ok::<_, BoxError>(Response::new(Body::empty())) }
    });
    let address = mesh.listen("in", answer).await.unwrap().local_addr();
    Server { address, seen, _mesh: mesh }
}

impl Server {
    /// The status of the answer to these bytes; 0: the connection was closed without one.
    async fn send(&self, bytes: &[u8]) -> u16 {
        let sending = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // A refused connection may be reset after its answer.
            let _ = stream.read_to_end(&mut answer).await;
            let head = String::from_utf8_lossy(&answer).into_owned();
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
        };
        tokio::time::timeout(Duration::from_secs(20), sending).await.expect("an answer")
    }

    async fn get(&self, target: &str) -> u16 {
        self.send(format!("GET {target} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    fn take_seen(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// What applications make of a path: decoded or not, slashes merged before or after dot segments, parameters dropped.
fn readings(path: &str) -> Vec<String> {
    let decoded = percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
    let slashes = ["%2f", "%2F", "%5c", "%5C", "\\"].iter().fold(path.to_owned(), |path, s| path.replace(s, "/"));
    let mut readings = Vec::new();
    for text in [path.to_owned(), decoded, slashes] {
        let bare: Vec<_> = text.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
        for text in [text.clone(), bare.join("/")] {
            readings.extend([resolve(&text), merge(&text), merge(&resolve(&text)), resolve(&merge(&text)), text]);
        }
    }
    readings
}

fn merge(path: &str) -> String {
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn is_denied(path: &str) -> bool {
    readings(path).iter().any(|path| path == "/admin" || path.starts_with("/admin/"))
}

#[tokio::test]
async fn no_spelling_of_a_denied_path_reaches_the_application() {
    for (name, policy) in [("rules", RULES), ("policies", POLICIES), ("templates", TEMPLATES)] {
        let server = server("", policy).await;
        for (target, expected) in TARGETS {
            let status = server.get(target).await;
            for (path, _) in server.take_seen() {
                assert!(!is_denied(&path), "{name}: {target} reached the application as {path}");
            }
            assert_eq!(status, *expected, "{name}: {target}");
        }
    }
}

#[tokio::test]
async fn a_prefix_denies_whatever_begins_so() {
    let server = server("", PREFIX_RULE).await;
    for (target, expected) in TARGETS {
        let expected = if *target == "/administrator" { 403 } else { *expected };
        assert_eq!(server.get(target).await, expected, "{target}");
        assert!(server.take_seen().iter().all(|(path, _)| !is_denied(path)), "{target}");
    }
}

#[tokio::test]
async fn an_allowed_path_leads_nowhere_else() {
    let server = server("", ALLOWED).await;
    for (target, expected) in [
        ("/public/a", 200),
        ("/public/a%20b", 200),
        ("/public/a%2Fb", 200),
        ("/public//a", 200),
        ("/public/..%2fadmin", 403),
        ("/public/..%2F..%2Fadmin", 403),
        ("/public/%2e%2e%2fadmin", 403),
        ("/public/..%5cadmin", 403),
        ("/public/../admin", 403),
        ("/public%2f..%2fadmin", 403),
        ("/admin", 403),
    ] {
        assert_eq!(server.get(target).await, expected, "{target}");
        assert!(server.take_seen().iter().all(|(path, _)| !is_denied(path)), "{target}");
    }
}

/// The three ways to close every door with Envoy's own options, and no reading judged.
#[tokio::test]
async fn envoys_options_close_the_same_doors() {
    for (action, below) in [("reject_request", 400), ("unescape_and_forward", 403), ("unescape_and_redirect", 307)] {
        let listener =
            format!(", judged_paths: as_handed_on, merge_slashes: true, path_with_escaped_slashes_action: {action}");
        let server = server(&listener, RULES).await;
        for target in ["//admin", "/./admin", "/%61dmin", "/x/..//admin", "/\\admin"] {
            assert_eq!(server.get(target).await, 403, "{action} {target}");
        }
        for target in ["/%2fadmin", "/admin%2Fx", "/x%2f..%2fadmin", "/x%5C..%5Cadmin"] {
            assert_eq!(server.get(target).await, below, "{action} {target}");
        }
        assert!(server.take_seen().is_empty(), "{action}");
    }
}

#[tokio::test]
async fn o54_a_double_slash_does_not_dodge_a_deny_and_where_it_could_a_warning_says_so() {
    let server = server("", RULES).await;
    assert_eq!(server.get("//admin/secret").await, 403);
    let text = |listener: &str, policy: &str| {
        format!("listeners:\n  - {{name: in{listener}}}\npolicy:\n  {}\n", policy.replace('\n', " "))
    };
    let warnings = |listener: &str, policy: &str| {
        let parsed = mesh_core::config::parse(&text(listener, policy), "mesh.yaml").unwrap();
        parsed.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings("", RULES), [""; 0]);
    let literal = ", judged_paths: as_handed_on";
    let found = warnings(literal, RULES);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("mesh.yaml:4:") && found[0].contains("policy.access.rules[0].paths"), "{}", found[0]);
    assert!(found[0].contains("`//` stays") && found[0].contains("`%2F` stays"), "{}", found[0]);
    let found = warnings(&format!("{literal}, merge_slashes: true"), RULES);
    assert!(found.len() == 1 && !found[0].contains("`//` stays"), "{found:?}");
    let found = warnings(literal, POLICIES);
    assert!(found.len() == 1 && found[0].contains("policy.authorization.policies[0]"), "{found:?}");
    let closed = format!("{literal}, merge_slashes: true, path_with_escaped_slashes_action: reject_request");
    assert_eq!(warnings(&closed, RULES), [""; 0]);
    assert_eq!(warnings(&closed, POLICIES), [""; 0]);
    let found = warnings(&format!("{closed}, normalize_path: false"), RULES);
    assert!(found.len() == 1 && found[0].contains("normalize_path: false"), "{found:?}");
    assert_eq!(warnings(literal, "access: {rules: [{name: no, action: deny, methods: [PUT]}]}"), [""; 0]);
}

#[tokio::test]
async fn o55_an_escaped_slash_arrives_byte_for_byte_where_it_is_kept() {
    for listener in [
        "",
        ", path_with_escaped_slashes_action: reject_request, keep_escaped_slashes: [/projects], merge_slashes: true",
    ] {
        let server = server(listener, RULES).await;
        let put = "PUT /projects/a%2Fb?x=%2F HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        assert_eq!(server.send(put.as_bytes()).await, 200, "{listener}");
        assert_eq!(server.take_seen()[0].0, "/projects/a%2Fb", "{listener}");
        assert_eq!(server.get("/projects/..%2fadmin").await, 403, "{listener}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_denied_host_reaches_the_application() {
    for policy in [
        r#"access: {rules: [{name: no, action: deny, hosts: ["admin.example"]}]}"#,
        r#"authorization: {policies: [{metadata: {name: no}, spec: {action: DENY, rules: [{to: [{operation: {hosts: ["admin.example"]}}]}]}}]}"#,
    ] {
        let server = server("", policy).await;
        for (request, expected) in HOSTS {
            let status = server.send(format!("{request}connection: close\r\n\r\n").as_bytes()).await;
            assert_eq!(status, *expected, "{request}");
            for (_, host) in server.take_seen() {
                assert_eq!(host, "open.example", "{request}");
            }
        }
    }
}

/// Over HTTP/2: `:authority` counts, and a host field beside it is nobody's to read.
#[tokio::test]
async fn over_http2_the_authority_and_the_path_are_judged_likewise() {
    let policy = r#"access: {rules: [{name: host, action: deny, hosts: ["admin.example"]}, {name: path, action: deny, paths: ["/admin", "/admin/*"]}]}"#;
    let server = server("", policy).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (uri, host, expected) in [
        ("http://admin.example/", None, 403),
        ("http://admin.example/", Some("open.example"), 403),
        ("http://ADMIN.example.:80/", Some("open.example"), 403),
        ("http://open.example/", Some("admin.example"), 200),
        ("http://open.example//admin", None, 403),
        ("http://open.example/x/%2e%2e/admin", None, 403),
        ("http://open.example/admin%2Fx", None, 403),
        ("http://open.example/", None, 200),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(answer.await.unwrap().status().as_u16(), expected, "{uri} {host:?}");
        for (path, host) in server.take_seen() {
            assert!(host == "open.example" && !is_denied(&path), "{uri}: {host}{path}");
        }
    }
}

/// One with rules and one with policies, for every case.
static MANGLED: LazyLock<[Mesh; 2]> = LazyLock::new(|| {
    [RULES, POLICIES].map(|policy| {
        Mesh::from_yaml(&format!("listeners: [{{name: in}}]\npolicy: {{{policy}}}\n"), "server.yaml").unwrap()
    })
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_mangling_of_a_denied_path_gets_through(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("/"), Just("//"), Just("/./"), Just("/../"), Just("/x/../"), Just("%2f"), Just("%2F"), Just("%5c"),
                Just("\\"), Just("%2e"), Just("%2e%2e/"), Just(";p"), Just(";p=1/"), Just("x"), Just("%61"), Just("%25"),
                Just(".."), Just("%2e%2E%2f"), Just("admin"), Just("adm%69n"), Just("%41"), Just("%c3%a4"),
            ],
            0..7,
        ),
        tail in prop_oneof![Just(""), Just("/"), Just("/x"), Just("%2Fx"), Just("?q=/"), Just(";x"), Just("//x")],
    ) {
        let target = format!("/{}admin{tail}", pieces.concat());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for mesh in &*MANGLED {
                let seen = Seen::default();
                let noted = Arc::clone(&seen);
                let answer = tower::service_fn(move |request: Request<Body>| {
                    noted.lock().unwrap().push((request.uri().path().to_owned(), String::new()));
                    async { Ok::<_, BoxError>(Response::new(Body::empty())) }
                });
                let service = tower::Layer::layer(&mesh.server_layer("in").unwrap(), answer);
                if let Ok(request) = Request::get(format!("http://a.test{target}")).body(Body::empty()) {
                    tower::ServiceExt::oneshot(service, request).await.unwrap();
                }
                for (path, _) in seen.lock().unwrap().iter() {
                    assert!(!is_denied(path), "{target} reached the application as {path}");
                }
            }
        });
    }
}

/// A check that is asked about some paths only, by its own `match` or by a CUSTOM policy, is asked about each of their
/// spellings. Its server is gone, and it fails closed.
#[tokio::test]
async fn no_spelling_of_a_path_dodges_the_check_that_is_asked_about_it() {
    let checks = |rest: &str| {
        format!("checks: [{{name: opa, cluster: opa, timeout: 1s, failure: closed, status_on_error: 418{rest}}}]")
    };
    let by_match = checks(", match: {path: {prefix: /admin}}");
    let by_policy = checks(", provider_only: true")
        + r#", authorization: {policies: [{metadata: {name: ask}, spec: {action: CUSTOM, provider: {name: opa},
            rules: [{to: [{operation: {paths: ["/admin", "/admin/*"]}}]}]}}]}"#;
    for policy in [by_match, by_policy] {
        let text = format!(
            "listeners: [{{name: in}}]\nclusters: [{{name: opa, protocol: http2, endpoints: [{{address: \"127.0.0.1:1\"}}]}}]\npolicy: {{{policy}}}\n"
        );
        let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
        let answer = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
        let layer = mesh.server_layer("in").unwrap();
        for (target, expected) in TARGETS.iter().filter(|(target, _)| target.starts_with('/') && !target.contains('#'))
        {
            let Ok(request) = Request::get(format!("http://a.test{target}")).body(Body::empty()) else { continue };
            let service = tower::Layer::layer(&layer, answer);
            let status = tower::ServiceExt::oneshot(service, request).await.unwrap().status();
            let expected = if *expected == 403 { 418 } else { *expected };
            assert_eq!(status.as_u16(), expected, "{target} under {policy}");
        }
    }
}
