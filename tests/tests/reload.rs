//! What happens to traffic while the configuration, the certificates or the endpoints change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, ErrorKind, Mesh};
use mesh_tests::load::{Load, PATIENT, failures};
use mesh_tests::process::{free_port, wait_until};
use mesh_tests::scenario::{Answer, Upstream};
use mesh_tests::upstream::Upstreams;

fn get(url: &str) -> Request<Body> {
    Request::get(url).body(Body::empty()).unwrap()
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn upstream(answer: Answer) -> Upstream {
    Upstream { script: vec![answer], ..Upstream::default() }
}

fn saying(body: &str) -> Upstream {
    upstream(Answer { body: body.to_owned(), ..Answer::default() })
}

async fn status(mesh: &Mesh, url: &str) -> Result<u16, ErrorKind> {
    let response = mesh.client().call(get(url)).await.map_err(|error| error.kind())?;
    let status = response.status().as_u16();
    response.into_body().collect_up_to(1 << 20).await.unwrap();
    Ok(status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_request_sees_one_revision_and_a_change_is_live_within_a_second() {
    let written = [("one", "odd"), ("two", "even")].map(|(name, body)| (name.to_owned(), saying(body)));
    let upstreams = Upstreams::start(&written.into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    // Odd revisions go to `one`, even ones to `two`; each names itself in the rule.
    let document = |revision: u64| {
        let to = if revision % 2 == 1 { "one" } else { "two" };
        upstreams.fill_in(&format!(
            "version: 1
{PATIENT}
clusters:
  - {{ name: one, connection_pool: {{ max_connections: 8 }}, endpoints: [{{ address: $one }}] }}
  - {{ name: two, connection_pool: {{ max_connections: 8 }}, endpoints: [{{ address: $two }}] }}
routes: [{{ hosts: [a], rules: [{{ name: r{revision}, backends: [{{ cluster: {to} }}] }}] }}]
"
        ))
    };
    replace(&path, &document(1));
    let mesh = Mesh::from_file(&path).unwrap();
    let load = Load::start(mesh.client(), 300, |_| get("http://a/"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    // A machine that stands still for a moment may take two of them with it.
    let mut in_time = 0;
    for revision in 2..=12 {
        let changed = Instant::now();
        replace(&path, &document(revision));
        wait_until("the change", || mesh.status()["revision"] == revision).unwrap();
        let took = changed.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
        in_time += usize::from(took < Duration::from_secs(1));
    }
    assert!(in_time >= 9, "{in_time} of 11 changes were live within a second");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let shots = load.stop().await;
    assert_eq!(failures(&shots), Vec::<String>::new());
    let mut seen = BTreeSet::new();
    for shot in &shots {
        let report = shot.report.as_ref().unwrap();
        let (cluster, body) = if report.revision % 2 == 1 { ("one", "odd") } else { ("two", "even") };
        assert_eq!((&*report.cluster, shot.body.as_str()), (cluster, body), "{report:?}");
        assert_eq!(&*report.route, format!("r{}", report.revision));
        seen.insert(report.revision);
    }
    assert_eq!(seen, (1..=12).collect());
    let connections = upstreams.connections("one") + upstreams.connections("two");
    assert!(connections <= 16, "{connections} connections: pools do not survive a reload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breakers_pools_and_limits_survive_a_reload() {
    let failing = upstream(Answer { status: 500, ..Answer::default() });
    let written = [("good".to_owned(), saying("fine")), ("bad".to_owned(), failing)];
    let upstreams = Upstreams::start(&written.into()).await.unwrap();
    let document = |timeout: u32| {
        upstreams.fill_in(&format!(
            "version: 1
clusters: [{{ name: good, endpoints: [{{ address: $good }}] }}, {{ name: bad, endpoints: [{{ address: $bad }}] }}]
routes:
  - {{ hosts: [good], rules: [{{ backends: [{{ cluster: good }}], timeout: {timeout}s }}] }}
  - {{ hosts: [bad], rules: [{{ backends: [{{ cluster: bad }}], timeout: {timeout}s }}] }}
"
        ))
    };
    let mesh = Mesh::from_yaml(&document(5), "mesh.yaml").unwrap();
    for _ in 0..5 {
        assert_eq!(status(&mesh, "http://bad/").await, Ok(500));
    }
    assert_eq!(status(&mesh, "http://bad/").await, Err(ErrorKind::CircuitOpen));
    assert_eq!(status(&mesh, "http://good/").await, Ok(200));
    assert_eq!(mesh.reload(&document(6), "mesh.yaml").unwrap(), 2);
    assert_eq!(status(&mesh, "http://bad/").await, Err(ErrorKind::CircuitOpen), "the breaker was forgotten");
    assert_eq!(status(&mesh, "http://good/").await, Ok(200));
    assert_eq!((upstreams.arrived("bad").len(), upstreams.connections("good")), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_rotate_under_load_and_no_request_fails() {
    let ca = tempfile::tempdir().unwrap();
    let identity = |name: &str| {
        format!(
            "identity: {{ spiffe_id: \"spiffe://shop.example/{name}\", dev_ca: {{ directory: \"{}\", ttl: 8s }} }}\n",
            ca.path().display()
        )
    };
    let port = free_port().unwrap();
    let server = Mesh::from_yaml(
        &format!("version: 1\n{}listeners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n", identity("server")),
        "server.yaml",
    )
    .unwrap();
    // A response that takes longer than a certificate lives: 9 s.
    const TICKS: usize = 36;
    let answer = tower::service_fn(|request: Request<Body>| async move {
        if request.uri().path() != "/long" {
            return Ok::<_, BoxError>(Response::new(Body::from("fine")));
        }
        let (sender, body) = Body::channel(1, None);
        tokio::spawn(async move {
            for _ in 0..TICKS {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let _ = sender.send(Ok(http_body::Frame::data("tick ".into()))).await;
            }
        });
        Ok(Response::new(body))
    });
    server.listen("in", answer).await.unwrap();
    let mesh = Mesh::from_yaml(
        &format!(
            "version: 1\n{PATIENT}\n{}clusters: [{{ name: a, tls: {{ server_ids: [\"spiffe://shop.example/server\"] }}, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n",
            identity("client")
        ),
        "client.yaml",
    )
    .unwrap();
    let load = Load::start(mesh.client(), 100, |_| get("http://a/"));
    let long = mesh.client().call(get("http://a/long")).await.unwrap();
    let long = tokio::spawn(long.into_body().collect_up_to(1 << 20));
    tokio::time::sleep(Duration::from_secs(18)).await;
    let shots = load.stop().await;
    assert!(shots.len() > 900, "{}", shots.len());
    assert_eq!(failures(&shots), Vec::<String>::new());
    assert_eq!(long.await.unwrap().unwrap().len(), TICKS * 5, "a response was cut by a rotation");
    for (name, mesh) in [("client", &mesh), ("server", &server)] {
        let identity = mesh.status()["identity"].clone();
        let serials: BTreeSet<_> =
            identity["recent_serials"].as_array().unwrap().iter().map(ToString::to_string).collect();
        assert!(serials.len() >= 4 && identity["failures"] == 0, "{name}: {identity}");
    }
}
