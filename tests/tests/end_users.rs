//! Good and hostile tokens, sent to the servers of all languages: one verdict, and the same claims for the handler.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_tests::driver::Driver;
use mesh_tests::process::{Process, free_port, wait_for_port};
use mesh_tests::toolchain::{LANGUAGES, OWN_SERVERS, own_server, server};
use serde_json::Value;

#[path = "../../mesh-core/tests/tokens/mod.rs"]
mod tokens;

use tokens::hostile::{Case, PARTNER, SHOP, World};

struct Served {
    port: u16,
    admin: u16,
    _process: Process,
}

/// `is_own`: the server is not the mesh's, and takes the port as an argument.
fn serve(program: &Driver, directory: &Path, is_own: bool) -> Served {
    let (port, admin) = (free_port().unwrap(), free_port().unwrap());
    let config = directory.join("mesh.yaml");
    let text = format!(
        "version: 1
listeners: [{{ name: inbound, address: \"127.0.0.1:{port}\" }}]
policy:
  end_users:
    - {{ name: shop, issuer: \"{SHOP}\", audiences: [shop], jwks: {{ file: shop.json }} }}
    - {{ name: partner, issuer: \"{PARTNER}\", jwks: {{ file: partner.json }}, from_headers: [{{ name: x-partner-token }}], from_cookies: [partner] }}
telemetry: {{ admin: {{ address: \"127.0.0.1:{admin}\" }} }}
"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(&program.command[0]);
    command.args(&program.command[1..]).arg(&config).envs(program.environment.iter().cloned());
    if is_own {
        command.arg(port.to_string());
    }
    let process = Process::start(&mut command).unwrap();
    wait_for_port(port).unwrap();
    Served { port, admin, _process: process }
}

/// Everything the server sends to a GET with these very header lines.
fn get(port: u16, path: &str, headers: &[(&'static str, String)]) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n{lines}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

/// The JSON object in an answer, whatever frames it.
fn body(answer: &str) -> Value {
    let (start, end) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
    serde_json::from_str(&answer[start..=end]).unwrap()
}

/// Verdicts by reason, as the metrics tell them.
fn counted(admin: u16) -> BTreeMap<String, u64> {
    let mut verdicts = BTreeMap::new();
    let (_, text) = get(admin, "/metrics", &[]);
    for line in text.lines().filter(|line| line.starts_with("libmesh_end_user_tokens_total{")) {
        let outcome = line.split("outcome=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        *verdicts.entry(outcome.to_owned()).or_default() += count;
    }
    verdicts
}

fn expected(cases: &[&Case]) -> BTreeMap<String, u64> {
    let mut verdicts = BTreeMap::new();
    for case in cases {
        let outcome = match &case.expected {
            Ok(None) => continue,
            Ok(Some(_)) => "verified",
            Err(reason) => reason,
        };
        *verdicts.entry(outcome.to_owned()).or_default() += 1;
    }
    verdicts
}

#[test]
fn a_token_has_the_same_fate_in_every_language_and_handlers_see_only_what_was_proven() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new();
    std::fs::write(directory.path().join("shop.json"), world.shop_keys()).unwrap();
    std::fs::write(directory.path().join("partner.json"), world.partner_keys()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let cases = world.cases(now);
    let refused = cases.iter().filter(|case| case.expected.is_err()).count();
    assert!(refused > 60 && cases.len() - refused > 10, "{refused} of {}", cases.len());
    let ours = LANGUAGES.map(|language| (language.to_owned(), server(language).unwrap(), false));
    // The C one says hello and nothing else.
    let own = OWN_SERVERS.iter().filter(|name| **name != "c");
    let own = own.map(|name| (format!("{name}'s own server"), own_server(name).unwrap(), true));
    for (language, program, is_own) in ours.into_iter().chain(own) {
        let served = serve(&program, directory.path(), is_own);
        // WSGI joins fields of one name: `Basic ...,Bearer ...` is a password, and two tokens are one that is none.
        let is_joined = language.starts_with("python-wsgi");
        let is_told = |case: &&Case| !(is_joined && case.name == "a password and a token");
        let told: Vec<_> = cases.iter().filter(is_told).collect();
        let mut calls = 0;
        for case in &told {
            let about = format!("{language}: {}", case.name);
            let (status, answer) = get(served.port, "/claims", &case.headers);
            match &case.expected {
                Ok(claims) => {
                    calls += 1;
                    assert_eq!(status, 200, "{about}: {answer}");
                    let told = body(&answer);
                    let claims = claims.as_ref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
                    assert_eq!(told["claims"], claims, "{about}");
                    assert_eq!(told["calls"], calls, "{about}: the handler was called for a request that was refused");
                }
                Err(reason) => {
                    assert_eq!(status, 401, "{about}: {answer}");
                    let answer = answer.to_ascii_lowercase();
                    assert!(answer.contains("www-authenticate: bearer error=\"invalid_token\""), "{about}: {answer}");
                    assert!(!answer.contains(&**reason), "{about}: it learns why: {answer}");
                }
            }
        }
        let (mut counted, mut expected) = (counted(served.admin), expected(&told));
        if is_joined {
            for counts in [&mut counted, &mut expected] {
                let several = counts.remove("several_tokens").unwrap_or(0);
                *counts.entry("malformed".to_owned()).or_default() += several;
            }
        }
        assert_eq!(counted, expected, "{language}");
    }
}
