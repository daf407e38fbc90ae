//! What stays of a cluster when its list changes, and what ends.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use http::HeaderMap;
use mesh_core::cluster::group::{Cluster, Wanted};
use mesh_core::compile::{self, Context};
use mesh_core::policy::retry::Outcome;
use mesh_core::snapshot::Snapshot;
use mesh_core::time::{Clock, SystemClock};
use mesh_core::{ConfigError, ErrorKind, Mesh, config};

use crate::support::{MEASURING, at, document, endpoint_of, free_port, in_force, rss, serve, two_ports, until};

fn snapshot(text: &str, previous: Option<&Snapshot>) -> Snapshot {
    snapshot_of(text, previous, false)
}

fn snapshot_of(text: &str, previous: Option<&Snapshot>, is_followed: bool) -> Snapshot {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let context = Context {
        origin: "mesh.yaml",
        base: Path::new(""),
        clock: &clock,
        identity: None,
        previous,
        sources: None,
        is_followed,
        revision: 1,
    };
    compile::compile(config::parse(text, "mesh.yaml").unwrap(), &context).unwrap_or_else(|found| panic!("{found:?}"))
}

fn cluster(snapshot: &Snapshot) -> Arc<Cluster> {
    Arc::clone(&snapshot.clusters["a"])
}

#[test]
fn a_member_that_did_not_change_stays_the_same_value_and_a_changed_one_keeps_what_was_learned() {
    let now = Instant::now();
    let cluster = cluster(&snapshot(&document("endpoint_source: registry"), None));
    let list: Vec<_> = (1..=4).map(|n| at(&format!("10.0.0.{n}:80"))).collect();
    cluster.set_endpoints(list.clone(), now);
    let first = cluster.endpoints();
    let mut changed = list.clone();
    let mut heavier = (*list[1]).clone();
    heavier.weight.0 = 7;
    changed[1] = Arc::new(heavier);
    changed[2] = Arc::new((*list[2]).clone());
    changed.pop();
    changed.push(at("10.0.0.9:80"));
    cluster.set_endpoints(changed, now);
    let second = cluster.endpoints();
    assert!(Arc::ptr_eq(&first[0], &second[0]), "the same value was handed out again");
    assert!(Arc::ptr_eq(&first[2], &second[2]), "an equal value was handed out");
    assert!(!Arc::ptr_eq(&first[1], &second[1]) && Arc::ptr_eq(&first[1].live, &second[1].live));
    assert_eq!((second[1].weight, &*second[3].name), (7, "10.0.0.9:80"));
}

#[test]
fn members_keep_what_was_learned_whatever_the_order_and_however_many_leave() {
    let now = Instant::now();
    let cluster = cluster(&snapshot(&document("endpoint_source: registry"), None));
    let list: Vec<_> = (1..=60).map(|n| at(&format!("10.0.0.{n}:80"))).collect();
    cluster.set_endpoints(list.clone(), now);
    let lives: std::collections::BTreeMap<_, _> =
        cluster.endpoints().iter().map(|one| (one.address.to_string(), Arc::clone(&one.live))).collect();
    let reversed: Vec<_> = list.iter().rev().cloned().collect();
    let thinned: Vec<_> = list.iter().skip(20).step_by(3).cloned().collect();
    let doubled: Vec<_> = thinned.iter().chain(&list[40..]).cloned().collect();
    for state in [reversed, list.clone(), doubled, thinned.clone(), list[40..].to_vec()] {
        let stayed: BTreeSet<_> = cluster.endpoints().iter().map(|one| one.address.to_string()).collect();
        cluster.set_endpoints(state.clone(), now);
        let endpoints = cluster.endpoints();
        let addresses = |all: &[Arc<mesh_core::config::Endpoint>]| {
            all.iter().map(|one| one.address.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(endpoints.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), addresses(&state));
        for one in endpoints.iter().filter(|one| stayed.contains(&one.address.to_string())) {
            assert!(Arc::ptr_eq(&one.live, &lives[&one.address.to_string()]), "{}", one.address);
        }
        assert_eq!(
            cluster.outlier.endpoints(),
            endpoints.iter().map(|one| one.address.to_string()).collect::<BTreeSet<_>>().len()
        );
    }
}

#[test]
fn a_removed_endpoint_that_comes_back_starts_afresh_and_is_judged() {
    let now = Instant::now();
    let cluster = cluster(&snapshot(&document("endpoint_source: registry"), None));
    let (one, two) = (at("10.0.0.1:80"), at("10.0.0.2:80"));
    cluster.set_endpoints(vec![Arc::clone(&one), Arc::clone(&two)], now);
    let before = cluster.endpoints();
    cluster.set_endpoints(vec![Arc::clone(&one)], now);
    cluster.set_endpoints(vec![one, two], now);
    let after = cluster.endpoints();
    assert!(Arc::ptr_eq(&before[0].live, &after[0].live));
    assert!(!Arc::ptr_eq(&before[1].live, &after[1].live));
}

#[test]
fn a_cluster_starts_from_what_the_last_document_had_until_its_new_source_speaks() {
    let now = Instant::now();
    let old = snapshot(&document("endpoints: [{ address: \"10.0.0.1:80\" }]"), None);
    let new = snapshot(&document("dns: { name: a.example, port: 80 }"), Some(&old));
    let cluster = cluster(&new);
    assert_eq!(cluster.endpoints().len(), 1);
    assert!(Arc::ptr_eq(&cluster.endpoints()[0].live, &old.clusters["a"].endpoints()[0].live));
    cluster.source_failed(&"no such name".into());
    assert_eq!(cluster.endpoints().len(), 1, "a source that has nothing takes nothing away");
    cluster.set_endpoints(vec![at("10.0.0.2:80")], now);
    assert_eq!(&*cluster.endpoints()[0].name, "10.0.0.2:80");
}

#[test]
fn a_cluster_that_waits_for_its_source_says_so_and_a_failed_one_says_why() {
    let cluster = cluster(&snapshot(&document("dns: { name: a.example, port: 80 }"), None));
    assert!(cluster.is_resolving());
    cluster.source_failed(&"SERVFAIL".into());
    assert!(!cluster.is_resolving());
    let wanted = Wanted { now: Instant::now(), tried: &[], hash: None, subset: None, last_wait: None };
    let Err(error) = cluster.pick(wanted, &mut fastrand::Rng::new()) else { panic!("picked") };
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.to_string().contains("SERVFAIL"), "{error}");
}

