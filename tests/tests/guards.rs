//! Guards: the same configuration and the same outcomes give the same calls, retries and ends in every language.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use mesh_tests::driver::Driver;
use mesh_tests::toolchain::guard_driver;
use serde_json::{Value, json};

const CONFIG: &str = "
version: 1
guards:
  - { name: inventory, timeout: 60s, attempt_timeout: 200ms, idempotent: true,
      retry: { attempts: 2, base: 1ms, max: 1ms },
      circuit_breaker: { consecutive_failures: 0, min_requests: 0 } }
  - { name: payment, timeout: 60s, attempt_timeout: 200ms, retry: { attempts: 2, base: 1ms, max: 1ms },
      circuit_breaker: { consecutive_failures: 0, min_requests: 0 } }
  - { name: brittle, timeout: 60s, idempotent: true, retry: { attempts: 10, base: 1ms, max: 1ms },
      circuit_breaker: { consecutive_failures: 5, open: 300s, min_requests: 0 } }
  - { name: poor, timeout: 60s, idempotent: true, retry: { attempts: 10, base: 1ms, max: 1ms },
      retry_budget: { percent: 100, min_per_second: 0, window: 60s },
      circuit_breaker: { consecutive_failures: 0, min_requests: 0 } }
";

/// Guard, whether the code declares it idempotent, how its attempts end, how many are made, and the result:
/// `success`, `own` for the function's own error, or the kind of the guard's.
type Case = (&'static str, Option<bool>, &'static [&'static str], usize, &'static str);

const CASES: &[Case] = &[
    ("inventory", None, &["success"], 1, "success"),
    ("inventory", None, &["transient", "success"], 2, "success"),
    ("inventory", None, &["transient", "unprocessed", "transient"], 3, "own"),
    ("inventory", None, &["throttled", "success"], 2, "success"),
    ("inventory", None, &["failed"], 1, "own"),
    ("inventory", None, &["rejected"], 1, "own"),
    ("inventory", None, &["timed_out", "success"], 2, "success"),
    ("inventory", None, &["timed_out", "timed_out", "timed_out"], 3, "attempt_timeout"),
    ("inventory", Some(false), &["transient"], 1, "own"),
    ("payment", None, &["transient"], 1, "own"),
    ("payment", None, &["timed_out"], 1, "attempt_timeout"),
    ("payment", None, &["unprocessed", "unprocessed", "success"], 3, "success"),
    ("payment", Some(true), &["transient", "success"], 2, "success"),
    // The breaker opens in the middle: no wait for a retry that would be refused, and the next call is.
    ("brittle", None, &["transient", "transient", "transient", "transient", "transient"], 5, "own"),
    ("brittle", None, &[], 0, "circuit_open"),
    // One retry a call is what its budget pays for.
    ("poor", None, &["transient", "transient"], 2, "own"),
    ("poor", None, &["transient", "transient"], 2, "own"),
];

fn job(config: &std::path::Path) -> Value {
    let calls = CASES.iter().map(
        |(guard, idempotent, attempts, ..)| json!({ "guard": guard, "idempotent": idempotent, "attempts": attempts }),
    );
    json!({ "config": config, "calls": calls.collect::<Vec<_>>() })
}

/// Everything that a guard counts, but not the gauges.
fn counters(page: &str) -> Vec<&str> {
    page.lines().filter(|line| line.starts_with("libmesh_guard_") && line.contains("_total")).collect()
}

fn run(driver: &Driver) -> (Vec<Value>, String) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("mesh.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let mut told = driver.tell(&job(&config)).unwrap();
    let page = told.pop().expect("the last line")["metrics"].as_str().expect("metrics").to_owned();
    (told, page)
}

/// The language does what the table says, and counts what Rust counts.
fn holds(language: &str) {
    let (told, page) = run(&guard_driver(language).unwrap());
    assert_eq!(told.len(), CASES.len(), "{language}: {told:?}");
    for ((guard, idempotent, script, attempts, result), told) in CASES.iter().zip(&told) {
        let expected = json!({ "attempts": attempts, "result": result });
        assert_eq!(*told, expected, "{language}: {guard} {idempotent:?} {script:?}");
    }
    let (_, rust) = run(&guard_driver("rust").unwrap());
    assert_eq!(counters(&page), counters(&rust), "{language}");
    for (series, count) in [
        (r#"libmesh_guard_calls_total{guard="inventory",outcome="success"}"#, 4),
        (r#"libmesh_guard_calls_total{guard="brittle",outcome="circuit_open"}"#, 1),
        (r#"libmesh_guard_retries_refused_total{guard="payment",reason="non_idempotent"}"#, 2),
        (r#"libmesh_guard_retries_refused_total{guard="poor",reason="budget_empty"}"#, 2),
        (r#"libmesh_guard_retries_refused_total{guard="brittle",reason="circuit_open"}"#, 1),
    ] {
        assert!(page.lines().any(|line| line == format!("{series} {count}")), "{language}: {series} {count}");
    }
}

#[test]
fn guarded_functions_in_rust_do_what_the_table_says() {
    holds("rust");
}

#[test]
fn guarded_functions_in_c_do_what_those_in_rust_do() {
    holds("c");
}

#[test]
fn guarded_functions_in_go_do_what_those_in_rust_do() {
    holds("go");
}

#[test]
fn guarded_functions_in_python_do_what_those_in_rust_do() {
    holds("python");
}
