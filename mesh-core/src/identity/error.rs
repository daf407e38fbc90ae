//! What can go wrong with identities.
//!
//! Decides: the closed lists of reasons, precise enough to act on from a log line. Never: shown to
//! a peer, which sees one generic TLS alert. Invariant: no message holds key material.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use super::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a certificate, or a certificate with its key, is not an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// Not an X.509 certificate.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    /// No certificate was given.
    #[error("there is no certificate")]
    NoCertificate,
    /// No URI among the subject alternative names.
    #[error("the certificate has no URI SAN")]
    NoUriSan,
    /// More than one URI, whatever the scheme.
    #[error("the certificate has more than one URI SAN")]
    SeveralUriSans,
    /// The one URI is not a SPIFFE ID.
    #[error("the URI SAN is not a SPIFFE ID: {0}")]
    InvalidId(#[from] SpiffeIdError),
    /// A leaf must name a workload, not a whole trust domain.
    #[error("the SPIFFE ID of a leaf must have a path")]
    RootPath,
    /// The empty subject makes the SAN the only name, and it must be critical then.
    #[error("the subject is empty but the SAN is not critical")]
    SanNotCritical,
    /// The CA flag is set.
    #[error("a leaf must not be a certificate authority")]
    CertificateAuthority,
    /// No key usage extension.
    #[error("the key usage is missing")]
    KeyUsageMissing,
    /// The key usage extension is not critical.
    #[error("the key usage is not critical")]
    KeyUsageNotCritical,
    /// The key may not sign handshakes.
    #[error("the key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// keyCertSign or cRLSign is set.
    #[error("a leaf must not be able to sign certificates or revocation lists")]
    CanSign,
    /// Extended key usage is present, but not for both directions.
    #[error("the extended key usage must hold both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// A signing certificate names a workload.
    #[error("the SPIFFE ID of a signing certificate must not have a path")]
    SigningCertificateHasPath,
    /// No private key was given.
    #[error("there is no private key")]
    NoKey,
    /// The private key cannot be used.
    #[error("the private key is not usable: {0}")]
    Key(String),
    /// The private key belongs to another certificate.
    #[error("the private key does not match the certificate")]
    KeyMismatch,
}

/// Why a bundle is not usable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not PEM, or not JWKS.
    #[error("the bundle is malformed: {0}")]
    Malformed(String),
    /// A PEM bundle without a certificate.
    #[error("the bundle holds no certificate")]
    Empty,
    /// A root is not a signing certificate.
    #[error("root {index} of the bundle: {source}")]
    Root {
        /// Position in the bundle, from 0.
        index: usize,
        /// What is wrong with it.
        source: SvidError,
    },
}

/// Why we have no (new) identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Nothing has been issued yet.
    #[error("no identity has been issued yet")]
    Absent,
    /// The certificate has expired.
    #[error("the certificate of {id} has expired")]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// When.
        not_after: SystemTime,
    },
    /// The certificate lies in the future: a clock is wrong.
    #[error("the certificate of {id} is not valid yet; check the clocks")]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// When it becomes valid.
        not_before: SystemTime,
    },
    /// A file or directory could not be used.
    #[error("{}: {message}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A certificate or key is not usable.
    #[error("{}: {source}", path.display())]
    Svid {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
    /// A bundle is not usable.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// The bundle file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// The root key, or its directory, is open to others.
    #[error("{}: open to other users (mode {mode:o}); run: chmod go= {}", path.display(), path.display())]
    Exposed {
        /// The key file or its directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate names somebody else.
    #[error("the certificate names {found}, not {expected}")]
    WrongId {
        /// The ID in the configuration.
        expected: SpiffeId,
        /// The ID in the certificate.
        found: SpiffeId,
    },
    /// The authority is for another trust domain.
    #[error("the certificate authority is of trust domain {found}, not {expected}")]
    WrongTrustDomain {
        /// The one asked for.
        expected: TrustDomain,
        /// The one of the authority.
        found: String,
    },
    /// Signing failed.
    #[error("the certificate authority failed: {0}")]
    Authority(String),
    /// The TLS stack refused the settings.
    #[error("TLS settings: {0}")]
    Tls(String),
}

impl IdentityError {
    /// An I/O error with the place where it happened.
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), message: error.to_string() }
    }

    /// A failure of the signing library.
    pub(super) fn authority(error: impl std::fmt::Display) -> Self {
        Self::Authority(error.to_string())
    }
}
