//! What a source says is what is in force, whichever kind it is.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use mesh_core::discovery::resolver::Records;
use mesh_core::discovery::{EndpointSet, EndpointSource, Sink};
use mesh_core::time::ManualClock;
use mesh_core::{ErrorKind, Mesh};

use crate::support::{MEASURING, Zone, at, document, endpoint_of, free_port, in_force, rss, serve, until};

/// A registry in this process.
#[derive(Clone, Default)]
struct Registry {
    sinks: Arc<Mutex<Vec<(String, Sink)>>>,
}

impl EndpointSource for Registry {
    fn follow(&self, cluster: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.sinks.lock().unwrap().push((cluster.to_owned(), sink));
        let subscription = Subscription(self.clone(), cluster.to_owned());
        Box::pin(async move {
            let _subscription = subscription;
            std::future::pending().await
        })
    }
}

/// Ends when the mesh no longer follows.
struct Subscription(Registry, String);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.sinks.lock().unwrap().retain(|(cluster, _)| *cluster != self.1);
    }
}

impl Registry {
    fn followers(&self) -> usize {
        self.sinks.lock().unwrap().len()
    }

    fn say(&self, set: &EndpointSet) {
        self.sinks.lock().unwrap().iter().for_each(|(_, sink)| sink.publish(set.clone()));
    }
}

fn registered(registry: &Registry) -> Mesh {
    registered_as(registry, &document("endpoint_source: registry"))
}

fn registered_as(registry: &Registry, text: &str) -> Mesh {
    let builder = Mesh::builder().endpoint_source("registry", Arc::new(registry.clone()));
    builder.from_yaml(text, "mesh.yaml").unwrap()
}

