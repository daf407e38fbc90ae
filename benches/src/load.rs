//! A closed loop: each client sends its next request when it has read the last answer.
//!
//! Decides: which requests count: those that began and ended inside the measured interval.
//! Invariant: CPU time, the count and the elapsed time are read at the same two moments.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Failure;
use crate::case::Requester;
use crate::usage;

/// What was measured.
pub struct Measured {
    /// Requests answered.
    pub requests: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// CPU time of this process.
    pub own_cpu: Duration,
    /// CPU time of the sidecar, if there is one.
    pub sidecar_cpu: Duration,
    /// Response times in microseconds.
    pub latency: Histogram<u64>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    is_measuring: AtomicBool,
    is_over: AtomicBool,
}

/// Runs all `clients` for a second of warm-up and then for `span`.
pub async fn closed_loop<R: Requester>(
    clients: Vec<R>,
    span: Duration,
    sidecar: Option<u32>,
) -> Result<Measured, Failure> {
    let shared = Arc::new(Shared::default());
    let loops: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(client_loop(client, Arc::clone(&shared)))).collect();
    tokio::time::sleep(WARM_UP).await;
    let before = Reading::take(&shared, sidecar)?;
    shared.is_measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(span).await;
    let after = Reading::take(&shared, sidecar)?;
    shared.is_measuring.store(false, Ordering::Relaxed);
    shared.is_over.store(true, Ordering::Relaxed);
    let mut latency = histogram()?;
    for one in loops {
        latency.add(one.await??)?;
    }
    Ok(Measured {
        requests: after.requests - before.requests,
        elapsed: after.at - before.at,
        own_cpu: after.own_cpu.saturating_sub(before.own_cpu),
        sidecar_cpu: after.sidecar_cpu.saturating_sub(before.sidecar_cpu),
        latency,
    })
}

struct Reading {
    at: Instant,
    requests: u64,
    own_cpu: Duration,
    sidecar_cpu: Duration,
}

impl Reading {
    fn take(shared: &Shared, sidecar: Option<u32>) -> Result<Self, Failure> {
        Ok(Self {
            at: Instant::now(),
            requests: shared.requests.load(Ordering::Relaxed),
            own_cpu: usage::own_cpu()?,
            sidecar_cpu: sidecar.map_or(Ok(Duration::ZERO), usage::cpu_of)?,
        })
    }
}

async fn client_loop<R: Requester>(mut client: R, shared: Arc<Shared>) -> Result<Histogram<u64>, Failure> {
    let mut latency = histogram()?;
    while !shared.is_over.load(Ordering::Relaxed) {
        let is_measured = shared.is_measuring.load(Ordering::Relaxed);
        let start = Instant::now();
        client.once().await?;
        if is_measured && shared.is_measuring.load(Ordering::Relaxed) {
            latency.record(start.elapsed().as_micros().min(LONGEST.into()) as u64)?;
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
    }
    Ok(latency)
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, LONGEST, 3)?)
}

const WARM_UP: Duration = Duration::from_secs(1);
/// Microseconds; nothing here may take a minute.
const LONGEST: u64 = 60_000_000;
