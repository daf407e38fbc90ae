//! Who makes room for a new answer.
//!
//! Decides: which entry goes when the cache is full: S3-FIFO (Yang et al., SOSP 2023). What is new waits in a short
//! queue and leaves it unless it is asked for again, so that a thousand questions asked once do not push out the
//! answers in use. Who left and comes back soon is trusted at once.
//! Never: is told of a hit; it reads the entry's own count when it looks for room.
//! Invariant: neither the number of entries nor their bytes exceed the bounds after an insertion.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::entry::Entry;
use super::key::Key;

/// How much may be held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

/// The order in which entries came.
pub(super) struct Queues {
    bounds: Bounds,
    bytes: usize,
    /// New ones.
    trial: VecDeque<Key>,
    /// Those that were asked for again.
    proven: VecDeque<Key>,
    ghosts: Ghosts,
}

/// Something an insertion pushed out.
pub(super) struct Evicted {
    pub(super) key: Key,
    pub(super) was_live: bool,
}

impl Queues {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, bytes: 0, trial: VecDeque::new(), proven: VecDeque::new(), ghosts: Ghosts::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there could ever be room for it.
    pub(super) fn can_hold(&self, entry: &Entry) -> bool {
        self.bounds.entries > 0 && entry.bytes <= self.bounds.bytes
    }

    /// A new answer to a question that is held already. It keeps its place.
    pub(super) fn replace(&mut self, before: &Entry, entry: &Entry) {
        entry.standing.inherit(&before.standing);
        self.bytes = self.bytes - before.bytes + entry.bytes;
    }

    /// A new question.
    pub(super) fn push(&mut self, key: &Key, entry: &Entry) {
        let is_back = self.ghosts.known.contains_key(&key.hash);
        entry.standing.is_proven.store(is_back, Ordering::Relaxed);
        let queue = if is_back { &mut self.proven } else { &mut self.trial };
        queue.push_back(key.clone());
        self.bytes += entry.bytes;
    }

    /// The next to go, until nothing has to. `find` looks an entry up by its key.
    pub(super) fn evict<'a>(&mut self, now: Instant, find: impl Fn(&Key) -> Option<&'a Entry>) -> Option<Evicted> {
        while self.is_over() {
            let most_on_trial = (self.len() / TRIAL_SHARE).max(1);
            let from_trial = self.proven.is_empty() || self.trial.len() > most_on_trial;
            let queue = if from_trial { &mut self.trial } else { &mut self.proven };
            let key = queue.pop_front()?;
            let Some(entry) = find(&key) else { continue };
            let is_dead = entry.is_dead(now);
            if !is_dead && self.stays(&key, entry, from_trial) {
                continue;
            }
            self.bytes -= entry.bytes;
            if from_trial && !is_dead {
                self.ghosts.remember(key.hash, self.len());
            }
            return Some(Evicted { key, was_live: !is_dead });
        }
        None
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }

    /// Every pass takes hits away, so a search ends.
    fn stays(&mut self, key: &Key, entry: &Entry, from_trial: bool) -> bool {
        let stays = if from_trial { entry.standing.take_hits() > 0 } else { entry.standing.spend_hit() };
        if stays {
            entry.standing.is_proven.store(true, Ordering::Relaxed);
            self.proven.push_back(key.clone());
        }
        stays
    }

    fn is_over(&self) -> bool {
        self.len() > self.bounds.entries || self.bytes > self.bounds.bytes
    }

    fn len(&self) -> usize {
        self.trial.len() + self.proven.len()
    }
}

/// Hashes of keys that left without having been asked for again.
#[derive(Default)]
struct Ghosts {
    order: VecDeque<u64>,
    known: HashMap<u64, u32>,
}

impl Ghosts {
    fn remember(&mut self, hash: u64, held: usize) {
        self.order.push_back(hash);
        *self.known.entry(hash).or_default() += 1;
        while self.order.len() > held * GHOSTS_PER_ENTRY {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(times) = self.known.get_mut(&oldest) {
                *times -= 1;
                if *times == 0 {
                    self.known.remove(&oldest);
                }
            }
        }
    }
}

/// One in ten of the entries is on trial (S3-FIFO).
const TRIAL_SHARE: usize = 10;
/// So many that left are remembered for each entry that is held: a scan of that length does not make the cache forget
/// what comes back after it. A hash takes about 40 bytes.
const GHOSTS_PER_ENTRY: usize = 4;
