//! Real handshakes over an in-memory pipe.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::ErrorKind;

use super::bundle::TrustBundles;
use super::mint::{self, Authority, StillClock, day};
use super::source::{Identity, IdentitySource};
use super::spiffe_id::SpiffeId;
use super::tls::{PeerIdentity, client_config, peer_identity, provider, server_config, server_name};
use super::verifier::VerifyError;

const HOUR: Duration = Duration::from_secs(3600);
const CLIENT: &str = "spiffe://td/client";
const SERVER: &str = "spiffe://td/server";

/// What each end saw.
struct Outcome {
    client: io::Result<Seen>,
    server: io::Result<Seen>,
}

#[derive(Debug)]
struct Seen {
    peer: Option<PeerIdentity>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
}

impl Outcome {
    fn server_reason(&self) -> Option<VerifyError> {
        self.server.as_ref().err().and_then(|error| VerifyError::find_in(error))
    }

    fn client_reason(&self) -> Option<VerifyError> {
        self.client.as_ref().err().and_then(|error| VerifyError::find_in(error))
    }

    /// What the end that was refused could learn.
    fn alert_seen_by(end: &io::Result<Seen>) -> String {
        end.as_ref().unwrap_err().to_string()
    }
}

fn seen(chain: Option<&[CertificateDer<'_>]>, alpn: Option<&[u8]>, kind: Option<rustls::HandshakeKind>) -> Seen {
    Seen {
        peer: chain.and_then(peer_identity),
        alpn: alpn.map(<[u8]>::to_vec),
        resumed: kind == Some(rustls::HandshakeKind::Resumed),
    }
}

async fn handshake(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> Outcome {
    let (near, far) = duplex(64 * 1024);
    let called = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"pong").await?;
        stream.shutdown().await?;
        let tls = stream.get_ref().1;
        Ok(seen(tls.peer_certificates(), tls.alpn_protocol(), tls.handshake_kind()))
    };
    let calling = async move {
        let mut stream = TlsConnector::from(client).connect(server_name(), near).await?;
        // In TLS 1.3 the server's refusal arrives with the first read.
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"pong");
        let tls = stream.get_ref().1;
        Ok(seen(tls.peer_certificates(), tls.alpn_protocol(), tls.handshake_kind()))
    };
    let (client, server) = tokio::join!(calling, called);
    Outcome { client, server }
}

fn source(identity: Identity) -> IdentitySource {
    let source = IdentitySource::new();
    source.publish(identity);
    source
}

fn identity(authority: &Authority, id: &str, trusted: &[(&Authority, &str)]) -> Identity {
    let bundles = trusted.iter().map(|(root, trust_domain)| root.bundle(trust_domain));
    Identity { svid: authority.svid(id, day(), HOUR), bundles: TrustBundles::from_iter(bundles) }
}

struct Ends {
    client: IdentitySource,
    server: IdentitySource,
    clock: Arc<StillClock>,
}

/// Two workloads of one trust domain.
fn ends() -> Ends {
    let td = mint::authority("td");
    let of = |id| source(identity(&td, id, &[(&td, "td")]));
    Ends { client: of(CLIENT), server: of(SERVER), clock: StillClock::at(day() + HOUR / 2) }
}

impl Ends {
    fn client_config(&self, expected: &[&str]) -> Arc<rustls::ClientConfig> {
        let expected = expected.iter().map(|id| SpiffeId::parse(id).unwrap()).collect();
        client_config(&self.client, expected, vec![b"h2".to_vec()], self.clock.clone()).unwrap()
    }

    async fn call(&self, expected: &[&str]) -> Outcome {
        let server = server_config(&self.server, self.clock.clone()).unwrap();
        handshake(self.client_config(expected), server).await
    }

    fn set(&self, wall: SystemTime) {
        self.clock.set(wall);
    }
}

