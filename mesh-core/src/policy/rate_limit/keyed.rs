//! A bucket for each key: a caller, a header's value, a path.
//!
//! Decides: which keys are remembered when there are more than there is room for: those that have taken
//! something lately. Never: confuses two keys; whole keys are compared.
//! Invariant: forgetting a key only ever gives it a full bucket again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Limited, RateLimit, TokenBucket};

/// Buckets by key.
#[derive(Debug)]
pub struct KeyedBuckets {
    limit: RateLimit,
    hasher: RandomState,
    /// The secret of the digests, as old as the buckets.
    digests: [RandomState; 2],
    shards: Box<[Mutex<Buckets>]>,
    room: usize,
    evicted: AtomicU64,
}

type Buckets = HashMap<Box<[u8]>, Arc<TokenBucket>>;

impl KeyedBuckets {
    /// Room for about `max_keys` keys.
    pub fn new(limit: RateLimit, max_keys: usize) -> Self {
        let shards = SHARDS.min(max_keys.max(1));
        Self {
            limit,
            hasher: RandomState::new(),
            digests: [RandomState::new(), RandomState::new()],
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            room: max_keys.max(1).div_ceil(shards),
            evicted: AtomicU64::new(0),
        }
    }

    /// Takes a token of `key`'s bucket.
    pub fn take(&self, key: &[u8], now: Instant) -> Result<(), Limited> {
        self.bucket(key, now).take(now)
    }

    /// What stands in a key for a value that must not, or is too long: 128 bits of two SipHashes under secret keys.
    pub fn digest(&self, value: &[u8]) -> [u8; 16] {
        let [high, low] = &self.digests;
        let digest = u128::from(high.hash_one(value)) << 64 | u128::from(low.hash_one(value));
        digest.to_le_bytes()
    }

    /// Requests, and in which span, of each bucket in the long run.
    pub fn limit(&self) -> (u32, std::time::Duration) {
        self.limit.rate()
    }

    /// Keys that are remembered.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Keys that were forgotten although their bucket was not full: there is too little room.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn bucket(&self, key: &[u8], now: Instant) -> Arc<TokenBucket> {
        let shard = (self.hasher.hash_one(key) % self.shards.len() as u64) as usize;
        let mut buckets = lock(&self.shards[shard]);
        if let Some(bucket) = buckets.get(key) {
            return Arc::clone(bucket);
        }
        if buckets.len() >= self.room {
            self.make_room(&mut buckets, now);
        }
        let bucket = Arc::new(TokenBucket::new(self.limit, now));
        buckets.insert(key.into(), Arc::clone(&bucket));
        bucket
    }

    /// Full buckets go first. If there is none, half of the keys go, whichever: rare, and then cheap for long.
    fn make_room(&self, buckets: &mut Buckets, now: Instant) {
        buckets.retain(|_, bucket| !bucket.is_full(now));
        if buckets.len() < self.room {
            return;
        }
        let before = buckets.len();
        let mut keep = self.room / 2;
        buckets.retain(|_, _| {
            keep = keep.saturating_sub(1);
            keep > 0
        });
        self.evicted.fetch_add((before - buckets.len()) as u64, Ordering::Relaxed);
    }
}

/// Locks are held for one look-up.
const SHARDS: usize = 16;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
