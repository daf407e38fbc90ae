//! The client's end of TLS where it is the server that is tested.
//!
//! Decides: which certificate the server is shown. Never: judges the server, whose verdict is what is asked for.
//! Invariant: a certificate of ours comes from a development authority, as a peer's in the mesh does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::dev_ca::DevCa;
use mesh_core::identity::spiffe_id::SpiffeId;
use mesh_core::identity::tls::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

/// A key and its certificate for ten minutes from `since`.
pub fn key(authority: &DevCa, id: &str, since: SystemTime) -> Result<Arc<CertifiedKey>, String> {
    let id = SpiffeId::parse(id).map_err(|error| format!("{id}: {error}"))?;
    let svid = authority.issue(&id, TEN_MINUTES, since).map_err(|error| error.to_string())?;
    Ok(svid.certified_key())
}

/// Shows this certificate, or none, to whatever server it meets.
pub fn connector(key: Option<&Arc<CertifiedKey>>) -> Result<TlsConnector, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let config = match key {
        Some(key) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key)))),
        None => config.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes any server.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Longer than a story takes.
const TEN_MINUTES: Duration = Duration::from_secs(600);
