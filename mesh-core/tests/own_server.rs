//! An application that keeps its own server: what it is told before it answers and what is known afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_core::identity::{DevCa, SpiffeId, TrustDomain};
use mesh_core::inbound::own_server::{Answer, Begun, Given, InboundCheck, Ticket};
use mesh_core::inbound::{ConnectionAddress, ServerName};
use mesh_core::time::{Clock, ManualClock};
use mesh_core::{CallContext, Mesh};

fn mesh(text: &str) -> Mesh {
    Mesh::from_yaml(&format!("version: 1\n{text}"), "mesh.yaml").unwrap()
}

fn get(target: &str) -> Request<Given> {
    Request::get(target).header("host", "shop").body(Given::Whole(Bytes::new())).unwrap()
}

/// What nothing has to be waited for.
fn begin(check: &InboundCheck, request: Request<Given>) -> Begun {
    match pin!(check.begin(request)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(begun) => begun.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

fn admitted(check: &InboundCheck, request: Request<Given>) -> Ticket {
    match begin(check, request) {
        Begun::Admitted(ticket) => ticket,
        Begun::Answered(answer) => panic!("{answer:?}"),
        Begun::Wanted(_) => panic!("it was handed over"),
    }
}

fn answered(check: &InboundCheck, request: Request<Given>) -> Answer {
    match begin(check, request) {
        Begun::Answered(answer) => answer,
        _ => panic!("it was not answered"),
    }
}

fn head(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

fn metric(mesh: &Mesh, name: &str, labels: &[&str]) -> f64 {
    let page = mesh.metrics_text();
    let lines = page.lines().filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn logging(directory: &Path) -> Mesh {
    let log = directory.join("access.log");
    mesh(&format!("listeners: [{{ name: in }}]\ntelemetry: {{ access_log: {{ path: \"{}\" }} }}\n", log.display()))
}

/// The lines of the access log, after the mesh was closed.
fn logged(mesh: &Mesh, directory: &Path) -> Vec<String> {
    mesh.close(Duration::from_secs(5));
    std::fs::read_to_string(directory.join("access.log")).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_request_is_recorded_with_the_status_and_the_lengths_that_its_server_tells() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = logging(directory.path());
    let check = mesh.inbound_check("in").unwrap();
    let mut request = get("/books?page=2");
    request.extensions_mut().insert(ConnectionAddress {
        local: "127.0.0.1:80".parse().unwrap(),
        remote: "127.0.0.9:4711".parse().unwrap(),
    });
    let mut ticket = admitted(&check, request);
    assert_eq!(ticket.head().uri, "/books?page=2");
    assert!(ticket.head().headers.contains_key("x-request-id"), "{:?}", ticket.head().headers);
    assert!(ticket.head().extensions.get::<Arc<CallContext>>().is_some());
    let sent = ticket.answer(head(404)).unwrap();
    assert_eq!(sent.status(), 404);
    assert!(ticket.answer(head(200)).unwrap_err().message().contains("answered already"));
    assert_eq!(metric(&mesh, "istio_requests_total", &["response_code=\"404\""]), 0.0, "it has not ended");
    ticket.count_request(12);
    ticket.end(345, None);
    assert_eq!(metric(&mesh, "istio_requests_total", &["response_code=\"404\"", "reporter=\"destination\""]), 1.0);
    assert_eq!(metric(&mesh, "istio_response_bytes_sum", &[]), 345.0);
    assert_eq!(metric(&mesh, "istio_request_bytes_sum", &[]), 12.0);
    let [line] = &logged(&mesh, directory.path())[..] else { panic!() };
    for part in ["\"/books", "404", "345", "127.0.0.9:4711"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn what_breaks_off_or_is_given_up_is_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let mesh = logging(directory.path());
    let check = mesh.inbound_check("in").unwrap();
    let mut ticket = admitted(&check, get("/"));
    ticket.answer(head(200)).unwrap();
    ticket.fail(7, "the disk is full");
    drop(admitted(&check, get("/")));
    let mut ticket = admitted(&check, get("/"));
    ticket.answer(head(200)).unwrap();
    drop(ticket);
    assert_eq!(metric(&mesh, "istio_requests_total", &["response_flags=\"DC\""]), 2.0);
    let lines = logged(&mesh, directory.path());
    assert!(lines[0].contains("the disk is full") && lines[0].contains("internal"), "{lines:?}");
}

#[test]
fn the_rules_judge_the_path_whatever_its_spelling_and_the_application_sees_the_judged_one() {
    let mesh = mesh(
        "listeners: [{ name: in }]\npolicy: { access: { rules: [{ name: admin, action: deny, paths: [/admin*] }] } }",
    );
    let check = mesh.inbound_check("in").unwrap();
    for target in ["/admin", "/books/../admin", "/%61dmin", "//admin", "http://shop/admin"] {
        let answer = answered(&check, get(target));
        assert_eq!(answer.response.status(), 403, "{target}");
    }
    assert_eq!(admitted(&check, get("/a/../books")).head().uri, "/books");
    assert_eq!(metric(&mesh, "istio_requests_total", &["response_code=\"403\""]), 5.0);
}

#[test]
fn a_place_is_held_until_the_end_of_the_response() {
    let mesh = mesh("listeners: [{ name: in, concurrency: { max_requests: 1, queue: { max_requests: 0 } } }]");
    let check = mesh.inbound_check("in").unwrap();
    let mut first = admitted(&check, get("/"));
    assert_eq!(answered(&check, get("/")).response.status(), 503);
    let another = mesh.inbound_check("in").unwrap();
    assert_eq!(answered(&another, get("/")).response.status(), 503, "its places are the listener's");
    first.answer(head(200)).unwrap();
    assert_eq!(answered(&check, get("/")).response.status(), 503, "its body is under way");
    first.end(0, None);
    drop(admitted(&check, get("/")));
    drop(admitted(&check, get("/")));
}

#[test]
fn one_who_has_to_wait_is_admitted_when_there_is_room() {
    let mesh =
        mesh("listeners: [{ name: in, concurrency: { max_requests: 1, queue: { max_requests: 1, max_wait: 60s } } }]");
    let check = mesh.inbound_check("in").unwrap();
    let first = admitted(&check, get("/"));
    let mut second = Box::pin(check.begin(get("/")));
    let mut context = Context::from_waker(Waker::noop());
    assert!(second.as_mut().poll(&mut context).is_pending());
    drop(first);
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Ok(Begun::Admitted(_)))));
}

#[test]
fn health_is_answered_by_the_mesh_and_a_leaving_process_says_so() {
    let mesh = mesh("listeners: [{ name: in, health: { path: /healthz, grpc: true } }]");
    let check = mesh.inbound_check("in").unwrap();
    assert_eq!(answered(&check, get("/healthz")).response.body(), "SERVING\n");
    let mut grpc = get("/grpc.health.v1.Health/Check");
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let answer = answered(&check, grpc);
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    assert_eq!(&answer.response.body()[..], b"\0\0\0\0\x02\x08\x01");
    mesh.set_serving(false);
    assert_eq!(answered(&check, get("/healthz")).response.status(), 503);
}

#[test]
fn trailers_come_back_as_they_are_to_be_sent() {
    let mesh = mesh("listeners: [{ name: in }]");
    let check = mesh.inbound_check("in").unwrap();
    let mut request = get("/shop.Books/List");
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut ticket = admitted(&check, request);
    ticket.answer(head(200)).unwrap();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("5"))]);
    assert_eq!(ticket.end(9, Some(trailers.clone())), Some(trailers));
    assert_eq!(metric(&mesh, "istio_requests_total", &["grpc_response_status=\"5\""]), 1.0, "{}", mesh.metrics_text());
}

