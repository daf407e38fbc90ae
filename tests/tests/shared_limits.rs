//! Worker processes of one host take of one local limit: none passes more than there is, one that is killed takes
//! nothing with it, and one that is frozen holds nobody up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::Request;
use mesh_core::{Body, Mesh};
use mesh_tests::load::PATIENT;
use mesh_tests::metrics;
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::server;

const TOKENS: usize = 300;
/// A process that is not scheduled while it holds the lock makes others count alone. A round in which that happened
/// tells nothing of the limit, and is repeated up to so many times.
const ROUNDS: usize = 3;

/// Nearly a year: one token comes back if the story meets the end of it.
fn write_config(directory: &Path, [port, admin]: [u16; 2]) -> PathBuf {
    let path = directory.join(format!("{port}.yaml"));
    let text = format!(
        "listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]
telemetry: {{ admin: {{ address: \"127.0.0.1:{admin}\" }} }}
policy:
  rate_limits:
    - {{ name: all, max_tokens: {TOKENS}, tokens_per_fill: 1, fill_interval: 8000h, shared: limits }}
"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn start(config: &Path, port: u16) -> Process {
    let driver = server("rust").unwrap();
    let mut command = Command::new(&driver.command[0]);
    let process = Process::start(command.arg(config).envs(driver.environment.iter().cloned())).unwrap();
    wait_for_port(port).unwrap();
    process
}

fn client(port: u16) -> Mesh {
    let text = format!(
        "{PATIENT}
clusters: [{{ name: a, endpoints: [{{ address: \"127.0.0.1:{port}\" }}] }}]
routes: [{{ hosts: [a], rules: [{{ backends: [{{ cluster: a }}], retry: {{ attempts: 0 }} }}] }}]
"
    );
    Mesh::from_yaml(&text, "client.yaml").unwrap()
}

/// Requests that a process could not count with the others.
fn counted_alone(admin: u16) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    metrics::sum(&metrics::parse(&page), "libmesh_rate_limit_failures_total", [])
}

async fn passed(mesh: &Mesh, requests: usize) -> usize {
    let mut passed = 0;
    for _ in 0..requests {
        let request = Request::get("http://a/").body(Body::empty()).unwrap();
        let status = mesh.client().call(request).await.unwrap().status().as_u16();
        assert!(status == 200 || status == 429, "{status}");
        passed += usize::from(status == 200);
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_host_share_a_limit_and_survive_each_other() {
    for _ in 0..ROUNDS {
        if round().await {
            return;
        }
    }
    panic!("in each of {ROUNDS} rounds a process counted alone");
}

/// Whether all were counted together.
async fn round() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let pairs: Vec<_> = (0..3).map(|_| [free_port().unwrap(), free_port().unwrap()]).collect();
    let configs: Vec<_> = pairs.iter().map(|pair| write_config(directory.path(), *pair)).collect();
    let (ports, admins): (Vec<_>, Vec<_>) = pairs.iter().map(|[port, admin]| (*port, *admin)).unzip();
    let alone = || admins.iter().map(|admin| counted_alone(*admin)).sum::<f64>();
    let mut servers: Vec<_> = ports.iter().zip(&configs).map(|(port, config)| start(config, *port)).collect();
    let clients: Vec<_> = ports.iter().map(|port| client(*port)).collect();

    let together = clients.iter().map(|mesh| passed(mesh, 50));
    assert_eq!(futures_util::future::join_all(together).await.iter().sum::<usize>(), 150, "at once, all within");

    if alone() > 0.0 {
        return false; // and the one that is killed could not say so later
    }
    servers[0].kill();
    servers[0] = tokio::task::block_in_place(|| start(&configs[0], ports[0]));
    let clients = [client(ports[0]), clients[1].clone(), clients[2].clone()];
    assert_eq!(passed(&clients[0], 50).await, 50, "a new process goes on where the old one was");

    servers[1].freeze();
    assert_eq!(passed(&clients[2], 50).await, 50, "nobody waits for a process that sleeps");
    servers[1].thaw();

    let together = clients.iter().map(|mesh| passed(mesh, 100));
    let last = futures_util::future::join_all(together).await.iter().sum::<usize>();
    if last != TOKENS - 250 && alone() > 0.0 {
        return false;
    }
    assert_eq!(last, TOKENS - 250, "and no more");

    // Whoever holds the lock and does not come back stops nobody: each process counts for itself then.
    let holder = File::open(directory.path().join("limits")).unwrap();
    holder.lock().unwrap();
    assert_eq!(passed(&clients[0], 3).await, 3);
    holder.unlock().unwrap();
    true
}
