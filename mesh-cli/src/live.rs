//! `mesh explain --live`: what happened to finished calls of a running process, and why.
//!
//! Never: changes the process. Reads its admin endpoint, `GET /explain`.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;

use crate::admin;
use crate::paint::{self, Paint};
use crate::table::Table;

/// Shows the calls that `address` has kept: all in a line each, or those with one request id in full.
pub fn run(address: &str, request_id: Option<&str>, is_json: bool) -> Result<ExitCode, String> {
    let path = request_id.map_or_else(|| "/explain".to_owned(), |id| format!("/explain?id={id}"));
    let answer = admin::ask(address, &path)?;
    if is_json {
        return paint::print(&format!("{answer:#}\n"));
    }
    let calls = answer.as_array().map_or(&[][..], Vec::as_slice);
    let paint = paint::for_stdout();
    if calls.is_empty() {
        let what = request_id.map_or_else(String::new, |id| format!(" with the request id {id}"));
        return Err(format!("{address} has kept no call{what}; see telemetry.explain of its configuration"));
    }
    match request_id {
        Some(_) => paint::print(&calls.iter().map(|call| page(call, paint)).collect::<Vec<_>>().join("\n")),
        None => paint::print(&list(calls)),
    }
}

fn list(calls: &[Value]) -> String {
    let mut table = Table::new(["REQUEST ID", "CALL", "CLUSTER", "ATTEMPTS", "TOOK", "OUTCOME"]);
    for call in calls {
        let attempts = call["attempts"].as_array().map_or(0, Vec::len);
        table.row([
            word(&call["request_id"]),
            target(call),
            word(&call["cluster"]),
            attempts.to_string(),
            millis(&call["took_ms"]),
            word(&call["outcome"]),
        ]);
    }
    table.render("")
}

/// One call in full.
fn page(call: &Value, paint: Paint) -> String {
    let is_failure = call["is_failure"].as_bool().unwrap_or(false);
    let outcome = word(&call["outcome"]);
    let outcome = if is_failure { paint.error(&outcome) } else { paint.good(&outcome) };
    let mut out = format!("{}\n  {outcome} after {}\n", paint.strong(&target(call)), millis(&call["took_ms"]));
    let deadline = match &call["deadline_ms"] {
        Value::Null => "none".to_owned(),
        deadline => millis(deadline),
    };
    for (title, text) in [
        ("request id", word(&call["request_id"])),
        ("revision", word(&call["revision"])),
        ("rule", word(&call["route"])),
        ("cluster", format!("{} ({})", word(&call["cluster"]), word(&call["why_cluster"]))),
        ("deadline", deadline),
        ("caller's attempt", word(&call["callers_attempt"])),
        ("retry budget", format!("{} before, {} after", word(&call["budget_before"]), word(&call["budget_after"]))),
    ] {
        let _ = writeln!(out, "  {title:<16}  {text}");
    }
    for (number, attempt) in call["attempts"].as_array().into_iter().flatten().enumerate() {
        out += &attempt_lines(number + 1, attempt, paint);
    }
    for note in call["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  note: {}", word(note));
    }
    out
}

fn attempt_lines(number: usize, attempt: &Value, paint: Paint) -> String {
    let sent = attempt["sent"].as_str().map_or_else(String::new, |sent| format!(", sent: {sent}"));
    let wait =
        if attempt["wait_ms"].is_null() { String::new() } else { format!(" after {}", millis(&attempt["wait_ms"])) };
    let mut out = format!(
        "\n  {} {} to {} at {}: {} in {}{sent}; then: {}{wait}\n",
        paint.strong(&format!("attempt {number}")),
        word(&attempt["kind"]),
        word(&attempt["endpoint"]),
        millis(&attempt["at_ms"]),
        word(&attempt["outcome"]),
        millis(&attempt["took_ms"]),
        word(&attempt["decision"]),
    );
    let candidates = attempt["candidates"].as_array().map_or(&[][..], Vec::as_slice);
    if !candidates.is_empty() {
        let mut table = Table::new(["CANDIDATE", "COST", "IN FLIGHT", "WEIGHT", "BREAKER", "SKIPPED"]);
        for candidate in candidates {
            table.row([
                word(&candidate["endpoint"]),
                millis(&candidate["cost_ms"]),
                word(&candidate["in_flight"]),
                word(&candidate["weight"]),
                word(&candidate["breaker"]),
                candidate["skipped"].as_str().unwrap_or("").to_owned(),
            ]);
        }
        out += &table.render("    ");
    }
    out
}

fn target(call: &Value) -> String {
    format!("{} http://{}{}", word(&call["method"]), word(&call["host"]), word(&call["path"]))
}

fn millis(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}

/// A JSON scalar as a person writes it; absent is `-`.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
