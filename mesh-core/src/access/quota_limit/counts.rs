//! What a limit counted that a server assigns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one limit.
#[derive(Debug, Default)]
pub struct Counts {
    reports: AtomicU64,
    orders: [AtomicU64; 5],
    streams: AtomicU64,
    ends: [AtomicU64; 4],
    is_open: AtomicBool,
}

/// What became of something that the server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Replaced,
    Extended,
    Abandoned,
    Unknown,
    Malformed,
}

/// Stable names of what becomes of something that the server says.
pub const ORDERS: [&str; 5] = ["replaced", "extended", "abandoned", "unknown", "malformed"];

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// It broke, or could not be opened.
    Failed,
    /// The server ended it.
    Ended,
    /// The server has not begun to answer in time.
    Silent,
    /// Its endpoint is no longer one of the cluster's.
    Left,
}

impl StreamEnd {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Failed, Self::Ended, Self::Silent, Self::Left];

    /// Stable name for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "rpc",
            Self::Ended => "ended",
            Self::Silent => "timeout",
            Self::Left => "endpoint_left",
        }
    }
}

impl Counts {
    /// Buckets reported, each as often as it was.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// What became of what the server said, by name.
    pub fn orders(&self, name: &str) -> u64 {
        let at = ORDERS.iter().position(|known| *known == name);
        at.map_or(0, |at| self.orders[at].load(Ordering::Relaxed))
    }

    /// Streams begun.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Streams that ended so.
    pub fn ends(&self, end: StreamEnd) -> u64 {
        self.ends[end as usize].load(Ordering::Relaxed)
    }

    /// Whether a server answers on a stream now.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// A stream is begun.
    pub fn begun(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// The server answers on it.
    pub fn opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// It is over.
    pub fn ended(&self, end: StreamEnd) {
        self.is_open.store(false, Ordering::Relaxed);
        self.ends[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reported(&self, buckets: usize) {
        self.reports.fetch_add(buckets as u64, Ordering::Relaxed);
    }

    pub(super) fn followed(&self, order: Order) {
        self.orders[order as usize].fetch_add(1, Ordering::Relaxed);
    }
}
