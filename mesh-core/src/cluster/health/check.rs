//! Active health checks: when to probe, and how many results in a row mean something.
//!
//! Decides: the time of the next probe, and whether a result changes what is said of the endpoint.
//! Never: sends one, or keeps a clock.
//! Invariant: an endpoint is never probed twice at once; but for the first result and a result that is
//! final by itself, nothing changes before as many equal results in a row as the thresholds say.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri};

use super::Word;
use crate::time::after;

/// The health check of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// An answer that takes longer is a failure.
    pub timeout: Duration,
    /// When it is asked.
    pub schedule: Schedule,
    /// The schedule while the cluster has had no request.
    pub idle_schedule: Schedule,
    /// How many answers count.
    pub thresholds: Thresholds,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// An HTTP request.
    Http {
        /// Its method.
        method: Method,
        /// Its path and query.
        path: Uri,
        /// Its authority.
        host: HeaderValue,
        /// Answers that mean healthy, as inclusive ranges.
        expected: Vec<(u16, u16)>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked about; empty is the whole server.
        service: String,
        /// The authority.
        host: HeaderValue,
    },
    /// A connection, and what is said over it.
    Tcp {
        /// Sent first; may be empty.
        send: Vec<u8>,
        /// Has to be in the answer; empty expects none.
        receive: Vec<u8>,
    },
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From the end of a probe to the start of the next.
    pub interval: Duration,
    /// Share of the interval that is added at most, in percent.
    pub jitter_percent: u8,
}

/// Results in a row that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Successes until an unhealthy endpoint is healthy.
    pub healthy: NonZeroU32,
    /// Failures until a healthy endpoint is unhealthy.
    pub unhealthy: NonZeroU32,
}

/// The result of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// What it found.
    pub found: Found,
    /// Whether the endpoint could have said that it is draining: a TCP connection cannot.
    pub speaks: bool,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As expected.
    Healthy,
    /// As expected, and it says that it is degraded.
    Degraded,
    /// It says that it is draining: counts at once.
    Draining,
    /// Not as expected, or no answer.
    Failed,
    /// It says that it must not be used: counts at once.
    Refused,
}

/// Equal results in a row.
#[derive(Debug, Default)]
pub(super) struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// What is said after one more result.
    pub(super) fn after(&mut self, before: Word, probe: Probe, thresholds: Thresholds) -> Word {
        let (word, is_good) = match probe.found {
            Found::Healthy => (Word::Healthy, true),
            Found::Degraded => (Word::Degraded, true),
            Found::Draining => (Word::Draining, true),
            Found::Failed | Found::Refused => (Word::Unhealthy, false),
        };
        (self.good, self.bad) =
            if is_good { (self.good.saturating_add(1), 0) } else { (0, self.bad.saturating_add(1)) };
        let is_final = matches!(probe.found, Found::Draining | Found::Refused);
        let is_enough = match (before, is_good) {
            (Word::Unhealthy, true) => self.good >= thresholds.healthy.get(),
            // Between healthy, degraded and draining there is nothing to doubt: the endpoint says so itself.
            (_, true) => true,
            (_, false) => self.bad >= thresholds.unhealthy.get(),
        };
        if before.is_first() || is_final || is_enough { word } else { before }
    }
}

/// Whose turn it is: the endpoint's, or the wait between two probes.
#[derive(Debug, Default)]
pub(super) struct Turn {
    is_taken: bool,
    /// When the last probe ended, and the share of jitter drawn for the wait after it.
    last: Option<(Instant, f64)>,
    draw: f64,
}

impl Turn {
    pub(super) fn take(&mut self, schedule: Schedule, now: Instant, rng: &mut fastrand::Rng) -> bool {
        let is_due = self.last.is_none_or(|(ended, draw)| now >= after(ended, schedule.wait(draw)));
        if self.is_taken || !is_due {
            return false;
        }
        self.is_taken = true;
        self.draw = rng.f64();
        true
    }

    pub(super) fn give_back(&mut self, now: Instant) {
        self.is_taken = false;
        self.last = Some((now, self.draw));
    }
}

impl Schedule {
    fn wait(&self, draw: f64) -> Duration {
        self.interval + self.interval.mul_f64(draw * f64::from(self.jitter_percent.min(100)) / 100.0)
    }
}
