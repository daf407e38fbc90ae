//! Stories of clients that belong to endpoints: sessions and hash cookies, over real loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::TcpListener;

use http::{Request, Response, header};
use mesh_core::error::BoxError;
use mesh_core::{Body, CallReport, ErrorKind, Mesh};
use tower::ServiceExt;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn servers(count: usize) -> Vec<(u16, Mesh)> {
    let mut servers = Vec::new();
    for _ in 0..count {
        let port = free_port();
        let text = format!("version: 1\nlisteners: [{{ name: in, address: \"127.0.0.1:{port}\" }}]\n");
        let mesh = Mesh::from_yaml(&text, "server.yaml").unwrap();
        let service = tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
        mesh.listen("in", service).await.unwrap();
        servers.push((port, mesh));
    }
    servers
}

/// A client of endpoints with weights; `more` is said of the cluster.
fn config(endpoints: &[(u16, u32)], more: &str) -> String {
    let endpoints =
        endpoints.iter().map(|(port, weight)| format!("{{ address: \"127.0.0.1:{port}\", weight: {weight} }}"));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    format!(
        "version: 1
clusters: [{{ name: a, endpoints: [{endpoints}], {more} }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
"
    )
}

fn open(endpoints: &[(u16, u32)], more: &str) -> Mesh {
    Mesh::from_yaml(&config(endpoints, more), "client.yaml").unwrap()
}

/// The endpoint that answered, and the cookies that were set.
async fn get(mesh: &Mesh, headers: &[(&str, &str)]) -> (String, Vec<String>, Response<Body>) {
    let mut request = Request::get("http://a/cart");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = mesh.client().call(request.body(Body::empty()).unwrap()).await.unwrap();
    let endpoint = response.extensions().get::<CallReport>().unwrap().endpoint.to_string();
    let cookies =
        response.headers().get_all(header::SET_COOKIE).iter().map(|cookie| cookie.to_str().unwrap().to_owned());
    let cookies = cookies.collect();
    (endpoint, cookies, response)
}

#[tokio::test]
async fn a_client_stays_with_the_endpoint_of_its_cookie_and_moves_when_that_is_gone() {
    let servers = servers(3).await;
    let all: Vec<_> = servers.iter().map(|(port, _)| (*port, 1)).collect();
    let session = "balancer: round_robin, session: { cookie: { name: at, ttl: 1h, path: /cart } }";
    let client = open(&all, session);

    let (home, cookies, _) = get(&client, &[]).await;
    let [cookie] = &cookies[..] else { panic!("{cookies:?}") };
    assert!(cookie.ends_with("; Max-Age=3600; Path=/cart; HttpOnly"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..6 {
        let (endpoint, cookies, _) = get(&client, &[("cookie", pair)]).await;
        assert_eq!((&endpoint, cookies.len()), (&home, 0));
    }

    // Drained: no new client comes, those that are there stay.
    let is_home = |port: u16| home.ends_with(&format!(":{port}"));
    let drained: Vec<_> = all.iter().map(|(port, _)| (*port, u32::from(!is_home(*port)))).collect();
    client.reload(&config(&drained, session), "client.yaml").unwrap();
    assert_eq!(get(&client, &[("cookie", pair)]).await.0, home);
    for _ in 0..6 {
        assert_ne!(get(&client, &[]).await.0, home);
    }

    // Gone: another one, and the cookie says so.
    let left: Vec<_> = drained.into_iter().filter(|(_, weight)| *weight > 0).collect();
    client.reload(&config(&left, session), "client.yaml").unwrap();
    let (new, cookies, _) = get(&client, &[("cookie", pair)]).await;
    assert_ne!(new, home);
    let [cookie] = &cookies[..] else { panic!("{cookies:?}") };
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..4 {
        assert_eq!(get(&client, &[("cookie", pair)]).await.0, new);
    }
}

#[tokio::test]
async fn a_strict_session_fails_when_its_endpoint_is_gone_and_a_made_up_one_leads_nowhere() {
    let servers = servers(2).await;
    let all: Vec<_> = servers.iter().map(|(port, _)| (*port, 1)).collect();
    let client = open(&all, "session: { header: x-at, strict: true }");
    let (home, _, response) = get(&client, &[]).await;
    let at = response.headers()["x-at"].to_str().unwrap().to_owned();
    let (again, _, response) = get(&client, &[("x-at", &at)]).await;
    assert_eq!((again, response.headers().get("x-at")), (home.clone(), None));

    let left: Vec<_> = all.iter().copied().filter(|(port, _)| !home.ends_with(&port.to_string())).collect();
    client.reload(&config(&left, "session: { header: x-at, strict: true }"), "client.yaml").unwrap();
    let request = || Request::get("http://a/").header("x-at", &at).body(Body::empty()).unwrap();
    let error = client.client().call(request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);

    // Lenient: what names no endpoint of the cluster is a new session.
    client.reload(&config(&left, "session: { header: x-at }"), "client.yaml").unwrap();
    let (elsewhere, _, response) = get(&client, &[("x-at", &at)]).await;
    assert!(elsewhere != home && response.headers().contains_key("x-at"));
}

#[tokio::test]
async fn a_hash_cookie_is_made_for_a_client_without_one_and_binds_it() {
    let servers = servers(3).await;
    let all: Vec<_> = servers.iter().map(|(port, _)| (*port, 1)).collect();
    let client = open(&all, "balancer: maglev, hash_policy: [{ cookie: { name: shop, ttl: 0s } }]");
    let mut homes = BTreeSet::new();
    for _ in 0..40 {
        let (home, cookies, _) = get(&client, &[]).await;
        let [cookie] = &cookies[..] else { panic!("{cookies:?}") };
        let pair = cookie.strip_suffix("; HttpOnly").unwrap();
        let (endpoint, cookies, _) = get(&client, &[("cookie", pair)]).await;
        assert_eq!((&endpoint, cookies.len()), (&home, 0));
        homes.insert(home);
    }
    // By chance 40 clients have one home among three in one of 3^39 runs.
    assert!(homes.len() > 1, "{homes:?}");
}

#[tokio::test]
async fn what_comes_from_one_address_through_an_ingress_goes_to_one_endpoint() {
    let servers = servers(3).await;
    let all: Vec<_> = servers.iter().map(|(port, _)| (*port, 1)).collect();
    let port = free_port();
    let listener = format!("listeners: [{{ name: in, address: \"127.0.0.1:{port}\", forward: true }}]\n");
    let text = config(&all, "balancer: ring_hash, hash_policy: [{ source: address }]") + &listener;
    let ingress = Mesh::from_yaml(&text, "ingress.yaml").unwrap();
    ingress.forward("in").await.unwrap();
    let client = open(&[(port, 1)], "balancer: round_robin");
    for _ in 0..20 {
        get(&client, &[]).await;
    }
    let metrics: Vec<_> = servers.iter().map(|(_, mesh)| mesh.metrics_text()).collect();
    let served = metrics
        .iter()
        .map(|text| text.lines().any(|line| line.starts_with("istio_requests_total") && line.ends_with(" 20")));
    assert_eq!(served.filter(|all| *all).count(), 1, "one server has all twenty: {metrics:?}");

    // A request that is caused by nobody's comes from nowhere, and goes anywhere.
    let mut homes = BTreeSet::new();
    for _ in 0..40 {
        homes.insert(get(&ingress, &[]).await.0);
    }
    assert!(homes.len() > 1, "{homes:?}");
}

#[tokio::test]
async fn a_session_does_not_lead_out_of_the_subset_that_a_rule_names() {
    let servers = servers(3).await;
    let document = |weight: u32, strict: bool| {
        let endpoint = |(at, (port, _)): (usize, &(u16, Mesh))| {
            let (version, weight) = if at == 0 { ("v1", 1) } else { ("v2", if at == 1 { weight } else { 1 }) };
            format!("{{ address: \"127.0.0.1:{port}\", weight: {weight}, labels: {{ version: {version} }} }}")
        };
        let endpoints = servers.iter().enumerate().map(endpoint).collect::<Vec<_>>().join(", ");
        format!(
            "version: 1
clusters: [{{ name: a, balancer: round_robin, session: {{ header: x-at, strict: {strict} }}, endpoints: [{endpoints}] }}]
routes:
  - hosts: [a]
    rules: [{{ backends: [{{ cluster: a, subset: {{ version: v2 }} }}] }}]
  - hosts: [old]
    rules: [{{ backends: [{{ cluster: a, subset: {{ version: v1 }} }}] }}]
"
        )
    };
    let name = |at: usize| format!("127.0.0.1:{}", servers[at].0);
    let client = Mesh::from_yaml(&document(1, false), "client.yaml").unwrap();
    let at = loop {
        let (endpoint, _, response) = get(&client, &[]).await;
        if endpoint == name(1) {
            break response.headers()["x-at"].to_str().unwrap().to_owned();
        }
    };
    // Drained, it keeps its sessions, in its subset too.
    client.reload(&document(0, false), "client.yaml").unwrap();
    assert_eq!(get(&client, &[("x-at", &at)]).await.0, name(1));

    let elsewhere = || Request::get("http://old/").header("x-at", &at).body(Body::empty()).unwrap();
    let response = client.client().call(elsewhere()).await.unwrap();
    assert_eq!(*response.extensions().get::<CallReport>().unwrap().endpoint, *name(0));
    let response = mesh_core::layer::compose(&client).oneshot(elsewhere()).await.unwrap();
    assert_ne!(response.headers().get("x-at").unwrap(), &at, "it now belongs to another endpoint");

    client.reload(&document(1, true), "client.yaml").unwrap();
    assert_eq!(client.client().call(elsewhere()).await.unwrap_err().kind(), ErrorKind::NoEndpoint);
}

#[tokio::test]
async fn a_client_stays_with_its_version_and_moves_only_with_the_shares() {
    let servers = servers(2).await;
    let [(old, _), (new, _)] = &servers[..] else { unreachable!() };
    let split = |shares: (u32, u32)| {
        format!(
            "version: 1
clusters:
  - {{ name: old, endpoints: [{{ address: \"127.0.0.1:{old}\" }}] }}
  - {{ name: new, endpoints: [{{ address: \"127.0.0.1:{new}\" }}] }}
routes:
  - hosts: [a]
    rules:
      - backends: [{{ cluster: old, weight: {} }}, {{ cluster: new, weight: {} }}]
        sticky: true
        hash_policy: [{{ cookie: {{ name: shop, ttl: 1h, path: / }} }}]
",
            shares.0, shares.1
        )
    };
    let client = Mesh::from_yaml(&split((50, 50)), "client.yaml").unwrap();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let (home, cookies, _) = get(&client, &[]).await;
        let [cookie] = &cookies[..] else { panic!("{cookies:?}") };
        clients.push((cookie.split(';').next().unwrap().to_owned(), home.ends_with(&new.to_string())));
    }
    // By chance all are of one version in one of 2^39 runs.
    let on_new = clients.iter().filter(|(_, is_new)| *is_new).count();
    assert!((1..40).contains(&on_new), "{on_new} of 40");
    for shares in [(50, 50), (20, 80), (0, 1), (1, 0)] {
        client.reload(&split(shares), "client.yaml").unwrap();
        for (cookie, was_new) in &clients {
            for _ in 0..2 {
                let (home, cookies, _) = get(&client, &[("cookie", cookie)]).await;
                let is_new = home.ends_with(&new.to_string());
                assert!(cookies.is_empty(), "it has one: {cookies:?}");
                match shares {
                    (50, 50) => assert_eq!(is_new, *was_new),
                    (20, 80) => assert!(is_new || !was_new, "the share of the new one has grown"),
                    (0, _) => assert!(is_new),
                    _ => assert!(!is_new),
                }
            }
        }
    }
}
