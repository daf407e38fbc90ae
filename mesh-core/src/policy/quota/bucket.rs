//! One bucket: what holds for its requests now, and what was counted since the last report.
//!
//! Decides: when an assignment has expired, and when the time after it is over. Never: gives tokens back because an
//! assignment was extended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::strategy::{Limiter, Over, Strategy};
use super::{Applied, Assignment, Terms};
use crate::time::after;

/// What a bucket is known by: keys and values, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketId(Arc<[(Box<str>, Box<str>)]>);

/// What was counted of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which bucket.
    pub id: BucketId,
    /// Time since its last report, or since its first request.
    pub elapsed: Duration,
    /// Requests that passed since.
    pub allowed: u64,
    /// Requests that were over the limit since.
    pub denied: u64,
}

/// Where a bucket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its first assignment.
    Unassigned,
    /// An assignment is in force.
    Active,
    /// An assignment was in force.
    Expired,
}

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) id: BucketId,
    stage: Stage,
    limiter: Limiter,
    /// The end of what holds; `None`: it has none.
    until: Option<Instant>,
    allowed: u64,
    denied: u64,
    reported: Instant,
    used: Instant,
    /// Whether it is to be reported at once.
    pub(super) is_news: bool,
}

impl BucketId {
    /// Of a key that is there twice the last value stays.
    pub fn new<K: Into<Box<str>>, V: Into<Box<str>>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut sorted = std::collections::BTreeMap::new();
        sorted.extend(pairs.into_iter().map(|(key, value)| (key.into(), value.into())));
        Self(sorted.into_iter().collect())
    }

    /// Keys and values, by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    /// What it takes in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.pairs().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Lengths keep keys and values apart.
    pub(super) fn key(&self) -> Box<[u8]> {
        let mut bytes = Vec::with_capacity(self.bytes() + 8 * self.0.len());
        for text in self.pairs().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.into()
    }
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unassigned, Self::Active, Self::Expired];

    /// Stable name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unassigned => "unassigned",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }
}

impl Bucket {
    pub(super) fn new(id: BucketId, unassigned: Strategy, now: Instant) -> Self {
        Self {
            id,
            stage: Stage::Unassigned,
            limiter: Limiter::new(unassigned, now),
            until: None,
            allowed: 0,
            denied: 0,
            reported: now,
            used: now,
            is_news: false,
        }
    }

    /// What has come to its end by now gives way to what follows. Returns whether anything follows.
    pub(super) fn advance(&mut self, terms: &Terms, now: Instant) -> bool {
        let Some(end) = self.until.filter(|end| *end <= now && self.stage == Stage::Active) else {
            return self.until.is_none_or(|end| now < end);
        };
        self.stage = Stage::Expired;
        let over = after(end, terms.expired.lasts);
        self.until = Some(over);
        if let Some(fallback) = terms.expired.fallback.filter(|_| now < over) {
            self.limiter = Limiter::new(fallback, end);
        }
        now < over
    }

    /// As if it were new, but for what is still to be reported.
    pub(super) fn restart(&mut self, unassigned: Strategy, now: Instant) {
        self.stage = Stage::Unassigned;
        self.limiter = Limiter::new(unassigned, now);
        self.until = None;
    }

    pub(super) fn take(&mut self, now: Instant) -> Result<(), Over> {
        self.used = now;
        let taken = self.limiter.take(now);
        match taken {
            Ok(()) => self.allowed += 1,
            Err(_) => self.denied += 1,
        }
        taken
    }

    pub(super) fn assign(&mut self, assignment: Assignment, now: Instant) -> Applied {
        self.until = assignment.ttl.map(|ttl| after(now, ttl));
        if self.stage == Stage::Active && self.limiter.strategy == assignment.strategy {
            return Applied::Extended;
        }
        self.stage = Stage::Active;
        self.limiter = Limiter::new(assignment.strategy, now);
        Applied::Replaced
    }

    pub(super) fn report(&mut self, now: Instant) -> Report {
        let report = Report {
            id: self.id.clone(),
            elapsed: now.saturating_duration_since(self.reported),
            allowed: std::mem::take(&mut self.allowed),
            denied: std::mem::take(&mut self.denied),
        };
        self.reported = now;
        self.is_news = false;
        report
    }

    /// Also where nothing has come since its assignment expired.
    pub(super) fn stage(&self, now: Instant) -> Stage {
        let has_ended = self.stage == Stage::Active && self.until.is_some_and(|end| end <= now);
        if has_ended { Stage::Expired } else { self.stage }
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.allowed + self.denied > 0
    }

    /// Whether nobody has used it for long.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= IDLE
    }
}

/// As leases: Mixer's idle expiry. The protocol leaves it to the client.
const IDLE: Duration = Duration::from_secs(600);
