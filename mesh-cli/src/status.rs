//! `mesh status`: what a running process says about itself, on one page.
//!
//! Never: changes the process. Reads its admin endpoint, `GET /status`.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::Value;

use crate::admin;
use crate::paint::{self, Paint};
use crate::table::Table;

/// Asks `address` and shows the answer.
pub fn run(address: &str, is_json: bool) -> Result<ExitCode, String> {
    let status = admin::ask(address, "/status")?;
    if is_json {
        return paint::print(&format!("{status:#}\n"));
    }
    paint::print(&page(admin::bare(address), &status, paint::for_stdout()))
}

/// The whole page.
fn page(address: &str, status: &Value, paint: Paint) -> String {
    let is_ready = status["ready"].as_bool().unwrap_or(false);
    let readiness = if is_ready { paint.good("ready") } else { paint.error("not ready") };
    let mut out = format!("{}  {readiness}, {}, ", paint.strong(address), word(&status["phase"]));
    let _ = writeln!(
        out,
        "{} requests in flight, libmesh {}",
        word(&status["requests_in_flight"]),
        word(&status["version"])
    );
    let config = &status["config"];
    let counts = format!("{} accepted, {} refused", word(&config["accepted"]), word(&config["refused"]));
    let _ = writeln!(
        out,
        "{}  {} of {} ({counts})",
        paint.strong("revision "),
        word(&status["revision"]),
        word(&config["source"])
    );
    for problem in config["problems"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "           {} {}", paint.error("refused:"), word(problem));
    }
    let _ = writeln!(out, "{}  {}", paint.strong("identity "), identity(&status["identity"], paint));
    let _ = writeln!(out, "{}  {}", paint.strong("listeners"), list(&status["listeners"]));
    out + &clusters(&status["clusters"]) + &guards(&status["guards"])
}

fn identity(identity: &Value, paint: Paint) -> String {
    if identity.is_null() {
        return "none (plaintext)".to_owned();
    }
    let failed = identity["last_error"]
        .as_str()
        .map(|error| paint.error(&format!(", {} failures, the last: {error}", word(&identity["failures"]))));
    let failed = failed.unwrap_or_default();
    let Some(end) = identity["not_after_unix"].as_f64() else {
        return paint.error("configured, not issued yet") + &failed;
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let expiry = if end <= now { paint.error("expired") } else { format!("expires in {}", span(end - now)) };
    let rotations = word(&identity["rotations"]);
    format!(
        "{}, {expiry}, rotation {rotations}, serial {}{failed}",
        word(&identity["spiffe_id"]),
        word(&identity["serial"])
    )
}

fn clusters(clusters: &Value) -> String {
    let Some(clusters) = clusters.as_object().filter(|clusters| !clusters.is_empty()) else { return String::new() };
    let mut table =
        Table::new(["CLUSTER", "ENDPOINT", "HEALTH", "EJECTIONS", "IN FLIGHT", "CONNECTIONS", "WEIGHT", "TLS", "NEAR"]);
    for (name, cluster) in clusters {
        let load = format!("{}/{}", word(&cluster["in_flight"]), word(&cluster["max_requests"]));
        let endpoints = cluster["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        let none = if endpoints.is_empty() { "no endpoint" } else { "" };
        let breaker = cluster["breaker"].as_str().filter(|state| *state != "closed");
        let standing = breaker.map_or(String::new(), |state| format!(", breaker {}", state.replace('_', " ")));
        let standing = healthy(endpoints) + &standing;
        table.row([name.clone(), none.to_owned(), standing, String::new(), load]);
        for endpoint in endpoints {
            let cells =
                ["ejections", "in_flight", "connections", "weight", "tls", "locality"].map(|key| word(&endpoint[key]));
            let [ejections, in_flight, connections, weight, tls, locality] = cells;
            let address = word(&endpoint["address"]);
            table.row([
                String::new(),
                address,
                health(endpoint),
                ejections,
                in_flight,
                connections,
                weight,
                tls,
                locality,
            ]);
        }
    }
    format!("\n{}", table.render(""))
}

fn guards(guards: &Value) -> String {
    let Some(guards) = guards.as_object().filter(|guards| !guards.is_empty()) else { return String::new() };
    let mut table = Table::new(["GUARD", "BREAKER", "IN FLIGHT", "ATTEMPTS", "RETRIES", "BUDGET"]);
    for (name, guard) in guards {
        let load = format!("{}/{}", word(&guard["in_flight"]), word(&guard["max_in_flight"]));
        let breaker = word(&guard["circuit_breaker"]);
        let [attempts, retries, budget] = ["attempts", "retries", "retry_budget"].map(|key| word(&guard[key]));
        table.row([name.clone(), breaker, load, attempts, retries, budget]);
    }
    format!("\n{}", table.render(""))
}

/// How one endpoint stands: what was said of it beats an ejection, which beats its breaker.
fn health(endpoint: &Value) -> String {
    let said = endpoint["health"].as_str().filter(|said| *said != "healthy");
    match (said, endpoint["ejected"].as_bool(), endpoint["breaker"].as_str()) {
        (Some(said), ..) => said.to_owned(),
        (_, Some(true), _) => "ejected".to_owned(),
        (.., None | Some("closed")) => "ok".to_owned(),
        (.., Some(state)) => format!("breaker {}", state.replace('_', " ")),
    }
}

fn healthy(endpoints: &[Value]) -> String {
    let count = endpoints.iter().filter(|endpoint| health(endpoint) == "ok").count();
    format!("{count}/{}", endpoints.len())
}

fn list(values: &Value) -> String {
    let words: Vec<String> = values.as_array().into_iter().flatten().map(word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A JSON scalar as a person writes it; absent is `-`.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The two largest units: `23h 12m`, `4.2s`.
fn span(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}
