//! Clusters of servers outside of the mesh: known by their host names, for which roots of the web vouch.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod tokens;
mod web;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Request;
use mesh_core::time::ManualClock;
use mesh_core::{Body, CallReport, ErrorKind, Mesh};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use tokens::{Signer, hostile, set};
use web::{Authority, Certificate, Server, builder, call, client, document, tell};

const BOTH: &[&str] = &["h2", "http/1.1"];

#[tokio::test]
async fn a_server_of_the_web_is_asked_for_by_its_name_in_both_versions_of_http() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let named = Certificate::of(&["login.example", "127.0.0.1"]);
    let server = Server::start(&authority, named, BOTH).await;
    let old = Server::start(&authority, Certificate::of(&["login.example"]), &["http/1.1"]).await;
    let (port, old_port) = (server.port, old.port);
    let by_name = format!("endpoints: [{{address: \"login.example:{port}\"}}]");
    let by_ip = format!("endpoints: [{{address: \"127.0.0.1:{port}\"}}]");
    let tls = format!("tls: {{mode: simple, ca_file: \"{ca}\"}}");
    let with_sni = format!("tls: {{mode: simple, ca_file: \"{ca}\", sni: Login.Example.}}");
    for (cluster, expected) in [
        (format!("{tls}, {by_name}"), "HTTP/2 https://shop/keys sni=login.example"),
        (format!("{tls}, protocol: http2, {by_name}"), "HTTP/2 https://shop/keys sni=login.example"),
        (format!("{tls}, protocol: http1, {by_name}"), "HTTP/1.1 shop/keys sni=login.example"),
        (
            format!("{tls}, endpoints: [{{address: \"login.example:{old_port}\"}}]"),
            "HTTP/1.1 shop/keys sni=login.example",
        ),
        (format!("{tls}, {by_ip}"), "HTTP/2 https://shop/keys sni=none"),
        (format!("{with_sni}, {by_ip}"), "HTTP/2 https://shop/keys sni=login.example"),
        (format!("{tls}, dns: {{name: login.example., port: {port}}}"), "HTTP/2 https://shop/keys sni=login.example"),
        // An endpoint may be one by itself.
        (
            format!(
                "tls: {{mode: plaintext, ca_file: \"{ca}\"}}, endpoints: [{{address: \"login.example:{port}\", tls: simple}}]"
            ),
            "HTTP/2 https://shop/keys sni=login.example",
        ),
    ] {
        assert_eq!(tell(&client(&cluster)).await, expected, "{cluster}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_prove_its_name_is_told_nothing() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let good = || Certificate::of(&["login.example"]);
    for (signed_by, certificate, expected) in [
        (
            &Authority::new(),
            good(),
            "no root that we have (`tls.ca_file`, else the system's) vouches for the certificate of login.example",
        ),
        (
            &authority,
            Certificate::of(&["evil.example"]),
            "the certificate is not for login.example, but for [\"DnsName(\\\"evil.example\\\")\"]",
        ),
        (&authority, good().valid(-7200, -3600), "the certificate for login.example has expired"),
        (&authority, good().valid(3600, 7200), "the certificate for login.example is not valid yet; check the clocks"),
    ] {
        let server = Server::start(signed_by, certificate, BOTH).await;
        let port = server.port;
        let mesh = client(&format!(
            "tls: {{mode: simple, ca_file: \"{ca}\"}}, endpoints: [{{address: \"login.example:{port}\"}}]"
        ));
        let error = call(&mesh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerIdentity, "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}: {expected}")), "{error}");
        assert_eq!(server.asked(), 0, "{expected}");
    }
}

