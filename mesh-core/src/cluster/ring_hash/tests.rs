use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::policy::vectors::{cases, text, whole};

/// A vector's hosts.
pub(in crate::cluster) fn hosts(case: &Value) -> Vec<Host<'_>> {
    let hosts = case["hosts"].as_array().unwrap().iter();
    Host::weighted(hosts.map(|host| (text(host, "key"), whole(host, "weight") as u32)))
}

pub(in crate::cluster) fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

fn config(case: &Value) -> RingConfig {
    let function = match case["hash_function"].as_str() {
        None | Some("xxh64") => HashFunction::XxHash,
        Some("murmur2_64a_seed_c70f6907") => HashFunction::MurmurHash2,
        Some(other) => panic!("{other}"),
    };
    RingConfig::new(whole(case, "minimum_ring_size") as u32, whole(case, "maximum_ring_size") as u32, function).unwrap()
}

fn vectors(kind: &str) -> Vec<Value> {
    let mut cases = cases(include_str!("../../../../tests/vectors/ring_hash.json"));
    cases.retain(|case| case["kind"] == kind);
    cases
}

#[test]
fn a_ring_has_the_points_that_envoy_gives_it() {
    let cases = vectors("ring");
    for case in &cases {
        let (id, hosts, expected) = (text(case, "id"), hosts(case), &case["expected"]);
        let ring = Ring::new(&hosts, config(case));
        assert_eq!(ring.size() as u64, whole(expected, "ring_size"), "{id}");
        let mut per_host: BTreeMap<&str, u64> = hosts.iter().map(|host| (host.key, 0)).collect();
        for (_, host) in ring.points() {
            *per_host.entry(hosts[host].key).or_default() += 1;
        }
        for (key, count) in expected["points_per_host"].as_object().into_iter().flatten() {
            assert_eq!(per_host[key.as_str()], count.as_u64().unwrap(), "{id} {key}");
        }
        let points: Vec<_> = ring.points().map(|(hash, host)| (hash, hosts[host].key)).collect();
        let listed = |field: &str| -> Vec<(u64, &str)> {
            let points = expected[field].as_array().into_iter().flatten();
            points.map(|point| (number(&point["hash"]), text(point, "host"))).collect()
        };
        let (first, last, all) = (listed("first_points"), listed("last_points"), listed("points_in_order"));
        assert_eq!(points[..first.len()], first, "{id}");
        assert_eq!(points[points.len() - last.len()..], last, "{id}");
        assert!(all == points || all.is_empty(), "{id}");
        assert!(first.len() + all.len() > 0, "{id} lists no point");
    }
    assert_eq!(cases.len(), 15);
}

#[test]
fn a_hash_belongs_to_the_first_point_at_or_above_it() {
    let by_hash = vectors("pick_by_hash");
    for case in &by_hash {
        let hosts = hosts(case);
        let ring = Ring::new(&hosts, config(case));
        let picked = ring.pick(number(&case["request_hash"]), whole(case, "attempt") as usize).unwrap();
        assert_eq!(hosts[picked].key, text(&case["expected"], "host"), "{}", case["id"]);
    }
    let by_header = vectors("pick_by_header");
    for case in &by_header {
        let (hosts, expected) = (hosts(case), &case["expected"]);
        let hash = HashFunction::XxHash.of(text(case, "header_value").as_bytes());
        assert_eq!(hash, number(&expected["request_hash"]), "{}", case["id"]);
        let ring = Ring::new(&hosts, config(case));
        assert_eq!(hosts[ring.pick(hash, 0).unwrap()].key, text(expected, "host"), "{}", case["id"]);
    }
    assert_eq!((by_hash.len(), by_header.len()), (36, 48));
}

#[test]
fn requests_spread_in_proportion_to_weight() {
    let cases = vectors("distribution");
    for case in &cases {
        let hosts = hosts(case);
        let ring = Ring::new(&hosts, config(case));
        let mut picks = BTreeMap::new();
        for i in 0..6000_u64 {
            let host = ring.pick(i * (u64::MAX / 6000), 0).unwrap();
            *picks.entry(hosts[host].key.to_owned()).or_insert(0) += 1;
        }
        assert_eq!(serde_json::json!(picks), case["expected"]["picks_per_host"], "{}", case["id"]);
    }
    assert_eq!(cases.len(), 1);
}

