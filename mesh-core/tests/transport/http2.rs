//! HTTP/2 connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use mesh_core::{Body, CallOptions, CallReport, ErrorKind};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use crate::peers::{Peer, answered, call, client, eventually, get, soon, text};

/// What a scripted HTTP/2 server does with each request.
#[derive(Clone)]
struct Script {
    streams: u32,
    /// A permit lets one answer go.
    held: Arc<Semaphore>,
    served: Arc<AtomicUsize>,
    leave: watch::Receiver<bool>,
}

impl Script {
    fn new(streams: u32, permits: usize) -> (Self, watch::Sender<bool>) {
        let (leaving, leave) = watch::channel(false);
        (Self { streams, held: Arc::new(Semaphore::new(permits)), served: Arc::default(), leave }, leaving)
    }

    async fn serve(self, stream: TcpStream) {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.max_concurrent_streams(self.streams).handshake::<_, Bytes>(stream).await.unwrap();
        let mut leave = self.leave.clone();
        let mut is_leaving = false;
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                Ok(_) = leave.wait_for(|leave| *leave), if !is_leaving => {
                    is_leaving = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((_request, mut respond))) = accepted else { return };
            self.served.fetch_add(1, Ordering::SeqCst);
            let held = Arc::clone(&self.held);
            tokio::spawn(async move {
                held.acquire().await.unwrap().forget();
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data("ok".into(), true).unwrap();
            });
        }
    }
}

fn spawn(
    mesh: &mesh_core::Mesh,
    request: Request<Body>,
) -> tokio::task::JoinHandle<Result<Response<Body>, mesh_core::Error>> {
    let client = mesh.client();
    tokio::spawn(async move { client.call(request).await })
}

#[tokio::test]
async fn o03_those_who_wait_for_a_connection_survive_the_one_who_began_it() {
    let (script, _leaving) = Script::new(100, 100);
    let (open, opening) = watch::channel(false);
    let peer = Peer::start(move |_, stream| {
        let (script, mut opening) = (script.clone(), opening.clone());
        async move {
            opening.wait_for(|open| *open).await.unwrap();
            script.serve(stream).await;
        }
    })
    .await;
    let mesh = client(&[peer.address], "protocol: http2, connect_timeout: 20s");
    let first = spawn(&mesh, get("/"));
    eventually("the connection to begin", || peer.accepted() == 1).await;
    let others: Vec<_> = (0..9).map(|_| spawn(&mesh, get("/"))).collect();
    eventually("the others to wait", || mesh.status()["clusters"]["a"]["in_flight"] == 10).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    open.send(true).unwrap();
    for other in others {
        assert_eq!(text(soon(other).await.unwrap().unwrap()).await, "ok");
    }
    assert_eq!(peer.accepted(), 1, "one handshake for all");
}

#[tokio::test]
async fn o06_at_the_stream_limit_a_further_connection_is_opened() {
    let (script, _leaving) = Script::new(2, 0);
    let (held, served) = (Arc::clone(&script.held), Arc::clone(&script.served));
    let peer = Peer::start(move |_, stream| script.clone().serve(stream)).await;
    let mesh = client(&[peer.address], "protocol: http2");
    let mut calls = Vec::new();
    for nth in 1..=11 {
        calls.push(spawn(&mesh, get("/")));
        eventually("the request to arrive", || served.load(Ordering::SeqCst) == nth).await;
    }
    assert_eq!(peer.accepted(), 6, "two streams each");
    held.add_permits(11);
    for call in calls {
        let response = soon(call).await.unwrap().unwrap();
        assert_eq!(response.extensions().get::<CallReport>().unwrap().attempts, 1);
        assert_eq!(text(response).await, "ok");
    }
    held.add_permits(1);
    assert_eq!(answered(&mesh, get("/")).await.0, 200);
    assert_eq!(peer.accepted(), 6);
}

