//! Our own certificate with its key.
//!
//! Decides: whether a chain and a key make a usable X.509-SVID. Never: prints, serialises or copies
//! the key. Invariant: the key matches the first certificate, which obeys the leaf rules; a pair
//! that does not match cannot be built, so it can never be swapped in.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};

use super::error::SvidError;
use super::leaf::Leaf;
use super::spiffe_id::SpiffeId;
use super::tls::provider;

/// A certificate chain, its private key, and what the leaf says. Cheap to clone.
#[derive(Clone)]
pub struct Svid {
    leaf: Arc<Leaf>,
    key: Arc<CertifiedKey>,
    issued_at: SystemTime,
}

impl Svid {
    /// From a chain, leaf first, and the key of the leaf.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let leaf = Leaf::from_der(chain.first().ok_or(SvidError::NoCertificate)?)?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => SvidError::KeyMismatch,
            other => SvidError::Key(other.to_string()),
        })?;
        Ok(Self { issued_at: leaf.not_before, leaf: Arc::new(leaf), key: Arc::new(key) })
    }

    /// From PEM text: certificates and key in either order, the leaf first among the certificates.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SvidError> {
        Self::from_pem_pair(pem, pem)
    }

    /// From two PEM texts. Blocks of other kinds are passed over.
    pub fn from_pem_pair(certificates: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| SvidError::Malformed(error.to_string()))?;
        let key = PrivateKeyDer::pem_slice_iter(key)
            .next()
            .ok_or(SvidError::NoKey)?
            .map_err(|error| SvidError::Key(error.to_string()))?;
        Self::from_der(chain, key)
    }

    /// Says when it was issued. Half-life counts from here, and not from a `not_before` that was
    /// set back to bear clock skew.
    #[must_use]
    pub fn with_issued_at(mut self, issued_at: SystemTime) -> Self {
        self.issued_at = issued_at;
        self
    }

    /// Whom it names.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Chain and key in the form that the TLS stack takes.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// When it was issued; `not_before` where the issuer does not say.
    pub fn issued_at(&self) -> SystemTime {
        self.issued_at
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.leaf.id)
            .field("serial", &self.leaf.serial)
            .field("not_before", &self.leaf.not_before)
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}
