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

/// The status of the answer to this head; 0: the connection was closed without one. And the path that the application
/// says it saw, if it says so.
async fn ask(port: u16, head: &str) -> (u16, Option<String>) {
    let asking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refused connection may be reset after its answer.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let seen = answer.lines().find_map(|line| line.strip_prefix("x-seen: "));
        (status, seen.map(str::to_owned))
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
                assert_eq!(ask(port, &head).await.0, *expected, "{language}, {name}: {target}");
            }
            for (head, expected) in corpus::HOSTS {
                assert_eq!(ask(port, head).await.0, *expected, "{language}, {name}: {head}");
            }
        }
    }
}

fn is_denied(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

/// uvicorn reads of a target that is a whole URI the path alone; the host, for the application and so for the
/// mesh, is that of the field.
fn read_by(server: &str, head: &str, expected: u16) -> u16 {
    match head.starts_with("GET http://") && server == "python-asgi" {
        true if head.contains("host: admin.example") => 403,
        true => 200,
        false => expected,
    }
}

/// A server of the application's own reads a target before the mesh does. It may refuse it: 400 is as good as 403. WSGI
/// has paths decoded, and decoded `/x//..%2fadmin` is another path: whoever is let in has to be shown that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_what_is_denied_gets_through_a_server_of_the_applications_own() {
    let directory = tempfile::tempdir().unwrap();
    for name in OWN_SERVERS {
        for policy in POLICIES {
            let (port, _process) = serve(&own_server(name).unwrap(), policy, directory.path(), true);
            let targets = corpus::TARGETS
                .iter()
                .map(|(target, expected)| (format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n"), *expected));
            let hosts =
                corpus::HOSTS.iter().map(|(head, expected)| ((*head).to_owned(), read_by(name, head, *expected)));
            for (head, expected) in targets.chain(hosts) {
                let (status, seen) = ask(port, &head).await;
                let is_right = match (expected, status) {
                    (403, 400) | (400, 403) => true,
                    (403 | 400, 200) => name == "python-wsgi" && seen.as_deref().is_some_and(|seen| !is_denied(seen)),
                    _ => status == expected,
                };
                assert!(is_right, "{name}, {}: {head}: {status} for {expected}, {seen:?}", policy.0);
            }
        }
    }
}
