use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cluster::ring_hash::tests::{hosts, number};
use crate::policy::vectors::{cases, text, whole};

fn vectors(kind: &str) -> Vec<Value> {
    let mut cases = cases(include_str!("../../../../tests/vectors/maglev.json"));
    cases.retain(|case| case["kind"] == kind);
    cases
}

fn size(case: &Value) -> TableSize {
    TableSize::new(whole(case, "table_size") as u32).unwrap()
}

#[test]
fn a_table_has_the_places_that_envoy_gives_it() {
    let cases = vectors("table");
    for case in &cases {
        let (hosts, expected) = (hosts(case), &case["expected"]);
        let table: Vec<_> = Maglev::new(&hosts, size(case)).places().map(|host| hosts[host].key).collect();
        assert_eq!(table.len() as u64, whole(case, "table_size"));
        let mut per_host: BTreeMap<_, _> = hosts.iter().map(|host| (host.key, 0)).collect();
        for key in &table {
            *per_host.entry(key).or_default() += 1;
        }
        assert_eq!(json!(per_host), expected["entries_per_host"], "{}", case["id"]);
        let parts =
            [("table", &table[..]), ("first_20", &table[..20.min(table.len())]), ("last_5", &table[table.len() - 5..])];
        let listed: Vec<_> = parts.into_iter().filter(|(field, _)| expected.get(field).is_some()).collect();
        assert!(!listed.is_empty(), "{} lists no place", case["id"]);
        for (field, part) in listed {
            assert_eq!(json!(part), expected[field], "{} {field}", case["id"]);
        }
    }
    assert_eq!(cases.len(), 12);
}

#[test]
fn a_hash_belongs_to_its_place_and_further_attempts_to_others() {
    let by_hash = vectors("pick_by_hash");
    for case in &by_hash {
        let hosts = hosts(case);
        let picked =
            Maglev::new(&hosts, size(case)).pick(number(&case["request_hash"]), whole(case, "attempt")).unwrap();
        assert_eq!(hosts[picked].key, text(&case["expected"], "host"), "{}", case["id"]);
    }
    let by_header = vectors("pick_by_header");
    let mut tables = BTreeMap::new();
    for case in &by_header {
        let (hosts, expected) = (hosts(case), &case["expected"]);
        let hash = xxhash_rust::xxh64::xxh64(text(case, "header_value").as_bytes(), 0);
        assert_eq!(hash, number(&expected["request_hash"]), "{}", case["id"]);
        let table = tables
            .entry((case["hosts"].to_string(), whole(case, "table_size")))
            .or_insert_with(|| Maglev::new(&hosts, size(case)));
        let picked = table.pick(hash, 0).unwrap();
        assert_eq!(hosts[picked].key, text(expected, "host"), "{}", case["id"]);
    }
    assert_eq!((by_hash.len(), by_header.len()), (22, 48));
}

#[test]
fn a_host_that_goes_moves_few_places_of_others() {
    let cases = vectors("disruption");
    for case in &cases {
        let table = |field: &str| -> Vec<&str> {
            let keys: Vec<_> = case[field].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
            let hosts = Host::weighted(keys.iter().map(|key| (*key, 1)));
            Maglev::new(&hosts, size(case)).places().map(|host| keys[host]).collect()
        };
        let (before, after) = (table("hosts_before"), table("hosts_after"));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        let of_others = moved.iter().filter(|(before, _)| after.contains(before)).count();
        let expected = &case["expected"];
        assert_eq!(moved.len() as u64, whole(expected, "changed_entries"));
        assert_eq!(of_others as u64, whole(expected, "changed_though_host_still_present"));
        assert_eq!((moved.len() - of_others) as u64, whole(expected, "entries_of_removed_host"));
    }
    assert_eq!(cases.len(), 1);
}

#[test]
fn a_table_size_is_a_prime() {
    let cases = vectors("config");
    for case in &cases {
        let accepted = TableSize::new(whole(case, "table_size") as u32).is_ok();
        assert_eq!(Value::from(accepted), case["expected"]["accepted"], "{}", case["id"]);
    }
    assert_eq!(cases.len(), 10);
}

#[test]
fn every_vector_is_a_test() {
    let all = cases(include_str!("../../../../tests/vectors/maglev.json")).len();
    let kinds = ["table", "pick_by_hash", "pick_by_header", "disruption", "config"];
    assert_eq!(kinds.map(|kind| vectors(kind).len()).iter().sum::<usize>(), all);
}

#[test]
fn without_a_weight_there_is_no_place() {
    for hosts in [vec![], vec![Host { key: "a", share: 0.0 }]] {
        assert_eq!(Maglev::new(&hosts, TableSize::default()).pick(1, 0), None);
    }
}

#[test]
fn more_endpoints_than_places_leave_some_without() {
    let keys: Vec<_> = (0..20).map(|index| index.to_string()).collect();
    let hosts = Host::weighted(keys.iter().map(|key| (key.as_str(), 1)));
    let table = Maglev::new(&hosts, TableSize::new(7).unwrap());
    let used: std::collections::BTreeSet<_> = table.places().collect();
    assert_eq!(used.len(), 7);
}
