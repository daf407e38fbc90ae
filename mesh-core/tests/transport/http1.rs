//! The HTTP/1.1 pool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use mesh_core::{Body, CallOptions, CallReport, ErrorKind};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};

use crate::peers::{OK, Peer, Wire, answer_all, answered, call, client, endpoint_status, eventually, get, soon, text};

fn post() -> Request<Body> {
    Request::post("http://a/").body(Body::from("x")).unwrap()
}

/// Answers the first request of each of its first connections and resets at the second.
async fn resets_at_the_second(nth: usize, stream: tokio::net::TcpStream, requests: Arc<AtomicUsize>) {
    let mut wire = Wire::new(stream);
    wire.head().await;
    wire.write(OK).await;
    if nth > 0 {
        requests.fetch_add(1, Ordering::SeqCst);
        return answer_all(wire.stream).await;
    }
    if wire.head().await.is_some() {
        requests.fetch_add(1, Ordering::SeqCst);
        wire.reset();
    }
}

#[tokio::test]
async fn sequential_calls_share_one_connection() {
    let peer = Peer::start(|_, stream| answer_all(stream)).await;
    let mesh = client(&[peer.address], "");
    for _ in 0..200 {
        assert_eq!(answered(&mesh, get("/")).await, (200, "ok".to_owned()));
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn o01_a_get_on_a_stale_connection_is_sent_again_on_a_fresh_one() {
    let requests = Arc::<AtomicUsize>::default();
    let peer = Peer::start(move |nth, stream| resets_at_the_second(nth, stream, Arc::clone(&requests))).await;
    let mesh = client(&[peer.address], "");
    assert_eq!(answered(&mesh, get("/")).await.0, 200);
    let second = call(&mesh, get("/")).await.unwrap();
    assert_eq!(second.extensions().get::<CallReport>().unwrap().attempts, 1, "it costs no attempt");
    assert_eq!((text(second).await.as_str(), peer.accepted()), ("ok", 2));
}

#[tokio::test]
async fn o01_a_post_on_a_stale_connection_is_not_repeated_and_says_why() {
    let requests = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&requests);
    let peer = Peer::start(move |nth, stream| resets_at_the_second(nth, stream, Arc::clone(&requests))).await;
    let mesh = client(&[peer.address], "");
    assert_eq!(answered(&mesh, get("/")).await.0, 200);
    let error = call(&mesh, post()).await.unwrap_err();
    assert!(error.message().starts_with("stale connection"), "{error}");
    assert!(matches!(error.kind(), ErrorKind::ConnectionClosed | ErrorKind::Reset), "{error}");
    assert_eq!((seen.load(Ordering::SeqCst), peer.accepted()), (1, 1));
}

#[tokio::test]
async fn o02_an_early_answer_is_delivered_and_its_connection_closed() {
    // More than both sockets buffer.
    const WHOLE: usize = 10 << 20;
    let (release, go) = tokio::sync::watch::channel(false);
    let (closed, mut ends) = mpsc::unbounded_channel();
    let peer = Peer::start(move |_, stream| {
        let (mut go, closed) = (go.clone(), closed.clone());
        async move {
            let mut wire = Wire::new(stream);
            wire.head().await;
            wire.write("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await;
            // Reads nothing until all answers are given; then all there is, until the client has closed.
            let _ = go.wait_for(|go| *go).await;
            let _ = closed.send(wire.read_to_end_text().await.len());
        }
    })
    .await;
    let mesh = client(&[peer.address], "");
    for nth in 0..20 {
        // Whole in memory, and streamed.
        let bytes = bytes::Bytes::from(vec![7; WHOLE]);
        let body = if nth % 2 == 0 { Body::from(bytes) } else { Body::new(http_body_util::Full::new(bytes)) };
        let request = Request::post("http://a/").body(body).unwrap();
        assert_eq!(answered(&mesh, request).await.0, 413);
    }
    eventually("all connections to be closed", || endpoint_status(&mesh, "open_connections") == 0).await;
    release.send(true).unwrap();
    for _ in 0..20 {
        let sent = soon(ends.recv()).await.unwrap();
        assert!(sent < WHOLE, "closed only after the whole request was taken");
    }
    assert_eq!(peer.accepted(), 20);
}

#[tokio::test]
async fn o04_a_new_connection_that_closes_is_no_stale_one() {
    let requests = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&requests);
    let peer = Peer::start(move |_, stream| {
        let requests = Arc::clone(&requests);
        async move {
            let mut wire = Wire::new(stream);
            if wire.head().await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let mesh = client(&[peer.address], "");
    let error = call(&mesh, post()).await.unwrap_err();
    assert_eq!((error.kind(), error.place().attempts), (ErrorKind::ConnectionClosed, 1));
    assert!(!error.message().contains("stale"), "{error}");
    assert_eq!((seen.load(Ordering::SeqCst), peer.accepted()), (1, 1));
}

#[tokio::test]
async fn o05_no_idle_connections_means_no_reuse() {
    let peer = Peer::start(|_, stream| answer_all(stream)).await;
    let mesh = client(&[peer.address], "max_idle_connections: 0");
    for _ in 0..20 {
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
    }
    assert_eq!(peer.accepted(), 20);
    eventually("all connections to be closed", || endpoint_status(&mesh, "open_connections") == 0).await;
}

/// Holds every answer until `held` has a permit for it.
async fn holds(stream: tokio::net::TcpStream, held: Arc<Semaphore>) {
    let mut wire = Wire::new(stream);
    while wire.head().await.is_some() {
        held.acquire().await.unwrap().forget();
        wire.write(OK).await;
    }
}

#[tokio::test]
async fn at_the_connection_limit_a_request_waits_under_its_deadline_and_a_full_queue_refuses() {
    let held = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&held);
    let peer = Peer::start(move |_, stream| holds(stream, Arc::clone(&gate))).await;
    let mesh = client(&[peer.address], "connection_pool: { max_connections: 1, max_pending: 1 }");
    let start = |request| {
        let client = mesh.client();
        tokio::spawn(async move { client.call(request).await })
    };
    let first = start(get("/1"));
    eventually("the first to be sent", || peer.accepted() == 1).await;
    let second = start(get("/2"));
    eventually("the second to wait", || endpoint_status(&mesh, "waiting_for_connection") == 1).await;
    let error = call(&mesh, get("/3")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");

    held.add_permits(2);
    assert_eq!(text(soon(first).await.unwrap().unwrap()).await, "ok");
    assert_eq!(text(soon(second).await.unwrap().unwrap()).await, "ok");
    assert_eq!(peer.accepted(), 1);

    let third = start(get("/4"));
    eventually("it to be in flight", || endpoint_status(&mesh, "in_flight") == 1).await;
    let mut late = get("/5");
    late.extensions_mut().insert(CallOptions { timeout: Some(Duration::from_millis(100)), ..CallOptions::default() });
    let error = call(&mesh, late).await.unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Timeout, mesh_core::Sent::Never), "{error}");
    eventually("the queue to be empty", || endpoint_status(&mesh, "waiting_for_connection") == 0).await;
    held.add_permits(1);
    assert_eq!(text(soon(third).await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_it_may_and_no_longer_than_its_age() {
    let peer = Peer::start(|_, stream| answer_all(stream)).await;
    let mesh = client(&[peer.address], "connection_pool: { max_requests_per_connection: 2 }");
    for _ in 0..6 {
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
    }
    assert_eq!(peer.accepted(), 3);

    let peer = Peer::start(|_, stream| answer_all(stream)).await;
    let mesh = client(&[peer.address], "connection_pool: { max_connection_age: 500ms }");
    for nth in 1..=3 {
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
        assert_eq!(peer.accepted(), nth);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
}

#[tokio::test]
async fn an_answer_that_says_close_ends_its_connection() {
    let peer = Peer::start(|_, stream| async {
        let mut wire = Wire::new(stream);
        while wire.head().await.is_some() {
            // It says so, and would go on nevertheless.
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        }
    })
    .await;
    let mesh = client(&[peer.address], "");
    for _ in 0..3 {
        assert_eq!(answered(&mesh, post()).await.0, 200);
    }
    assert_eq!(peer.accepted(), 3);
}

/// An address of this host that is taken as long as the tests run, by a socket that does not listen.
fn closed(socket: std::io::Result<TcpSocket>, host: IpAddr) -> std::io::Result<SocketAddr> {
    let socket = socket?;
    socket.bind((host, 0).into())?;
    let address = socket.local_addr()?;
    std::mem::forget(socket);
    Ok(address)
}

fn with_two_addresses(second: SocketAddr) -> (mesh_core::Mesh, String) {
    let taken = closed(TcpSocket::new_v6(), Ipv6Addr::LOCALHOST.into());
    // Without IPv6, nobody listens at any port of it.
    let first = taken.unwrap_or_else(|_| (Ipv6Addr::LOCALHOST, 1).into()).to_string();
    let mesh = crate::peers::mesh(&format!(
        "version: 1
defaults: {{ retry: {{ attempts: 0 }}, connect_timeout: 20s }}
clusters: [{{ name: a, endpoints: [{{ address: \"{first}\", additional_addresses: [\"{second}\"] }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
"
    ));
    (mesh, first)
}

#[tokio::test]
async fn an_endpoint_is_reached_by_whichever_of_its_addresses_works() {
    let peer = Peer::start(|_, stream| answer_all(stream)).await;
    let (mesh, _) = with_two_addresses(peer.address);
    for _ in 0..3 {
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn o63_when_every_address_fails_the_error_names_them_all() {
    let second = closed(TcpSocket::new_v4(), Ipv4Addr::LOCALHOST.into()).unwrap();
    let (mesh, first) = with_two_addresses(second);
    let error = call(&mesh, get("/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.message().contains(&first) && error.message().contains(&second.to_string()), "{error}");
}
