//! TLS settings on top of an identity.
//!
//! Decides: versions, ALPN, and that every handshake is a full one. Never: resumes a session, since
//! a resumed session would skip the verification of a peer whose certificate has since expired or
//! whose trust domain has since been removed. Never: installs a process-wide crypto provider.
//! Invariant: our certificate is looked up at each handshake; an expired one is not presented.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SignatureScheme, SupportedProtocolVersion};

use crate::time::Clock;

use super::error::IdentityError;
use super::leaf::Leaf;
use super::source::IdentitySource;
use super::spiffe_id::SpiffeId;
use super::verifier::{ClientVerifier, ServerVerifier};

/// Who is at the other end of a verified connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Whom the certificate names.
    pub id: SpiffeId,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: SystemTime,
    /// The certificate itself (DER), where it is at hand.
    pub certificate: Option<Arc<[u8]>>,
    /// The server name that the peer, as a client, asked for; our own clients ask for none.
    pub server_name: Option<Arc<str>>,
}

/// Settings of a server that demands a client certificate. One serves for ever: the identity is
/// read at each handshake.
pub fn server_config(source: &IdentitySource, clock: Arc<dyn Clock>) -> Result<Arc<ServerConfig>, IdentityError> {
    let verifier = Arc::new(ClientVerifier::new(source, clock.clone()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| IdentityError::Tls(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Resolver { source: source.clone(), clock }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Settings of a client that accepts only the `expected` servers (none, if that is empty) and
/// offers `alpn` in this order. Connect with [`server_name`].
pub fn client_config(
    source: &IdentitySource,
    expected: Vec<SpiffeId>,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let verifier = Arc::new(ServerVerifier::new(source, expected, clock.clone()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|error| IdentityError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Resolver { source: source.clone(), clock }));
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The name to hand to the TLS stack, which insists on one. It is never sent and never compared:
/// servers are known by their SPIFFE ID.
pub fn server_name() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// Reads the peer's identity from the chain of a connection. Only meaningful after a handshake with
/// the settings of this module, which verified that chain.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Option<PeerIdentity> {
    let der = chain.first()?;
    let leaf = Leaf::from_der(der).ok()?;
    Some(PeerIdentity {
        id: leaf.id,
        serial: leaf.serial,
        not_after: leaf.not_after,
        certificate: Some(der.as_ref().into()),
        server_name: None,
    })
}

/// The one crypto provider of this crate. Applications keep their own process default.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

/// Answers with the identity of the moment.
struct Resolver {
    source: IdentitySource,
    clock: Arc<dyn Clock>,
}

impl Resolver {
    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        match self.source.usable_at(self.clock.wall()) {
            Ok(identity) => Some(identity.svid.certified_key()),
            Err(error) => {
                tracing::warn!(%error, "no certificate to present");
                None
            }
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified_key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// TLS 1.2 for peers that have nothing newer (older Envoy and Go builds).
pub(super) const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
