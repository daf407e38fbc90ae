//! How many requests in a span of time: token buckets, one or one for each key.
//!
//! Decides: whether a request may pass now, and if not, when it is worth asking again. Never: waits, reads
//! a clock, remembers more keys than it was given room for.
//! Invariant: whatever the interleaving, no more requests pass than tokens there were; time that runs
//! backwards adds none.

mod keyed;
mod record;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use self::keyed::KeyedBuckets;
pub use self::record::Record;
use super::Invalid;

/// Size and refill of a bucket, which starts full (Envoy's `token_bucket`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    max_tokens: u32,
    tokens_per_fill: u32,
    fill_interval: Duration,
}

impl RateLimit {
    /// At most `max_tokens` at once, `tokens_per_fill` more at every multiple of `fill_interval`.
    pub fn new(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Result<Self, Invalid> {
        if max_tokens == 0 {
            return Err(Invalid { field: "max_tokens", must: "be at least 1" });
        }
        if tokens_per_fill == 0 {
            return Err(Invalid { field: "tokens_per_fill", must: "be at least 1" });
        }
        if fill_interval < MIN_INTERVAL {
            return Err(Invalid { field: "fill_interval", must: "be at least 50ms" });
        }
        Ok(Self { max_tokens, tokens_per_fill, fill_interval })
    }

    /// What passes in the long run: so many in each interval.
    pub(super) fn rate(self) -> (u32, Duration) {
        (self.tokens_per_fill.min(self.max_tokens), self.fill_interval)
    }
}

/// Tokens that requests take and time gives back.
#[derive(Debug)]
pub struct TokenBucket {
    limit: RateLimit,
    start: Instant,
    /// Upper half: fills since the start that were counted. Lower half: tokens left.
    state: AtomicU64,
}

/// No token was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Until the next fill.
    pub retry_after: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, start: now, state: AtomicU64::new(u64::from(limit.max_tokens)) }
    }

    /// Takes a token.
    pub fn take(&self, now: Instant) -> Result<(), Limited> {
        let elapsed = now.saturating_duration_since(self.start);
        let fills = self.fills(elapsed);
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (counted, left) = self.refilled(state, fills);
            let Some(rest) = left.checked_sub(1) else {
                let next = self.limit.fill_interval.saturating_mul(counted.saturating_add(1));
                return Err(Limited { retry_after: next.saturating_sub(elapsed) });
            };
            let taken = u64::from(counted) << 32 | u64::from(rest);
            match self.state.compare_exchange_weak(state, taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => state = other,
            }
        }
    }

    /// Tokens left now.
    pub fn left(&self, now: Instant) -> u32 {
        let fills = self.fills(now.saturating_duration_since(self.start));
        self.refilled(self.state.load(Ordering::Relaxed), fills).1
    }

    /// Whether nothing has been taken that is not back: such a bucket may be forgotten.
    fn is_full(&self, now: Instant) -> bool {
        self.left(now) == self.limit.max_tokens
    }

    /// Fills so far. The count ends after 2^32 of them: six years at the shortest interval.
    fn fills(&self, elapsed: Duration) -> u32 {
        u32::try_from(elapsed.as_nanos() / self.limit.fill_interval.as_nanos()).unwrap_or(u32::MAX)
    }

    fn refilled(&self, state: u64, fills: u32) -> (u32, u32) {
        let (counted, left) = ((state >> 32) as u32, state as u32);
        let new = fills.saturating_sub(counted).saturating_mul(self.limit.tokens_per_fill);
        (counted.max(fills), left.saturating_add(new).min(self.limit.max_tokens))
    }
}

/// Envoy's shortest interval.
pub(super) const MIN_INTERVAL: Duration = Duration::from_millis(50);
