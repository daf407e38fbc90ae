//! Who is not who he must be is refused by every language's server, and does not learn why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::dev_ca::DevCa;
use mesh_core::identity::spiffe_id::{SpiffeId, TrustDomain};
use mesh_core::identity::tls::server_name;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use mesh_tests::caller;
use mesh_tests::process::{Process, free_port, wait_for_port, wait_until};
use mesh_tests::toolchain::{LANGUAGES, server};

const FRIEND: &str = "spiffe://shop.example/ns/shop/sa/friend";

enum Caller {
    Plaintext,
    Tls(Option<Arc<CertifiedKey>>),
}

fn key(directory: &Path, id: &str, age: Duration) -> Arc<CertifiedKey> {
    let since = SystemTime::now() - age;
    let domain = TrustDomain::of(&SpiffeId::parse(id).unwrap());
    caller::key(&DevCa::open(directory, &domain, since).unwrap(), id, since).unwrap()
}

/// What the server says to a GET: everything it sent, or how it ended.
async fn ask(port: u16, caller: &Caller) -> Result<String, String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let key = match caller {
        Caller::Plaintext => return exchange(stream).await,
        Caller::Tls(key) => key,
    };
    let connecting = caller::connector(key.as_ref()).unwrap().connect(server_name(), stream);
    exchange(connecting.await.map_err(|error| error.to_string())?).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
    let request = b"GET /secret HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    match read {
        Ok(Ok(_)) => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the server neither answered nor closed".to_owned()),
    }
}

struct Served {
    port: u16,
    log: PathBuf,
    _process: Process,
}

fn serve(language: &str, directory: &Path) -> Served {
    let port = free_port().unwrap();
    let log = directory.join(format!("{language}.log"));
    let config = directory.join(format!("{language}.yaml"));
    let text = format!(
        "version: 1
identity: {{ spiffe_id: \"spiffe://shop.example/ns/shop/sa/server\", dev_ca: {{ directory: \"{}\" }} }}
listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]
policy: {{ access: {{ rules: [{{ name: friends-only, action: allow, principals: [\"{FRIEND}\"] }}] }} }}
telemetry: {{ access_log: {{ path: \"{}\" }} }}
",
        directory.join("ca").display(),
        log.display()
    );
    std::fs::write(&config, text).unwrap();
    let program = server(language).unwrap();
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).arg(&config).envs(program.environment.iter().cloned());
    let process = Process::start(&mut command).unwrap();
    wait_for_port(port).unwrap();
    Served { port, log, _process: process }
}

fn logged(log: &Path, text: &str) -> bool {
    std::fs::read_to_string(log).unwrap_or_default().contains(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_servers_in_every_language_refuse_strangers_and_tell_only_their_log_why() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, other, forged) =
        (directory.path().join("ca"), directory.path().join("other"), directory.path().join("forged"));
    let young = Duration::ZERO;
    let friend = key(&ca, FRIEND, young);
    let refused = [
        ("plaintext", Caller::Plaintext, "TLS handshake failed"),
        ("no certificate", Caller::Tls(None), "presented no certificate"),
        (
            "another trust domain",
            Caller::Tls(Some(key(&other, "spiffe://other.example/ns/shop/sa/friend", young))),
            "no roots are known for trust domain other.example",
        ),
        ("expired", Caller::Tls(Some(key(&ca, FRIEND, Duration::from_secs(3600)))), "has expired"),
        ("a forged root", Caller::Tls(Some(key(&forged, FRIEND, young))), "does not chain to its trust domain's roots"),
    ];
    let stranger = Caller::Tls(Some(key(&ca, "spiffe://shop.example/ns/shop/sa/stranger", young)));
    for language in LANGUAGES {
        let served = serve(language, directory.path());
        let welcome = ask(served.port, &Caller::Tls(Some(Arc::clone(&friend)))).await.unwrap();
        assert!(welcome.starts_with("HTTP/1.1 200") && welcome.contains(&format!("hello {FRIEND}")), "{welcome}");

        let mut endings = Vec::new();
        for (who, caller, reason) in &refused {
            let answer = ask(served.port, caller).await;
            let text = format!("{answer:?}");
            assert!(!text.contains("HTTP/1.1") && !text.contains("neither answered"), "{language}, {who}: {text}");
            assert!(!text.contains("shop.example") && !text.contains(reason), "{language}, {who}: {text}");
            assert!(text.contains("lert") || who == &"plaintext", "{language}, {who}: not refused by TLS: {text}");
            if who != &"plaintext" && who != &"no certificate" {
                endings.push(text);
            }
            wait_until(&format!("{language} to log {who}"), || logged(&served.log, reason)).unwrap();
        }
        endings.dedup();
        assert_eq!(endings.len(), 1, "{language}: a bad certificate learns what is wrong with it: {endings:?}");

        let answer = ask(served.port, &stranger).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{language}: {answer}");
        assert!(!answer.contains("friends-only") && !answer.contains("hello"), "{language}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "", "{language}");
        wait_until("the log of the denial", || logged(&served.log, "sa/stranger")).unwrap();
        let log = std::fs::read_to_string(&served.log).unwrap();
        let line = log.lines().find(|line| line.contains("sa/stranger")).unwrap();
        assert!(line.contains("\"denied\"") && line.contains("error_detail"), "{language}: {line}");
    }
}
