//! A certificate authority in a directory, for development, tests and small meshes on one host.
//!
//! Decides: what our own certificates say. Never: serves anybody over the network; whoever can read
//! the directory is the authority. Every process of the host that names the same directory gets
//! certificates of one root.
//!
//! ```text
//! <directory>/bundle.pem           root certificate, readable by all
//! <directory>/private/root.key     root key, mode 0600, in a directory of mode 0700
//! <directory>/private/lock         held while the two are created
//! ```
//!
//! Invariant: the root key is in memory only while one certificate is signed. The text read from
//! the file is wiped afterwards; the copies that the signing library makes are freed, not wiped.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::time::Clock;

use super::bundle::{TrustBundle, TrustBundles};
use super::error::{BundleError, IdentityError, SvidError};
use super::file::{BundleFile, Seen};
use super::leaf::verify_signing_certificate;
use super::rotation::Issuer;
use super::source::Identity;
use super::spiffe_id::{SpiffeId, TrustDomain};
use super::svid::Svid;

/// The authority of one trust domain. Holds paths only.
#[derive(Debug, Clone)]
pub struct DevCa {
    directory: PathBuf,
    trust_domain: TrustDomain,
}

impl DevCa {
    /// Opens the authority, creating directory, root key and root certificate (10 years) on first
    /// use. Any number of processes may do so at the same time; they end with one root.
    pub fn open(directory: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IdentityError> {
        let authority = Self { directory: directory.to_owned(), trust_domain: trust_domain.clone() };
        // The bundle is written last, so its presence means that the root is complete.
        if !authority.bundle_path().exists() {
            authority.create(now)?;
        }
        authority.check()?;
        Ok(authority)
    }

    /// Whom it issues for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate, PEM, for those who shall trust this authority.
    pub fn bundle_path(&self) -> PathBuf {
        self.directory.join("bundle.pem")
    }

    /// The bundle as it is in the directory now.
    pub fn bundle(&self) -> Result<TrustBundle, IdentityError> {
        BundleFile { trust_domain: self.trust_domain.clone(), path: self.bundle_path() }.load()
    }

    /// Signs a certificate for a fresh ECDSA P-256 key.
    ///
    /// It is valid from a little before `now`, by the lesser of a minute and `ttl`, to bear clock
    /// skew; and until `now + ttl`, rounded up to the whole second that X.509 can express.
    pub fn issue(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<Svid, IdentityError> {
        self.check_may_issue(id, ttl)?;
        let key = new_key()?;
        let parameters = leaf_parameters(id, ttl, now)?;
        let root = self.root_certificate()?;
        let certificate = {
            let issuer = rcgen::Issuer::from_ca_cert_der(&root, self.root_key()?).map_err(IdentityError::authority)?;
            parameters.signed_by(&key, &issuer).map_err(IdentityError::authority)?
        };
        let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let svid = Svid::from_der(vec![certificate.der().clone()], secret);
        Ok(svid.map_err(|source| IdentityError::Svid { path: self.directory.clone(), source })?.with_issued_at(now))
    }

    fn key_path(&self) -> PathBuf {
        self.directory.join("private").join(ROOT_KEY)
    }

    /// The directory of the root key, which must be closed to others: whoever can write there can
    /// put his own root in place.
    fn private(&self) -> Result<PathBuf, IdentityError> {
        let private = self.directory.join("private");
        let status = fs::metadata(&private).map_err(|error| IdentityError::io(&private, &error))?;
        refuse_exposed(&private, &status)?;
        Ok(private)
    }

    fn create(&self, now: SystemTime) -> Result<(), IdentityError> {
        let private = self.directory.join("private");
        // The directory itself keeps the usual permissions: its bundle is for everybody.
        fs::create_dir_all(&self.directory).map_err(|error| IdentityError::io(&self.directory, &error))?;
        match DirBuilder::new().mode(0o700).create(&private) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(IdentityError::io(&private, &error));
            }
            _ => {}
        }
        let path = self.private()?.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock =
            lock.and_then(|file| file.lock().map(|()| file)).map_err(|error| IdentityError::io(&path, &error))?;
        let created = self.create_locked(now);
        drop(lock);
        created
    }

