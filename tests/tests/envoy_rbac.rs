//! Istio's policies, decided by a listener of ours and by a running Envoy whose RBAC filters were made from the same
//! documents: the same bytes from the same caller get the same verdict.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::identity::dev_ca::DevCa;
use mesh_core::identity::spiffe_id::TrustDomain;
use mesh_core::{Body, Mesh};
use mesh_tests::toolchain::envoy;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

#[path = "envoy_rbac/caller.rs"]
mod caller;
#[path = "envoy_rbac/theirs.rs"]
mod theirs;
#[path = "envoy_rbac/translate.rs"]
mod translate;

use caller::{Caller, Door};
use theirs::Theirs;

const VECTORS: &str = include_str!("../vectors/authorization_policy.json");

/// Cases that are not sent, and why.
const LEFT_OUT: &[(&str, &[&str])] = &[
    (
        "Envoy would need a token provider of its own; claims are compared by the tests of the engine",
        &[
            "request-principals-1",
            "request-principals-2",
            "request-principals-presence-1",
            "request-principals-prefix-1",
            "request-principals-prefix-2",
            "request-principals-suffix-1",
            "request-principals-suffix-2",
            "not-request-principals-1",
            "when-claims-list-1",
            "when-claims-list-2",
            "when-claims-string-1",
            "when-claims-string-2",
            "when-claims-string-3",
            "when-claims-nested-1",
            "when-claims-nested-2",
            "when-audiences-1",
            "when-audiences-2",
            "when-presenter-1",
            "when-presenter-2",
            "when-auth-principal-1",
            "when-claims-deny-not-1",
            "when-claims-deny-not-2",
        ],
    ),
    (
        "a CUSTOM policy is an ext_authz filter, not RBAC",
        &[
            "custom-1",
            "custom-2",
            "custom-3",
            "custom-then-deny-1",
            "custom-then-deny-2",
            "custom-then-deny-3",
            "custom-then-allow-1",
            "custom-then-allow-2",
            "custom-then-allow-3",
            "custom-empty-rules-1",
        ],
    ),
];

/// Cases whose verdict differs between the two, and why that is right.
const DIFFERENT: &[(&str, &str)] = &[
    ("remote-ip-1", NOBODY_BELIEVED),
    ("not-remote-ip-1", NOBODY_BELIEVED),
    ("when-header-patterns-7", "Envoy lets in by one value of a header among others; ours reads them joined"),
    ("when-remote-ip-1", NOBODY_BELIEVED),
    ("path-special-2", "`//` may be read as one slash further on: our listener judges that reading, too"),
    ("path-special-3", "our listener compares the normalised path, so that an encoded letter dodges no rule"),
];
const NOBODY_BELIEVED: &str =
    "no proxy is trusted to say who the original client is: our listener takes the peer for it";

/// Cases where Envoy 1.40 departs from the vectors, which are of Istio's documents.
const ENVOY_DEPARTS: &[(&str, &str)] = &[
    ("when-header-patterns-7", "each value of a header is compared alone (`rbac_match_headers_individually`)"),
    ("when-deny-suffix-joined-2", "the same; ours does likewise where it denies"),
];

fn cases() -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let left_out: Vec<&str> = LEFT_OUT.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let all = vectors["cases"].as_array().unwrap().iter().filter(|case| case["kind"].is_null());
    let known: Vec<_> = all.clone().map(id).collect();
    let unknown: Vec<_> = left_out.iter().filter(|id| !known.contains(id)).collect();
    assert!(unknown.is_empty(), "left out, but not among the vectors: {unknown:?}");
    all.filter(|case| !left_out.contains(&id(case))).cloned().collect()
}

fn id(case: &Value) -> &str {
    case["id"].as_str().unwrap()
}

fn is_tcp(case: &Value) -> bool {
    case["request"]["protocol"] == "tcp"
}

/// The case with `port` in place of the one that the vectors call the request's own.
fn at_port(case: &Value, port: u16) -> Value {
    let mut case = case.clone();
    let written = format!("\"{}\"", case["request"]["destination_port"]);
    let policies = case["policies"].to_string().replace(&written, &format!("\"{port}\""));
    case["policies"] = serde_json::from_str(&policies).unwrap();
    case
}

/// One authority for each trust domain that a case has a caller of.
struct Authorities {
    directory: PathBuf,
    domains: BTreeMap<String, DevCa>,
}

impl Authorities {
    fn of(cases: &[Value], directory: &Path) -> Self {
        let mut domains = BTreeMap::new();
        let callers = cases.iter().filter_map(|case| case["request"]["principal"].as_str());
        let ours = cases.iter().map(|case| case["mesh"]["trust_domain"].as_str().unwrap());
        for domain in callers.map(|caller| caller.split('/').next().unwrap()).chain(ours) {
            let name = TrustDomain::parse(domain).unwrap();
            let open = || DevCa::open(&directory.join(domain), &name, SystemTime::now()).unwrap();
            domains.entry(domain.to_owned()).or_insert_with(open);
        }
        Self { directory: directory.to_owned(), domains }
    }

    fn key(&self, principal: &str) -> Arc<CertifiedKey> {
        let authority = &self.domains[principal.split('/').next().unwrap()];
        mesh_tests::caller::key(authority, &format!("spiffe://{principal}"), SystemTime::now()).unwrap()
    }

    /// All roots in one file, which is how Envoy wants them.
    fn bundle(&self) -> PathBuf {
        let all: Vec<_> = self.domains.values().map(|ca| std::fs::read_to_string(ca.bundle_path()).unwrap()).collect();
        let path = self.directory.join("all.pem");
        std::fs::write(&path, all.concat()).unwrap();
        path
    }
}

