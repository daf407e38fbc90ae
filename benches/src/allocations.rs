//! How often a request allocates, in the client's process.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::case::{self, Bare, Case, Meshed, Requester};
use crate::counting;
use crate::worker::Task;

/// Averages of one request.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PerRequest {
    /// Allocations.
    pub allocations: f64,
    /// Bytes asked for.
    pub bytes: f64,
}

/// Requests counted.
pub const COUNTED: u32 = 2_000;

/// Counts and prints the averages.
pub fn run(task: &Task) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counted = runtime.block_on(async {
        match task.case {
            Case::Mesh => count(Meshed::new(&case::mesh(task.address)?)).await,
            Case::Bare | Case::Envoy => count(Bare::connect(task.address).await?).await,
        }
    })?;
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}

async fn count<R: Requester>(mut client: R) -> Result<PerRequest, Failure> {
    // What is set up once (connection, pool, metric series, buffers) is no cost of a request.
    for _ in 0..WARM_UP {
        client.once().await?;
    }
    let count = counting::start();
    for _ in 0..COUNTED {
        client.once().await?;
    }
    let counts = count.stop();
    let per_request = |total: u64| total as f64 / f64::from(COUNTED);
    Ok(PerRequest { allocations: per_request(counts.allocations), bytes: per_request(counts.bytes) })
}

const WARM_UP: u32 = 200;
