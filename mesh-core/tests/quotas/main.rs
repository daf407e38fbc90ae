//! Rate limits that a server assigns, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the server of several tests")]
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::RateLimitQuotaServiceServer;
use envoy_types::pb::envoy::r#type::v3::RateLimitUnit;
use http::{HeaderMap, Request, Response};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tokio::net::TcpSocket;
use tower::{Layer, ServiceExt, service_fn};

use self::server::{Assigner, Service, abandon, deny, per};

/// Listens as long as the test runs.
async fn serve(assigner: &Arc<Assigner>) -> SocketAddr {
    let server = Mesh::from_yaml("listeners: [{name: rlqs, address: \"127.0.0.1:0\"}]", "rlqs.yaml").unwrap();
    let service = RateLimitQuotaServiceServer::new(Service(Arc::clone(assigner)));
    let address = server.listen("rlqs", service).await.unwrap().local_addr();
    std::mem::forget(server);
    address
}

fn document(server: SocketAddr, quota: &str) -> String {
    format!(
        "node: {{service: front}}
defaults: {{connect_timeout: 20s}}
clusters: [{{name: quotas, protocol: http2, endpoints: [{{address: \"{server}\"}}]}}]
listeners: [{{name: in}}]
policy:
  rate_limit_quotas:
    - name: users
      cluster: quotas
      domain: shop
      match: {{path: {{prefix: /api}}}}
      buckets: [{{actions: [{{request_headers: {{header_name: x-user, descriptor_key: user}}}}, {{source_cluster: {{}}}}]}}]
      {quota}
"
    )
}

fn mesh(server: SocketAddr, quota: &str) -> Mesh {
    Mesh::from_yaml(&document(server, quota), "quotas.yaml").unwrap()
}

async fn send(mesh: &Mesh, request: http::request::Builder) -> (u16, HeaderMap) {
    let answer = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
    let request = request.body(Body::empty()).unwrap();
    let response = mesh.server_layer("in").unwrap().layer(answer).oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

async fn ask(mesh: &Mesh, user: &str) -> u16 {
    send(mesh, Request::get("http://shop/api").header("x-user", user)).await.0
}

/// How many of so many pass.
async fn passed(mesh: &Mesh, user: &str, requests: u64) -> u64 {
    let mut passed = 0;
    for _ in 0..requests {
        passed += u64::from(ask(mesh, user).await == 200);
    }
    passed
}

fn metric(mesh: &Mesh, series: &str) -> Option<u64> {
    let text = mesh.metrics_text();
    let line = text.lines().find(|line| line.starts_with(series));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

/// Waits until it is so; a test that waits in vain fails.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited 30 s for {what}");
}

async fn in_force(mesh: &Mesh, replaced: u64) {
    let series = "libmesh_rate_limit_quota_assignments_total{limit=\"users\",outcome=\"replaced\"}";
    until("the assignment", || metric(mesh, series) == Some(replaced)).await;
}

#[tokio::test]
async fn what_is_assigned_is_kept_another_assignment_takes_effect_and_the_reports_sum_up() {
    let assigner = Assigner::saying(Some(per(5, RateLimitUnit::Hour, 3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 101ms");
    assert_eq!(ask(&mesh, "u1").await, 200, "nobody waits for the first assignment");
    in_force(&mesh, 1).await;
    let first = assigner.seen().remove(0);
    assert_eq!((&*first.domain, first.allowed, first.denied), ("shop", 1, 0));
    let named = [("source_cluster", "front"), ("user", "u1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(first.bucket, named.into());

    assert_eq!(passed(&mesh, "u1", 20).await, 5);
    assigner.say(per(7, RateLimitUnit::Hour, 3600));
    in_force(&mesh, 2).await;
    assert_eq!(passed(&mesh, "u1", 20).await, 7);
    // The same again fills nothing.
    assigner.say(per(7, RateLimitUnit::Hour, 3600));
    let extended = "libmesh_rate_limit_quota_assignments_total{limit=\"users\",outcome=\"extended\"}";
    until("the extension", || metric(&mesh, extended) == Some(1)).await;
    assert_eq!(passed(&mesh, "u1", 20).await, 0);

    until("the reports", || assigner.sums() == (1 + 5 + 7, 15 + 13 + 20)).await;
    assert!(assigner.seen().iter().all(|seen| seen.stream == 1));
    assert_eq!(metric(&mesh, "libmesh_rate_limit_quota_buckets{limit=\"users\",state=\"active\"}"), Some(1));
    assert_eq!(metric(&mesh, "libmesh_rate_limit_quota_stream_open{limit=\"users\"}"), Some(1));
    let refused = "libmesh_rate_limited_total{limit=\"users\",listener=\"in\",outcome=\"refused\"}";
    assert_eq!(metric(&mesh, refused), Some(48));
}

#[tokio::test]
async fn each_bucket_is_assigned_by_itself_and_a_request_without_one_passes_unreported() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 101ms");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    assert_eq!((ask(&mesh, "u1").await, ask(&mesh, "u2").await), (429, 200));
    in_force(&mesh, 2).await;
    assert_eq!((ask(&mesh, "u1").await, ask(&mesh, "u2").await), (429, 429));
    for request in [Request::get("http://shop/api"), Request::get("http://shop/other").header("x-user", "u1")] {
        assert_eq!(send(&mesh, request).await.0, 200);
    }
    until("the reports", || assigner.sums() == (2, 3)).await;
}

#[tokio::test]
async fn reports_do_not_wait_for_the_server_to_begin_its_answer() {
    let assigner = Assigner::late(deny(3600));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 101ms");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    assert_eq!(ask(&mesh, "u1").await, 429);
}

#[tokio::test]
async fn no_spelling_of_a_path_dodges_the_bucket() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 101ms");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    for path in ["/api", "//api", "/x/..%2fapi"] {
        let request = Request::get(format!("http://shop{path}")).header("x-user", "u1");
        assert_eq!(send(&mesh, request).await.0, 429, "{path}");
    }
}

#[tokio::test]
async fn an_abandoned_bucket_begins_anew() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 1h");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    assert_eq!(ask(&mesh, "u1").await, 429);
    assigner.say(abandon());
    let abandoned = "libmesh_rate_limit_quota_assignments_total{limit=\"users\",outcome=\"abandoned\"}";
    until("its end", || metric(&mesh, abandoned) == Some(1)).await;
    let before = assigner.seen().len();
    assert_eq!(ask(&mesh, "u1").await, 200);
    until("a report at once", || assigner.seen().len() > before).await;
    assert_eq!(assigner.seen().last().map(|seen| (seen.allowed, seen.denied)), Some((1, 0)));
}

/// A stream that breaks ends no assignment; the next one tells of all buckets, by which the server knows them again.
#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_and_what_was_assigned_holds() {
    let assigner = Assigner::saying(Some(per(1, RateLimitUnit::Hour, 3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 1h");
    for user in ["u1", "u2"] {
        ask(&mesh, user).await;
    }
    in_force(&mesh, 2).await;
    assert_eq!(passed(&mesh, "u1", 3).await, 1);
    let ends = "libmesh_rate_limit_quota_stream_ends_total{limit=\"users\",reason=\"rpc\"}";
    assert_eq!(metric(&mesh, ends), Some(0));
    assigner.break_off();
    until("the end", || metric(&mesh, ends) == Some(1)).await;
    assert_eq!(passed(&mesh, "u1", 3).await, 0);
    until("a second stream", || assigner.streams() == 2).await;
    until("all buckets on it", || assigner.seen().iter().filter(|seen| seen.stream == 2).count() == 2).await;
    assert_eq!(passed(&mesh, "u1", 3).await, 0, "the same assignment, of the same bucket");
    assert_eq!(metric(&mesh, "libmesh_rate_limit_quota_streams_total{limit=\"users\"}"), Some(2));
}

#[tokio::test]
async fn a_reload_keeps_assignments_unless_the_buckets_are_others() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let address = serve(&assigner).await;
    let mesh = mesh(address, "status: 430");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    assert_eq!(ask(&mesh, "u1").await, 430);
    mesh.reload(&document(address, "status: 431"), "quotas.yaml").unwrap();
    assert_eq!(ask(&mesh, "u1").await, 431);
    assert_eq!(assigner.streams(), 1);
    mesh.reload(&document(address, "max_buckets: 5"), "quotas.yaml").unwrap();
    assert_eq!(ask(&mesh, "u1").await, 200);
    until("a stream of the new one", || assigner.streams() == 2).await;
}

/// The stream would hold the endpoint that was taken out of service, and nobody would ask the other.
#[tokio::test]
async fn the_stream_follows_the_cluster_when_its_endpoint_leaves() {
    let (old, new) = (Assigner::saying(None), Assigner::saying(Some(deny(3600))));
    let (before, after) = (serve(&old).await, serve(&new).await);
    let mesh = mesh(before, "reporting_interval: 1h");
    assert_eq!(ask(&mesh, "u1").await, 200);
    until("the first report", || old.seen().len() == 1).await;
    mesh.reload(&document(after, "reporting_interval: 1h"), "quotas.yaml").unwrap();
    in_force(&mesh, 1).await;
    assert_eq!(ask(&mesh, "u1").await, 429);
    until("all buckets, and what came before the assignment", || new.seen().len() == 2).await;
}

#[tokio::test]
async fn a_refusal_is_that_of_a_rate_limit() {
    let assigner = Assigner::saying(Some(per(1, RateLimitUnit::Hour, 3600)));
    let quota =
        "headers: rate_limit\n      rate_limited_as_resource_exhausted: true\n      response_headers: {x-why: quota}";
    let mesh = mesh(serve(&assigner).await, quota);
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    let request = || Request::get("http://shop/api").header("x-user", "u1");
    assert_eq!(send(&mesh, request()).await.0, 200);
    let (status, headers) = send(&mesh, request()).await;
    assert_eq!((status, &headers["x-why"]), (429, &"quota".parse().unwrap()));
    let wait: u32 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3_500..=3_600).contains(&wait), "{wait}");
    assert_eq!(headers["ratelimit-policy"], "\"users\";q=1;w=3600");
    let (status, headers) = send(&mesh, request().header("content-type", "application/grpc")).await;
    assert_eq!((status, &headers["grpc-status"]), (200, &"8".parse().unwrap()));
}

#[tokio::test]
async fn what_is_not_enforced_passes_and_is_counted_and_reported() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let mesh = mesh(serve(&assigner).await, "enforce_percent: 0\n      reporting_interval: 101ms");
    assert_eq!(ask(&mesh, "u1").await, 200);
    in_force(&mesh, 1).await;
    assert_eq!(passed(&mesh, "u1", 3).await, 3);
    let counted = "libmesh_rate_limited_total{limit=\"users\",listener=\"in\",outcome=\"passed\"}";
    assert_eq!(metric(&mesh, counted), Some(3));
    until("the reports", || assigner.sums() == (1, 3)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_leaves_what_is_written_for_buckets_without_assignment() {
    // Taken by a socket that does not listen.
    let nobody = TcpSocket::new_v4().unwrap();
    nobody.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = nobody.local_addr().unwrap();
    let three = "no_assignment_behavior: {fallback_rate_limit: {requests_per_time_unit: \
                 {requests_per_time_unit: 3, time_unit: hour}}}";
    for (behaviour, expected) in [
        ("status: 429", 10),
        ("no_assignment_behavior: {fallback_rate_limit: {blanket_rule: deny_all}}", 0),
        (three, 3),
    ] {
        let mesh = mesh(address, behaviour);
        assert_eq!(passed(&mesh, "u1", 10).await, expected, "{behaviour}");
        until("a failure", || {
            metric(&mesh, "libmesh_rate_limit_quota_stream_ends_total{limit=\"users\",reason=\"rpc\"}") > Some(0)
        })
        .await;
        assert_eq!(metric(&mesh, "libmesh_rate_limit_quota_stream_open{limit=\"users\"}"), Some(0));
    }
}

#[tokio::test]
async fn a_bare_connection_has_a_bucket_where_there_is_no_condition() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let server = serve(&assigner).await;
    let text = format!(
        "defaults: {{connect_timeout: 20s}}
clusters: [{{name: quotas, protocol: http2, endpoints: [{{address: \"{server}\"}}]}}]
listeners: [{{name: db, protocol: tcp, address: \"127.0.0.1:0\"}}]
policy:
  rate_limit_quotas:
    - {{name: requests, cluster: quotas, domain: r, match: {{path: {{prefix: /}}}}, buckets: [{{actions: [{{remote_address: {{}}}}]}}]}}
    - {{name: users, cluster: quotas, domain: c, buckets: [{{actions: [{{remote_address: {{}}}}]}}]}}
"
    );
    let mesh = Mesh::from_yaml(&text, "quotas.yaml").unwrap();
    let listening = mesh.listen_tcp("db").unwrap();
    let _passed = tokio::net::TcpStream::connect(listening.local_addr()).await.unwrap();
    let _accepted = listening.accept().await.unwrap();
    in_force(&mesh, 1).await;
    let _refused = tokio::net::TcpStream::connect(listening.local_addr()).await.unwrap();
    let refused = "libmesh_rate_limited_total{limit=\"users\",listener=\"db\",outcome=\"refused\"}";
    until("a refusal", || metric(&mesh, refused) == Some(1)).await;
    assert!(assigner.seen().iter().all(|seen| seen.domain == "c"));
}

#[test]
fn the_example_of_the_documentation_is_a_configuration() {
    let page = include_str!("../../../docs/rate_limit_quotas.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let mesh = Mesh::from_yaml(example, "example.yaml").unwrap();
    let metrics = mesh.metrics_text();
    for line in page.lines().filter(|line| line.starts_with("| `libmesh_rate_limit_quota_")) {
        let name: String = line[3..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        assert!(metrics.contains(&format!("{name}{{limit=\"users\"")), "{name}");
    }
}

#[tokio::test]
async fn a_mesh_that_is_gone_has_no_stream() {
    let assigner = Assigner::saying(Some(deny(3600)));
    let mesh = mesh(serve(&assigner).await, "reporting_interval: 101ms");
    ask(&mesh, "u1").await;
    in_force(&mesh, 1).await;
    drop(mesh);
    until("the end of the stream", || assigner.ended() == 1).await;
}