#[test]
fn a_closed_mesh_admits_nobody() {
    let mesh = mesh("listeners: [{ name: in }]");
    let check = mesh.inbound_check("in").unwrap();
    let ticket = admitted(&check, get("/"));
    mesh.close(Duration::from_secs(5));
    let refused = pin!(check.begin(get("/"))).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(refused, Poll::Ready(Err(error)) if error.kind() == mesh_core::ErrorKind::Closed));
    drop(ticket);
}

#[test]
fn a_server_name_counts_also_where_the_client_shows_no_certificate() {
    let text = "version: 1
listeners: [{ name: in, tls: plaintext }]
policy:
  authorization:
    policies:
      - { metadata: { name: intern }, spec: { action: DENY, rules: [{ when: [{ key: connection.sni, values: [intern.test] }] }] } }
";
    let mesh = Mesh::from_yaml(text, "mesh.yaml").unwrap();
    mesh.start().unwrap();
    let check = mesh.inbound_check("in").unwrap();
    for (name, is_admitted) in [(Some("intern.test"), false), (Some("shop.test"), true), (None, true)] {
        let mut request = get("/");
        if let Some(name) = name {
            request.extensions_mut().insert(ServerName(name.into()));
        }
        assert_eq!(matches!(begin(&check, request), Begun::Admitted(_)), is_admitted, "{name:?}");
    }
}

