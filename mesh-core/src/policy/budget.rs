//! The retry budget: how many retries an upstream service can take.
//!
//! Decides: whether one more retry (or hedge) may be sent, as a share of recent requests plus a small
//! floor [Finagle RetryBudget; tower `TpsBudget`]. Shared by everything that adds load to a service.
//! Never: waits for a token, or forgives one: a refusal is immediate and final for that retry.
//! Invariant: retries granted in a window never exceed `ratio * requests + min_per_second * window`
//! of that window, so an outage is amplified by at most the ratio.
//!
//! Each request deposits once; each retry withdraws once, when it is decided. Both are lock free; a
//! lock is taken only when time enters another bucket, ten times a window.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Invalid;

/// How generous a budget is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetConfig {
    ratio: f64,
    min_per_second: u32,
    window: Duration,
}

impl BudgetConfig {
    /// `ratio` retries a request (0.2 is 20 %), plus `min_per_second`; requests count for `window`.
    pub fn new(ratio: f64, min_per_second: u32, window: Duration) -> Result<Self, Invalid> {
        if !(0.0..=MAX_RATIO).contains(&ratio) {
            return Err(Invalid { field: "budget.ratio", must: "be within 0 and 1000" });
        }
        if !(MIN_WINDOW..=MAX_WINDOW).contains(&window) {
            return Err(Invalid { field: "budget.window", must: "be within 1 s and 60 s" });
        }
        Ok(Self { ratio, min_per_second, window })
    }
}

/// 20 % of requests, at least 10 a second, over 10 s [Finagle's defaults].
impl Default for BudgetConfig {
    fn default() -> Self {
        Self { ratio: 0.2, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// Nothing is left: send the last outcome to the caller at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

/// The tokens of one upstream service.
#[derive(Debug)]
pub struct Budget {
    deposit: i64,
    cost: i64,
    bucket: Duration,
    /// The first `now` ever seen; buckets are numbered from it.
    epoch: OnceLock<Instant>,
    /// The number of the bucket being written.
    tick: AtomicU64,
    /// Deposits minus withdrawals of each live bucket.
    buckets: [AtomicI64; BUCKETS as usize],
    /// The reserve plus the sum of `buckets`.
    balance: AtomicI64,
    turn: Mutex<()>,
}

impl Budget {
    /// A budget that starts with its reserve, `min_per_second * window` retries.
    pub fn new(config: BudgetConfig) -> Self {
        let (deposit, cost) = token_sizes(config.ratio);
        let reserve = f64::from(config.min_per_second) * config.window.as_secs_f64() * cost as f64;
        Self {
            deposit,
            cost,
            bucket: config.window / BUCKETS,
            epoch: OnceLock::new(),
            tick: AtomicU64::new(0),
            buckets: Default::default(),
            balance: AtomicI64::new((reserve as i64).min(MAX_RESERVE)),
            turn: Mutex::new(()),
        }
    }

    /// Counts one logical request. Once per request, however many attempts or layers it has.
    pub fn deposit(&self, now: Instant) {
        let index = self.advance(now);
        self.buckets[index].fetch_add(self.deposit, Ordering::Relaxed);
        self.balance.fetch_add(self.deposit, Ordering::Relaxed);
    }

    /// Pays for one retry or hedge.
    pub fn withdraw(&self, now: Instant) -> Result<(), Empty> {
        let index = self.advance(now);
        let pay = |balance: i64| (balance >= self.cost).then(|| balance - self.cost);
        self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).map_err(|_| Empty)?;
        // Recorded in the bucket too: when it expires, the reserve it was paid from is whole again.
        self.buckets[index].fetch_sub(self.cost, Ordering::Relaxed);
        Ok(())
    }

    /// Takes back the payment for a retry that was not sent after all.
    pub fn refund(&self, now: Instant) {
        let index = self.advance(now);
        self.balance.fetch_add(self.cost, Ordering::Relaxed);
        self.buckets[index].fetch_add(self.cost, Ordering::Relaxed);
    }

    /// Whole retries that could be paid now.
    pub fn balance(&self, now: Instant) -> u64 {
        self.advance(now);
        (self.balance.load(Ordering::Relaxed).max(0) / self.cost).unsigned_abs()
    }

    /// Forgets buckets older than the window and gives the index of the one to write to.
    fn advance(&self, now: Instant) -> usize {
        let epoch = *self.epoch.get_or_init(|| now);
        let tick = (now.saturating_duration_since(epoch).as_nanos() / self.bucket.as_nanos().max(1)) as u64;
        if tick > self.tick.load(Ordering::Acquire) {
            self.turn_to(tick);
        }
        // A caller whose `now` is a little old writes to the bucket of today.
        (self.tick.load(Ordering::Acquire) % u64::from(BUCKETS)) as usize
    }

    fn turn_to(&self, tick: u64) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.tick.load(Ordering::Acquire);
        for passed in current.saturating_add(1)..=tick.min(current.saturating_add(u64::from(BUCKETS))) {
            let expired = self.buckets[(passed % u64::from(BUCKETS)) as usize].swap(0, Ordering::Relaxed);
            self.balance.fetch_sub(expired, Ordering::Relaxed);
        }
        self.tick.store(tick.max(current), Ordering::Release);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(BudgetConfig::default())
    }
}

/// Tokens in for a request, tokens out for a retry. Whole numbers, so that nothing drifts.
fn token_sizes(ratio: f64) -> (i64, i64) {
    if ratio == 0.0 {
        return (0, 1);
    }
    (SCALE, ((SCALE as f64 / ratio) as i64).max(1))
}

/// Tokens of one deposit: three decimals of precision [Finagle's scale factor].
const SCALE: i64 = 1000;
/// Buckets in a window [Finagle, tower].
const BUCKETS: u32 = 10;
/// Far above any real reserve, and far enough from overflow for deposits on top.
const MAX_RESERVE: i64 = i64::MAX / 2;
/// Most retries a request may earn [Finagle].
const MAX_RATIO: f64 = 1000.0;
/// Shortest window [Finagle].
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// Longest window [Finagle].
const MAX_WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
