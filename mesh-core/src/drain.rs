//! Lame duck: stop without losing a request.
//!
//! Decides: when a draining mesh may go. Never: refuses work that was already on its way.
//! Invariant: after `drain` returns, either every connection is gone or the grace is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Where a mesh is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Serving,
    /// Says goodbye on each response, finishes what is in flight, still accepts.
    Draining,
    /// The grace is over.
    Ended,
}

impl Phase {
    /// Its name in status and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Ended => "ended",
        }
    }
}

/// The phase, and what is still alive.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

struct Shared {
    phase: watch::Sender<Phase>,
    /// The application's own word; a drain overrides it.
    is_willing: AtomicBool,
    requests: AtomicUsize,
    connections: watch::Sender<usize>,
}

/// Keeps a connection (or an accept loop) counted.
pub struct ConnectionGuard {
    drain: Drain,
}

/// Keeps a request counted until its response has ended.
pub struct RequestGuard {
    drain: Drain,
}

impl Drain {
    /// Serving, nothing alive.
    pub fn new() -> Self {
        let shared = Shared {
            phase: watch::Sender::new(Phase::Serving),
            is_willing: AtomicBool::new(true),
            requests: AtomicUsize::new(0),
            connections: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// Whether new requests are wanted: not draining, and the application did not say otherwise.
    pub fn is_serving(&self) -> bool {
        self.shared.is_willing.load(Ordering::Relaxed) && self.phase() == Phase::Serving
    }

    /// The application says whether it wants new requests. What comes is served either way.
    pub fn set_serving(&self, is_willing: bool) {
        self.shared.is_willing.store(is_willing, Ordering::Relaxed);
    }

    /// Counts a connection.
    pub fn guard(&self) -> ConnectionGuard {
        self.shared.connections.send_modify(|count| *count += 1);
        ConnectionGuard { drain: self.clone() }
    }

    /// Counts a request.
    pub fn request(&self) -> RequestGuard {
        self.shared.requests.fetch_add(1, Ordering::AcqRel);
        RequestGuard { drain: self.clone() }
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Acquire)
    }

    /// Announces the drain, waits for the whole grace unless everybody left, then ends.
    ///
    /// It does not end when merely no request is in flight: a caller that holds an idle connection, or
    /// has not yet seen the new configuration, may still send one.
    pub async fn run(&self, grace: Duration) {
        self.shared.phase.send_if_modified(|phase| {
            let begins = *phase == Phase::Serving;
            if begins {
                *phase = Phase::Draining;
            }
            begins
        });
        tokio::time::sleep(grace).await;
        self.end().await;
    }

    /// Ends at once: accept loops stop, responses being written get half a second.
    pub async fn end(&self) {
        self.shared.phase.send_replace(Phase::Ended);
        let mut connections = self.shared.connections.subscribe();
        let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait_for(|count| *count == 0)).await;
    }

    /// Completes when the drain begins.
    pub async fn draining(&self) {
        let _ = self.shared.phase.subscribe().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Completes when the grace is over.
    pub async fn ended(&self) {
        let _ = self.shared.phase.subscribe().wait_for(|phase| *phase == Phase::Ended).await;
    }

    /// Completes when the drain has ended and every connection is gone.
    pub async fn closed(&self) {
        let _ = self.shared.phase.subscribe().wait_for(|phase| *phase == Phase::Ended).await;
        let _ = self.shared.connections.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectionGuard {
    /// Completes when the drain begins.
    pub async fn draining(&self) {
        self.drain.draining().await;
    }

    /// Completes when the grace is over.
    pub async fn ended(&self) {
        self.drain.ended().await;
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.drain.shared.connections.send_modify(|count| *count -= 1);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.drain.shared.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_lasts_its_grace_and_then_ends() {
        let drain = Drain::new();
        let connection = drain.guard();
        let running = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(Duration::from_millis(50)).await }
        });
        connection.draining().await;
        assert_eq!(drain.phase(), Phase::Draining);
        connection.ended().await;
        drop(connection);
        running.await.unwrap();
        drain.closed().await;
        assert_eq!(drain.phase(), Phase::Ended);
    }
}
