//! Stories of overload over real loopback sockets: full listeners, waiting, classes, and retries elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::policy::criticality::Criticality;
use mesh_core::{Body, CallContext, CallOptions, CallReport, Mesh};
use tokio::sync::Notify;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An application whose requests to `/hold` stay until they are let go; it counts what it was asked.
#[derive(Clone, Default)]
struct Holding {
    asked: Arc<AtomicUsize>,
    arrived: Arc<Notify>,
    release: Arc<Notify>,
}

impl Holding {
    async fn serve(&self, mesh: &Mesh) {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move {
                this.asked.fetch_add(1, Ordering::SeqCst);
                if request.uri().path() == "/hold" {
                    this.arrived.notify_one();
                    this.release.notified().await;
                }
                let class = CallContext::current().unwrap().criticality.unwrap();
                Ok::<_, BoxError>(Response::new(Body::from(class.as_str())))
            }
        });
        mesh.listen("in", service).await.unwrap();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn server(port: u16, listener: &str, identity: &str) -> Mesh {
    let text =
        format!("version: 1\n{identity}listeners: [{{ name: in, address: \"127.0.0.1:{port}\", {listener} }}]\n");
    Mesh::from_yaml(&text, "server.yaml").unwrap()
}

fn client(ports: &[u16], cluster: &str, identity: &str) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}")).collect();
    let text = format!(
        "version: 1\ndefaults: {{ connect_timeout: 20s }}\n{identity}clusters: [{{ name: a, {cluster} endpoints: [{}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

fn identity(ca: &Path, name: &str) -> String {
    format!(
        "identity: {{ spiffe_id: \"spiffe://test/ns/default/sa/{name}\", dev_ca: {{ directory: \"{}\" }} }}\n",
        ca.display()
    )
}

/// Occupies a place until the application lets go.
async fn hold(mesh: &Mesh, app: &Holding) -> tokio::task::JoinHandle<u16> {
    let client = mesh.client();
    let call = tokio::spawn(async move {
        let request = Request::get("http://a/hold").body(Body::empty()).unwrap();
        client.call(request).await.map_or(0, |response| response.status().as_u16())
    });
    app.arrived.notified().await;
    call
}

fn post() -> Request<Body> {
    Request::post("http://a/").body(Body::from("order")).unwrap()
}

#[tokio::test]
async fn a_full_listener_turns_away_at_once_and_says_that_nothing_was_done() {
    let (port, app) = (free_port(), Holding::default());
    let server = server(port, "concurrency: { max_requests: 1, queue: { max_requests: 0 } }", "");
    app.serve(&server).await;
    let mesh = client(&[port], "", "");
    let held = hold(&mesh, &app).await;
    let response = mesh.client().call(post()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-mesh-refused"], "overloaded");
    assert_eq!(response.headers()["retry-after"], "1");
    let grpc = Request::post("http://a/s/m").header("content-type", "application/grpc").body(Body::empty()).unwrap();
    let response = mesh.client().call(grpc).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
    assert_eq!(app.asked(), 1, "only what is held was asked of the application");
    app.release.notify_one();
    assert_eq!(held.await.unwrap(), 200);
    let metrics = server.metrics_text();
    let shed = metrics.lines().find(|line| line.starts_with("libmesh_requests_shed_total")).unwrap_or(&metrics);
    assert!(shed.contains("criticality=\"critical\"") && shed.contains("side=\"inbound\""), "{shed}");
    assert!(shed.contains("listener=\"in\"") && shed.ends_with(" 2"), "{shed}");
    assert!(metrics.contains("libmesh_concurrency_limit{listener=\"in\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_post_turned_away_by_a_proven_peer_is_taken_elsewhere_and_one_by_a_stranger_is_not() {
    let ca = tempfile::tempdir().unwrap();
    for is_proven in [true, false] {
        let who = |name: &str| if is_proven { identity(ca.path(), name) } else { String::new() };
        let cluster = if is_proven { "tls: { server_ids: [\"spiffe://test/ns/default/sa/server\"] }," } else { "" };
        let [full, free] = [free_port(), free_port()];
        let (full_app, free_app) = (Holding::default(), Holding::default());
        let limited = server(full, "concurrency: { max_requests: 1, queue: { max_requests: 0 } }", &who("server"));
        let roomy = server(free, "", &who("server"));
        full_app.serve(&limited).await;
        free_app.serve(&roomy).await;
        let occupant = client(&[full], cluster, &who("client"));
        let held = hold(&occupant, &full_app).await;

        let mesh = client(&[full, free], &format!("{cluster} balancer: round_robin,"), &who("client"));
        let (mut statuses, mut attempts) = (Vec::new(), 0);
        for _ in 0..8 {
            let response = mesh.client().call(post()).await.unwrap();
            statuses.push(response.status().as_u16());
            attempts += response.extensions().get::<CallReport>().unwrap().attempts;
        }
        let served = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!(full_app.asked(), 1, "nothing but what is held reached the full application");
        assert_eq!(free_app.asked(), served);
        if is_proven {
            assert_eq!(served, 8, "{statuses:?}");
            assert!(attempts > 8, "some were turned away first");
        } else {
            assert!(served < 8, "a header that anybody can write is no proof: {statuses:?}");
            assert_eq!(attempts, 8);
        }
        full_app.release.notify_one();
        assert_eq!(held.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_request_waits_for_a_place_but_not_beyond_its_deadline() {
    let (port, app) = (free_port(), Holding::default());
    let server = server(port, "concurrency: { max_requests: 1, queue: { max_requests: 8, max_wait: 20s } }", "");
    app.serve(&server).await;
    let mesh = client(&[port], "", "");
    let held = hold(&mesh, &app).await;

    // The server hears of the deadline and gives up with the caller; the application never hears of it.
    let mut late = post();
    late.extensions_mut().insert(CallOptions { timeout: Some(Duration::from_millis(100)), ..CallOptions::default() });
    assert!(mesh.client().call(late).await.map_or(true, |response| response.status() == 503));
    assert_eq!(app.asked(), 1);
    // The caller's clock may be ahead: it is gone when the server has noticed.
    until_waiting(&server, 0).await;

    let client = mesh.client();
    let waiting = tokio::spawn(async move { client.call(post()).await.unwrap().status().as_u16() });
    until_waiting(&server, 1).await;
    app.release.notify_one();
    assert_eq!((held.await.unwrap(), waiting.await.unwrap()), (200, 200));
    assert_eq!(app.asked(), 2);
}

/// Waits until so many wait; in vain, the test fails.
async fn until_waiting(server: &Mesh, count: usize) {
    let end = Instant::now() + Duration::from_secs(30);
    while !server.metrics_text().contains(&format!("libmesh_requests_waiting{{listener=\"in\"}} {count}")) {
        assert!(Instant::now() < end, "waited 30 s for {count} to wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn batches_leave_half_of_a_limit_to_users_on_both_sides() {
    let (port, app) = (free_port(), Holding::default());
    let server = server(port, "concurrency: { max_requests: 2, queue: { max_requests: 0 } }", "");
    app.serve(&server).await;
    let mesh = client(&[port], "", "");
    let held = hold(&mesh, &app).await;
    let batch = || {
        let mut request = post();
        let criticality = Some(Criticality::Sheddable);
        request.extensions_mut().insert(CallOptions { criticality, ..CallOptions::default() });
        request
    };
    assert_eq!(mesh.client().call(batch()).await.unwrap().status(), 503);
    assert_eq!(mesh.client().call(post()).await.unwrap().status(), 200);

    let narrow = client(&[port], "concurrency_limit: { max_requests: 2 },", "");
    let also_held = tokio::spawn({
        let client = narrow.client();
        async move { client.call(Request::get("http://a/hold").body(Body::empty()).unwrap()).await.is_ok() }
    });
    app.arrived.notified().await;
    let error = narrow.client().call(batch()).await.unwrap_err();
    assert_eq!(error.kind(), mesh_core::ErrorKind::Overloaded, "{error}");
    assert!(narrow.metrics_text().contains("criticality=\"sheddable\""), "{}", narrow.metrics_text());
    app.release.notify_waiters();
    assert_eq!((held.await.unwrap(), also_held.await.unwrap()), (200, true));
}

/// An application that asks the next one, without a word about classes.
async fn relay(mesh: &Mesh) {
    let client = mesh.client();
    let service = tower::service_fn(move |_: Request<Body>| {
        let client = client.clone();
        async move { client.call(post()).await.map_err(BoxError::from) }
    });
    mesh.listen("in", service).await.unwrap();
}

#[tokio::test]
async fn a_class_is_inherited_by_onward_calls_and_strangers_cannot_raise_theirs() {
    let [front, back] = [free_port(), free_port()];
    let app = Holding::default();
    let last = server(back, "max_criticality: critical_plus", "");
    app.serve(&last).await;
    let text = format!(
        "version: 1\ndefaults: {{ connect_timeout: 20s }}\nlisteners: [{{ name: in, address: \"127.0.0.1:{front}\" }}]\nclusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{back}\" }}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n"
    );
    let middle = Mesh::from_yaml(&text, "middle.yaml").unwrap();
    relay(&middle).await;
    let mesh = client(&[front], "", "");
    for (said, seen) in [
        (Some("sheddable"), "sheddable"),
        (Some("SHEDDABLE_PLUS"), "sheddable_plus"),
        (None, "critical"),
        (Some("critical_plus"), "critical"),
        (Some("nonsense"), "critical"),
    ] {
        let mut request = post();
        if let Some(said) = said {
            request.headers_mut().insert("x-mesh-criticality", said.parse().unwrap());
        }
        let response = mesh.client().call(request).await.unwrap();
        let body = response.into_body().collect_up_to(100).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&body), seen, "{said:?}");
    }
}

#[tokio::test]
async fn a_reload_changes_the_limit_of_a_listener_that_is_in_use() {
    let (port, app) = (free_port(), Holding::default());
    let limited = "concurrency: { max_requests: 1, queue: { max_requests: 0 } }";
    let server = server(port, limited, "");
    app.serve(&server).await;
    let mesh = client(&[port], "", "");
    let held = hold(&mesh, &app).await;
    assert_eq!(mesh.client().call(post()).await.unwrap().status(), 503);
    let text = format!(
        "version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\", concurrency: {{ max_requests: 2 }} }}]\n"
    );
    server.reload(&text, "wider.yaml").unwrap();
    assert_eq!(mesh.client().call(post()).await.unwrap().status(), 200);
    app.release.notify_one();
    assert_eq!(held.await.unwrap(), 200);
}
