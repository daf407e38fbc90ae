//! Whom we trust: roots by trust domain.
//!
//! Decides: which roots may vouch for a peer. Never: pools roots of several trust domains; a root
//! of one domain cannot vouch for another. Invariant: every root was readable as a signing
//! certificate when the bundle was built. An empty bundle is valid and trusts nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;

use super::error::{BundleError, SvidError};
use super::leaf::verify_signing_certificate;
use super::spiffe_id::{SpiffeId, TrustDomain};

/// The roots of one trust domain.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// From DER certificates.
    pub fn from_roots(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(index, root)| anchor(root).map_err(|source| BundleError::Root { index, source }))
            .collect::<Result<_, _>>()?;
        Ok(Self { trust_domain, roots, anchors })
    }

    /// From PEM text, which must hold at least one certificate: a truncated file is not "trust nobody".
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| BundleError::Malformed(error.to_string()))?;
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Self::from_roots(trust_domain, roots)
    }

    /// From a SPIFFE bundle document (JWKS): the first `x5c` of every key used for `x509-svid`.
    pub fn from_jwks(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        let document: Jwks = serde_json::from_slice(json).map_err(|error| BundleError::Malformed(error.to_string()))?;
        let roots = document
            .keys
            .iter()
            .filter(|key| key.purpose.as_deref() == Some("x509-svid"))
            .filter_map(|key| key.x5c.first())
            .map(|base64| certificate_from_base64(base64))
            .collect::<Result<_, _>>()?;
        Self::from_roots(trust_domain, roots)
    }

    /// Whose roots these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({}, {} roots)", self.trust_domain, self.roots.len())
    }
}

/// The bundles of all trust domains that we know, side by side. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundles(Arc<BTreeMap<TrustDomain, TrustBundle>>);

impl TrustBundles {
    /// The one bundle that may vouch for `id`: that of its own trust domain.
    pub fn vouching_for(&self, id: &SpiffeId) -> Option<&TrustBundle> {
        self.0.get(id.trust_domain())
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &TrustBundle> {
        self.0.values()
    }
}

/// Of two bundles for one trust domain the later replaces the earlier: they are never merged.
impl FromIterator<TrustBundle> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let by_domain = bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle));
        Self(Arc::new(by_domain.collect()))
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, SvidError> {
    verify_signing_certificate(root)?;
    let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| SvidError::Malformed(error.to_string()))?;
    Ok(anchor.to_owned())
}

/// `x5c` is the base64 body of a PEM block, so the PEM reader decodes it.
fn certificate_from_base64(base64: &str) -> Result<CertificateDer<'static>, BundleError> {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| BundleError::Malformed(error.to_string()))
}
