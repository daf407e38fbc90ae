//! The identity in use now, shared by all handshakes.
//!
//! Decides: whether the identity at hand may be presented. Never: fetches or renews one (that is
//! `rotation`), and never touches connections that already exist.
//! Invariant: certificate, key and bundles change in one swap; a handshake sees all old or all new.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::bundle::TrustBundles;
use super::error::IdentityError;
use super::svid::Svid;

/// One consistent answer to "who are we and whom do we trust".
#[derive(Debug, Clone)]
pub struct Identity {
    /// Our certificate and key.
    pub svid: Svid,
    /// The roots of every trust domain that we know.
    pub bundles: TrustBundles,
}

impl Identity {
    /// Whether the certificate may be presented at `wall`.
    pub fn check_valid_at(&self, wall: SystemTime) -> Result<(), IdentityError> {
        let svid = &self.svid;
        if wall >= svid.not_after() {
            return Err(IdentityError::Expired { id: svid.id().clone(), not_after: svid.not_after() });
        }
        if wall < svid.not_before() {
            return Err(IdentityError::NotYetValid { id: svid.id().clone(), not_before: svid.not_before() });
        }
        Ok(())
    }

    fn is_same_as(&self, other: &Self) -> bool {
        self.svid.chain() == other.svid.chain() && self.bundles == other.bundles
    }
}

/// Where handshakes find the current identity. Clones share it.
#[derive(Clone)]
pub struct IdentitySource(Arc<Shared>);

impl IdentitySource {
    /// Without an identity yet: every handshake fails until one is published.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            current: ArcSwapOption::empty(),
            published: watch::Sender::new(0),
            failures: AtomicU64::new(0),
            history: Mutex::new(History::default()),
            rotating: Arc::default(),
        }))
    }

    /// The identity at hand, expired or not.
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.0.current.load_full()
    }

    /// The identity, if it may be presented at `wall`.
    pub fn usable_at(&self, wall: SystemTime) -> Result<Arc<Identity>, IdentityError> {
        let identity = self.current().ok_or(IdentityError::Absent)?;
        identity.check_valid_at(wall)?;
        Ok(identity)
    }

    /// Puts an identity in use for new handshakes. Returns false, and does nothing, if it is the
    /// one already in use.
    pub fn publish(&self, identity: Identity) -> bool {
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        if self.current().is_some_and(|current| current.is_same_as(&identity)) {
            return false;
        }
        history.note(identity.svid.serial());
        history.last_error = None;
        self.0.current.store(Some(Arc::new(identity)));
        self.0.published.send_modify(|count| *count += 1);
        true
    }

    /// Counts a failed renewal, and keeps the reason for the admin page. The identity stays.
    pub fn note_failure(&self, error: &IdentityError) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        let mut history = self.0.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.last_error = Some(error.clone());
    }

    /// Follows the number of identities published so far.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }

    /// Identities published so far, the first included.
    pub fn rotations(&self) -> u64 {
        *self.0.published.borrow()
    }

    /// Renewals that failed so far.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Why the last renewal failed, if none has succeeded since.
    pub fn last_error(&self) -> Option<IdentityError> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner).last_error.clone()
    }

    /// Serial numbers of the latest certificates, the current one last; at most 64.
    pub fn recent_serials(&self) -> Vec<String> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner).serials.iter().cloned().collect()
    }

    /// Held by the one rotation loop of this source.
    pub(super) fn rotating(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.0.rotating.clone()
    }
}

impl Default for IdentitySource {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySource")
            .field("current", &self.current())
            .field("rotations", &self.rotations())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}

struct Shared {
    current: ArcSwapOption<Identity>,
    published: watch::Sender<u64>,
    failures: AtomicU64,
    history: Mutex<History>,
    rotating: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct History {
    serials: VecDeque<String>,
    last_error: Option<IdentityError>,
}

impl History {
    fn note(&mut self, serial: &str) {
        if self.serials.back().is_some_and(|last| last == serial) {
            return;
        }
        if self.serials.len() == SERIALS_KEPT {
            self.serials.pop_front();
        }
        self.serials.push_back(serial.to_owned());
    }
}

/// Certificates. Enough for two minutes of 4 s certificates on an admin page.
const SERIALS_KEPT: usize = 64;
