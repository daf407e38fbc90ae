//! What a global limit counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::access::verdict::FailureReason;

/// Counters of one limit.
#[derive(Debug, Default)]
pub struct Counts {
    calls: [AtomicU64; 2],
    leased: AtomicU64,
    /// By reason: refused, passed.
    failed: [[AtomicU64; 2]; 4],
    last_failure: AtomicUsize,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One request.
    Request,
    /// Requests to come.
    Lease,
}

impl Purpose {
    /// Stable name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Lease => "lease",
        }
    }
}

impl Counts {
    /// Calls to the server.
    pub fn calls(&self, purpose: Purpose) -> u64 {
        self.calls[purpose as usize].load(Ordering::Relaxed)
    }

    /// Requests that passed on what was granted, or asked for, before.
    pub fn leased_total(&self) -> u64 {
        self.leased.load(Ordering::Relaxed)
    }

    /// Requests that a failure let pass, or refused, by the name of its reason.
    pub fn failures(&self, reason: &str, passed: bool) -> u64 {
        let at = REASONS.iter().position(|known| *known == reason);
        at.map_or(0, |at| self.failed[at][usize::from(passed)].load(Ordering::Relaxed))
    }

    pub(super) fn called(&self, purpose: Purpose) {
        self.calls[purpose as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leased(&self) {
        self.leased.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, reason: FailureReason, passed: bool, requests: u64) {
        let at = index(reason);
        self.last_failure.store(at, Ordering::Relaxed);
        self.failed[at][usize::from(passed)].fetch_add(requests, Ordering::Relaxed);
    }

    /// Why requests pass while nobody is asked.
    pub(super) fn last_failure(&self) -> FailureReason {
        match self.last_failure.load(Ordering::Relaxed) {
            0 => FailureReason::Timeout,
            1 => FailureReason::Rpc(tonic::Code::Unavailable),
            2 => FailureReason::ServerError,
            _ => FailureReason::Malformed,
        }
    }
}

/// Stable names of what can go wrong.
pub const REASONS: [&str; 4] = ["timeout", "rpc", "server_error", "malformed"];

const fn index(reason: FailureReason) -> usize {
    match reason {
        FailureReason::Timeout => 0,
        FailureReason::Rpc(_) => 1,
        FailureReason::ServerError => 2,
        FailureReason::Malformed => 3,
    }
}
