//! One case, one round, one process.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::case::{self, Bare, Case, Meshed};
use crate::load::{self, Measured};
use crate::usage;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Task {
    /// Which way.
    #[arg(long, value_enum)]
    pub case: Case,
    /// Where to: the upstream, or the sidecar in front of it.
    #[arg(long)]
    pub address: SocketAddr,
    /// Requests in flight.
    #[arg(long, default_value_t = 1)]
    pub in_flight: usize,
    /// For how long.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// The sidecar's process, whose cost is part of the case.
    #[arg(long)]
    pub sidecar: Option<u32>,
}

/// What one round of one case cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sample {
    /// Requests a second.
    pub rate: f64,
    /// Median response time, microseconds.
    pub p50: f64,
    /// 99th percentile, microseconds.
    pub p99: f64,
    /// CPU seconds of client and sidecar for ten thousand requests.
    pub cpu: f64,
    /// Resident memory of client and sidecar, MiB.
    pub resident: f64,
}

/// Measures and prints the sample.
pub fn run(task: &Task) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (measured, resident) = runtime.block_on(async {
        let measured = measure(task).await?;
        let sidecar = task.sidecar.map(|process| usage::resident_mib(&process.to_string())).transpose()?;
        Ok::<_, Failure>((measured, usage::resident_mib("self")? + sidecar.unwrap_or(0.0)))
    })?;
    println!("{}", serde_json::to_string(&sample(&measured, resident))?);
    Ok(())
}

/// Client, mesh and connections all run on this one thread, in every case.
async fn measure(task: &Task) -> Result<Measured, Failure> {
    let span = Duration::from_secs_f64(task.seconds);
    if task.case == Case::Mesh {
        let mesh = case::mesh(task.address)?;
        let clients = (0..task.in_flight).map(|_| Meshed::new(&mesh)).collect();
        return load::closed_loop::<Meshed>(clients, span, None).await;
    }
    let mut clients = Vec::new();
    for _ in 0..task.in_flight {
        clients.push(Bare::connect(task.address).await?);
    }
    load::closed_loop(clients, span, task.sidecar).await
}

fn sample(measured: &Measured, resident: f64) -> Sample {
    let requests = measured.requests.max(1) as f64;
    Sample {
        rate: measured.requests as f64 / measured.elapsed.as_secs_f64(),
        p50: measured.latency.value_at_quantile(0.50) as f64,
        p99: measured.latency.value_at_quantile(0.99) as f64,
        cpu: (measured.own_cpu + measured.sidecar_cpu).as_secs_f64() / requests * 10_000.0,
        resident,
    }
}