const SERVER: &str = "spiffe://test/ns/shop/sa/server";
const PAGE: &str = "spiffe://test/ns/shop/sa/page";

fn chain(ca: &Path, id: &str, ttl: Duration, at: SystemTime) -> Vec<u8> {
    let id = SpiffeId::parse(id).unwrap();
    let authority = DevCa::open(ca, &TrustDomain::of(&id), at).unwrap();
    authority.issue(&id, ttl, at).unwrap().chain()[0].to_vec()
}

#[test]
fn a_certificate_is_believed_by_the_roots_of_the_mesh_and_as_long_as_it_is_valid() {
    let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = Arc::new(ManualClock::new());
    let text = format!(
        "version: 1
identity: {{ spiffe_id: \"{SERVER}\", dev_ca: {{ directory: \"{}\" }} }}
listeners: [{{ name: in, tls: permissive }}]
policy: {{ access: {{ rules: [{{ name: page, action: allow, principals: [\"{PAGE}\"] }}] }} }}
",
        ours.path().display()
    );
    let mesh = Mesh::builder().clock(Arc::clone(&clock) as Arc<dyn Clock>).from_yaml(&text, "mesh.yaml").unwrap();
    mesh.start().unwrap();
    let check = mesh.inbound_check("in").unwrap();
    let (now, minutes) = (clock.wall(), |minutes: u64| Duration::from_secs(60 * minutes));
    let page = chain(ours.path(), PAGE, minutes(10), now);
    let status = |chain: &[&[u8]]| {
        let mut request = get("/");
        if let Some(peer) = check.peer(chain, Some("shop.test")) {
            assert_eq!(peer.server_name.as_deref(), Some("shop.test"));
            request.extensions_mut().insert(peer);
        }
        match begin(&check, request) {
            Begun::Admitted(ticket) => {
                let context = ticket.head().extensions.get::<Arc<CallContext>>().unwrap();
                assert_eq!(context.peer.as_deref(), Some(PAGE));
                200
            }
            Begun::Answered(answer) => answer.response.status().as_u16(),
            Begun::Wanted(_) => panic!("it was handed over"),
        }
    };
    for _ in 0..2 {
        assert_eq!(status(&[&page]), 200);
        assert_eq!(status(&[]), 403);
        assert_eq!(status(&[&chain(ours.path(), SERVER, minutes(10), now)]), 403);
        assert_eq!(status(&[&chain(other.path(), PAGE, minutes(10), now)]), 403, "another authority's");
        assert_eq!(status(&[b"no certificate"]), 403);
    }
    clock.advance(minutes(11));
    assert_eq!(status(&[&page]), 403, "it has expired");
}
