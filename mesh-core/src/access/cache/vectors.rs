//! The kinds of the policy cache vectors that are no sequence of requests, and where each is asserted.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::access::verdict::Verdict;

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/policy_cache.json"));
/// How many of each there are. `benches/src/trace.rs` plays the reference workload, `policy/lease/tests.rs` has leases.
const ELSEWHERE: [(&str, usize); 4] = [("formula", 4), ("simulation", 15), ("acceptance", 1), ("quota_prefetch", 7)];

#[test]
fn a_status_reads_as_http_as_it_always_did_and_every_other_kind_is_asserted_elsewhere() {
    let vectors: Json = serde_json::from_str(VECTORS).unwrap();
    let mut counts = HashMap::<&str, usize>::new();
    for case in vectors["cases"].as_array().unwrap() {
        let Some(kind) = case["kind"].as_str() else { continue };
        *counts.entry(kind).or_default() += 1;
        if kind == "status_mapping" {
            status_mapping(case);
        }
    }
    assert_eq!(counts.remove("status_mapping"), Some(17));
    assert_eq!(counts, ELSEWHERE.into());
}

fn status_mapping(case: &Json) {
    let name = case["status"].as_str().unwrap();
    let named = |code: &tonic::Code| {
        let camel = format!("{code:?}").to_ascii_lowercase();
        camel == name.replace('_', "").to_ascii_lowercase()
    };
    let code = (0..=16).map(tonic::Code::from_i32).find(named).unwrap();
    let verdict = Verdict::from_code(code);
    assert_eq!(Some(u64::from(verdict.status)), case["expected"]["http_status"].as_u64(), "{name}");
    assert_eq!(verdict.allow, name == "OK");
}
