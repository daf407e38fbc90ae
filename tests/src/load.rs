//! Open-loop load on a client: requests start on time, whether or not earlier ones have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use mesh_core::{Body, CallReport, ServiceClient};
use tokio::task::{JoinHandle, JoinSet};

/// Defaults for a client whose story is not about how fast this machine is.
pub const PATIENT: &str = "defaults: { connect_timeout: 20s, timeout: 60s }";

/// A running load.
pub struct Load {
    stopping: Arc<AtomicBool>,
    sending: JoinHandle<Vec<Shot>>,
}

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Shot {
    /// Its number, from 0.
    pub number: u64,
    /// When it was sent.
    pub began: Instant,
    /// When it was answered to the end, or failed.
    pub ended: Instant,
    /// Status, or the error.
    pub result: Result<u16, String>,
    /// Body, when it was read to its end.
    pub body: String,
    /// How it went.
    pub report: Option<CallReport>,
}

impl Shot {
    /// Whether it was answered with a status below 400, and the body was read to its end.
    pub fn is_ok(&self) -> bool {
        self.result.as_ref().is_ok_and(|status| *status < 400)
    }
}

impl Load {
    /// Starts `per_second` requests a second; `make` builds the n-th.
    pub fn start(client: ServiceClient, per_second: u32, make: impl Fn(u64) -> Request<Body> + Send + 'static) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stopping);
        let sending = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
            let mut shots = JoinSet::new();
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                ticks.tick().await;
                shots.spawn(shoot(client.clone(), number, make(number)));
                number += 1;
            }
            let mut done = shots.join_all().await;
            done.sort_by_key(|shot| shot.number);
            done
        });
        Self { stopping, sending }
    }

    /// Stops sending, waits for what is in flight, and tells all.
    pub async fn stop(self) -> Vec<Shot> {
        self.stopping.store(true, Ordering::Relaxed);
        self.sending.await.unwrap_or_default()
    }
}

/// A quarter of what this machine serves of these requests, both ends being here, but not more than `most`. Who was
/// asked has earned retries by it, and is of no use for a storm.
pub async fn affordable(client: ServiceClient, most: u32, make: fn(u64) -> Request<Body>) -> u32 {
    let end = Instant::now() + Duration::from_secs(1);
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        callers.spawn(async move {
            let mut served = 0;
            while Instant::now() < end {
                served += u32::from(client.call(make(0)).await.is_ok_and(|response| response.status() == 200));
            }
            served
        });
    }
    (callers.join_all().await.iter().sum::<u32>() / 4).clamp(most / 4, most)
}

/// Those that failed, as text: for an assertion that says what went wrong.
pub fn failures(shots: &[Shot]) -> Vec<String> {
    let failed = shots.iter().filter(|shot| !shot.is_ok());
    failed.map(|shot| format!("{}: {:?}", shot.number, shot.result)).collect()
}

async fn shoot(client: ServiceClient, number: u64, request: Request<Body>) -> Shot {
    let began = Instant::now();
    let mut shot = Shot { number, began, ended: began, result: Ok(0), body: String::new(), report: None };
    match client.call(request).await {
        Ok(response) => {
            shot.report = response.extensions().get::<CallReport>().cloned();
            shot.result = Ok(response.status().as_u16());
            match response.into_body().collect_up_to(1 << 20).await {
                Ok(body) => shot.body = String::from_utf8_lossy(&body).into_owned(),
                Err(error) => shot.result = Err(format!("body: {error}")),
            }
        }
        Err(error) => shot.result = Err(error.to_string()),
    }
    shot.ended = Instant::now();
    shot
}