#[tokio::test]
async fn two_workloads_of_one_trust_domain_know_each_other() {
    let ends = ends();
    let outcome = ends.call(&["spiffe://td/another", SERVER]).await;
    let (client, server) = (outcome.client.unwrap(), outcome.server.unwrap());
    let (server_svid, client_svid) = (ends.server.current().unwrap(), ends.client.current().unwrap());
    let peer = client.peer.unwrap();
    assert_eq!((peer.id.as_str(), peer.serial.as_str()), (SERVER, server_svid.svid.serial()));
    assert_eq!(peer.not_after, day() + HOUR);
    assert_eq!(server.peer.unwrap().serial, client_svid.svid.serial());
    assert_eq!(server.alpn.as_deref(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn tls_1_2_is_verified_just_the_same() {
    let ends = ends();
    for (expected, good) in [(SERVER, true), ("spiffe://td/another", false)] {
        let modern = ends.client_config(&[expected]);
        let mut old = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(super::verifier::ServerVerifier::new(
                &ends.client,
                vec![SpiffeId::parse(expected).unwrap()],
                ends.clock.clone(),
            )))
            .with_client_cert_resolver(modern.client_auth_cert_resolver.clone());
        old.enable_sni = false;
        let outcome = handshake(Arc::new(old), server_config(&ends.server, ends.clock.clone()).unwrap()).await;
        assert_eq!(outcome.server.is_ok(), good, "{expected}");
        assert_eq!(matches!(outcome.client_reason(), Some(VerifyError::UnexpectedId { .. })), !good);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ends = ends();
    let verified = ends.client_config(&[SERVER]);
    let mut bare = (*verified).clone();
    bare.client_auth_cert_resolver = Arc::new(NoCertificate);
    let outcome = handshake(Arc::new(bare), server_config(&ends.server, ends.clock.clone()).unwrap()).await;
    assert_eq!(outcome.server_reason(), Some(VerifyError::NoCertificate));
    assert!(outcome.client.is_err());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_expected_one_is_refused() {
    let expected = "spiffe://td/another";
    let outcome = ends().call(&[expected]).await;
    let reason = VerifyError::UnexpectedId {
        id: SpiffeId::parse(SERVER).unwrap(),
        expected: vec![SpiffeId::parse(expected).unwrap()],
    };
    assert_eq!((reason.kind(), reason.as_str()), (ErrorKind::PeerIdentity, "unexpected_id"));
    assert_eq!(outcome.client_reason(), Some(reason));
    assert!(ends().call(&[]).await.client.is_err(), "nobody expected, nobody accepted");
}

#[tokio::test]
async fn every_refusal_looks_the_same_to_the_peer() {
    let td = mint::authority("td");
    let unknown = mint::authority("unknown");
    let not_yet = Identity { svid: td.svid(CLIENT, day(), HOUR * 9), bundles: TrustBundles::default() };
    let mut alerts = std::collections::HashSet::new();
    // A stranger, a forger (the right name, the wrong root).
    for (client, refused) in [
        (identity(&unknown, "spiffe://unknown/client", &[(&td, "td")]), "unknown"),
        (identity(&unknown, CLIENT, &[(&td, "td")]), "forged"),
    ] {
        let ends = Ends { client: source(client), ..ends() };
        let outcome = ends.call(&[SERVER]).await;
        match (refused, outcome.server_reason()) {
            ("unknown", Some(VerifyError::UnknownTrustDomain { trust_domain, .. })) => {
                assert_eq!(trust_domain.as_str(), "unknown");
            }
            ("forged", Some(VerifyError::Untrusted { id, .. })) => assert_eq!(id.as_str(), CLIENT),
            (_, other) => panic!("{refused}: {other:?}"),
        }
        alerts.insert(Outcome::alert_seen_by(&outcome.client));
    }
    // A certificate that has expired for the server, whose clock is ahead.
    let ends = ends();
    ends.client.publish(not_yet);
    ends.client.publish(identity(&td, CLIENT, &[(&td, "td")]));
    let late = StillClock::at(day() + HOUR * 2);
    ends.server.publish(td.identity(SERVER, day(), HOUR * 9));
    let outcome = handshake(ends.client_config(&[SERVER]), server_config(&ends.server, late).unwrap()).await;
    let reason = VerifyError::Expired { id: SpiffeId::parse(CLIENT).unwrap(), not_after: day() + HOUR };
    assert_eq!(outcome.server_reason(), Some(reason));
    alerts.insert(Outcome::alert_seen_by(&outcome.client));
    assert_eq!(alerts.len(), 1, "{alerts:?}");
}

#[tokio::test]
async fn an_own_certificate_that_has_expired_is_not_presented() {
    let ends = ends();
    ends.set(day() + HOUR * 2);
    assert!(ends.call(&[SERVER]).await.server.is_err(), "the server has nothing to show");

    ends.server.publish(mint::authority("td").identity(SERVER, day(), HOUR * 9));
    let outcome = ends.call(&[SERVER]).await;
    assert!(matches!(outcome.client_reason(), Some(VerifyError::NoIdentity(_))), "{:?}", outcome.client);
    assert!(outcome.server.is_err());
}

#[tokio::test]
async fn two_trust_domains_live_side_by_side_without_pooling_their_roots() {
    let (td, other) = (mint::authority("td"), mint::authority("other"));
    let both: &[(&Authority, &str)] = &[(&td, "td"), (&other, "other")];
    let server = source(identity(&td, SERVER, both));
    let call = |client: Identity| {
        let ends = Ends { client: source(client), server: server.clone(), clock: StillClock::at(day()) };
        async move { ends.call(&[SERVER]).await }
    };
    for (authority, id) in [(&td, CLIENT), (&other, "spiffe://other/client")] {
        let outcome = call(identity(authority, id, both)).await;
        assert_eq!(outcome.server.unwrap().peer.unwrap().id.as_str(), id);
    }
    // The root of `other` is known, but must not vouch for a name in `td`, nor the reverse.
    for (authority, id) in [(&other, CLIENT), (&td, "spiffe://other/client")] {
        let outcome = call(identity(authority, id, both)).await;
        assert!(matches!(outcome.server_reason(), Some(VerifyError::Untrusted { .. })), "{id}");
    }
}

#[tokio::test]
async fn a_new_identity_serves_the_next_handshake_of_the_same_settings() {
    let ends = ends();
    let server = server_config(&ends.server, ends.clock.clone()).unwrap();
    let client = ends.client_config(&[SERVER]);
    let mut serials = Vec::new();
    for _ in 0..3 {
        let outcome = handshake(client.clone(), server.clone()).await;
        let seen = outcome.client.unwrap();
        assert!(!seen.resumed && !outcome.server.unwrap().resumed);
        serials.push(seen.peer.unwrap().serial);
        ends.server.publish(mint::authority("td").identity(SERVER, day(), HOUR));
    }
    assert_eq!(serials, ends.server.recent_serials()[..3]);

    // A trust domain that was withdrawn is refused at the next handshake.
    let stranger = mint::authority("elsewhere");
    ends.server.publish(identity(&mint::authority("td"), SERVER, &[(&stranger, "elsewhere")]));
    let outcome = handshake(client, server).await;
    assert!(matches!(outcome.server_reason(), Some(VerifyError::UnknownTrustDomain { .. })));
}

#[tokio::test]
async fn certificates_of_eight_seconds_never_fail_a_handshake() {
    use super::{DevCa, DevCaIssuer, TrustDomain, rotate};
    use crate::time::{Clock, SystemClock};

    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = DevCa::open(directory.path(), &TrustDomain::parse("td").unwrap(), clock.wall()).unwrap();
    let mut sources = Vec::new();
    for (seed, id) in [CLIENT, SERVER].into_iter().enumerate() {
        let id = SpiffeId::parse(id).unwrap();
        let issuer = Arc::new(DevCaIssuer::new(ca.clone(), id, Duration::from_secs(8), clock.clone()));
        let source = IdentitySource::new();
        tokio::spawn(rotate(source.clone(), issuer, clock.clone(), seed as u64));
        source.watch().wait_for(|count| *count > 0).await.unwrap();
        sources.push(source);
    }
    let expected = vec![SpiffeId::parse(SERVER).unwrap()];
    let client = client_config(&sources[0], expected, Vec::new(), clock.clone()).unwrap();
    let server = server_config(&sources[1], clock.clone()).unwrap();
    let mut serials = std::collections::HashSet::new();
    let end = clock.now() + Duration::from_secs(30);
    while clock.now() < end {
        let outcome = handshake(client.clone(), server.clone()).await;
        serials.insert(outcome.client.unwrap().peer.unwrap().serial);
        outcome.server.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(serials.len() >= 6, "{}", serials.len());
}

#[test]
fn the_reason_is_found_through_wrapping_errors() {
    let reason = VerifyError::NoCertificate;
    let tls = rustls::Error::from(reason.clone());
    let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls));
    assert_eq!(VerifyError::find_in(&wrapped), Some(reason));
    assert_eq!(VerifyError::find_in(&io::Error::other("something else")), None);
}
