//! When answers cease to hold before their time: a token that ends, a cluster that is another, an operator's word.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Request;
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tower::{Layer, ServiceExt, service_fn};

use crate::World;
use crate::policy::{Policy, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_does_not_outlive_a_token_that_only_the_policy_server_verifies() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let world = World::start("cache: { key: [path], ttl: 60s }", &[policy.address]).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ask = async |exp: Duration| {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"sub": "alice", "exp": {}}}"#, exp.as_secs()));
        let authorization = format!("Bearer e30.{payload}.c2ln");
        for _ in 0..2 {
            assert_eq!(world.get("/a", &[("authorization", &authorization)]).await.0, 200);
        }
        policy.asked().len()
    };
    assert_eq!(ask(now + Duration::from_secs(3600)).await, 1, "kept");
    assert_eq!(ask(now - Duration::from_secs(1)).await, 3, "over");
}

fn document(policy: &Policy, cluster: &str, more: &str) -> String {
    format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
listeners: [{{ name: in }}]
clusters: [{{ name: opa, protocol: http2, endpoints: [{{ address: \"{}\" }}]{cluster} }}]
policy:
  checks: [{{ name: opa, cluster: opa, timeout: 20s, cache: {{ key: [path] }} }}]
{more}",
        policy.address
    )
}

async fn get(mesh: &Mesh) -> u16 {
    let hello = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(http::Response::new(Body::empty())) });
    let service = mesh.server_layer("in").unwrap().layer(hello);
    service.oneshot(Request::get("http://app/a").body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_of_the_same_name_voids_what_the_first_has_answered() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let mesh = Mesh::from_yaml(&document(&policy, "", ""), "mesh.yaml").unwrap();
    let elsewhere = "guards: [{ name: g }]";
    for (cluster, more, asked) in
        [("", "", 1), ("", elsewhere, 1), (", connect_timeout: 25s", elsewhere, 2), (", connect_timeout: 25s", "", 2)]
    {
        mesh.reload(&document(&policy, cluster, more), "mesh.yaml").unwrap();
        assert_eq!((get(&mesh).await, get(&mesh).await), (200, 200));
        assert_eq!(policy.asked().len(), asked, "{cluster} {more}");
    }
}

/// A POST to the admin endpoint.
async fn post(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("POST {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_voids_what_a_check_has_answered() {
    let policy = Policy::start(|_| Some(status(Code::Ok)));
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let admin = format!("telemetry: {{ admin: {{ address: \"{address}\" }} }}");
    let mesh = Mesh::from_yaml(&document(&policy, "", &admin), "mesh.yaml").unwrap();
    mesh.start().unwrap();
    for (target, reply, asked) in [
        ("/checks/void?check=other", "HTTP/1.1 404", 1),
        ("/checks/void?check=opa", "HTTP/1.1 200", 2),
        ("/checks/void", "HTTP/1.1 200", 3),
    ] {
        get(&mesh).await;
        assert!(post(&address, target).await.starts_with(reply), "{target}");
        get(&mesh).await;
        assert_eq!(policy.asked().len(), asked, "{target}");
    }
    assert_eq!(mesh.status()["checks"]["opa"]["voided"], 2);
}
