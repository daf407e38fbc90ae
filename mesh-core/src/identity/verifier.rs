//! Judges the peer's certificate in a handshake.
//!
//! Decides: who the peer is, by the roots of the peer's own trust domain, and for a server whether
//! it is one that we expect. Never: looks at DNS names, IP addresses or the subject; never tells
//! the peer why it was refused (always the same TLS alert, `certificate_unknown`).
//! Invariant: bundles and clock are read anew at each handshake, and nothing is cached.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use thiserror::Error;
use webpki::KeyUsage;

use crate::error::ErrorKind;
use crate::time::Clock;

use super::bundle::TrustBundles;
use super::error::{IdentityError, SvidError};
use super::leaf::{may_sign_certificates, verify_leaf};
use super::source::IdentitySource;
use super::spiffe_id::{SpiffeId, TrustDomain};
use super::tls::provider;

/// Why a peer was refused. For the log; the peer does not learn it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// We have no usable identity, so no peer can be judged or answered.
    #[error("no usable identity of our own: {0}")]
    NoIdentity(IdentityError),
    /// The peer sent no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The certificate does not follow the X.509-SVID rules.
    #[error("the peer's certificate is not an X.509-SVID: {0}")]
    NotASvid(SvidError),
    /// We have no bundle for the peer's trust domain, or an empty one.
    #[error("no roots are known for trust domain {trust_domain} of {id}")]
    UnknownTrustDomain {
        /// Whom the certificate names.
        id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// A certificate of the chain is past its end.
    #[error("the certificate of {id} has expired")]
    Expired {
        /// Whom the certificate names.
        id: SpiffeId,
        /// When it ended.
        not_after: SystemTime,
    },
    /// A certificate of the chain lies in the future.
    #[error("the certificate of {id} is not valid yet; check the clocks")]
    NotYetValid {
        /// Whom the certificate names.
        id: SpiffeId,
        /// When it begins.
        not_before: SystemTime,
    },
    /// No path of valid signatures to a root of its trust domain.
    #[error("the certificate of {id} does not chain to its trust domain's roots: {reason}")]
    Untrusted {
        /// Whom the certificate names.
        id: SpiffeId,
        /// What the path building said.
        reason: String,
    },
    /// A valid peer, but not the one that was called.
    #[error("the peer is {id}, expected one of {expected:?}")]
    UnexpectedId {
        /// Who answered.
        id: SpiffeId,
        /// Who was called.
        expected: Vec<SpiffeId>,
    },
}

impl VerifyError {
    /// Finds the reason behind a failed handshake: in an I/O error of the TLS stream, a TLS error,
    /// or anything that wraps one of them.
    pub fn find_in(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found.clone());
            }
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self::in_tls(tls);
            }
            // `io::Error::source` passes over the error that it wraps.
            next = match error.downcast_ref::<std::io::Error>() {
                Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
                None => error.source(),
            };
        }
        None
    }

    /// How a call that failed for this reason is reported.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoIdentity(_) => ErrorKind::Tls,
            _ => ErrorKind::PeerIdentity,
        }
    }

    /// The stable name of the reason, for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoIdentity(_) => "no_identity",
            Self::NoCertificate => "no_certificate",
            Self::NotASvid(_) => "not_a_svid",
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Untrusted { .. } => "untrusted",
            Self::UnexpectedId { .. } => "unexpected_id",
        }
    }

    fn in_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other)))
            | rustls::Error::Other(OtherError(other)) => other.downcast_ref::<Self>().cloned(),
            _ => None,
        }
    }
}

/// `Other` for all of them: that is what makes the alert the same whatever the reason.
impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Which end of the handshake the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// The peer called us.
    Client,
    /// We called the peer.
    Server,
}

