//! Limits that a server assigns: the client's half of Envoy's rate limit quota protocol (RLQS).
//!
//! Decides: whether a request of a bucket passes, by what the server assigned to the bucket, by what stands for an
//! assignment that is not there yet or has expired; and what is to be reported of it. Never: asks anybody, makes a
//! request wait, or remembers more buckets than it was given room for.
//! Invariant: each request of a bucket is in exactly one report, as allowed or as denied, unless its bucket is
//! forgotten first.

mod bucket;
mod strategy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::bucket::Bucket;
pub use self::bucket::{BucketId, Report, Stage};
use self::strategy::Limiter;
pub use self::strategy::{Over, Strategy};

/// What holds where the server says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Until the first assignment; also for requests of buckets that there is no room for.
    pub unassigned: Strategy,
    /// After an assignment has expired.
    pub expired: Expired,
    /// Buckets that are remembered at most.
    pub max_buckets: usize,
}

/// What holds after an assignment has expired, and for how long. Then the bucket is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// `None`: the last assignment.
    pub fallback: Option<Strategy>,
    /// So long.
    pub lasts: Duration,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Set: it is over the limit.
    pub over: Option<Over>,
    /// Whether something is to be reported at once.
    pub is_news: bool,
}

/// What a server assigns to a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// How many requests pass.
    pub strategy: Strategy,
    /// For how long; `None`: until it is replaced.
    pub ttl: Option<Duration>,
}

/// What an assignment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in force, with tokens of its own.
    Replaced,
    /// It was in force; only its end has moved.
    Extended,
    /// Its bucket is not known here (any more).
    Unknown,
}

/// The buckets of one limit.
#[derive(Debug)]
pub struct Buckets {
    terms: Terms,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    room: usize,
    /// Keys of buckets that are to be reported at once.
    news: Mutex<Vec<Box<[u8]>>>,
    /// For requests of buckets that there is no room for.
    beyond: Mutex<Option<Limiter>>,
    overflowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<Box<[u8]>, Bucket>,
    /// When idle buckets were looked for.
    swept: Option<Instant>,
}

impl Buckets {
    /// No bucket is known yet.
    pub fn new(terms: Terms) -> Self {
        let shards = SHARDS.min(terms.max_buckets.max(1));
        Self {
            terms,
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            room: terms.max_buckets.max(1).div_ceil(shards),
            news: Mutex::default(),
            beyond: Mutex::default(),
            overflowed: AtomicU64::new(0),
        }
    }

    /// A request of that bucket comes. There is no room for a bucket of more than 4 KiB of keys and values.
    pub fn take(&self, id: &BucketId, now: Instant) -> Taken {
        if id.bytes() > LONGEST_ID {
            return self.take_beyond(now);
        }
        let key = id.key();
        let mut shard = self.shard(&key);
        let is_known = shard.buckets.contains_key(&*key);
        if !is_known && !shard.has_room(self.room, now) {
            drop(shard);
            return self.take_beyond(now);
        }
        let fresh = || Bucket::new(id.clone(), self.terms.unassigned, now);
        let bucket = shard.buckets.entry(key).or_insert_with_key(|_| fresh());
        let goes_on = bucket.advance(&self.terms, now);
        if !goes_on {
            bucket.restart(self.terms.unassigned, now);
        }
        let over = bucket.take(now).err();
        Taken { over, is_news: (!is_known || !goes_on) && self.note(bucket) }
    }

    /// The server assigns.
    pub fn assign(&self, id: &BucketId, assignment: Assignment, now: Instant) -> Applied {
        let key = id.key();
        let mut shard = self.shard(&key);
        let Some(bucket) = shard.buckets.get_mut(&*key) else { return Applied::Unknown };
        bucket.advance(&self.terms, now);
        let applied = bucket.assign(assignment, now);
        if applied == Applied::Replaced {
            self.note(bucket);
        }
        applied
    }

    /// The server will say no more about the bucket: it is forgotten, with what was not reported yet. Returns whether
    /// it was known.
    pub fn abandon(&self, id: &BucketId) -> bool {
        let key = id.key();
        self.shard(&key).buckets.remove(&*key).is_some()
    }

    /// What is to be reported at once: of buckets that are new, or have got another assignment.
    pub fn report_news(&self, now: Instant) -> Vec<Report> {
        let news = std::mem::take(&mut *lock(&self.news));
        let report = |key: Box<[u8]>| {
            let mut shard = self.shard(&key);
            shard.buckets.get_mut(&*key).filter(|bucket| bucket.is_news).map(|bucket| bucket.report(now))
        };
        news.into_iter().filter_map(report).collect()
    }

    /// What is to be reported at each interval, and first on a stream: of every bucket, which tells the server that
    /// it is still of interest. Buckets that nobody has used for long, or whose time after the assignment is over, are
    /// forgotten.
    pub fn report_all(&self, now: Instant) -> Vec<Report> {
        lock(&self.news).clear();
        let mut reports = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.buckets.retain(|_, bucket| {
                let is_kept = bucket.advance(&self.terms, now);
                if is_kept || bucket.has_unreported() {
                    reports.push(bucket.report(now));
                }
                is_kept && !bucket.is_idle(now)
            });
        }
        reports
    }

    /// How many are in that stage.
    pub fn count(&self, stage: Stage, now: Instant) -> usize {
        let is_in = |bucket: &&Bucket| bucket.stage(now) == stage;
        self.shards.iter().map(|shard| lock(shard).buckets.values().filter(is_in).count()).sum()
    }

    /// Requests that there was no bucket for: `max_buckets` is too small.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn take_beyond(&self, now: Instant) -> Taken {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        let mut beyond = lock(&self.beyond);
        let limiter = beyond.get_or_insert_with(|| Limiter::new(self.terms.unassigned, now));
        Taken { over: limiter.take(now).err(), is_news: false }
    }

    /// Notes that the bucket is to be reported at once. Whoever reports may be away for long: what is not noted is
    /// reported with all others.
    fn note(&self, bucket: &mut Bucket) -> bool {
        let mut news = lock(&self.news);
        if !bucket.is_news && news.len() < self.terms.max_buckets {
            bucket.is_news = true;
            news.push(bucket.id.key());
        }
        bucket.is_news
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(self.hasher.hash_one(key) % self.shards.len() as u64) as usize])
    }
}

impl Shard {
    /// Whether one more bucket may be there.
    fn has_room(&mut self, room: usize, now: Instant) -> bool {
        if self.buckets.len() < room {
            return true;
        }
        // Who sends ever new keys shall not make each of his requests look at all buckets.
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
            return false;
        }
        self.swept = Some(now);
        self.buckets.retain(|_, bucket| !bucket.is_idle(now));
        self.buckets.len() < room
    }
}

/// A panic elsewhere leaves a bucket as it was between two of its steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks are held for one look-up.
const SHARDS: usize = 16;
/// In bytes, so that nobody fills the memory by what he sends: an address, an identity and a path fit. Ours.
const LONGEST_ID: usize = 4096;
/// How often a full shard looks for idle buckets.
const SWEEP: Duration = Duration::from_secs(1);
