//! The server's end: leaving, and Unix sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::inbound::ConnectionAddress;
use mesh_core::{Body, Mesh};
use tokio::sync::Semaphore;

use crate::peers::{answered, eventually, get, mesh, soon};

/// An HTTP/2 connection that tells when the peer will take no new stream.
async fn connect(address: std::net::SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    soon(sender.ready()).await.unwrap()
}

async fn goodbye(mut sender: h2::client::SendRequest<Bytes>) {
    while let Ok(ready) = sender.clone().ready().await {
        sender = ready;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn o74_a_drain_says_goaway_at_once_and_what_is_in_flight_finishes() {
    let server = mesh("version: 1\nlisteners: [{ name: in, address: \"127.0.0.1:0\" }]\n");
    let held = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&held);
    let service = tower::service_fn(move |_: Request<Body>| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok::<_, BoxError>(Response::new(Body::from("done")))
        }
    });
    let address = server.listen("in", service).await.unwrap().local_addr();
    let mut busy = connect(address).await;
    let idle = connect(address).await;
    let request = Request::get("http://a/").body(()).unwrap();
    let (response, _) = busy.send_request(request, true).unwrap();
    eventually("the request to arrive", || server.status()["requests_in_flight"] == 1).await;
    let draining = tokio::spawn({
        let server = server.clone();
        async move { server.drain(Duration::from_secs(60)).await }
    });
    // No request ends meanwhile, and the grace is far from over.
    soon(goodbye(busy)).await;
    soon(goodbye(idle)).await;
    held.add_permits(1);
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "done");
    draining.abort();
}

#[tokio::test]
async fn who_connects_during_a_drain_is_served_until_the_grace_ends() {
    let server = mesh("version: 1\nlisteners: [{ name: in, address: \"127.0.0.1:0\" }]\n");
    let service = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::from("ok"))) });
    let address = server.listen("in", service).await.unwrap().local_addr();
    let draining = tokio::spawn({
        let server = server.clone();
        async move { server.drain(Duration::from_secs(60)).await }
    });
    eventually("the drain to begin", || server.status()["phase"] == "draining").await;
    for protocol in ["http1", "http2"] {
        let client = crate::peers::client(&[address], &format!("protocol: {protocol}"));
        for _ in 0..5 {
            assert_eq!(answered(&client, get("/")).await, (200, "ok".to_owned()), "{protocol}");
        }
    }
    draining.abort();
}

fn over_unix(path: &std::path::Path, protocol: &str) -> Mesh {
    mesh(&format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
clusters: [{{ name: a, protocol: {protocol}, endpoints: [{{ address: \"unix:{}\" }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
",
        path.display()
    ))
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_and_a_listener() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    // What a process that was killed leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = mesh(&format!("version: 1\nlisteners: [{{ name: in, address: \"unix:{}\" }}]\n", path.display()));
    let service = tower::service_fn(|request: Request<Body>| async move {
        let has_address = request.extensions().get::<ConnectionAddress>().is_some();
        Ok::<_, BoxError>(Response::new(Body::from(format!("{} {has_address}", request.uri().path()))))
    });
    let listening = server.listen("in", service).await.unwrap();
    assert_eq!(listening.address(), format!("unix:{}", path.display()));
    for protocol in ["http1", "http2"] {
        let client = over_unix(&path, protocol);
        for _ in 0..3 {
            assert_eq!(answered(&client, get("/x")).await, (200, "/x false".to_owned()));
        }
        let endpoint = client.status()["clusters"]["a"]["endpoints"][0].clone();
        assert_eq!(endpoint["address"], format!("unix:{}", path.display()));
        assert_eq!(endpoint["open_connections"], 1);
    }
    server.drain(Duration::ZERO).await;
    eventually("the socket's file to be gone", || !path.exists()).await;
}

#[tokio::test]
async fn a_unix_socket_that_answers_is_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let _owner = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = mesh(&format!("version: 1\nlisteners: [{{ name: in, address: \"unix:{}\" }}]\n", path.display()));
    let service = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let error = server.listen("in", service).await.map(drop).unwrap_err();
    assert!(error.message().contains("in use"), "{error}");
}
