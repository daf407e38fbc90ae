//! Where an issuer's keys come from, and which are in force.
//!
//! Decides: which keys verify now: the last good ones. Never: fetches or watches; background work puts keys in force.
//! Invariant: without keys nobody is let in; tokens remembered as verified are forgotten with the keys that did it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;

use super::key::KeySet;
use super::user::Proven;

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The document.
    Inline(String),
    /// A file, watched.
    File(PathBuf),
    /// A service of the mesh.
    Remote {
        /// The cluster.
        cluster: Arc<str>,
        /// What it is asked for.
        uri: Uri,
        /// How often it is asked.
        interval: Duration,
        /// How long an answer may take.
        timeout: Duration,
    },
}

/// The keys of one issuer. They outlive the document, as long as it names the same origin.
pub struct KeySource {
    origin: Origin,
    keys: ArcSwapOption<Keys>,
    is_doubted: AtomicBool,
}

/// Keys in force, and what they verified.
pub(super) struct Keys {
    pub(super) set: KeySet,
    pub(super) remembered: Remembered,
}

impl KeySource {
    /// No key yet.
    pub fn new(origin: Origin) -> Self {
        Self { origin, keys: ArcSwapOption::empty(), is_doubted: AtomicBool::new(false) }
    }

    /// Where they come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Puts keys in force; the same ones again change nothing.
    pub fn publish(&self, set: KeySet) {
        if self.keys.load().as_ref().is_some_and(|keys| keys.set.digest == set.digest) {
            return;
        }
        self.keys.store(Some(Arc::new(Keys { set, remembered: Remembered::default() })));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.load().as_ref().map_or(0, |keys| keys.set.len())
    }

    /// Whether a token has named a key that is not there, since this was asked last.
    pub fn take_doubt(&self) -> bool {
        self.is_doubted.load(Ordering::Relaxed) && self.is_doubted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn doubt(&self) {
        self.is_doubted.store(true, Ordering::Relaxed);
    }

    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }
}

/// What a token is remembered by: 128 bits of two SipHashes under secret keys, drawn once. The token itself is a
/// credential and is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64, u64);

impl Digest {
    pub(super) fn of(text: &[u8]) -> Self {
        static SECRETS: OnceLock<[RandomState; 2]> = OnceLock::new();
        let [high, low] = SECRETS.get_or_init(|| [RandomState::new(), RandomState::new()]);
        Self(high.hash_one(text), low.hash_one(text))
    }
}

/// Tokens whose signature was verified, in two generations: when the younger is full, it becomes the older, and what
/// was in that is forgotten.
pub(super) struct Remembered {
    shards: [Mutex<Generations>; SHARDS],
}

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Arc<Proven>>,
    old: HashMap<Digest, Arc<Proven>>,
}

impl Default for Remembered {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Remembered {
    pub(super) fn find(&self, digest: Digest) -> Option<Arc<Proven>> {
        let mut shard = self.shard(digest);
        if let Some(found) = shard.young.get(&digest) {
            return Some(Arc::clone(found));
        }
        let found = shard.old.remove(&digest)?;
        shard.insert(digest, Arc::clone(&found));
        Some(found)
    }

    pub(super) fn remember(&self, digest: Digest, proven: &Arc<Proven>) {
        self.shard(digest).insert(digest, Arc::clone(proven));
    }

    fn shard(&self, digest: Digest) -> std::sync::MutexGuard<'_, Generations> {
        let shard = &self.shards[digest.0 as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest, proven: Arc<Proven>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, proven);
    }
}

const SHARDS: usize = 16;
/// Of one shard: 8192 tokens of an issuer are remembered at most (ours), 4096 for certain.
const GENERATION: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_forgets_the_oldest_and_keeps_what_is_used() {
        let remembered = Remembered::default();
        let proven = Arc::new(Proven::new(serde_json::Map::new(), "{}".to_owned()));
        let used = Digest::of(b"used");
        remembered.remember(used, &proven);
        for n in 0..100_000 {
            remembered.remember(Digest::of(n.to_string().as_bytes()), &proven);
            assert!(n % 100 != 0 || remembered.find(used).is_some(), "{n}");
        }
        let held: usize =
            remembered.shards.iter().map(|shard| shard.lock().unwrap()).map(|s| s.young.len() + s.old.len()).sum();
        assert!(held <= 2 * SHARDS * GENERATION, "{held}");
        assert!(remembered.find(Digest::of(b"0")).is_none());
    }
}
