use std::collections::HashSet;
use std::process::Command;

use super::super::mint::{StillClock, day};
use super::super::verifier::{PeerRole, verify_chain};
use super::*;

const TTL: Duration = Duration::from_secs(3600);

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://td/ns/default/sa/a").unwrap()
}

fn open(directory: &Path) -> Result<DevCa, IdentityError> {
    DevCa::open(directory, &trust_domain(), day())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_issued_certificate_is_an_svid_that_the_bundle_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory.path().join("deep/ca")).unwrap();
    let svid = authority.issue(&id(), TTL, day()).unwrap();
    assert_eq!(svid.id(), &id());
    assert_eq!(svid.issued_at(), day());
    assert_eq!(svid.not_before(), day() - Duration::from_secs(60));
    assert_eq!(svid.not_after(), day() + TTL);
    let bundles = TrustBundles::from_iter([authority.bundle().unwrap()]);
    for role in [PeerRole::Client, PeerRole::Server] {
        assert_eq!(verify_chain(&bundles, svid.chain(), role, day()).unwrap(), id());
    }
    assert_ne!(svid.serial(), authority.issue(&id(), TTL, day()).unwrap().serial());
}

#[test]
fn a_lifetime_is_never_cut_short_by_whole_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let (now, ttl) = (day() + Duration::from_millis(900), Duration::from_secs(4));
    let svid = authority.issue(&id(), ttl, now).unwrap();
    assert_eq!(svid.not_after(), day() + Duration::from_secs(5));
    assert_eq!(svid.not_before(), day() - Duration::from_secs(4));
}

#[test]
fn the_root_key_is_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let key = authority.key_path();
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(key.parent().unwrap()), 0o700);
    assert_eq!(mode(&authority.bundle_path()), 0o644);
    for exposed in [0o640, 0o604, 0o620] {
        fs::set_permissions(&key, fs::Permissions::from_mode(exposed)).unwrap();
        let refused = IdentityError::Exposed { path: key.clone(), mode: exposed };
        assert_eq!(open(directory.path()).unwrap_err(), refused);
        assert_eq!(authority.issue(&id(), TTL, day()).unwrap_err(), refused);
        assert!(refused.to_string().contains("chmod go="));
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let private = key.parent().unwrap();
    fs::set_permissions(private, fs::Permissions::from_mode(0o770)).unwrap();
    assert_eq!(open(directory.path()).unwrap_err(), IdentityError::Exposed { path: private.into(), mode: 0o770 });
    fs::set_permissions(private, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(open(directory.path()).is_ok());
}

#[test]
fn an_authority_issues_for_its_own_trust_domain_only() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let stranger = SpiffeId::parse("spiffe://other/a").unwrap();
    assert!(matches!(authority.issue(&stranger, TTL, day()), Err(IdentityError::WrongTrustDomain { .. })));
    assert!(authority.issue(&trust_domain().id(), TTL, day()).is_err(), "a leaf needs a path");
    assert!(authority.issue(&id(), Duration::from_millis(999), day()).is_err());
    let other = TrustDomain::parse("other").unwrap();
    let error = DevCa::open(directory.path(), &other, day()).unwrap_err();
    assert_eq!(error, IdentityError::WrongTrustDomain { expected: other, found: "td".into() });
}

#[test]
fn a_lost_bundle_comes_back_with_the_same_key_and_a_foreign_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let before = authority.issue(&id(), TTL, day()).unwrap();
    fs::remove_file(authority.bundle_path()).unwrap();
    let authority = open(directory.path()).unwrap();
    let bundles = TrustBundles::from_iter([authority.bundle().unwrap()]);
    assert!(verify_chain(&bundles, before.chain(), PeerRole::Client, day()).is_ok());

    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = open(elsewhere.path()).unwrap();
    fs::copy(foreign.key_path(), authority.key_path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Svid { source: SvidError::KeyMismatch, .. }), "{error}");
}

#[test]
fn threads_that_open_one_empty_directory_end_with_one_root() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca");
        let roots: HashSet<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| open(&path).unwrap().bundle().unwrap().roots()[0].to_vec())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(roots.len(), 1);
        let left: Vec<_> = fs::read_dir(path.join("private")).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "root.key and lock: {left:?}");
    }
}

const SHARED: &str = "LIBMESH_TEST_SHARED_CA";

#[test]
fn processes_that_open_one_empty_directory_end_with_one_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "identity::dev_ca::tests::child_opens_the_shared_directory"])
                .env(SHARED, &path)
                .output_later()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let printed: HashSet<Vec<u8>> = fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| fs::read(path).unwrap())
        .collect();
    let root = open(&path).unwrap().bundle().unwrap().roots()[0].to_vec();
    assert_eq!(printed, HashSet::from([root]), "every process saw the one root");
}

trait OutputLater {
    fn output_later(&mut self) -> std::process::Child;
}

impl OutputLater for Command {
    fn output_later(&mut self) -> std::process::Child {
        self.stdout(std::process::Stdio::null()).spawn().unwrap()
    }
}

#[test]
#[ignore = "started in several processes by the test above"]
fn child_opens_the_shared_directory() {
    let path = PathBuf::from(std::env::var_os(SHARED).unwrap());
    let root = open(&path).unwrap().bundle().unwrap().roots()[0].to_vec();
    let report = path.parent().unwrap().join(format!("root-{}", std::process::id()));
    fs::write(report, root).unwrap();
}

#[test]
fn the_issuer_brings_further_trust_domains_and_notices_a_new_root() {
    let directory = tempfile::tempdir().unwrap();
    let (own, other) = (directory.path().join("own"), directory.path().join("other"));
    let other_domain = TrustDomain::parse("other").unwrap();
    let stranger = DevCa::open(&other, &other_domain, day()).unwrap();
    let further = BundleFile { trust_domain: other_domain, path: stranger.bundle_path() };
    let clock = StillClock::at(day());
    let issuer = DevCaIssuer::new(open(&own).unwrap(), id(), TTL, clock).with_bundles(vec![further]);
    let identity = issuer.issue().unwrap();
    assert_eq!(identity.bundles.iter().count(), 2);
    assert!(!issuer.changed());

    fs::remove_dir_all(&own).unwrap();
    assert!(issuer.changed());
    assert!(issuer.issue().is_err(), "no root, no certificate");
    open(&own).unwrap();
    assert!(issuer.changed());
    let renewed = issuer.issue().unwrap();
    assert_ne!(renewed.bundles, identity.bundles);
    assert!(verify_chain(&renewed.bundles, renewed.svid.chain(), PeerRole::Client, day()).is_ok());
    assert!(verify_chain(&renewed.bundles, identity.svid.chain(), PeerRole::Client, day()).is_err());
}

#[test]
fn no_debug_output_holds_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let svid = authority.issue(&id(), TTL, day()).unwrap();
    let text = format!("{authority:?} {svid:?}");
    assert!(text.contains("spiffe://td/ns/default/sa/a"));
    assert!(!text.to_lowercase().contains("key"), "{text}");
}