    /// With the lock held: whoever came first has done the work already.
    fn create_locked(&self, now: SystemTime) -> Result<(), IdentityError> {
        if self.bundle_path().exists() {
            return Ok(());
        }
        // A key without its certificate is left by a crash between the two, or by a lost bundle:
        // the same key in a new certificate still verifies what it signed before.
        let key = if self.key_path().exists() {
            self.root_key()?
        } else {
            let key = new_key()?;
            write_atomically(&self.key_path(), Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
            key
        };
        let certificate =
            root_parameters(&self.trust_domain, now)?.self_signed(&key).map_err(IdentityError::authority)?;
        write_atomically(&self.bundle_path(), certificate.pem().as_bytes(), 0o644)
    }

    /// Refuses an exposed key, a key of another root, and the root of another trust domain.
    fn check(&self) -> Result<(), IdentityError> {
        let root = self.root_certificate()?;
        let bundle = |source| IdentityError::Bundle { path: self.bundle_path(), source };
        let id = verify_signing_certificate(&root).map_err(|source| bundle(BundleError::Root { index: 0, source }))?;
        match id {
            Some(id) if id.trust_domain() == self.trust_domain.as_str() => {}
            other => {
                let found = other.map_or_else(|| "(none)".to_owned(), |id| id.trust_domain().to_owned());
                return Err(IdentityError::WrongTrustDomain { expected: self.trust_domain.clone(), found });
            }
        }
        let key = self.root_key()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&root).map_err(IdentityError::authority)?;
        if parsed.public_key().subject_public_key.data.as_ref() == key.der_bytes() {
            return Ok(());
        }
        Err(IdentityError::Svid { path: self.key_path(), source: SvidError::KeyMismatch })
    }

    fn check_may_issue(&self, id: &SpiffeId, ttl: Duration) -> Result<(), IdentityError> {
        if id.trust_domain() != self.trust_domain.as_str() {
            let found = self.trust_domain.as_str().to_owned();
            return Err(IdentityError::WrongTrustDomain { expected: TrustDomain::of(id), found });
        }
        if ttl < MIN_TTL || ttl > ROOT_LIFETIME {
            return Err(IdentityError::Authority(format!("a lifetime of {ttl:?} is not between 1 s and 10 years")));
        }
        Ok(())
    }

    fn root_certificate(&self) -> Result<CertificateDer<'static>, IdentityError> {
        let path = self.bundle_path();
        let pem = fs::read(&path).map_err(|error| IdentityError::io(&path, &error))?;
        CertificateDer::from_pem_slice(&pem)
            .map_err(|error| IdentityError::Bundle { path, source: BundleError::Malformed(error.to_string()) })
    }

    fn root_key(&self) -> Result<KeyPair, IdentityError> {
        let path = self.private()?.join(ROOT_KEY);
        let pem = read_secret(&path)?;
        let unusable = |reason: String| IdentityError::Svid { path: path.clone(), source: SvidError::Key(reason) };
        let text = std::str::from_utf8(&pem).map_err(|error| unusable(error.to_string()))?;
        KeyPair::from_pem(text).map_err(|error| unusable(error.to_string()))
    }
}

/// Issues one identity from a [`DevCa`], with the bundles of further trust domains beside its own.
pub struct DevCaIssuer {
    authority: DevCa,
    id: SpiffeId,
    ttl: Duration,
    further: Vec<BundleFile>,
    clock: Arc<dyn Clock>,
    seen: Seen,
}

impl DevCaIssuer {
    /// For `id`, which must belong to the authority's trust domain.
    pub fn new(authority: DevCa, id: SpiffeId, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        let seen = Seen::new(vec![authority.bundle_path()]);
        Self { authority, id, ttl, further: Vec::new(), clock, seen }
    }

