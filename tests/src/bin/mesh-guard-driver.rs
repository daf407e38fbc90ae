//! The Rust driver of the guard story: each attempt of each call ends as the job says. Prints a line a call with its
//! attempts and its result, and last the metrics.

use std::collections::VecDeque;

use mesh_core::Mesh;
use mesh_core::error::BoxError;
use mesh_core::guard::{Class, Failure, Outcome, Retryable};
use serde_json::{Value, json};

/// An outcome by its name.
struct Scripted(Class);

impl Retryable for Scripted {
    fn outcome(&self) -> Outcome {
        self.0.into()
    }
}

fn main() -> Result<(), BoxError> {
    let job: Value = serde_json::from_reader(std::io::stdin())?;
    let mesh = Mesh::from_file(job["config"].as_str().ok_or("no config")?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for call in job["calls"].as_array().ok_or("no calls")? {
        println!("{}", runtime.block_on(one(&mesh, call))?);
    }
    println!("{}", json!({ "metrics": mesh.metrics_text() }));
    Ok(())
}

async fn one(mesh: &Mesh, call: &Value) -> Result<Value, BoxError> {
    let mut guard = mesh.guard(call["guard"].as_str().ok_or("no guard")?)?;
    if let Some(idempotent) = call["idempotent"].as_bool() {
        guard = guard.idempotent(idempotent);
    }
    let mut script: VecDeque<&str> =
        call["attempts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut attempts = 0;
    let answer = guard
        .run(|| {
            attempts += 1;
            attempt(script.pop_front().unwrap_or("failed"))
        })
        .await;
    let result = match answer {
        Ok(()) => "success",
        Err(Failure::Own(_)) => "own",
        Err(Failure::Refused(error)) => error.kind().as_str(),
    };
    Ok(json!({ "attempts": attempts, "result": result }))
}

async fn attempt(outcome: &str) -> Result<(), Scripted> {
    Err(Scripted(match outcome {
        "success" => return Ok(()),
        "timed_out" => std::future::pending().await,
        "rejected" => Class::Rejected,
        "transient" => Class::Transient,
        "unprocessed" => Class::Unprocessed,
        "throttled" => Class::Throttled,
        _ => Class::Failed,
    }))
}
