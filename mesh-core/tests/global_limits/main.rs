//! Global rate limits over real sockets, against a scripted rate limit service.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod leases;
mod script;

use http::{HeaderMap, Request, Response};
use mesh_core::Mesh;

use self::script::{Script, dead, limit, mesh, over, refused};

#[tokio::test]
async fn the_server_is_asked_what_the_actions_say_and_only_about_what_they_describe() {
    let script = Script::answering([Ok(over()), Ok(limit(10, 3))]);
    let mesh = mesh(
        script.serve().await,
        "match: {path: {prefix: /api}}, descriptors: [\
           {actions: [{request_headers: {header_name: x-user, descriptor_key: user}}, {attribute: {name: path}}]},\
           {actions: [{source_cluster: {}}]},\
           {actions: [{claim: {path: [sub], descriptor_key: sub}}]}]",
    );
    assert_eq!(ask(&mesh, "/other", "u1").await.0, 200, "not matched");
    assert_eq!(script.calls(), 0);
    assert_eq!(ask(&mesh, "/api/x", "u1").await.0, 429);
    assert_eq!(ask(&mesh, "/api/x", "u2").await.0, 200);
    let seen = script.seen();
    assert_eq!((seen.len(), &*seen[0].domain, seen[0].hits_addend), (2, "shop", 1));
    let described: Vec<Vec<_>> = seen[0].descriptors.iter().map(script::pairs).collect();
    assert_eq!(described, [vec!["user=u1", "path=/api/x"], vec!["source_cluster=front"]]);
    let metrics = mesh.metrics_text();
    for line in [
        "libmesh_rate_limited_total{limit=\"users\",listener=\"in\",outcome=\"refused\"} 1",
        "libmesh_rate_limit_calls_total{limit=\"users\",purpose=\"request\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_request_that_a_local_limit_refuses_is_not_asked_about() {
    let script = Script::answering([Ok(limit(10, 3))]);
    let text = script::document(script.serve().await, script::BY_USER)
        .replace("policy: {", "policy: {rate_limits: [{name: local, max_tokens: 1, fill_interval: 1h}], ");
    let mesh = Mesh::from_yaml(&text, "limits.yaml").unwrap();
    assert_eq!(ask(&mesh, "/", "u1").await.0, 200);
    assert_eq!(ask(&mesh, "/", "u1").await.0, 429);
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn no_spelling_of_a_path_dodges_the_question() {
    let script = Script::answering([Ok(over())]);
    let mesh = mesh(script.serve().await, &format!("match: {{path: {{exact: /login}}}}, {}", script::BY_USER));
    for path in ["/login", "//login", "/x/..%2flogin"] {
        assert_eq!(ask(&mesh, path, "u1").await.0, 429, "{path}");
    }
    assert_eq!(ask(&mesh, "//x", "u1").await.0, 200);
}

#[tokio::test]
async fn a_refusal_that_is_not_enforced_is_counted() {
    let script = Script::answering([Ok(over())]);
    let mesh = mesh(script.serve().await, &format!("{}, enforce_percent: 0", script::BY_USER));
    assert_eq!(ask(&mesh, "/", "u1").await.0, 200);
    let line = "libmesh_rate_limited_total{limit=\"users\",listener=\"in\",outcome=\"passed\"} 1";
    assert!(mesh.metrics_text().contains(line));
}

/// The limit would wait for a minute, and the call for the 15 s of the mesh's defaults.
#[tokio::test]
async fn nobody_waits_for_the_answer_longer_than_the_callers_deadline() {
    for lease in ["", ", failure: closed, lease: {}"] {
        let limit = format!("{}{lease}, timeout: 60s", script::BY_USER);
        let mesh = mesh(Script::silent().serve().await, &limit);
        let mut hurried = request("/", "u1");
        hurried.headers_mut().insert("x-envoy-expected-rq-timeout-ms", "50".parse().unwrap());
        let start = std::time::Instant::now();
        assert_eq!(script::send(&mesh, hurried).await.0.status(), 504, "{lease}");
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{lease}: {:?}", start.elapsed());
    }
}

/// agentgateway#935: an outage is no limit. Open passes, closed is a failure of ours; each has its reason.
#[tokio::test]
async fn o44_a_rate_limit_service_that_is_down_is_never_reported_as_a_limit() {
    let silent = Script::silent();
    for (server, reason, hurry) in [
        (dead(), "rpc", ""),
        (Script::answering([Err(refused())]).serve().await, "rpc", ""),
        (Script::answering([Ok(script::unknown())]).serve().await, "server_error", ""),
        (silent.serve().await, "timeout", ", timeout: 500ms"),
    ] {
        for (failure, lease, status) in [
            ("open", "", 200),
            ("closed", "", 500),
            ("closed, status_on_error: 503", "", 503),
            ("open", ", lease: {}", 200),
            ("closed", ", lease: {}", 500),
        ] {
            let mesh = mesh(server, &format!("{}, failure: {failure}{lease}{hurry}", script::BY_USER));
            let (got, headers) = ask(&mesh, "/", "u1").await;
            assert_eq!(got, status, "{reason}, {failure}{lease}");
            assert!(!headers.contains_key("x-envoy-ratelimited") && !headers.contains_key("retry-after"));
            let outcome = if status == 200 { "passed" } else { "refused" };
            let line = format!(
                "libmesh_rate_limit_failures_total{{limit=\"users\",outcome=\"{outcome}\",reason=\"{reason}\"}} 1"
            );
            // Who spent in advance learns of the failure a moment later.
            script::until(&format!("{failure}{lease}: {line}"), || mesh.metrics_text().contains(&line)).await;
            let metrics = mesh.metrics_text();
            assert!(!metrics.contains("libmesh_rate_limited_total"), "{metrics}");
            assert_eq!(metrics.contains("response_flags=\"RLSE\""), status != 200, "{metrics}");
        }
    }
}

#[tokio::test]
async fn a_grpc_caller_learns_of_an_outage_by_its_status() {
    let mesh = mesh(dead(), &format!("{}, failure: closed", script::BY_USER));
    let (status, headers) = ask_grpc(&mesh).await;
    assert_eq!((status, headers["grpc-status"].as_bytes()), (200, &b"14"[..]));
}

#[tokio::test]
async fn bare_connections_are_asked_about_where_there_is_no_condition() {
    let script = Script::answering([Ok(over()), Ok(limit(10, 3))]);
    let server = script.serve().await;
    let text = format!(
        "clusters: [{{name: limits, protocol: http2, endpoints: [{{address: \"{server}\"}}]}}]\n\
         listeners: [{{name: db, protocol: tcp, address: \"127.0.0.1:0\"}}]\n\
         policy: {{global_rate_limits: [\
           {{name: requests, cluster: limits, domain: shop, match: {{path: {{prefix: /}}}}, timeout: 5s,\
             descriptors: [{{actions: [{{generic_key: {{descriptor_value: r}}}}]}}]}},\
           {{name: connections, cluster: limits, domain: shop, timeout: 5s,\
             descriptors: [{{actions: [{{remote_address: {{}}}}]}}, {{actions: [{{request_headers: {{header_name: \":path\", descriptor_key: p}}}}]}}]}}]}}\n"
    );
    let mesh = Mesh::from_yaml(&text, "limits.yaml").unwrap();
    let listening = mesh.listen_tcp("db").unwrap();
    let _refused = tokio::net::TcpStream::connect(listening.local_addr()).await.unwrap();
    script::until("a question", || script.calls() == 1).await;
    let _passed = tokio::net::TcpStream::connect(listening.local_addr()).await.unwrap();
    let _accepted = listening.accept().await.unwrap();
    let seen = script.seen();
    let described: Vec<Vec<_>> = seen.iter().flat_map(|call| call.descriptors.iter().map(script::pairs)).collect();
    assert_eq!(described, [["remote_address=127.0.0.1"], ["remote_address=127.0.0.1"]]);
    let line = "libmesh_rate_limited_total{limit=\"connections\",listener=\"db\",outcome=\"refused\"} 1";
    assert!(mesh.metrics_text().contains(line), "{}", mesh.metrics_text());
}

async fn ask(mesh: &Mesh, path: &str, user: &str) -> (u16, HeaderMap) {
    let (response, _) = script::send(mesh, request(path, user)).await;
    (response.status().as_u16(), response.headers().clone())
}

async fn ask_grpc(mesh: &Mesh) -> (u16, HeaderMap) {
    let mut request = request("/shop.Shop/Buy", "u1");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (response, _): (Response<_>, _) = script::send(mesh, request).await;
    (response.status().as_u16(), response.headers().clone())
}

fn request(path: &str, user: &str) -> Request<mesh_core::Body> {
    let request = Request::get(format!("http://shop{path}")).header("x-user", user);
    request.body(mesh_core::Body::empty()).unwrap()
}
