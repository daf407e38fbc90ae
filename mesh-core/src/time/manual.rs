//! A clock that stands still until it is told otherwise: for tests in which hours pass at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::Clock;

/// Time that passes only by [`advance`](Self::advance). Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: (Instant, SystemTime),
    passed: Mutex<Duration>,
    moved: Notify,
}

impl ManualClock {
    /// A clock that shows the present.
    pub fn new() -> Self {
        let start = (Instant::now(), SystemTime::now());
        Self(Arc::new(Shared { start, passed: Mutex::default(), moved: Notify::new() }))
    }

    /// Lets time pass, and wakes who waited for it.
    pub fn advance(&self, span: Duration) {
        *self.0.passed.lock().unwrap_or_else(PoisonError::into_inner) += span;
        self.0.moved.notify_waiters();
    }

    fn passed(&self) -> Duration {
        *self.0.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.0.start.0 + self.passed()
    }

    fn wall(&self) -> SystemTime {
        self.0.start.1 + self.passed()
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let moved = clock.0.moved.notified();
                if clock.now() >= deadline {
                    return;
                }
                moved.await;
            }
        })
    }
}
