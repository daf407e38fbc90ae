//! What opens a breaker, for how long, and what closes it again.
//!
//! Decides: nothing at run time; it only refuses values no breaker can work with.
//! Never: holds state. Invariant: every value that exists here is usable.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::window::{Counts, Span, Window};
use crate::policy::Invalid;
use crate::policy::backoff::{Backoff, Jitter};

/// The rules of a breaker. Either trip opens it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row.
    pub consecutive_failures: Option<NonZeroU32>,
    /// A share of failures in a window.
    pub rate: Option<RateTrip>,
    /// A share of slow answers in a window.
    pub slow: Option<SlowTrip>,
    /// How long it stays open, longer each time it opens again without a recovery.
    pub open_for: Backoff,
    /// How it is tried again.
    pub half_open: HalfOpen,
    /// Who decides.
    pub mode: Mode,
}

impl BreakerConfig {
    /// Whether any results open it.
    pub fn can_open(&self) -> bool {
        self.consecutive_failures.is_some() || self.rate.is_some() || self.slow.is_some()
    }
}

/// 5 in a row, or below 80 % of at least 5 in 30 s; open 5 s to 300 s with equal jitter; one probe
/// [Finagle failure accrual].
impl Default for BreakerConfig {
    fn default() -> Self {
        let (window, threshold) = (Duration::from_secs(30), Threshold::SuccessesBelow(0.8));
        let open_for = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
        Self {
            consecutive_failures: NonZeroU32::new(5),
            rate: Some(RateTrip { span: Span::Time(window), min_requests: 5, threshold }),
            slow: None,
            open_for: open_for.and_then(|wait| wait.with_jitter(Jitter::Equal)).unwrap_or_default(),
            half_open: HalfOpen::default(),
            mode: Mode::Automatic,
        }
    }
}

/// Opens on a share of failures among enough results of a rolling window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateTrip {
    span: Span,
    min_requests: u32,
    threshold: Threshold,
}

/// The share, and on which side of it the breaker opens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Opens when at least this share failed [Hystrix, resilience4j, Polly].
    FailuresAtLeast(f64),
    /// Opens when less than this share succeeded [Finagle, linkerd].
    SuccessesBelow(f64),
}

impl RateTrip {
    /// Judges once `min_requests` results are in `window`.
    pub fn new(window: Duration, min_requests: u32, threshold: Threshold) -> Result<Self, Invalid> {
        if window < MIN_WINDOW {
            return Err(Invalid { field: "circuit_breaker.rate.window", must: "be at least 100 ms" });
        }
        Self::over(Span::Time(window), min_requests, threshold)
    }

    /// Judges the last `requests` results, however old, once there are `min_requests` [resilience4j].
    pub fn of_last(requests: NonZeroU32, min_requests: u32, threshold: Threshold) -> Result<Self, Invalid> {
        if min_requests > requests.get() {
            return Err(Invalid { field: "circuit_breaker.rate.min_requests", must: "fit into the window" });
        }
        Self::over(Span::Requests(requests), min_requests, threshold)
    }

    fn over(span: Span, min_requests: u32, threshold: Threshold) -> Result<Self, Invalid> {
        let (Threshold::FailuresAtLeast(share) | Threshold::SuccessesBelow(share)) = threshold;
        if !(share > 0.0 && share <= 1.0) {
            return Err(Invalid { field: "circuit_breaker.rate.threshold", must: "be above 0 and at most 1" });
        }
        if min_requests == 0 {
            return Err(Invalid { field: "circuit_breaker.rate.min_requests", must: "be above zero" });
        }
        Ok(Self { span, min_requests, threshold })
    }

    pub(super) fn window(&self, now: Instant) -> Window {
        Window::new(self.span, now)
    }

    pub(super) fn is_exceeded(&self, counts: Counts) -> bool {
        if counts.total < u64::from(self.min_requests) {
            return false;
        }
        let share = |part: u64| part as f64 / counts.total as f64;
        match self.threshold {
            Threshold::FailuresAtLeast(limit) => share(counts.failures) >= limit,
            Threshold::SuccessesBelow(limit) => share(counts.total - counts.failures) < limit,
        }
    }
}

/// Opens on a share of slow answers. A probe that is slow has failed, whatever it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowTrip {
    after: Duration,
    trip: RateTrip,
}

impl SlowTrip {
    /// An answer (its head) is slow when it took `after` or longer; `trip` counts such answers as failures.
    pub fn new(after: Duration, trip: RateTrip) -> Result<Self, Invalid> {
        if after.is_zero() {
            return Err(Invalid { field: "circuit_breaker.slow_call", must: "be above zero" });
        }
        Ok(Self { after, trip })
    }

    pub(super) fn after(&self) -> Duration {
        self.after
    }

    pub(super) fn trip(&self) -> RateTrip {
        self.trip
    }
}

/// How an open breaker is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfOpen {
    probes: NonZeroU32,
    tolerated_failures: u32,
    max_wait: Duration,
}

impl HalfOpen {
    /// Lets `probes` attempts pass. It closes when all are judged and opens again as soon as more than
    /// `tolerated_failures` failed. Probes that say nothing for `max_wait` are given up.
    pub fn new(probes: NonZeroU32, tolerated_failures: u32, max_wait: Duration) -> Result<Self, Invalid> {
        if tolerated_failures >= probes.get() {
            return Err(Invalid { field: "circuit_breaker.half_open.tolerated_failures", must: "be below probes" });
        }
        if max_wait.is_zero() {
            return Err(Invalid { field: "circuit_breaker.half_open.max_wait", must: "be above zero" });
        }
        Ok(Self { probes, tolerated_failures, max_wait })
    }

    pub(super) fn probes(&self) -> u32 {
        self.probes.get()
    }

    pub(super) fn tolerated_failures(&self) -> u32 {
        self.tolerated_failures
    }

    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }
}

/// One probe decides [Hystrix, Finagle]; a probe is given up after 30 s, twice the default request timeout.
impl Default for HalfOpen {
    fn default() -> Self {
        Self { probes: NonZeroU32::MIN, tolerated_failures: 0, max_wait: Duration::from_secs(30) }
    }
}

/// Who decides whether attempts pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The results.
    Automatic,
    /// Everything is refused until further notice.
    ForcedOpen,
    /// Everything passes and nothing is counted.
    ForcedClosed,
    /// Everything passes and is counted: shows what the breaker would do.
    Observe,
}

impl Mode {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Automatic => 0,
            Self::ForcedOpen => 1,
            Self::ForcedClosed => 2,
            Self::Observe => 3,
        }
    }

    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::ForcedOpen,
            2 => Self::ForcedClosed,
            3 => Self::Observe,
            _ => Self::Automatic,
        }
    }
}

/// Ten buckets of 10 ms: finer than that a window measures the scheduler.
const MIN_WINDOW: Duration = Duration::from_millis(100);
