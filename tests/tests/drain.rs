//! A process leaves under load.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use http::Request;
use mesh_core::{Body, Mesh};
use mesh_tests::load::{Load, PATIENT, failures};
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::{LANGUAGES, server};

fn post_drain(admin: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    stream.write_all(b"POST /drain?seconds=3 HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_any_language_drains_under_load_and_no_request_fails() {
    for language in LANGUAGES {
        let directory = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..4).map(|_| free_port().unwrap()).collect();
        let mut processes = Vec::new();
        for pair in ports.chunks(2) {
            let config = directory.path().join(format!("{}.yaml", pair[0]));
            let text = format!(
                "version: 1\nlisteners: [{{ name: inbound, address: \"127.0.0.1:{}\" }}]\ntelemetry: {{ admin: {{ address: \"127.0.0.1:{}\" }} }}\n",
                pair[0], pair[1]
            );
            std::fs::write(&config, text).unwrap();
            let driver = server(language).unwrap();
            let mut command = Command::new(&driver.command[0]);
            command.args(&driver.command[1..]).arg(&config).envs(driver.environment.iter().cloned());
            processes.push(Process::start(&mut command).unwrap());
        }
        for port in &ports {
            wait_for_port(*port).unwrap();
        }
        let text = format!(
            "version: 1\n{PATIENT}\nclusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{}\" }}, {{ address: \"127.0.0.1:{}\" }}] }}]\nroutes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}] }}] }}]\n",
            ports[0], ports[2]
        );
        let mesh = Mesh::from_yaml(&text, "client.yaml").unwrap();
        let reads = Load::start(mesh.client(), 100, |_| Request::get("http://a/").body(Body::empty()).unwrap());
        let writes = Load::start(mesh.client(), 50, |_| Request::post("http://a/").body(Body::from("x")).unwrap());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let answer = post_drain(ports[1]);
        assert!(answer.starts_with("HTTP/1.1 202"), "{language}: {answer}");
        wait_until("the port to close", || TcpStream::connect(("127.0.0.1", ports[0])).is_err()).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (reads, writes) = (reads.stop().await, writes.stop().await);
        assert_eq!(failures(&reads), Vec::<String>::new(), "{language}");
        assert_eq!(failures(&writes), Vec::<String>::new(), "{language}");
        let stayed = format!("127.0.0.1:{}", ports[2]);
        let last = reads.last().unwrap().report.as_ref().unwrap();
        assert_eq!(*last.endpoint, *stayed, "{language}");
    }
}
