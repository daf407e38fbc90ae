//! Names that change, or cannot be resolved, under traffic; time passes only when the story says so.

use std::time::Duration;

use mesh_core::discovery::resolver::{Records, Unanswered};
use mesh_core::time::{Clock, ManualClock};
use mesh_core::{ErrorKind, Mesh};

use crate::support::{Zone, closed_port, document, endpoint_of, free_port, in_force, serve, until};

const SECOND: Duration = Duration::from_secs(1);

fn mesh(source: &str, zone: &Zone, clock: &ManualClock) -> Mesh {
    mesh_of(&document(source), zone, clock)
}

fn mesh_of(text: &str, zone: &Zone, clock: &ManualClock) -> Mesh {
    let builder = Mesh::builder().resolver(std::sync::Arc::new(zone.clone())).clock(std::sync::Arc::new(clock.clone()));
    builder.from_yaml(text, "mesh.yaml").unwrap()
}

/// Lets background work happen that the last advance made due: a question that is due was asked.
async fn asked_more(zone: &Zone, before: usize) {
    until("a question that is due", || zone.asked() > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o62_a_name_is_resolved_again_under_steady_traffic_and_the_old_address_is_left_behind() {
    let port = free_port();
    let _servers = [serve(&format!("127.0.0.1:{port}")).await, serve(&format!("127.0.0.2:{port}")).await];
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.set("a.example", Records::V4, (&["127.0.0.1"], SECOND));
    let mesh = mesh(&format!("dns: {{ name: a.example, port: {port}, family: v4 }}"), &zone, &clock);
    let (old, new) = (format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"));
    // 100 requests a second; the name moves after one.
    for step in 0..300_u32 {
        if step == 100 {
            zone.set("a.example", Records::V4, (&["127.0.0.2"], SECOND));
        }
        let endpoint = endpoint_of(&mesh).await.unwrap();
        assert!(endpoint == new || (endpoint == old && step <= 210), "{endpoint} at {} ms", step * 10);
        clock.advance(Duration::from_millis(10));
        if step == 210 {
            // One time to live and its jitter after the move; no further time passes while the answer travels.
            until("the new address", || in_force(&mesh) == [new.clone()]).await;
        }
        if step > 210 {
            assert_eq!(endpoint_of(&mesh).await.unwrap(), new, "at {} ms", step * 10);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o62_a_name_is_resolved_again_without_any_traffic() {
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.set("a.example", Records::V4, (&["127.0.0.1"], SECOND));
    let mesh = mesh("dns: { name: a.example, port: 80, family: v4 }", &zone, &clock);
    mesh.start().unwrap();
    for _ in 0..20 {
        let (before, began) = (zone.asked(), clock.now());
        // An answer may still be on its way while time passes: its own time to live begins when it is here.
        until("a question that is due", || {
            clock.advance(SECOND / 10);
            zone.asked() > before
        })
        .await;
        let waited = clock.now() - began;
        assert!(waited < 60 * SECOND, "asked again only after {waited:?}, with a time to live of a second");
    }
    zone.set("a.example", Records::V4, (&["127.0.0.9"], SECOND));
    until("the new address", || {
        clock.advance(SECOND / 10);
        in_force(&mesh) == ["127.0.0.9:80"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o64_a_minute_of_servfail_fails_no_call_and_is_counted() {
    let port = free_port();
    let _server = serve(&format!("127.0.0.1:{port}")).await;
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.set("a.example", Records::V4, (&["127.0.0.1"], SECOND));
    let mesh = mesh(&format!("dns: {{ name: a.example, port: {port}, family: v4, max_stale: 120s }}"), &zone, &clock);
    endpoint_of(&mesh).await.unwrap();
    zone.answer("a.example", Records::V4, Err(Unanswered::Failed("SERVFAIL".to_owned())));
    let failures = |mesh: &Mesh| {
        let metrics = mesh.metrics_text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("libmesh_dns_resolutions_total{cluster=\"a\",outcome=\"error\"}"));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse::<u32>().unwrap())
    };
    // Asked at about 1, 2, 4, 8, 16, 32 s.
    for (span, at_least) in [(2, 1), (2, 2), (3, 3), (6, 4), (10, 5), (37, 6)] {
        clock.advance(span * SECOND);
        until("the failures to be counted", || {
            clock.advance(SECOND / 100);
            failures(&mesh) >= at_least
        })
        .await;
        // As many as it takes for whatever the source said to be in force.
        for _ in 0..100 {
            endpoint_of(&mesh).await.unwrap();
        }
    }
    // A minute is over. Beyond the bound, nothing is used any more.
    clock.advance(120 * SECOND);
    until("stale endpoints to go", || in_force(&mesh).is_empty()).await;
    assert_eq!(endpoint_of(&mesh).await.unwrap_err().kind(), ErrorKind::NoEndpoint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_fails_makes_the_name_be_asked_for_again_at_once() {
    let port = closed_port();
    let _server = serve(&format!("127.0.0.2:{port}")).await;
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.set("a.example", Records::V4, (&["127.0.0.1"], 3600 * SECOND));
    // Of all that waits, only the wait between attempts may be over by the time that passes here.
    let text = document(&format!("dns: {{ name: a.example, port: {port}, family: v4 }}"))
        + "defaults: { connect_timeout: 1h, timeout: 1h }\n";
    let mesh = mesh_of(&text, &zone, &clock);
    mesh.start().unwrap();
    until("the first address", || in_force(&mesh).len() == 1).await;
    zone.set("a.example", Records::V4, (&["127.0.0.2"], 3600 * SECOND));
    clock.advance(2 * SECOND);
    assert_eq!(zone.asked(), 1);
    // Waits between attempts are long in a time that stands still.
    let call = tokio::spawn({
        let mesh = mesh.clone();
        async move { endpoint_of(&mesh).await }
    });
    until("the new address", || in_force(&mesh) == [format!("127.0.0.2:{port}")]).await;
    until("the call to end", || {
        clock.advance(Duration::from_millis(50));
        call.is_finished()
    })
    .await;
    assert_eq!(call.await.unwrap().unwrap(), format!("127.0.0.2:{port}"), "the retry went to the new address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_names_among_endpoints_are_kept_current_and_asked_for_once_whoever_writes_them() {
    let port = free_port();
    let _server = serve(&format!("127.0.0.1:{port}")).await;
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.set("a.example", Records::Host, (&["127.0.0.1"], SECOND));
    let host = format!("endpoints: [{{ address: \"a.example:{port}\" }}]");
    let text = format!("{}\n", document(&host)).replace(
        "clusters: [",
        &format!("clusters: [{{ name: b, endpoints: [{{ address: \"a.example:{port}\" }}] }}, "),
    );
    let mesh = mesh_of(&text, &zone, &clock);
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.1:{port}"));
    assert_eq!(zone.asked(), 1, "two clusters, one question");
    // A document that names the host anew is told what is known.
    let third = text.replace("name: b,", "name: c,");
    mesh.reload(&third, "mesh.yaml").unwrap();
    let of_c = |mesh: &Mesh| mesh.status()["clusters"]["c"]["endpoints"].as_array().unwrap().len();
    until("the new cluster to know the address", || of_c(&mesh) == 1).await;
    assert_eq!(zone.asked(), 1);
    zone.answer("a.example", Records::Host, Err(Unanswered::Failed("EAI_AGAIN".to_owned())));
    clock.advance(10 * SECOND);
    asked_more(&zone, 1).await;
    assert_eq!(endpoint_of(&mesh).await.unwrap(), format!("127.0.0.1:{port}"), "an error keeps the last address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_name_that_cannot_be_resolved_fails_requests_at_once_and_says_why() {
    let (zone, clock) = (Zone::default(), ManualClock::new());
    zone.answer("a.example", Records::Host, Err(Unanswered::Failed("EAI_AGAIN".to_owned())));
    let mesh = mesh("endpoints: [{ address: \"a.example:80\" }]", &zone, &clock);
    // Time stands still: a request that waited for its deadline would never end.
    let error = tokio::time::timeout(Duration::from_secs(30), endpoint_of(&mesh)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.to_string().contains("EAI_AGAIN"), "{error}");
}
