//! Servers of the web: known by their host name, for which an authority vouches that we trust.
//!
//! Decides: which roots may vouch for such a server, and how its refusal reads. Never: skips the verification, resumes
//! a session (as in `tls`), shows a certificate of ours, or reads a SPIFFE ID. Revocation is not asked about: short
//! lives of certificates are the web's own answer to it.
//! Invariant: there is at least one root, and the mesh's clock says what has expired.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, RootCertStore};

use super::error::IdentityError;
use super::leaf::{parse, system_time};
use super::tls::{VERSIONS, provider};
use crate::time::Clock;

/// Who may vouch for servers of the web.
pub struct WebRoots {
    store: Arc<RootCertStore>,
    /// Of all certificates: whether two are the same roots.
    digest: u64,
}

impl WebRoots {
    /// From a PEM file, of which every certificate is a root.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let at = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|error| at(&error))?;
        let roots = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|error| at(&format!("not PEM: {error}")))?;
        let mut store = RootCertStore::empty();
        for (index, root) in roots.iter().enumerate() {
            let added = store.add(root.clone());
            added.map_err(|error| at(&format!("certificate {index} is no root: {error}")))?;
        }
        Self::of(store, roots).ok_or_else(|| at(&"the file holds no certificate"))
    }

    /// The operating system's. What cannot be read among them is left out, as long as there is one.
    pub fn of_system() -> Result<Self, String> {
        let found = rustls_native_certs::load_native_certs();
        Self::of_list(found.certs, found.errors.first().map(|error| error as &dyn fmt::Display))
    }

    fn of_list(roots: Vec<CertificateDer<'static>>, trouble: Option<&dyn fmt::Display>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        let why = trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
        Self::of(store, roots)
            .ok_or_else(|| format!("this system has no roots to verify servers by{why}: set `ca_file`"))
    }

    fn of(store: RootCertStore, mut roots: Vec<CertificateDer<'static>>) -> Option<Self> {
        // A directory is read in any order.
        roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        let mut hasher = DefaultHasher::new();
        roots.hash(&mut hasher);
        (!store.is_empty()).then(|| Self { store: Arc::new(store), digest: hasher.finish() })
    }
}

impl fmt::Debug for WebRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebRoots({}, {:016x})", self.store.len(), self.digest)
    }
}

/// Settings of a client that accepts whomever `roots` vouch for under the name it asks for, and offers `alpn`.
pub fn client_config(
    roots: &WebRoots,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(MeshTime(clock)))
        .with_protocol_versions(VERSIONS)
        .map_err(|error| IdentityError::Tls(error.to_string()))?
        .with_root_certificates(Arc::clone(&roots.store))
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Why a server's certificate was refused, if that is what a handshake failed for.
pub fn refusal(error: &io::Error, name: &ServerName<'_>) -> Option<String> {
    let rustls::Error::InvalidCertificate(reason) = error.get_ref()?.downcast_ref::<rustls::Error>()? else {
        return None;
    };
    let name = name.to_str();
    Some(match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate for {name} has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate for {name} is not valid yet; check the clocks")
        }
        // A root of the same name and another key is none of ours, either.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("no root that we have (`tls.ca_file`, else the system's) vouches for the certificate of {name}")
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            format!("the certificate is not for {name}, but for {presented:?}")
        }
        other => format!("the certificate of {name} is refused: {other}"),
    })
}

/// When the certificate of a verified chain ends.
pub fn not_after(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let certificate = parse(chain.first()?).ok()?;
    Some(system_time(certificate.validity().not_after))
}

/// The mesh's calendar, for the verifier.
struct MeshTime(Arc<dyn Clock>);

impl TimeProvider for MeshTime {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.wall().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl fmt::Debug for MeshTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshTime")
    }
}