fn set(addresses: &[&str]) -> EndpointSet {
    EndpointSet::new(addresses.iter().map(|address| at(address)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o30_a_hundred_thousand_updates_without_traffic_cost_one_state_and_the_first_request_uses_the_last() {
    let port = free_port();
    let _server = serve(&format!("127.0.0.1:{port}")).await;
    let registry = Registry::default();
    let mesh = registered(&registry);
    mesh.start().unwrap();
    until("the source to be followed", || registry.followers() == 1).await;
    // 20 endpoints of some 300 bytes: queued, 100 000 of these states would be 600 MB.
    let state = |n: usize| EndpointSet::new((0..20).map(|host| at(&format!("10.{}.{host}.1:80", n % 250))).collect());
    registry.say(&state(0));
    let grown = {
        let _measuring = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = rss();
        for n in 1..100_000 {
            registry.say(&state(n));
        }
        registry.say(&set(&[&format!("127.0.0.1:{port}")]));
        rss().saturating_sub(before)
    };
    assert!(grown < 64 << 20, "{grown} bytes for updates that nobody took");
    until("the last state", || in_force(&mesh) == [format!("127.0.0.1:{port}")]).await;
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.1:{port}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_followed_while_a_cluster_names_it_and_survives_a_reload() {
    let registry = Registry::default();
    let mesh = registered(&registry);
    mesh.start().unwrap();
    until("the source to be followed", || registry.followers() == 1).await;
    registry.say(&set(&["10.0.0.1:80"]));
    until("its word", || in_force(&mesh) == ["10.0.0.1:80"]).await;
    let reloaded = document("endpoint_source: registry, balancer: round_robin");
    mesh.reload(&reloaded, "mesh.yaml").unwrap();
    assert_eq!(in_force(&mesh), ["10.0.0.1:80"], "a new document keeps what the source said");
    registry.say(&set(&["10.0.0.2:80"]));
    until("its next word", || in_force(&mesh) == ["10.0.0.2:80"]).await;
    assert_eq!(registry.followers(), 1, "it was not started again");
    mesh.reload(&document("endpoints: [{ address: \"10.0.0.3:80\" }]"), "mesh.yaml").unwrap();
    until("the source to be left", || registry.followers() == 0).await;
    assert_eq!(in_force(&mesh), ["10.0.0.3:80"]);
}

/// Says where its clusters are once, when it is first asked.
struct Once;

impl EndpointSource for Once {
    fn follow(&self, _: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        sink.publish(set(&["10.0.0.1:80"]));
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_away_for_a_moment_is_told_its_endpoints_again() {
    let zone = Zone::default();
    zone.set("a.example", Records::V4, (&["10.0.0.1"], Duration::from_secs(3600)));
    zone.set("a.example", Records::Host, (&["10.0.0.1"], Duration::from_secs(3600)));
    for source in [
        "endpoint_source: registry",
        "dns: { name: a.example, port: 80, family: v4 }",
        "endpoints: [{ address: \"a.example:80\" }]",
    ] {
        for between in ["version: 1\n", &document("endpoints: [{ address: \"10.0.0.9:80\" }]")] {
            let builder = Mesh::builder().resolver(Arc::new(zone.clone())).clock(Arc::new(ManualClock::new()));
            let builder = builder.endpoint_source("registry", Arc::new(Once));
            let mesh = builder.from_yaml(&document(source), "mesh.yaml").unwrap();
            mesh.start().unwrap();
            until("the first word", || in_force(&mesh) == ["10.0.0.1:80"]).await;
            // The two are one change to whoever looks after both.
            for text in [between, &document(source)] {
                mesh.reload(text, "mesh.yaml").unwrap();
            }
            until(&format!("its word again: {source}"), || in_force(&mesh) == ["10.0.0.1:80"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_for_the_first_endpoints_finds_its_session_among_them() {
    let port = free_port();
    let _servers = [serve(&format!("127.0.0.1:{port}")).await, serve(&format!("127.0.0.2:{port}")).await];
    for strict in [false, true] {
        let registry = Registry::default();
        let builder = Mesh::builder().endpoint_source("registry", Arc::new(registry.clone()));
        let source = format!("endpoint_source: registry, session: {{ header: x-at, strict: {strict} }}");
        let mesh = builder.from_yaml(&document(&source), "mesh.yaml").unwrap();
        mesh.start().unwrap();
        until("the source to be followed", || registry.followers() == 1).await;
        let named = base64::engine::general_purpose::STANDARD.encode(format!("127.0.0.2:{port}"));
        let request = http::Request::get("http://a/").header("x-at", named).body(mesh_core::Body::empty()).unwrap();
        let client = mesh.client();
        let waiting = tokio::spawn(async move { client.call(request).await });
        until("the request to be admitted", || mesh.status()["clusters"]["a"]["in_flight"] == 1).await;
        // Drained: only a session leads there.
        let mut drained = (*at(&format!("127.0.0.2:{port}"))).clone();
        drained.weight.0 = 0;
        registry.say(&EndpointSet::new(vec![at(&format!("127.0.0.1:{port}")), Arc::new(drained)]));
        let response = waiting.await.unwrap().unwrap();
        let endpoint = &response.extensions().get::<mesh_core::CallReport>().unwrap().endpoint;
        assert_eq!(**endpoint, *format!("127.0.0.2:{port}"), "strict: {strict}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_waited_for_its_first_endpoints_is_not_taken_from_its_attempt() {
    let port = free_port();
    let _server = serve(&format!("127.0.0.1:{port}")).await;
    let (registry, clock) = (Registry::default(), ManualClock::new());
    let builder =
        Mesh::builder().endpoint_source("registry", Arc::new(registry.clone())).clock(Arc::new(clock.clone()));
    let text = document("endpoint_source: registry") + "defaults: { timeout: 60s, attempt_timeout: 1s }\n";
    let mesh = builder.from_yaml(&text, "mesh.yaml").unwrap();
    mesh.start().unwrap();
    until("the source to be followed", || registry.followers() == 1).await;
    let client = mesh.client();
    let request = http::Request::get("http://a/").body(mesh_core::Body::empty()).unwrap();
    let waiting = tokio::spawn(async move { client.call(request).await });
    until("the request to be admitted", || mesh.status()["clusters"]["a"]["in_flight"] == 1).await;
    clock.advance(Duration::from_secs(5));
    registry.say(&set(&[&format!("127.0.0.1:{port}")]));
    let answered = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("an answer");
    let response = answered.unwrap().unwrap();
    assert_eq!(response.extensions().get::<mesh_core::CallReport>().unwrap().attempts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_source_refuses_changes_nothing_and_is_shown() {
    let registry = Registry::default();
    let mesh = registered(&registry);
    mesh.start().unwrap();
    until("the source to be followed", || registry.followers() == 1).await;
    registry.say(&set(&["10.0.0.1:80"]));
    until("its word", || in_force(&mesh) == ["10.0.0.1:80"]).await;
    registry.sinks.lock().unwrap()[0].1.refuse("the control plane sent nonsense");
    let shown = || mesh.status()["config"]["problems"].to_string().contains("the control plane sent nonsense");
    until("the refusal", shown).await;
    assert_eq!(in_force(&mesh), ["10.0.0.1:80"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_are_not_renewed_are_gone_when_their_time_is_over() {
    let (registry, clock) = (Registry::default(), ManualClock::new());
    let builder =
        Mesh::builder().endpoint_source("registry", Arc::new(registry.clone())).clock(Arc::new(clock.clone()));
    let mesh = builder.from_yaml(&document("endpoint_source: registry"), "mesh.yaml").unwrap();
    mesh.start().unwrap();
    until("the source to be followed", || registry.followers() == 1).await;
    registry.say(&EndpointSet { valid_for: Some(Duration::from_secs(60)), ..set(&["10.0.0.1:80"]) });
    until("its word", || in_force(&mesh) == ["10.0.0.1:80"]).await;
    clock.advance(Duration::from_secs(59));
    tokio::task::yield_now().await;
    assert_eq!(in_force(&mesh), ["10.0.0.1:80"]);
    clock.advance(Duration::from_secs(2));
    until("the end of their time", || in_force(&mesh).is_empty()).await;
    assert_eq!(endpoint_of(&mesh).await.unwrap_err().kind(), ErrorKind::NoEndpoint);
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Says that these IP addresses are all there is.
type Say = Box<dyn Fn(&Mesh, &[&str])>;

/// One way to say which endpoints there are.
struct Way {
    name: &'static str,
    mesh: Mesh,
    say: Say,
}

/// Every source there is, over the same two addresses and port, which are used turn by turn.
fn ways(directory: &Path, port: u16) -> Vec<Way> {
    let document = |source: &str| document(&format!("{source}, balancer: round_robin"));
    let inline = move |ips: &[&str]| {
        let list: Vec<_> = ips.iter().map(|ip| format!("{{ address: \"{ip}:{port}\" }}")).collect();
        document(&format!("endpoints: [{}]", list.join(", ")))
    };
    let file = directory.join("endpoints.yaml");
    let list = move |ips: &[&str]| ips.iter().map(|ip| format!("- address: {ip}:{port}\n")).collect::<String>();
    replace(&file, &list(&["127.0.0.1", "127.0.0.2"]));
    let (zone, registry) = (Zone::default(), Registry::default());
    let second = Duration::from_secs(1);
    zone.set("a.example", Records::V4, (&["127.0.0.1", "127.0.0.2"], second));
    let resolving = Mesh::builder().resolver(Arc::new(zone.clone()));
    let dns =
        resolving.from_yaml(&document(&format!("dns: {{ name: a.example, port: {port} }}")), "mesh.yaml").unwrap();
    let from_file =
        Mesh::from_yaml(&document(&format!("endpoints_file: \"{}\"", file.display())), "mesh.yaml").unwrap();
    let told = registry.clone();
    vec![
        Way {
            name: "inline",
            mesh: Mesh::from_yaml(&inline(&["127.0.0.1", "127.0.0.2"]), "mesh.yaml").unwrap(),
            say: Box::new(move |mesh, ips| {
                mesh.reload(&inline(ips), "mesh.yaml").unwrap();
            }),
        },
        Way { name: "file", mesh: from_file, say: Box::new(move |_, ips| replace(&file, &list(ips))) },
        Way { name: "dns", mesh: dns, say: Box::new(move |_, ips| zone.set("a.example", Records::V4, (ips, second))) },
        Way {
            name: "registered",
            mesh: registered_as(&registry, &document("endpoint_source: registry")),
            say: Box::new(move |_, ips| {
                told.say(&EndpointSet::new(ips.iter().map(|ip| at(&format!("{ip}:{port}"))).collect()));
            }),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_leaves_its_source_gets_no_further_request_whatever_the_source() {
    let port = free_port();
    let _servers = [serve(&format!("127.0.0.1:{port}")).await, serve(&format!("127.0.0.2:{port}")).await];
    let directory = tempfile::tempdir().unwrap();
    for Way { name, mesh, say } in ways(directory.path(), port) {
        mesh.start().unwrap();
        until(&format!("{name}: both endpoints"), || {
            if in_force(&mesh).len() < 2 && name == "registered" {
                say(&mesh, &["127.0.0.1", "127.0.0.2"]);
            }
            in_force(&mesh).len() == 2
        })
        .await;
        let mut used = std::collections::BTreeSet::new();
        while used.len() < 2 {
            used.insert(endpoint_of(&mesh).await.unwrap());
        }
        say(&mesh, &["127.0.0.2"]);
        until(&format!("{name}: one endpoint"), || in_force(&mesh) == [format!("127.0.0.2:{port}")]).await;
        for _ in 0..20 {
            assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.2:{port}"), "{name}");
        }
    }
}
