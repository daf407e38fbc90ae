//! A lease for each set of descriptors.
//!
//! Decides: which are remembered when there are more than there is room for: those in use lately. Never: confuses
//! two keys; whole keys are compared.
//! Invariant: a question is settled with the lease that asked it, whatever was forgotten meanwhile.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Ask, Grant, Lease, Terms};

/// One lease, shared by the requests that it is about.
pub type Slot = Arc<Mutex<Lease>>;

/// Leases by key.
#[derive(Debug)]
pub struct Leases {
    terms: Terms,
    hasher: RandomState,
    /// The secret of the digests, as old as the leases.
    digests: [RandomState; 2],
    shards: Box<[Mutex<Slots>]>,
    room: usize,
    /// Quotas that several keys share, by the name the server gave.
    named: Mutex<HashMap<Box<str>, Slot>>,
    evicted: AtomicU64,
}

type Slots = HashMap<Box<[u8]>, Slot>;

impl Leases {
    /// Room for about `max_keys` keys.
    pub fn new(terms: Terms, max_keys: usize) -> Self {
        let shards = SHARDS.min(max_keys.max(1));
        Self {
            terms,
            hasher: RandomState::new(),
            digests: [RandomState::new(), RandomState::new()],
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            room: max_keys.max(1).div_ceil(shards),
            named: Mutex::default(),
            evicted: AtomicU64::new(0),
        }
    }

    /// A key of 128 bits: nothing secret is kept, and nobody fills the memory by what he sends.
    pub fn digest(&self, bytes: &[u8]) -> [u8; 16] {
        let [high, low] = &self.digests;
        (u128::from(high.hash_one(bytes)) << 64 | u128::from(low.hash_one(bytes))).to_le_bytes()
    }

    /// The lease of `key`.
    pub fn of(&self, key: &[u8], now: Instant) -> Slot {
        let mut slots = self.shard(key);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        if slots.len() >= self.room {
            self.make_room(&mut slots, now);
        }
        let slot = Arc::new(Mutex::new(Lease::new(self.terms, now)));
        slots.insert(key.into(), Arc::clone(&slot));
        slot
    }

    /// A question of `slot` about `key` was answered. A grant with a name is shared by all keys that got that name:
    /// then the returned lease takes the place of the one that asked.
    pub fn settle(&self, (key, slot): (&[u8], &Slot), ask: &Ask, (grant, name): (Grant, &str), now: Instant) -> Slot {
        if name.is_empty() {
            lock(slot).settle(ask, grant, now);
            return Arc::clone(slot);
        }
        let shared = {
            let mut named = lock(&self.named);
            if named.len() >= self.room * self.shards.len() {
                // Only the names' keeper knows those that no key refers to any more.
                named.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            Arc::clone(named.entry(name.into()).or_insert_with(|| Arc::clone(slot)))
        };
        if Arc::ptr_eq(&shared, slot) {
            lock(slot).settle(ask, grant, now);
        } else {
            let owed = lock(slot).fail(ask, now);
            lock(&shared).renew(owed, grant, now);
            self.shard(key).insert(key.into(), Arc::clone(&shared));
        }
        shared
    }

    /// Keys that are remembered.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Keys that were forgotten although they were in use: there is too little room.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Slots> {
        lock(&self.shards[(self.hasher.hash_one(key) % self.shards.len() as u64) as usize])
    }

    /// Idle leases go first. If there is none, half of the keys go, whichever: rare, and then cheap for long.
    fn make_room(&self, slots: &mut Slots, now: Instant) {
        slots.retain(|_, slot| !lock(slot).is_idle(now));
        if slots.len() < self.room {
            return;
        }
        let before = slots.len();
        let mut keep = self.room / 2;
        slots.retain(|_, _| {
            keep = keep.saturating_sub(1);
            keep > 0
        });
        self.evicted.fetch_add((before - slots.len()) as u64, Ordering::Relaxed);
    }
}

/// A panic elsewhere leaves a lease as it was between two of its steps.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks are held for one look-up.
const SHARDS: usize = 16;