/// Endpoints of addresses no two of which are equal.
fn many(count: u32) -> Vec<Arc<mesh_core::config::Endpoint>> {
    (0..count).map(|n| at(&format!("10.{}.{}.{}:80", n >> 16, (n >> 8) & 255, n & 255))).collect()
}

#[test]
fn a_change_of_one_in_a_hundred_thousand_builds_one() {
    let now = Instant::now();
    let cluster = cluster(&snapshot(&document("endpoint_source: registry"), None));
    let _measuring = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut list = many(100_000);
    let before = rss();
    cluster.set_endpoints(list.clone(), now);
    println!(
        "{} bytes for each of 100000 endpoints, without what the source holds",
        rss().saturating_sub(before) / 100_000
    );
    let first = cluster.endpoints();
    let known: BTreeSet<usize> = first.iter().map(|endpoint| Arc::as_ptr(endpoint) as usize).collect();
    let started = Instant::now();
    for n in 0..5 {
        list[n * 1000] = at(&format!("11.0.0.{n}:80"));
        cluster.set_endpoints(list.clone(), now);
    }
    println!("{:?} for each change of one in 100000", started.elapsed() / 5);
    let second = cluster.endpoints();
    assert_eq!(second.len(), 100_000);
    let built = second.iter().filter(|endpoint| !known.contains(&(Arc::as_ptr(endpoint) as usize))).count();
    assert_eq!(built, 5);
}

