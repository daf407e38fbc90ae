//! An identity that somebody else writes to files (cert-manager, Vault, an operator).
//!
//! Decides: whether what lies on disk now is a usable identity. Never: writes a file, and never
//! hands out a certificate with the key of another; a half-written change is an error, and the last
//! good identity stays in use. Invariant: every file is read anew at each issue.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::bundle::{TrustBundle, TrustBundles};
use super::error::IdentityError;
use super::rotation::Issuer;
use super::source::Identity;
use super::spiffe_id::{SpiffeId, TrustDomain};
use super::svid::Svid;

/// A PEM file with the roots of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Whose roots.
    pub trust_domain: TrustDomain,
    /// Where they are.
    pub path: PathBuf,
}

impl BundleFile {
    /// Reads it.
    pub fn load(&self) -> Result<TrustBundle, IdentityError> {
        let pem = read(&self.path)?;
        TrustBundle::from_pem(self.trust_domain.clone(), &pem)
            .map_err(|source| IdentityError::Bundle { path: self.path.clone(), source })
    }
}

/// Reads certificate, key and bundles from PEM files.
#[derive(Debug)]
pub struct FileIssuer {
    id: SpiffeId,
    certificate: PathBuf,
    key: PathBuf,
    bundles: Vec<BundleFile>,
    seen: Seen,
}

impl FileIssuer {
    /// The certificate must name `id`. `bundles` holds that of its trust domain, and any further.
    pub fn new(id: SpiffeId, certificate: PathBuf, key: PathBuf, bundles: Vec<BundleFile>) -> Self {
        let own = [certificate.clone(), key.clone()].into_iter();
        let seen = Seen::new(own.chain(bundles.iter().map(|bundle| bundle.path.clone())).collect());
        Self { id, certificate, key, bundles, seen }
    }
}

impl Issuer for FileIssuer {
    fn issue(&self) -> Result<Identity, IdentityError> {
        self.seen.look();
        let certificate = read(&self.certificate)?;
        let svid = Svid::from_pem_pair(&certificate, &read(&self.key)?)
            .map_err(|source| IdentityError::Svid { path: self.certificate.clone(), source })?;
        if *svid.id() != self.id {
            return Err(IdentityError::WrongId { expected: self.id.clone(), found: svid.id().clone() });
        }
        let bundles = self.bundles.iter().map(BundleFile::load).collect::<Result<TrustBundles, _>>()?;
        Ok(Identity { svid, bundles })
    }

    fn changed(&self) -> bool {
        self.seen.has_changed()
    }
}

/// What some files looked like when they were last read.
#[derive(Debug)]
pub(super) struct Seen {
    paths: Vec<PathBuf>,
    stamps: Mutex<Vec<Stamp>>,
}

impl Seen {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, stamps: Mutex::default() }
    }

    /// Call before reading: a change during the read is then noticed at the next look.
    pub(super) fn look(&self) {
        *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) = self.stamp();
    }

    pub(super) fn has_changed(&self) -> bool {
        *self.stamps.lock().unwrap_or_else(PoisonError::into_inner) != self.stamp()
    }

    fn stamp(&self) -> Vec<Stamp> {
        self.paths.iter().map(|path| stamp(path)).collect()
    }
}

/// Modification time and length, `None` for a file that is not there. Links are followed, because
/// Kubernetes swaps a link for all files of a volume.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let status = fs::metadata(path).ok()?;
    Some((status.modified().ok()?, status.len()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    fs::read(path).map(Zeroizing::new).map_err(|error| IdentityError::io(path, &error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::error::SvidError;
    use super::super::mint;
    use super::super::source::IdentitySource;
    use super::*;

    struct Files {
        directory: tempfile::TempDir,
        issuer: FileIssuer,
    }

    fn files() -> Files {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let bundle = BundleFile { trust_domain: TrustDomain::parse("td").unwrap(), path: path("ca.pem") };
        let id = SpiffeId::parse("spiffe://td/a").unwrap();
        let issuer = FileIssuer::new(id, path("a.pem"), path("a.key"), vec![bundle]);
        fs::write(path("ca.pem"), mint::authority("td").root_pem()).unwrap();
        Files { directory, issuer }
    }

    impl Files {
        fn write(&self, name: &str, content: &str) {
            fs::write(self.directory.path().join(name), content).unwrap();
        }
    }

    #[test]
    fn a_new_certificate_is_taken_only_with_its_own_key() {
        for certificate_first in [true, false] {
            let files = files();
            let authority = mint::authority("td");
            let hour = Duration::from_secs(3600);
            let (old, new) = (authority.pem_pair("spiffe://td/a", hour), authority.pem_pair("spiffe://td/a", hour));
            let source = IdentitySource::new();
            files.write("a.pem", &old.0);
            files.write("a.key", &old.1);
            source.publish(files.issuer.issue().unwrap());
            let before = source.recent_serials();
            assert!(!files.issuer.changed());

            // A line more, so that the length differs even on a coarse file clock.
            let (certificate, key) = (format!("{}\n", new.0), format!("{}\n", new.1));
            let mut halves = [("a.pem", certificate), ("a.key", key)];
            if !certificate_first {
                halves.reverse();
            }
            files.write(halves[0].0, &halves[0].1);
            assert!(files.issuer.changed());
            let half = files.issuer.issue().unwrap_err();
            assert!(matches!(half, IdentityError::Svid { source: SvidError::KeyMismatch, .. }), "{half}");
            source.note_failure(&half);
            assert_eq!(source.recent_serials(), before, "the last good pair stays");

            files.write(halves[1].0, &halves[1].1);
            assert!(files.issuer.changed());
            assert!(source.publish(files.issuer.issue().unwrap()));
            assert_eq!(source.recent_serials().len(), 2);
            assert!(!source.publish(files.issuer.issue().unwrap()), "the same again is no rotation");
        }
    }

    #[test]
    fn a_certificate_of_somebody_else_is_refused() {
        let files = files();
        let pair = mint::authority("td").pem_pair("spiffe://td/b", Duration::from_secs(60));
        files.write("a.pem", &pair.0);
        files.write("a.key", &pair.1);
        assert!(matches!(files.issuer.issue(), Err(IdentityError::WrongId { .. })));
    }

    #[test]
    fn a_missing_or_truncated_file_is_an_error_that_names_it() {
        let files = files();
        assert!(files.issuer.issue().unwrap_err().to_string().contains("a.pem"));
        let pair = mint::authority("td").pem_pair("spiffe://td/a", Duration::from_secs(60));
        files.write("a.pem", &pair.0);
        files.write("a.key", &pair.1);
        files.write("ca.pem", "");
        assert!(files.issuer.issue().unwrap_err().to_string().contains("ca.pem"));
    }
}
