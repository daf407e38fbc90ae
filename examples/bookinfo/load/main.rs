//! The load generator: users outside, with nothing of the mesh in them.
//!
//! Open loop: request `n` is due at `start + n / rps` whatever happened to the ones before, and its
//! latency counts from when it was due, so that a stall of the server is not hidden by a client that
//! politely waits (no coordinated omission). Nothing is retried; every status and every error counts.

mod arguments;
mod connections;
mod ledger;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use crate::arguments::Arguments;
use crate::connections::Connections;
use crate::ledger::{Ledger, Outcome};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments = Arc::new(Arguments::parse(std::env::args().skip(1))?);
    let ledger = Arc::new(Ledger::new());
    let printing = tokio::spawn(print_progress(Arc::clone(&ledger)));
    let requests = send_all(&arguments, &ledger).await;
    printing.abort();
    println!("{}", ledger.progress());
    std::fs::write(&arguments.report, format!("{:#}\n", ledger.report(requests)))?;
    Ok(())
}

/// Sends each request when it is due; returns when the last has ended.
async fn send_all(arguments: &Arc<Arguments>, ledger: &Arc<Ledger>) -> u64 {
    let connections = Arc::new(Connections::new(arguments.target));
    let requests = arguments.requests();
    let start = Instant::now();
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0..requests {
        let due = start + Duration::from_secs_f64(number as f64 / f64::from(arguments.rps));
        tokio::time::sleep_until(due.into()).await;
        let (arguments, ledger) = (Arc::clone(arguments), Arc::clone(ledger));
        let connections = Arc::clone(&connections);
        under_way.spawn(async move {
            let sending = send(&arguments, &connections, number);
            let outcome = match tokio::time::timeout(PATIENCE, sending).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Error("no answer in 20 s".to_owned()),
            };
            ledger.enter(number, due.elapsed(), outcome);
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    requests
}

async fn send(arguments: &Arguments, connections: &Connections, number: u64) -> Outcome {
    match exchange(arguments, connections, number).await {
        Ok((StatusCode::OK, body)) if PARTS.iter().all(|part| contains(&body, part)) => Outcome::Page,
        Ok((StatusCode::OK, _)) => Outcome::Error("200 without the page".to_owned()),
        Ok((status, _)) => Outcome::Status(status.as_u16()),
        Err(error) => Outcome::Error(error.to_string()),
    }
}

async fn exchange(
    arguments: &Arguments,
    connections: &Connections,
    number: u64,
) -> Result<(StatusCode, Vec<u8>), BoxError> {
    let request = Request::get("/productpage")
        .header(header::HOST, "bookinfo.example")
        .header("end-user", format!("user-{}", number % arguments.users))
        .body(Empty::new())?;
    let mut sender = connections.take().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connections.put_back(sender);
    Ok((status, body.to_vec()))
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

async fn print_progress(ledger: Arc<Ledger>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    loop {
        tick.tick().await;
        println!("{}", ledger.progress());
    }
}

/// How long a user waits for a page.
const PATIENCE: Duration = Duration::from_secs(20);
/// A page is whole when it has what `details` and what `reviews` contribute.
const PARTS: [&[u8]; 2] = [b"William Shakespeare", b"Reviewer2"];