/// Connections of this process to `port`, by the kernel's table, that are established.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|fields| fields[2].ends_with(&remote) && fields[3] == "01").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_a_removed_endpoint_close_at_once_although_a_call_holds_the_old_document() {
    let [one, two] = two_ports();
    let _servers = [serve(&format!("127.0.0.1:{one}")).await, serve(&format!("127.0.0.1:{two}")).await];
    let named = |ports: &[u16]| {
        let list: Vec<_> = ports.iter().map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}")).collect();
        document(&format!("endpoints: [{}], balancer: round_robin", list.join(", ")))
    };
    let mesh = Mesh::from_yaml(&named(&[one, two]), "mesh.yaml").unwrap();
    while established(one) == 0 || established(two) == 0 {
        endpoint_of(&mesh).await.unwrap();
    }
    // A response that is not read yet keeps its call's snapshot, and with it the old cluster.
    let held = loop {
        let request = http::Request::get("http://a/").body(mesh_core::Body::empty()).unwrap();
        let response = mesh.client().call(request).await.unwrap();
        let report = response.extensions().get::<mesh_core::CallReport>().unwrap();
        if report.endpoint.ends_with(&format!(":{two}")) {
            break response;
        }
        response.into_body().collect_up_to(100).await.unwrap();
    };
    mesh.reload(&named(&[two]), "mesh.yaml").unwrap();
    until("the removed endpoint's connections to close", || established(one) == 0).await;
    let body = held.into_body().collect_up_to(100).await.unwrap();
    assert_eq!(&body[..], b"fine");
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.1:{two}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_to_a_removed_endpoint_finishes() {
    let port = free_port();
    let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n");
    let server = Mesh::from_yaml(&text, "server.yaml").unwrap();
    let (arrived, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let signals = (Arc::clone(&arrived), Arc::clone(&go));
    let slow = tower::service_fn(move |_: http::Request<mesh_core::Body>| {
        let (arrived, go) = (Arc::clone(&signals.0), Arc::clone(&signals.1));
        async move {
            arrived.notify_one();
            go.notified().await;
            Ok::<_, mesh_core::error::BoxError>(http::Response::new(mesh_core::Body::from("late")))
        }
    });
    server.listen("in", slow).await.unwrap();
    let mesh =
        Mesh::from_yaml(&document(&format!("endpoints: [{{ address: \"127.0.0.1:{port}\" }}]")), "mesh.yaml").unwrap();
    let client = mesh.client();
    let call = tokio::spawn(async move { endpoint_of_client(client).await });
    arrived.notified().await;
    mesh.reload(&document("endpoints: []"), "mesh.yaml").unwrap();
    assert_eq!(in_force(&mesh), Vec::<String>::new());
    go.notify_one();
    assert_eq!(call.await.unwrap(), "late");
    until("its connection to close", || established(port) == 0).await;
}

async fn endpoint_of_client(client: mesh_core::ServiceClient) -> String {
    let response = client.call(http::Request::get("http://a/").body(mesh_core::Body::empty()).unwrap()).await.unwrap();
    String::from_utf8(response.into_body().collect_up_to(100).await.unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_cluster_frees_its_sockets() {
    let port = free_port();
    let _server = serve(&format!("127.0.0.1:{port}")).await;
    let mesh =
        Mesh::from_yaml(&document(&format!("endpoints: [{{ address: \"127.0.0.1:{port}\" }}]")), "mesh.yaml").unwrap();
    endpoint_of(&mesh).await.unwrap();
    assert_eq!(established(port), 1);
    mesh.reload("version: 1\n", "mesh.yaml").unwrap();
    until("the cluster's connections to close", || established(port) == 0).await;
}

#[test]
fn a_source_that_nobody_registered_is_refused() {
    let error: ConfigError = match Mesh::from_yaml(&document("endpoint_source: registry"), "mesh.yaml") {
        Err(error) => error,
        Ok(_) => panic!("taken"),
    };
    assert!(error.to_string().contains("no endpoint source is registered as `registry`"), "{error}");
    assert_eq!(error.diagnostics()[0].path, "clusters[0]");
}

#[test]
fn a_reload_does_not_wait_again_for_a_source_that_has_spoken() {
    let dns = |more: &str| document(&format!("dns: {{ name: a.example, port: 80 }}{more}"));
    let old = snapshot(&dns(""), None);
    let awaited = snapshot(&dns(", balancer: random"), Some(&old));
    assert!(cluster(&awaited).is_resolving(), "it has not spoken yet");
    old.clusters["a"].source_failed(&"SERVFAIL".into());
    let new = cluster(&snapshot(&dns(", balancer: round_robin"), Some(&old)));
    assert!(!new.is_resolving());
    let wanted = Wanted { now: Instant::now(), tried: &[], hash: None, subset: None, last_wait: None };
    let Err(error) = new.pick(wanted, &mut fastrand::Rng::new()) else { panic!("picked") };
    assert!(error.to_string().contains("SERVFAIL"), "{error}");
    let other = cluster(&snapshot(&document("dns: { name: b.example, port: 80 }"), Some(&old)));
    assert!(other.is_resolving(), "another source has yet to speak");
}

#[test]
fn who_waits_at_a_cluster_that_a_reload_replaces_does_not_wait_in_vain() {
    let old = snapshot(&document("endpoint_source: registry"), None);
    let old_cluster = cluster(&old);
    let mut waiting = std::pin::pin!(old_cluster.next_word());
    let mut look = || waiting.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop()));
    assert!(look().is_pending());
    let new = cluster(&snapshot(&document("endpoint_source: registry, balancer: random"), Some(&old)));
    old_cluster.leave_to(Some(&new));
    assert!(look().is_ready(), "only the new one is told what the source says");
    assert!(new.is_resolving() && !old_cluster.is_resolving());
}

#[test]
fn detection_forgets_who_is_gone_when_nothing_else_was_carried_over() {
    let endpoints = |count: u32| {
        let all = (1..=count).map(|n| format!("{{ address: \"10.0.0.{n}:80\" }}")).collect::<Vec<_>>();
        format!("endpoints: [{}]", all.join(", "))
    };
    let old = snapshot(&document(&endpoints(4)), None);
    let live = Arc::clone(&old.clusters["a"].endpoints()[0].live);
    let new = cluster(&snapshot(&document(&format!("protocol: http2, {}", endpoints(1))), Some(&old)));
    assert!(!Arc::ptr_eq(&new.endpoints()[0].live, &live), "another protocol: nothing learned still holds");
    assert_eq!(new.outlier.endpoints(), 1, "a share of the ejected is a share of who is there");
}

#[test]
fn a_health_check_that_is_switched_on_trusts_who_is_in_use_until_it_has_asked() {
    let now = Instant::now();
    let source = |more: &str| document(&format!("endpoint_source: registry{more}"));
    let old = snapshot(&source(""), None);
    old.clusters["a"].set_endpoints(vec![at("10.0.0.1:80")], now);
    old.clusters["a"].set_endpoints(vec![at("10.0.0.1:80"), at("10.0.0.2:80")], now);
    let new = cluster(&snapshot(&source(", health_check: { http: { path: /healthz } }"), Some(&old)));
    let health = |cluster: &Cluster| cluster.endpoints().iter().map(|one| one.health(now).as_str()).collect::<Vec<_>>();
    assert_eq!(health(&new), ["healthy", "healthy"]);
    new.set_endpoints(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(at).to_vec(), now);
    assert_eq!(health(&new), ["healthy", "healthy", "unhealthy"], "who joins under a check waits for it");
}

#[test]
fn a_cluster_that_only_sessions_lead_to_is_used() {
    let cluster = cluster(&snapshot(&document("endpoints: [{ address: \"10.0.0.1:80\" }]"), None));
    assert!(!cluster.is_used());
    let wanted = Wanted { now: Instant::now(), tried: &[], hash: None, subset: None, last_wait: None };
    assert!(cluster.take("10.0.0.1:80".parse().unwrap(), &wanted).is_some());
    assert!(cluster.is_used(), "its endpoints are probed as often as those of any cluster with traffic");
}

#[test]
fn a_reload_leaves_an_endpoints_file_in_use_to_the_source_that_follows_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("endpoints.yaml");
    std::fs::write(&file, "- address: 10.0.0.1:80\n- address: 10.0.0.2:80\n").unwrap();
    let text = |more: &str| document(&format!("endpoints_file: \"{}\"{more}", file.display()));
    let old = snapshot(&text(""), None);
    // The beginning of what somebody is writing.
    std::fs::write(&file, "- address: 10.0.0.1:80\n").unwrap();
    for more in ["", ", balancer: random"] {
        let followed = snapshot_of(&text(more), Some(&old), true);
        assert_eq!(cluster(&followed).endpoints().len(), 2, "{more:?}");
    }
    let unfollowed = snapshot(&text(", balancer: random"), Some(&old));
    assert_eq!(cluster(&unfollowed).endpoints().len(), 1, "nobody else reads it");
}

