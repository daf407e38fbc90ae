//! What responses tell of the server's load, over real loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::net::TcpListener;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use mesh_core::error::BoxError;
use mesh_core::load_report::{HEADER, LoadReport, TRAILER};
use mesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FORMAT: &str = "endpoint-load-metrics-format";

/// A server whose handler answers by path, a client of it, and the server's mesh.
async fn world(listener: &str, protocol: &str) -> (Mesh, Mesh) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\"{listener} }}]\n");
    let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
    server.load().set_utilization(0.7).unwrap();
    server.load().set_queue_depth(4);
    server.listen("in", tower::service_fn(answer)).await.unwrap();
    let client = format!(
        "version: 1
clusters: [{{ name: a, protocol: {protocol}, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
defaults: {{ retry: {{ attempts: 0 }}, connect_timeout: 20s }}"
    );
    (server, Mesh::from_yaml(&client, "client.yaml").unwrap())
}

async fn answer(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let mut response = Response::new(Body::from("hello"));
    match request.uri().path() {
        "/own" => {
            response.headers_mut().insert(HEADER, HeaderValue::from_static("TEXT cpu_utilization=0.1"));
        }
        "/broken" => *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR,
        "/grpc" | "/announced" => {
            let trailers =
                HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "14".parse().unwrap())]);
            let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\0")), Frame::trailers(trailers)];
            let frames = futures_util::stream::iter(frames.map(Ok::<_, BoxError>));
            let is_announced = request.uri().path() == "/announced";
            response = Response::new(Body::new(StreamBody::new(frames)));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            if is_announced {
                response.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
            }
        }
        "/trailers-only" => {
            response = Response::new(Body::empty());
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
        }
        _ => {}
    }
    Ok(response)
}

