//! The corpus, run by every language and by the composed layers, with equal outcomes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::sync::{Mutex, PoisonError};

use mesh_tests::run::run_all;
use mesh_tests::scenario::{Scenario, load_all};
use mesh_tests::toolchain::{driver, tests_directory};

fn corpus() -> Vec<Scenario> {
    load_all(&tests_directory().join("scenarios")).unwrap()
}

/// Runs the corpus with these drivers; the first one is what the others are compared with.
fn holds(names: &[&str]) {
    // Some scenarios measure time: one run after the other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let drivers: Vec<_> = names.iter().map(|name| driver(name).unwrap()).collect();
    let found = run_all(&corpus(), &drivers).unwrap();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_corpus_has_at_least_25_scenarios_and_leaves_no_language_out() {
    let corpus = corpus();
    assert!(corpus.len() >= 25, "{}", corpus.len());
    let skipped = corpus.iter().flat_map(|scenario| scenario.skip.keys().map(|driver| (&*scenario.name, &**driver)));
    assert_eq!(skipped.collect::<Vec<_>>(), LEFT_OUT);
}

/// There is no layer that copies requests: a copy needs a second cluster, and a layer stands before one service.
const LEFT_OUT: [(&str, &str); 1] = [("mirror", "layers")];

#[test]
fn every_scenario_holds_for_rust_and_the_composed_layers() {
    holds(&["rust", "layers"]);
}

#[test]
fn every_scenario_holds_for_c_as_for_rust() {
    holds(&["rust", "c"]);
}

#[test]
fn every_scenario_holds_for_go_as_for_rust() {
    holds(&["rust", "go"]);
}

#[test]
fn every_scenario_holds_for_python_as_for_rust() {
    holds(&["rust", "python"]);
}
