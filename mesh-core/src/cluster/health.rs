//! How an endpoint is, as far as anybody told us: its operator, a health check, or itself.
//!
//! Decides: which of these voices counts. Never: probes (a shell does), picks, or knows of ejections
//! and breakers, which are drawn from requests and not from words.
//! Invariant: the worst word counts; a notice ends by itself, so that nothing an endpoint once said can
//! keep it out for good; reading costs two loads and no lock.

mod check;
pub mod notice;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::check::{Found, HealthCheck, Probe, Question, Schedule, Thresholds};
use self::check::{Streak, Turn};
use crate::time::after;

/// How an endpoint is. Ordered: of two words about one endpoint, the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Health {
    /// It may be used.
    #[default]
    Healthy,
    /// It may be used when the healthy ones do not suffice [Envoy].
    Degraded,
    /// It serves what it has and wants nothing new: used only when nothing available is left, panic or not,
    /// and then before what is broken.
    Draining,
    /// It must not be used, panic aside.
    Unhealthy,
}

impl Health {
    /// Its name in status, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What was said of one endpoint. Lives as long as the endpoint, through every document.
#[derive(Debug)]
pub struct HealthState {
    epoch: Instant,
    /// A [`Word`] of the health check.
    checked: AtomicU8,
    /// Nanoseconds from `epoch` until which the endpoint counts as draining; 0: nobody said so.
    draining_until: AtomicU64,
    check: Mutex<Checked>,
}

/// What the health check knows, between two probes.
#[derive(Debug, Default)]
struct Checked {
    streak: Streak,
    turn: Turn,
    /// When the endpoint last said it is draining.
    told_at: Option<Instant>,
}

/// A change of what the check says. For logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Health,
    /// Now.
    pub to: Health,
}

impl HealthState {
    /// Nothing was said yet. `waits`: the endpoint joins others that are known, and there is a health check,
    /// whose first success it waits for. The first list of a cluster is trusted until its first check: a
    /// process that just started has nobody else to ask [Envoy waits instead]. So is who is in use when a
    /// check is switched on.
    pub fn new(waits: bool, now: Instant) -> Self {
        let word = if waits { Word::Pending } else { Word::Trusted };
        Self {
            epoch: now,
            checked: AtomicU8::new(word as u8),
            draining_until: AtomicU64::new(0),
            check: Mutex::default(),
        }
    }

    /// The worst of what check and notice say. Without a check (any more) only the notice counts.
    pub fn health(&self, is_checked: bool, now: Instant) -> Health {
        let said = if is_checked { self.word().health() } else { Health::Healthy };
        if self.is_draining(now) { said.max(Health::Draining) } else { said }
    }

    /// Whether the endpoint said so, not longer ago than it counts.
    pub fn is_draining(&self, now: Instant) -> bool {
        let until = self.draining_until.load(Ordering::Acquire);
        until != 0 && self.nanos(now) < until
    }

    /// The endpoint says that it is draining. True when that is news.
    pub fn told_draining(&self, now: Instant) -> bool {
        let is_news = !self.is_draining(now);
        self.lock().told_at = Some(now);
        self.draining_until.store(self.nanos(after(now, NOTICE_LASTS)), Ordering::Release);
        is_news
    }

    /// Whether it is time to probe; if so, the turn is taken until [`probed`](Self::probed) or
    /// [`not_probed`](Self::not_probed).
    pub fn take_turn(&self, schedule: Schedule, now: Instant, rng: &mut fastrand::Rng) -> bool {
        self.lock().turn.take(schedule, now, rng)
    }

    /// The probe was not made, or its result says nothing.
    pub fn not_probed(&self, now: Instant) {
        self.lock().turn.give_back(now);
    }

    /// A probe that started at `since` ended. `Some`: the check's word changed.
    pub fn probed(&self, probe: Probe, since: Instant, of: (Thresholds, Instant)) -> Option<Change> {
        let (thresholds, now) = of;
        let mut checked = self.lock();
        checked.turn.give_back(now);
        self.hear(&mut checked, probe, since, now);
        let before = self.word();
        let word = checked.streak.after(before, probe, thresholds);
        self.checked.store(word as u8, Ordering::Release);
        let (from, to) = (before.health(), word.health());
        (from != to).then_some(Change { from, to })
    }

    /// A probe of the endpoint's own word alone, where no health check is configured.
    pub fn asked(&self, probe: Probe, since: Instant, now: Instant) {
        let mut checked = self.lock();
        checked.turn.give_back(now);
        self.hear(&mut checked, probe, since, now);
    }

    /// A word of the endpoint itself, from after the notice, replaces the notice.
    fn hear(&self, checked: &mut Checked, probe: Probe, since: Instant, now: Instant) {
        match probe.found {
            Found::Draining => {
                checked.told_at = Some(now);
                self.draining_until.store(self.nanos(after(now, NOTICE_LASTS)), Ordering::Release);
            }
            Found::Healthy | Found::Degraded if probe.speaks && checked.told_at.is_none_or(|told| told <= since) => {
                checked.told_at = None;
                self.draining_until.store(0, Ordering::Release);
            }
            _ => {}
        }
    }

    fn word(&self) -> Word {
        Word::from_code(self.checked.load(Ordering::Acquire))
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Checked> {
        self.check.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the health check has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Word {
    /// No result yet; used meanwhile.
    Trusted,
    /// No result yet; not used meanwhile.
    Pending,
    Healthy,
    Degraded,
    Draining,
    Unhealthy,
}

impl Word {
    fn health(self) -> Health {
        match self {
            Self::Trusted | Self::Healthy => Health::Healthy,
            Self::Degraded => Health::Degraded,
            Self::Draining => Health::Draining,
            Self::Pending | Self::Unhealthy => Health::Unhealthy,
        }
    }

    fn is_first(self) -> bool {
        matches!(self, Self::Trusted | Self::Pending)
    }

    fn from_code(code: u8) -> Self {
        let words = [Self::Trusted, Self::Pending, Self::Healthy, Self::Degraded, Self::Draining, Self::Unhealthy];
        words.get(usize::from(code)).copied().unwrap_or(Self::Trusted)
    }
}

/// How long a notice counts after it was last heard: Kubernetes' default termination grace period, after
/// which a draining process is gone.
pub const NOTICE_LASTS: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