#[tokio::test]
async fn o06_a_burst_meets_the_stream_limit_and_nothing_is_refused() {
    let (script, _leaving) = Script::new(2, 10_000);
    let served = Arc::clone(&script.served);
    let (open, opening) = watch::channel(false);
    let peer = Peer::start(move |_, stream| {
        let (script, mut opening) = (script.clone(), opening.clone());
        async move {
            opening.wait_for(|open| *open).await.unwrap();
            script.serve(stream).await;
        }
    })
    .await;
    let cluster = "protocol: http2, connect_timeout: 20s, connection_pool: { max_connections: 3 }";
    let mesh = client(&[peer.address], cluster);
    let one = || {
        let client = mesh.client();
        // Reads its answer, so that its stream ends.
        tokio::spawn(async move {
            let response = client.call(get("/")).await?;
            let attempts = response.extensions().get::<CallReport>().unwrap().attempts;
            Ok::<_, mesh_core::Error>((attempts, text(response).await))
        })
    };
    let calls: Vec<_> = (0..60).map(|_| one()).collect();
    // All are here before the limit is known: whoever does not wait for it has had turns enough to send.
    eventually("all to begin", || mesh.status()["clusters"]["a"]["in_flight"] == 60 && peer.accepted() == 1).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    open.send(true).unwrap();
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap(), (1, "ok".to_owned()));
    }
    assert_eq!(served.load(Ordering::SeqCst), 60);
    assert!(peer.accepted() <= 3, "{}", peer.accepted());
}

#[tokio::test]
async fn o06_at_both_limits_a_request_ends_by_its_deadline_or_is_refused_at_once() {
    let (script, _leaving) = Script::new(2, 0);
    let (held, served) = (Arc::clone(&script.held), Arc::clone(&script.served));
    let peer = Peer::start(move |_, stream| script.clone().serve(stream)).await;
    let limits =
        |pending| format!("protocol: http2, connection_pool: {{ max_connections: 1, max_pending: {pending} }}");
    let mesh = client(&[peer.address], &limits(10));
    let calls = [spawn(&mesh, get("/")), spawn(&mesh, get("/"))];
    eventually("both to arrive", || served.load(Ordering::SeqCst) == 2).await;
    let mut late = get("/");
    late.extensions_mut().insert(CallOptions { timeout: Some(Duration::from_millis(200)), ..CallOptions::default() });
    assert_eq!(call(&mesh, late).await.unwrap_err().kind(), ErrorKind::Timeout);
    let full = client(&[peer.address], &limits(0));
    let more = [spawn(&full, get("/")), spawn(&full, get("/"))];
    eventually("both to arrive", || served.load(Ordering::SeqCst) == 4).await;
    assert_eq!(call(&full, get("/")).await.unwrap_err().kind(), ErrorKind::Overloaded);
    held.add_permits(4);
    for call in calls.into_iter().chain(more) {
        assert_eq!(soon(call).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn o07_after_goaway_what_is_in_flight_finishes_and_the_next_goes_elsewhere() {
    let (script, leaving) = Script::new(100, 0);
    let (held, served) = (Arc::clone(&script.held), Arc::clone(&script.served));
    let peer = Peer::start(move |nth, stream| {
        let script = script.clone();
        // Only the first connection leaves.
        let (_, stays) = watch::channel(false);
        let leave = if nth == 0 { script.leave.clone() } else { stays };
        Script { leave, ..script }.serve(stream)
    })
    .await;
    let mesh = client(&[peer.address], "protocol: http2");
    let calls: Vec<_> = (0..15).map(|_| spawn(&mesh, get("/"))).collect();
    eventually("all to arrive", || served.load(Ordering::SeqCst) == 15).await;
    leaving.send(true).unwrap();
    eventually("the goodbye to be heard", || mesh.status()["clusters"]["a"]["endpoints"][0]["connections"] == 0).await;
    let next = spawn(&mesh, get("/next"));
    eventually("the next to arrive", || served.load(Ordering::SeqCst) == 16).await;
    assert_eq!(peer.accepted(), 2);
    held.add_permits(16);
    for call in calls.into_iter().chain([next]) {
        let response = soon(call).await.unwrap().unwrap();
        assert_eq!(response.extensions().get::<CallReport>().unwrap().attempts, 1);
        assert_eq!(text(response).await, "ok");
    }
}

#[tokio::test]
async fn o07_a_refused_stream_costs_no_connection() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refusals);
    let peer = Peer::start(move |_, stream| {
        let refusals = Arc::clone(&count);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if refusals.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        }
    })
    .await;
    let mesh = client(&[peer.address], "protocol: http2");
    for _ in 0..10 {
        assert_eq!(answered(&mesh, get("/")).await.0, 200);
    }
    assert!(refusals.load(Ordering::SeqCst) >= 19);
    assert_eq!(peer.accepted(), 1);
}

/// Reads bodies without giving window back, and answers each request whose body is complete.
async fn hoards_window(stream: TcpStream, read: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let read = Arc::clone(&read);
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                read.fetch_add(data.len(), Ordering::SeqCst);
            }
            let _ = respond.send_response(Response::new(()), true);
        });
    }
}

