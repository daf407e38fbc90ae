//! Other spellings of a denied path or host get the same answer from the servers of all languages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use mesh_tests::driver::Driver;
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::{LANGUAGES, OWN_SERVERS, own_server, server};

#[path = "../../mesh-core/tests/dodging/corpus.rs"]
mod corpus;

/// What is denied, in our own words and in Istio's.
const POLICIES: [(&str, &str); 2] = [
    (
        "rules",
        r#"{ access: { rules: [{ name: path, action: deny, paths: ["/admin", "/admin/*"] },
             { name: host, action: deny, hosts: ["admin.example"] }] } }"#,
    ),
    (
        "policies",
        r#"{ authorization: { policies: [{ metadata: { name: no }, spec: { action: DENY, rules: [
             { to: [{ operation: { paths: ["/admin", "/admin/*"] } }] },
             { to: [{ operation: { hosts: ["admin.example"] } }] }] } }] } }"#,
    ),
];

/// `port` is an argument of a server that is not the mesh's.
fn serve(program: &Driver, (name, policy): (&str, &str), directory: &Path, is_own: bool) -> (u16, Process) {
    let port = free_port().unwrap();
    let config = directory.join(format!("{name}.yaml"));
    let text = format!("listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]\npolicy: {policy}\n");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).arg(&config).envs(program.environment.iter().cloned());
    if is_own {
        command.arg(port.to_string());
    }
    let process = Process::start(&mut command).unwrap();
    wait_for_port(port).unwrap();
    (port, process)
}

/// The status of the answer to this head; 0: the connection was closed without one.
async fn ask(port: u16, head: &str) -> u16 {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refused connection may be reset after its answer.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_what_is_denied_gets_through_in_any_language() {
    let directory = tempfile::tempdir().unwrap();
    for language in LANGUAGES {
        for policy in POLICIES {
            let (port, _process) = serve(&server(language).unwrap(), policy, directory.path(), false);
            let name = policy.0;
            for (target, expected) in corpus::TARGETS {
                let head = format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n");
                assert_eq!(ask(port, &head).await, *expected, "{language}, {name}: {target}");
            }
            for (head, expected) in corpus::HOSTS {
                assert_eq!(ask(port, head).await, *expected, "{language}, {name}: {head}");
            }
        }
    }
}

/// A server of the application's own reads a target before the mesh does, and may refuse it, or hand it on in another
/// spelling: 400 is as good as 403. What is somebody else's path stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_what_is_denied_gets_through_a_server_of_the_applications_own() {
    let directory = tempfile::tempdir().unwrap();
    for name in OWN_SERVERS {
        for policy in POLICIES {
            let (port, _process) = serve(&own_server(name).unwrap(), policy, directory.path(), true);
            let targets = corpus::TARGETS
                .iter()
                .map(|(target, expected)| (format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n"), *expected));
            let hosts = corpus::HOSTS.iter().map(|(head, expected)| ((*head).to_owned(), *expected));
            for (head, expected) in targets.chain(hosts) {
                let status = ask(port, &head).await;
                let is_right = status == expected || matches!((expected, status), (403, 400) | (400, 403));
                assert!(is_right, "{name}, {}: {head}: {status} for {expected}", policy.0);
            }
        }
    }
}
