//! What a check is told of the caller's handshake.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::Mesh;
use mesh_core::identity::bundle::TrustBundles;
use mesh_core::identity::{DevCa, Identity, IdentitySource, SpiffeId, Svid, TrustDomain, client_config};
use mesh_core::time::SystemClock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::policy::{Policy, status};

const SERVER: &str = "spiffe://test/ns/default/sa/server";
const CALLER: &str = "spiffe://test/ns/default/sa/caller";

fn server(ca: &Path, policy: &Policy) -> Mesh {
    let text = format!(
        "version: 1
defaults: {{ connect_timeout: 20s }}
identity: {{ spiffe_id: \"{SERVER}\", dev_ca: {{ directory: \"{}\" }} }}
listeners: [{{ name: in, address: \"127.0.0.1:0\" }}]
clusters: [{{ name: opa, protocol: http2, tls: {{ mode: plaintext }}, endpoints: [{{ address: \"{}\" }}] }}]
policy:
  checks: [{{ name: opa, cluster: opa, timeout: 20s, include_peer_certificate: true, include_tls_session: true }}]
",
        ca.display(),
        policy.address
    );
    Mesh::from_yaml(&text, "server.yaml").unwrap()
}

/// A caller of the mesh that asks for a server by name, which the mesh's own never do.
fn caller(ca: &Path) -> (TlsConnector, Svid) {
    let id = SpiffeId::parse(CALLER).unwrap();
    let authority = DevCa::open(ca, &TrustDomain::of(&id), SystemTime::now()).unwrap();
    let svid = authority.issue(&id, Duration::from_secs(600), SystemTime::now()).unwrap();
    let source = IdentitySource::new();
    let bundles = TrustBundles::from_iter([authority.bundle().unwrap()]);
    source.publish(Identity { svid: svid.clone(), bundles });
    let expected = vec![SpiffeId::parse(SERVER).unwrap()];
    let config = client_config(&source, expected, vec![b"http/1.1".to_vec()], Arc::new(SystemClock)).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.enable_sni = true;
    (TlsConnector::from(Arc::new(config)), svid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_and_server_name_of_the_caller_are_told_as_they_were_in_the_handshake() {
    let ca = tempfile::tempdir().unwrap();
    let policy = Policy::start(|_| Some(status(Code::PermissionDenied)));
    let server = server(ca.path(), &policy);
    let answer = tower::service_fn(|_| async {
        Ok::<_, mesh_core::error::BoxError>(http::Response::new(mesh_core::Body::empty()))
    });
    let address = server.listen("in", answer).await.unwrap().local_addr().to_string();
    let (connector, svid) = caller(ca.path());
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = connector.connect(ServerName::try_from("shop.test").unwrap(), stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
    let context = policy.contexts().remove(0);
    assert_eq!(context.tls_session.unwrap().sni, "shop.test");
    let source = context.source.unwrap();
    assert_eq!(source.principal, CALLER);
    let told = percent_encoding::percent_decode_str(&source.certificate).decode_utf8().unwrap();
    let told: Vec<_> = CertificateDer::pem_slice_iter(told.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(told, svid.chain()[..1], "the leaf, byte by byte");
}
