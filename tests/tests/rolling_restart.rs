//! Servers are replaced one after the other, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::Request;
use mesh_core::{Body, CallReport, Mesh};
use mesh_tests::load::{Load, PATIENT, failures};
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::server;

fn write_config(directory: &Path, port: u16) -> PathBuf {
    let path = directory.join(format!("{port}.yaml"));
    let text = format!("version: 1\nlisteners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]\n");
    std::fs::write(&path, text).unwrap();
    path
}

fn start(config: &Path, port: u16, arguments: &[&str]) -> Process {
    let driver = server("rust").unwrap();
    let mut command = Command::new(&driver.command[0]);
    command.arg(config).args(arguments).envs(driver.environment.iter().cloned());
    let process = Process::start(&mut command).unwrap();
    wait_for_port(port).unwrap();
    process
}

fn client(ports: &[u16], protocol: &str) -> Mesh {
    let endpoints: Vec<_> = ports.iter().map(|port| format!("{{ address: \"127.0.0.1:{port}\" }}")).collect();
    let text = format!(
        "version: 1
{PATIENT}
clusters: [{{ name: a, protocol: {protocol}, endpoints: [{}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]
",
        endpoints.join(", ")
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://a{path}")).body(Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o75_three_servers_restart_one_by_one_under_load_and_no_request_fails() {
    let directory = tempfile::tempdir().unwrap();
    let ports: Vec<_> = (0..3).map(|_| free_port().unwrap()).collect();
    let configs: Vec<_> = ports.iter().map(|port| write_config(directory.path(), *port)).collect();
    let mut servers: Vec<_> = ports.iter().zip(&configs).map(|(port, config)| start(config, *port, &[])).collect();
    let meshes = [client(&ports, "http1"), client(&ports, "http2")];
    let loads: Vec<_> = meshes.iter().map(|mesh| Load::start(mesh.client(), 250, |_| get("/"))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (nth, port) in ports.iter().enumerate() {
        servers[nth].terminate();
        let server = &mut servers[nth];
        tokio::task::block_in_place(|| wait_until("the server to end", || !server.is_running())).unwrap();
        servers[nth] = tokio::task::block_in_place(|| start(&configs[nth], *port, &[]));
        // All new servers get traffic before the next one goes: connections to it work again.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for load in loads {
        let shots = load.stop().await;
        assert!(shots.len() > 1000, "{} requests", shots.len());
        assert_eq!(failures(&shots), Vec::<String>::new());
        let endpoints: std::collections::BTreeSet<_> =
            shots.iter().filter_map(|shot| shot.report.as_ref().map(|report| report.endpoint.clone())).collect();
        assert_eq!(endpoints.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_five_seconds_survives_the_sigterm_of_its_server() {
    let directory = tempfile::tempdir().unwrap();
    for protocol in ["http1", "http2"] {
        let port = free_port().unwrap();
        let config = write_config(directory.path(), port);
        // Twice the time of the answer: the drain begins a little after it.
        let mut server = start(&config, port, &["10"]);
        let mesh = client(&[port], protocol);
        let response = mesh.client().call(get("/slow")).await.unwrap();
        assert_eq!(response.extensions().get::<CallReport>().unwrap().attempts, 1);
        server.terminate();
        let body = response.into_body().collect_up_to(1 << 10).await.unwrap();
        assert_eq!(body, "hello ".repeat(10), "{protocol}");
        tokio::task::block_in_place(|| wait_until("the server to end", || !server.is_running())).unwrap();
    }
}