/// A mesh of ours in one trust domain, whose policies are those of one case after another.
struct Ours {
    mesh: Mesh,
    domain: String,
    bundles: Value,
    directory: PathBuf,
    ports: (u16, u16),
}

impl Ours {
    /// A process of the case's workload; all cases of a mesh have the same.
    async fn start(case: &Value, authorities: &Authorities) -> Self {
        let domain = case["mesh"]["trust_domain"].as_str().unwrap();
        let others = authorities.domains.iter().filter(|(name, _)| *name != domain);
        let bundles = others.map(|(name, ca)| json!({ "trust_domain": name, "bundle": ca.bundle_path() }));
        let (bundles, directory) = (bundles.collect(), authorities.directory.join(domain));
        let free = free_ports(2);
        let ports = (free[0], free[1]);
        let document = document((domain, &bundles, &directory), ports, case);
        let mesh = Mesh::from_yaml(&document, "ours.yaml").unwrap();
        for listener in ["http", "nine"] {
            let answer =
                tower::service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
            mesh.listen(listener, answer).await.unwrap();
        }
        let connections = mesh.listen_tcp("tcp").unwrap();
        tokio::spawn(async move {
            while let Ok(mut stream) = connections.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(&mut stream);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Self { mesh, domain: domain.to_owned(), bundles, directory, ports }
    }

    async fn verdict(&self, case: &Value, key: Option<&Arc<CertifiedKey>>) -> &'static str {
        let port = if is_tcp(case) { self.ports.1 } else { self.ports.0 };
        let text = document((&self.domain, &self.bundles, &self.directory), self.ports, &at_port(case, port));
        self.mesh.reload(&text, id(case)).unwrap_or_else(|error| panic!("{}: {error}", id(case)));
        // Nobody comes to us over TLS without a certificate: who has none comes in plaintext.
        let caller = Caller { case, tls: key.map(|key| Some(Arc::clone(key))) };
        caller.ask(Door::Ours, port).await.0
    }
}

fn document((domain, bundles, directory): (&str, &Value, &Path), ports: (u16, u16), case: &Value) -> String {
    let (mesh, workload) = (&case["mesh"], &case["workload"]);
    let authorization = json!({
        "policies": case["policies"],
        "root_namespace": mesh["root_namespace"],
        "trust_domain_aliases": mesh["trust_domain_aliases"],
    });
    json!({
        "version": 1,
        "node": { "service": "httpbin", "namespace": workload["namespace"], "labels": workload["labels"] },
        "identity": {
            "spiffe_id": format!("spiffe://{domain}/ns/foo/sa/httpbin"),
            "dev_ca": { "directory": directory }, "trust_bundles": bundles,
        },
        "listeners": [
            { "name": "http", "address": format!("127.0.0.1:{}", ports.0), "tls": "permissive" },
            { "name": "nine", "address": format!("127.0.0.9:{}", ports.0), "tls": "permissive" },
            { "name": "tcp", "address": format!("127.0.0.1:{}", ports.1), "tls": "permissive", "protocol": "tcp" },
        ],
        "policy": { "authorization": authorization },
    })
    .to_string()
}

/// Held all at once, so that none comes twice.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_envoy_gives_every_request_and_connection_the_verdict_that_we_give() {
    let version = Command::new(envoy().unwrap()).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(version.contains("/1.40."), "the comparison is with Envoy 1.40, not {version}");

    let directory = tempfile::tempdir().unwrap();
    let cases = cases();
    let authorities = Authorities::of(&cases, directory.path());
    let theirs = Theirs::start(&cases, &authorities);
    let mut ours = BTreeMap::new();
    let (mut equal, mut denied, mut differing, mut contradicted) = (0, 0, Vec::new(), Vec::new());
    for case in &cases {
        let domain = case["mesh"]["trust_domain"].as_str().unwrap();
        if !ours.contains_key(domain) {
            ours.insert(domain, Ours::start(case, &authorities).await);
        }
        let key = case["request"]["principal"].as_str().map(|principal| authorities.key(principal));
        let (their_verdict, by) = theirs.verdict(case, key.as_ref()).await;
        let our_verdict = ours[domain].verdict(case, key.as_ref()).await;
        if their_verdict != case["expected"]["decision"] {
            contradicted.push(id(case));
        }
        // An answer to HEAD has no body that could name anything.
        if their_verdict == "deny"
            && case["expected"]["decision"] == "deny"
            && !is_tcp(case)
            && case["request"]["method"] != "HEAD"
        {
            assert_named(case, &by);
            denied += 1;
        }
        if our_verdict == their_verdict { equal += 1 } else { differing.push(id(case)) }
    }
    let argued: Vec<_> = DIFFERENT.iter().map(|(id, _)| *id).collect();
    assert_eq!(differing, argued, "these differ, and should as listed");
    let departs: Vec<_> = ENVOY_DEPARTS.iter().map(|(id, _)| *id).collect();
    assert_eq!(contradicted, departs, "Envoy departs from the vectors here, and should as listed");
    println!(
        "{equal} verdicts are equal, {} differ as argued; {denied} refusals name the right policy",
        differing.len()
    );
    assert!(equal >= 120, "only {equal}");
}

/// Envoy's refusal names a policy that the vector says matched, or none where no ALLOW policy did.
fn assert_named(case: &Value, details: &str) {
    let named = details.split_once("matched_policy[").and_then(|(_, rest)| rest.split_once(']'));
    let (named, _) = named.unwrap_or_else(|| panic!("{}: not refused by RBAC: {details}", id(case)));
    let policy = named.split('#').next().unwrap();
    let matching = case["expected"]["matching_policies"].as_array().unwrap();
    let is_right = if matching.is_empty() { named == "none" } else { matching.iter().any(|known| known == policy) };
    assert!(is_right, "{}: Envoy names {named}, the vector {matching:?}", id(case));
}