#[tokio::test]
async fn o08_an_idle_stream_holds_no_window_that_another_needs() {
    let read = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&read);
    let peer = Peer::start(move |_, stream| hoards_window(stream, Arc::clone(&count))).await;
    let mesh = client(&[peer.address], "protocol: http2");
    // All of the connection's window but one byte; then this stream idles.
    let (sender, body) = Body::channel(1, None);
    let idle = spawn(&mesh, Request::post("http://a/").body(body).unwrap());
    sender.send(Ok(Frame::data(Bytes::from(vec![1; 65_534])))).await.unwrap();
    eventually("the first to be read", || read.load(Ordering::SeqCst) == 65_534).await;
    let request = Request::post("http://a/").body(Body::from("x")).unwrap();
    assert_eq!(answered(&mesh, request).await.0, 200);
    assert_eq!(peer.accepted(), 1);
    drop(sender);
    assert_eq!(soon(idle).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn o09_answers_of_attempts_that_are_repeated_give_their_window_back() {
    let served = Arc::<AtomicUsize>::default();
    let peer = Peer::start(move |_, stream| {
        let served = Arc::clone(&served);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let is_good = served.fetch_add(1, Ordering::SeqCst) % 3 == 2;
                let mut response = Response::new(());
                *response.status_mut() = http::StatusCode::from_u16(if is_good { 200 } else { 503 }).unwrap();
                let mut body = respond.send_response(response, false).unwrap();
                let size = if is_good { 2 } else { 65_535 };
                let _ = body.send_data(Bytes::from(vec![b'x'; size]), true);
            }
        }
    })
    .await;
    let cluster = "protocol: http2, circuit_breaker: { consecutive_failures: 1000000, min_success_percent: 0 }, \
                   outlier: { consecutive_5xx: 0 }, retry_budget: { percent: 100, min_per_second: 1000000 }";
    let text = format!(
        "version: 1
defaults: {{ retry: {{ attempts: 2, conditions: [5xx], base: 1ms, max: 1ms }}, connect_timeout: 20s }}
clusters: [{{ name: a, endpoints: [{{ address: \"{}\" }}], {cluster} }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
",
        peer.address
    );
    let mesh = crate::peers::mesh(&text);
    for _ in 0..100 {
        assert_eq!(answered(&mesh, get("/")).await, (200, "xx".to_owned()));
    }
    assert_eq!(peer.accepted(), 1);
}

/// Passes bytes on until frozen; connections accepted later are not affected.
async fn proxy(nth: usize, stream: TcpStream, to: std::net::SocketAddr, frozen: watch::Receiver<bool>) {
    let upstream = TcpStream::connect(to).await.unwrap();
    let (mut near, mut far) = (stream, upstream);
    let mut frozen = frozen;
    let is_frozen = async { drop(frozen.wait_for(|frozen| *frozen).await) };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = is_frozen, if nth == 0 => std::future::pending().await,
    }
}

#[tokio::test]
async fn o10_a_connection_that_missed_a_ping_gets_no_new_request() {
    let (script, _leaving) = Script::new(100, 1);
    let (held, served) = (Arc::clone(&script.held), Arc::clone(&script.served));
    let server = Peer::start(move |_, stream| script.clone().serve(stream)).await;
    let (freeze, frozen) = watch::channel(false);
    let address = server.address;
    let middle = Peer::start(move |nth, stream| proxy(nth, stream, address, frozen.clone())).await;
    let mesh = client(&[middle.address], "protocol: http2, http2: { keepalive: { interval: 100ms, timeout: 5s } }");
    assert_eq!(answered(&mesh, get("/")).await.0, 200);
    let mut stuck = get("/stuck");
    stuck.extensions_mut().insert(CallOptions { timeout: Some(Duration::from_secs(12)), ..CallOptions::default() });
    let stuck = spawn(&mesh, stuck);
    eventually("it to arrive", || served.load(Ordering::SeqCst) == 2).await;
    freeze.send(true).unwrap();
    // A PING is due after 100 ms, its answer 5 s later; hyper closes after 10 s.
    let usable = || mesh.status()["clusters"]["a"]["endpoints"][0]["connections"].clone();
    eventually("the silence to be noticed", || usable() == 0).await;
    let is_stuck = AtomicBool::new(!stuck.is_finished());
    let next = spawn(&mesh, get("/next"));
    eventually("the next to arrive", || served.load(Ordering::SeqCst) == 3).await;
    held.add_permits(2);
    assert_eq!(soon(next).await.unwrap().unwrap().status(), 200);
    assert_eq!(middle.accepted(), 2);
    assert!(is_stuck.load(Ordering::SeqCst), "what was in flight got its chance");
    assert!(soon(stuck).await.unwrap().is_err());
}