#[test]
fn a_service_that_was_down_for_long_is_found_again_soon_whether_or_not_panic_is_allowed() {
    for threshold in [0, 50] {
        let more = format!(
            "balancing: {{ panic_threshold: {threshold} }}, circuit_breaker: {{ consecutive_failures: 1, open: 1s, max_open: 1h }}, outlier: {{ max_ejection_percent: 0, always_eject_one: false }}"
        );
        let endpoints = "endpoints: [{ address: \"10.0.0.1:80\" }, { address: \"10.0.0.2:80\" }]";
        let cluster = cluster(&snapshot(&document(&format!("{endpoints}, {more}")), None));
        let (mut now, mut rng, headers) = (Instant::now(), fastrand::Rng::with_seed(7), HeaderMap::new());
        let failed = Outcome::Response { status: 503, grpc_status: None, headers: &headers };
        let mut pick =
            |now| cluster.pick(Wanted { now, tried: &[], hash: None, subset: None, last_wait: None }, &mut rng);
        // Every probe fails, and the wait after it is longer each time.
        for round in 0..20 {
            let mut taken = pick(now).unwrap_or_else(|error| panic!("{threshold} {round}: {error}"));
            taken.judge(&failed, now, &mut fastrand::Rng::with_seed(round));
            now += Duration::from_secs(1);
        }
        let error = loop {
            match pick(now) {
                Ok(mut taken) => taken.judge(&failed, now, &mut fastrand::Rng::with_seed(1)),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::CircuitOpen, "{threshold}: {error}");
        assert!(error.place().retry_after.is_some(), "{threshold}: when to come back is known");
    }
}