    /// Trusts further trust domains, each by its own bundle.
    #[must_use]
    pub fn with_bundles(mut self, further: Vec<BundleFile>) -> Self {
        let own = std::iter::once(self.authority.bundle_path());
        self.seen = Seen::new(own.chain(further.iter().map(|bundle| bundle.path.clone())).collect());
        self.further = further;
        self
    }
}

impl Issuer for DevCaIssuer {
    fn issue(&self) -> Result<Identity, IdentityError> {
        self.seen.look();
        let svid = self.authority.issue(&self.id, self.ttl, self.clock.wall())?;
        let mut bundles = self.further.iter().map(BundleFile::load).collect::<Result<Vec<_>, _>>()?;
        // Last, so that no configured file can replace the roots of our own trust domain.
        bundles.push(self.authority.bundle()?);
        Ok(Identity { svid, bundles: TrustBundles::from_iter(bundles) })
    }

    fn changed(&self) -> bool {
        self.seen.has_changed()
    }
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::authority)
}

fn root_parameters(trust_domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, IdentityError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    name.push(DnType::CommonName, "libmesh development root");
    let mut parameters = CertificateParams::default();
    parameters.not_before = calendar(seconds(now).saturating_sub(MAX_SKEW.as_secs()))?;
    parameters.not_after = calendar(seconds(now) + ROOT_LIFETIME.as_secs())?;
    parameters.subject_alt_names = vec![uri(&trust_domain.id())?];
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn leaf_parameters(id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<CertificateParams, IdentityError> {
    let end = now + ttl;
    let whole = seconds(end);
    let rounded_up = if UNIX_EPOCH + Duration::from_secs(whole) < end { whole + 1 } else { whole };
    let mut parameters = CertificateParams::default();
    parameters.not_before = calendar(seconds(now).saturating_sub(MAX_SKEW.min(ttl).as_secs()))?;
    parameters.not_after = calendar(rounded_up)?;
    parameters.subject_alt_names = vec![uri(id)?];
    parameters.distinguished_name = DistinguishedName::new();
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn uri(id: &SpiffeId) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(id.as_str().try_into().map_err(IdentityError::authority)?))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn calendar(seconds: u64) -> Result<OffsetDateTime, IdentityError> {
    let seconds = i64::try_from(seconds).map_err(IdentityError::authority)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(IdentityError::authority)
}

/// The permissions are those of the open file, so they cannot be swapped between look and read.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let io = |error: std::io::Error| IdentityError::io(path, &error);
    let mut file = File::open(path).map_err(io)?;
    let status = file.metadata().map_err(io)?;
    refuse_exposed(path, &status)?;
    // Room for all of it at once: a buffer that grows would leave copies behind.
    let length = usize::try_from(status.len()).unwrap_or(0).saturating_add(1);
    let mut pem = Zeroizing::new(Vec::with_capacity(length));
    file.read_to_end(&mut pem).map_err(io)?;
    Ok(pem)
}

fn refuse_exposed(path: &Path, status: &fs::Metadata) -> Result<(), IdentityError> {
    match status.permissions().mode() & 0o777 {
        mode if mode & 0o077 != 0 => Err(IdentityError::Exposed { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// A reader sees nothing or all of it, and a crash leaves at most a file of another name.
fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let suffix = format!("{}-{:x}.new", std::process::id(), fastrand::u64(..));
    let temporary = path.with_extension(suffix);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // Exactly this mode, whatever the process's umask takes away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        IdentityError::io(path, &error)
    })
}

const ROOT_KEY: &str = "root.key";
/// As Istio's self-signed root: 10 years.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// X.509 counts whole seconds.
const MIN_TTL: Duration = Duration::from_secs(1);
/// How far clocks may differ; more is worth a warning anyway.
const MAX_SKEW: Duration = Duration::from_secs(60);

#[cfg(test)]
#[path = "dev_ca_tests.rs"]
mod tests;