#[tokio::test]
async fn what_a_cluster_cannot_verify_is_not_reached_and_never_in_plaintext() {
    let directory = tempfile::tempdir().unwrap();
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let file = directory.path().join("endpoints.yaml");
    for mode in ["simple", "mutual"] {
        std::fs::write(&file, format!("- {{address: \"login.example:{port}\", tls: {mode}}}\n")).unwrap();
        let mesh = client(&format!("endpoints_file: \"{}\"", file.display()));
        let error = call(&mesh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains(&format!("is to be reached by `{mode}` TLS")), "{error}");
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut said = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said).await.unwrap();
        assert!(said.is_empty(), "{mode}: {said:?}");
    }
}

#[tokio::test]
async fn a_server_of_the_web_has_no_identity_whatever_its_certificate_says() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let certificate = Certificate::of(&["login.example"]).and_workload("spiffe://test/ns/shop/sa/orders");
    let server = Server::start(&authority, certificate, BOTH).await;
    let mesh = client(&format!(
        "tls: {{mode: simple, ca_file: \"{ca}\"}}, endpoints: [{{address: \"login.example:{}\"}}]",
        server.port
    ));
    let response = call(&mesh).await.unwrap();
    assert_eq!(response.extensions().get::<CallReport>().unwrap().peer, None);
    response.into_body().collect_up_to(1 << 16).await.unwrap();
    let page = mesh.metrics_text();
    let line = page.lines().find(|line| line.starts_with("istio_requests_total")).unwrap();
    assert!(line.contains("connection_security_policy=\"unknown\"") && !line.contains("spiffe://"), "{line}");
    assert_eq!(mesh.status()["clusters"]["login"]["endpoints"][0]["tls"], "simple");
}

#[tokio::test]
async fn connections_end_with_the_trust_they_were_made_in_and_with_their_certificate() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let server = Server::start(&authority, Certificate::of(&["login.example"]), BOTH).await;
    let text = document(&format!(
        "tls: {{mode: simple, ca_file: \"{ca}\"}}, endpoints: [{{address: \"login.example:{}\"}}]",
        server.port
    ));
    let clock = ManualClock::new();
    let mesh = builder().clock(Arc::new(clock.clone())).from_yaml(&text, "client.yaml").unwrap();
    tell(&mesh).await;
    mesh.reload(&text, "client.yaml").unwrap();
    tell(&mesh).await;

    Authority::new().file(directory.path(), "ca.pem");
    mesh.reload(&text, "client.yaml").unwrap();
    let error = call(&mesh).await.unwrap_err();
    assert!(error.to_string().contains("no root that we have"), "the open connection was of the old roots: {error}");

    authority.file(directory.path(), "ca.pem");
    mesh.reload(&text, "client.yaml").unwrap();
    tell(&mesh).await;
    let asked = server.asked();
    clock.advance(Duration::from_secs(3601));
    let error = call(&mesh).await.unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
    assert_eq!(server.asked(), asked);
}