#[test]
fn a_point_is_hashed_as_the_reference_does() {
    let cases = vectors("xxh64");
    for case in &cases {
        assert_eq!(whole(case, "seed"), 0);
        let hash = HashFunction::XxHash.of(text(case, "input_utf8").as_bytes());
        assert_eq!(hash, number(&case["expected"]["hash"]), "{}", case["id"]);
    }
    assert_eq!(cases.len(), 11);
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    let cases = vectors("config");
    // The name of a hash function is checked where it is read: `config::cluster`.
    let elsewhere = ["invalid-hash-function"];
    let mut seen = 0;
    for case in cases.iter().filter(|case| !elsewhere.contains(&text(case, "id"))) {
        seen += 1;
        let size = |field: &str, default| case["config"][field].as_u64().map_or(default, |size| size as u32);
        let config =
            RingConfig::new(size("minimum_ring_size", 1024), size("maximum_ring_size", 8 << 20), HashFunction::XxHash);
        assert_eq!(Value::from(config.is_ok()), case["expected"]["accepted"], "{}", case["id"]);
        if let (Some(weights), Ok(config)) = (case["config"]["locality_weights"].as_array(), config) {
            let hosts = Host::weighted(weights.iter().map(|weight| ("a", weight.as_u64().unwrap() as u32)));
            assert_eq!(Ring::new(&hosts, config).pick(7, 0), None, "{}", case["id"]);
        }
    }
    assert_eq!(seen, 3);
    assert!(RingConfig::new(0, 1, HashFunction::XxHash).is_err());
}

#[test]
fn every_vector_is_a_test_here_or_named() {
    // `random_subset`: subsetting has its own engine. `combine_policies`: `route::hash_policy`.
    let elsewhere = [("random_subset", 8), ("combine_policies", 8)];
    let here: usize = ["ring", "pick_by_hash", "pick_by_header", "distribution", "xxh64", "config"]
        .map(|kind| vectors(kind).len())
        .iter()
        .sum();
    for (kind, count) in elsewhere {
        assert_eq!(vectors(kind).len(), count);
    }
    let all = cases(include_str!("../../../../tests/vectors/ring_hash.json")).len();
    assert_eq!(here + 16, all);
}

#[test]
fn a_walk_round_the_ring_sees_every_host_and_comes_back() {
    let hosts = Host::weighted(["a", "b", "c"].map(|key| (key, 1)));
    let ring = Ring::new(&hosts, RingConfig::new(6, 6, HashFunction::XxHash).unwrap());
    let walk: Vec<_> = (0..ring.size()).map(|attempt| ring.pick(42, attempt).unwrap()).collect();
    assert_eq!([0, 1, 2].map(|host| walk.contains(&host)), [true; 3]);
    assert_eq!(ring.pick(42, ring.size()), ring.pick(42, 0));
}

proptest! {
    #[test]
    fn the_table_over_leading_bits_finds_what_a_search_finds(
        weights in prop::collection::vec(0_u32..5, 0..20),
        minimum in 1_u32..200,
        hashes in prop::collection::vec(any::<u64>(), 1..50),
    ) {
        let keys: Vec<_> = (0..weights.len()).map(|index| format!("host-{index}")).collect();
        let hosts = Host::weighted(keys.iter().zip(&weights).map(|(key, weight)| (key.as_str(), *weight)));
        let ring = Ring::new(&hosts, RingConfig::new(minimum, 4096, HashFunction::XxHash).unwrap());
        let points: Vec<_> = ring.points().collect();
        prop_assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let edges = points.iter().flat_map(|(hash, _)| [hash.wrapping_sub(1), *hash, hash.wrapping_add(1)]);
        for hash in hashes.into_iter().chain(edges).chain([0, u64::MAX]) {
            let place = points.partition_point(|(point, _)| *point < hash);
            let expected = points.get(place).or(points.first()).map(|(_, host)| *host);
            prop_assert_eq!(ring.pick(hash, 0), expected);
        }
    }

    #[test]
    fn a_host_that_goes_moves_only_its_own_requests(gone in 0_usize..10, hashes in prop::collection::vec(any::<u64>(), 100)) {
        let keys: Vec<_> = (0..10).map(|index| format!("10.0.0.{index}:80")).collect();
        let hosts = Host::weighted(keys.iter().map(|key| (key.as_str(), 1)));
        let ring = Ring::new(&hosts, RingConfig::default());
        for hash in hashes {
            let first = ring.pick(hash, 0).unwrap();
            let left = (0..ring.size()).filter_map(|attempt| ring.pick(hash, attempt)).find(|host| *host != gone);
            prop_assert_eq!(left == Some(first), first != gone);
        }
    }
}
