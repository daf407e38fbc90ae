//! The corpus, run by every language and by the composed layers, with equal outcomes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use mesh_tests::run::run_all;
use mesh_tests::scenario::{Scenario, load_all};
use mesh_tests::toolchain::{driver, tests_directory};

fn corpus() -> Vec<Scenario> {
    load_all(&tests_directory().join("scenarios")).unwrap()
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

/// One run of each scenario with each driver, one after the other: some measure time.
#[test]
fn every_scenario_holds_for_every_language_and_the_layers_as_for_rust() {
    let drivers = ["rust", "layers", "c", "go", "python"].map(|name| driver(name).unwrap());
    let found = run_all(&corpus(), &drivers).unwrap();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