async fn call(client: &Mesh, path: &str, headers: &[(&'static str, &str)]) -> (HeaderMap, HeaderMap) {
    let mut request = Request::get(format!("http://a{path}")).body(Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let (head, body) = client.client().call(request).await.unwrap().into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    (head.headers, trailers)
}

fn says(headers: &HeaderMap, form: &str) -> LoadReport {
    let text = headers.get(HEADER).unwrap_or_else(|| panic!("no report in {headers:?}")).to_str().unwrap();
    assert!(text.starts_with(form), "{text}");
    LoadReport::parse(headers).unwrap_or_else(|| panic!("malformed: {text}"))
}

#[tokio::test]
async fn a_caller_is_told_when_it_asks_and_in_the_form_it_asks_for() {
    let (server, client) = world("", "auto").await;
    assert!(!call(&client, "/", &[]).await.0.contains_key(HEADER), "not asked for");
    for (asked, form) in [("TEXT", "TEXT "), ("json", "JSON "), ("BIN", "BIN ")] {
        let (head, _) = call(&client, "/", &[(FORMAT, asked)]).await;
        let report = says(&head, form);
        assert_eq!((report.utilization(), report.named_metrics["queue_depth"]), (0.7, 4.0), "{asked}");
        assert!(report.named_metrics["requests_in_flight"] >= 1.0, "{asked}: this very request");
    }
    assert!(!call(&client, "/", &[(FORMAT, "PROSE")]).await.0.contains_key(HEADER), "an unknown form");
    server.load().set_utilization(0.2).unwrap();
    assert_eq!(says(&call(&client, "/", &[(FORMAT, "TEXT")]).await.0, "TEXT ").utilization(), 0.2);
    assert_eq!(server.status()["load"]["application_utilization"], 0.2);
}

#[tokio::test]
async fn what_the_application_reports_itself_stays() {
    let (_server, client) = world(", load_reports: always", "auto").await;
    assert_eq!(says(&call(&client, "/own", &[]).await.0, "TEXT ").cpu_utilization, 0.1);
}

#[tokio::test]
async fn always_and_off_do_not_ask_the_caller() {
    let (_server, client) = world(", load_reports: always", "auto").await;
    assert_eq!(says(&call(&client, "/", &[]).await.0, "TEXT ").utilization(), 0.7);
    assert_eq!(says(&call(&client, "/", &[(FORMAT, "JSON")]).await.0, "JSON ").utilization(), 0.7);
    let (_server, client) = world(", load_reports: off", "auto").await;
    assert!(!call(&client, "/", &[(FORMAT, "TEXT")]).await.0.contains_key(HEADER));
}

#[tokio::test]
async fn a_grpc_call_is_told_in_its_trailers() {
    let (_server, client) = world(", load_reports: always", "http2").await;
    let grpc = [("content-type", "application/grpc")];
    let (head, trailers) = call(&client, "/grpc", &grpc).await;
    assert!(!head.contains_key(HEADER) && !head.contains_key(TRAILER));
    assert_eq!(LoadReport::parse(&trailers).expect("in the trailers").utilization(), 0.7);
    assert_eq!(trailers["grpc-status"], "14");
    let (head, _) = call(&client, "/trailers-only", &grpc).await;
    assert_eq!(LoadReport::parse(&head).expect("a head that is the trailers").utilization(), 0.7);
}

#[tokio::test]
async fn a_grpc_call_over_http1_is_told_and_ends_well() {
    let (server, _) = world(", load_reports: always", "auto").await;
    let address = server.config()["listeners"][0]["address"].as_str().unwrap().to_owned();
    for path in ["/grpc", "/announced"] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (_, trailers) = answer.rsplit_once("\r\n0\r\n").unwrap_or_else(|| panic!("{path} has no end: {answer}"));
        assert!(trailers.contains("grpc-status: 14") && trailers.contains(TRAILER), "{path}: {trailers}");
    }
}

#[tokio::test]
async fn where_callers_can_prove_who_they_are_a_stranger_is_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let identity = |name: &str| {
        let directory = directory.path().display();
        format!("identity: {{ spiffe_id: \"spiffe://test/{name}\", dev_ca: {{ directory: \"{directory}\" }} }}\n")
    };
    for (reports, is_stranger_told) in [("", false), (", load_reports: on_request", true)] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "{}listeners: [{{ name: in, address: \"127.0.0.1:{port}\", tls: permissive{reports} }}]\n",
            identity("server")
        );
        let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
        server.listen("in", tower::service_fn(answer)).await.unwrap();
        for (identity, tls, is_told) in [
            (identity("client"), ", tls: { server_ids: [\"spiffe://test/server\"] }", true),
            (String::new(), "", is_stranger_told),
        ] {
            let text = format!(
                "{identity}clusters: [{{ name: a{tls}, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
defaults: {{ connect_timeout: 20s }}"
            );
            let client = Mesh::from_yaml(&text, "client.yaml").unwrap();
            let (head, _) = call(&client, "/", &[(FORMAT, "TEXT")]).await;
            assert_eq!(head.contains_key(HEADER), is_told, "{reports:?} {tls:?}");
        }
    }
}

#[tokio::test]
async fn an_ingress_does_not_report_for_others_unless_told_to() {
    let (backend, _) = world("", "auto").await;
    let address = backend.config()["listeners"][0]["address"].as_str().unwrap().to_owned();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ingress = format!(
        "version: 1
listeners: [{{ name: front, address: \"127.0.0.1:{port}\", forward: true }}]
clusters: [{{ name: a, endpoints: [{{ address: \"{address}\" }}] }}]
routes: [{{ hosts: [\"*\"], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
defaults: {{ connect_timeout: 20s }}"
    );
    let ingress = Mesh::from_yaml(&ingress, "ingress.yaml").unwrap();
    ingress.load().set_utilization(0.01).unwrap();
    ingress.forward("front").await.unwrap();
    let client = format!(
        "version: 1
clusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
defaults: {{ connect_timeout: 20s }}"
    );
    let client = Mesh::from_yaml(&client, "client.yaml").unwrap();
    let (head, _) = call(&client, "/", &[(FORMAT, "TEXT")]).await;
    assert_eq!(says(&head, "TEXT ").utilization(), 0.7, "the backend's");
}