#[tokio::test]
async fn what_has_proven_one_name_is_not_taken_for_another_at_the_same_address() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let server = Server::start(&authority, Certificate::of(&["login.example"]), BOTH).await;
    let port = server.port;
    let mesh = client(&format!(
        "tls: {{mode: simple, ca_file: \"{ca}\"}}, balancer: round_robin, \
         endpoints: [{{address: \"login.example:{port}\"}}, {{address: \"pay.example:{port}\"}}]"
    ));
    let mut refused = 0;
    for _ in 0..4 {
        match call(&mesh).await {
            Ok(response) => drop(response.into_body().collect_up_to(1 << 16).await.unwrap()),
            Err(error) => {
                assert!(error.to_string().contains("not for pay.example"), "{error}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, server.asked()), (2, 2));
}

#[tokio::test]
async fn the_keys_of_an_issuer_of_the_web_verify_its_tokens() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.file(directory.path(), "ca.pem").display().to_string();
    let server = Server::start(&authority, Certificate::of(&["login.shop.example"]), BOTH).await;
    let signer = Signer::new("Ed25519", "now");
    server.answer(set(&[&signer]));
    let text = format!(
        "clusters: [{{name: login, tls: {{mode: simple, ca_file: \"{ca}\"}}, \
         endpoints: [{{address: \"login.shop.example:{}\"}}]}}]
listeners: [{{name: in}}]
policy:
  end_users: [{{name: shop, issuer: \"{}\", audiences: [shop], jwks: {{cluster: login}}}}]\n",
        server.port,
        hostile::SHOP
    );
    let parsed = mesh_core::config::parse(&text, "server.yaml").unwrap();
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
    let mesh = builder().from_yaml(&text, "server.yaml").unwrap();
    mesh.start().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = signer.token("EdDSA", &hostile::claims(now));
    let end = Instant::now() + Duration::from_secs(20);
    while status(&mesh, &token).await != 200 {
        assert!(Instant::now() < end, "waited 20 s for the keys");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let forged = Signer::new("Ed25519", "now").token("EdDSA", &hostile::claims(now));
    assert_eq!(status(&mesh, &forged).await, 401);
}

async fn status(mesh: &Mesh, token: &str) -> u16 {
    let request = Request::get("http://shop/").header("authorization", format!("Bearer {token}"));
    let service = mesh.server_layer("in").unwrap().layer(tower::service_fn(|_: Request<Body>| async {
        Ok::<_, mesh_core::error::BoxError>(http::Response::new(Body::empty()))
    }));
    service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
}

#[test]
fn roots_that_cannot_be_used_are_told_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("empty.pem", "");
    write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    write("none.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    for (file, expected) in [
        ("missing.pem", "No such file or directory"),
        ("empty.pem", "the file holds no certificate"),
        ("cut.pem", "not PEM"),
        ("none.pem", "certificate 0 is no root"),
    ] {
        let path = directory.path().join(file).display().to_string();
        let cluster =
            format!("tls: {{mode: simple, ca_file: \"{path}\"}}, endpoints: [{{address: \"a.example:443\"}}]");
        let refused = Mesh::from_yaml(&document(&cluster), "client.yaml").err().expect("it is refused").to_string();
        let place = format!("clusters[0]: tls.ca_file: {path}: ");
        assert!(refused.contains(&place) && refused.contains(expected), "{file}: {refused}");
    }
}

/// The system's roots are named by the environment, so each case is a process of its own.
#[tokio::test]
async fn without_a_file_the_roots_are_the_systems() {
    if let Ok(port) = std::env::var("LIBMESH_TEST_WEB_PORT") {
        let cluster = format!("tls: {{mode: simple}}, endpoints: [{{address: \"login.example:{port}\"}}]");
        let outcome = match builder().from_yaml(&document(&cluster), "client.yaml") {
            Ok(mesh) => tell(&mesh).await,
            Err(refused) => refused.to_string(),
        };
        return println!("outcome: {outcome}");
    }
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = Server::start(&authority, Certificate::of(&["login.example"]), BOTH).await;
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (roots, expected) in [
        (authority.file(directory.path(), "ca.pem"), "outcome: HTTP/2 https://shop/keys sni=login.example"),
        (empty, "this system has no roots to verify servers by: set `ca_file`"),
    ] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "without_a_file_the_roots_are_the_systems", "--nocapture"]);
        child
            .env("LIBMESH_TEST_WEB_PORT", server.port.to_string())
            .env("SSL_CERT_FILE", roots)
            .env_remove("SSL_CERT_DIR");
        let output = child.output().await.unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains(expected), "{told}");
    }
}

/// What the admin page shows of a document is what was written.
#[test]
fn the_mode_is_read_back_as_it_was_written() {
    let text = "clusters: [{name: a, tls: {mode: simple, ca_file: ca.pem, sni: a.example}, endpoints: []}]";
    let parsed = mesh_core::config::parse(text, "a.yaml").unwrap();
    let tls: Value = serde_json::to_value(&parsed.document.clusters[0].tls).unwrap();
    assert_eq!(tls, serde_json::json!({"mode": "simple", "ca_file": "ca.pem", "sni": "a.example"}));
}