/// Verifies a chain, leaf first, by the roots of its own trust domain, and says whom it names.
///
/// A certificate authority under a URI name constraint is refused altogether: webpki does not
/// evaluate those, and fails closed.
pub fn verify_chain(
    bundles: &TrustBundles,
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    wall: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    let id = verify_leaf(leaf).map_err(VerifyError::NotASvid)?;
    let anchors = bundles.vouching_for(&id).map(|bundle| bundle.anchors()).unwrap_or_default();
    if anchors.is_empty() {
        let trust_domain = TrustDomain::of(&id);
        return Err(VerifyError::UnknownTrustDomain { id, trust_domain });
    }
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let now = UnixTime::since_unix_epoch(wall.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms;
    let verified = webpki::EndEntityCert::try_from(leaf).and_then(|certificate| {
        let path = Some(&signers_may_sign as &dyn Fn(&webpki::VerifiedPath<'_>) -> _);
        certificate.verify_for_usage(algorithms.all, anchors, intermediates, now, usage, None, path).map(drop)
    });
    match verified {
        Ok(()) => Ok(id),
        Err(error) => Err(refusal(id, &error)),
    }
}

/// webpki wants the CA flag of an intermediate, but does not ask for keyCertSign.
fn signers_may_sign(path: &webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let all = path.intermediate_certificates().all(|certificate| may_sign_certificates(&certificate.der()));
    if all { Ok(()) } else { Err(webpki::Error::EndEntityUsedAsCa) }
}

fn refusal(id: SpiffeId, error: &webpki::Error) -> VerifyError {
    let calendar = |time: &UnixTime| UNIX_EPOCH + Duration::from_secs(time.as_secs());
    match error {
        webpki::Error::CertExpired { not_after, .. } => VerifyError::Expired { id, not_after: calendar(not_after) },
        webpki::Error::CertNotValidYet { not_before, .. } => {
            VerifyError::NotYetValid { id, not_before: calendar(not_before) }
        }
        other => VerifyError::Untrusted { id, reason: format!("{other:?}") },
    }
}

/// What both verifiers share.
struct Judge {
    source: IdentitySource,
    clock: Arc<dyn Clock>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    fn new(source: &IdentitySource, clock: Arc<dyn Clock>) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { source: source.clone(), clock, algorithms }
    }

    fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
    ) -> Result<SpiffeId, VerifyError> {
        let wall = self.clock.wall();
        // Without a certificate to show, the handshake is lost anyway: fail with the true reason.
        let identity = self.source.usable_at(wall).map_err(VerifyError::NoIdentity)?;
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        verify_chain(&identity.bundles, &chain, role, wall)
    }
}

/// Server side: any SPIFFE ID of a trust domain that we know. What it may do is up to `access`.
pub(super) struct ClientVerifier(Judge);

impl ClientVerifier {
    pub(super) fn new(source: &IdentitySource, clock: Arc<dyn Clock>) -> Self {
        Self(Judge::new(source, clock))
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// No hints: the roots of our bundles are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.identify(end_entity, intermediates, PeerRole::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// Client side: one of the expected SPIFFE IDs, and no other.
pub(super) struct ServerVerifier {
    judge: Judge,
    expected: Vec<SpiffeId>,
}

impl ServerVerifier {
    pub(super) fn new(source: &IdentitySource, expected: Vec<SpiffeId>, clock: Arc<dyn Clock>) -> Self {
        Self { judge: Judge::new(source, clock), expected }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let id = self.judge.identify(end_entity, intermediates, PeerRole::Server)?;
        if self.expected.contains(&id) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(VerifyError::UnexpectedId { id, expected: self.expected.clone() }.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({:?})", self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mint::{self, Spec, day};
    use super::*;

    #[test]
    fn an_expired_path_does_not_hide_a_valid_one() {
        let hour = Duration::from_secs(3600);
        let root = mint::authority("td");
        let bundles = TrustBundles::from_iter([root.bundle("td")]);
        let (expired, valid) =
            (Spec::intermediate(day() - hour * 2, day() - hour), Spec::intermediate(day() - hour, day() + hour));
        let intermediate = root.sign(&expired);
        let renewed = root.cross_sign(&valid, &intermediate);
        let leaf = intermediate.sign(&Spec::leaf("spiffe://td/a", day(), day() + hour)).certificate;
        let verify = |sent: &[&CertificateDer<'static>]| {
            let chain: Vec<_> = std::iter::once(&leaf).chain(sent.iter().copied()).cloned().collect();
            verify_chain(&bundles, &chain, PeerRole::Server, day())
        };
        assert!(verify(&[&intermediate.certificate, &renewed]).is_ok());
        assert!(verify(&[&renewed, &intermediate.certificate]).is_ok());
        assert!(matches!(verify(&[&intermediate.certificate]), Err(VerifyError::Expired { .. })));
    }

    #[test]
    fn an_incapable_intermediate_does_not_hide_a_capable_one() {
        let hour = Duration::from_secs(3600);
        let root = mint::authority("td");
        let bundles = TrustBundles::from_iter([root.bundle("td")]);
        let good = Spec::intermediate(day(), day() + hour);
        let bad = Spec { key_usage: Some(vec![rcgen::KeyUsagePurpose::CrlSign]), ..good.clone() };
        let intermediate = root.sign(&bad);
        let renewed = root.cross_sign(&good, &intermediate);
        let leaf = intermediate.sign(&Spec::leaf("spiffe://td/a", day(), day() + hour)).certificate;
        let chain = [leaf, intermediate.certificate.clone(), renewed];
        assert!(verify_chain(&bundles, &chain, PeerRole::Client, day()).is_ok());
        assert!(verify_chain(&bundles, &chain[..2], PeerRole::Client, day()).is_err());
    }
}
