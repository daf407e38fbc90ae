//! Subsetting: a client uses only some of many endpoints (gRFC A68).
//!
//! Decides: which ones. Never: asks anybody; each client decides by itself, from a seed of its own.
//! Invariant: the order of the list does not matter, and an endpoint that comes or goes moves at most one
//! other one: the smallest hashes of address and seed are kept (rendezvous hashing).
//!
//! What it costs: with `c` clients that keep `k` of `n` endpoints, an endpoint has `c * k / n` clients on
//! average and, as the choices are independent, about the square root of that more or less. Ten clients
//! that keep 3 of 30 leave a third of the endpoints without any; keep `c * k / n` well above ten (O37).

use std::num::NonZeroU32;

use xxhash_rust::xxh64::xxh64;

/// How many endpoints are used, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subsetting {
    /// How many, of each priority level.
    pub size: NonZeroU32,
    /// Of this client.
    pub seed: u64,
}

impl Subsetting {
    /// Where an address stands; the smallest are kept.
    fn score(self, address: &str) -> u64 {
        xxh64(address.as_bytes(), self.seed)
    }

    /// Those that are kept, smallest score first.
    pub(super) fn keep<T>(self, endpoints: Vec<(String, T)>) -> Vec<T> {
        let mut scored: Vec<_> =
            endpoints.into_iter().map(|(address, endpoint)| (self.score(&address), address, endpoint)).collect();
        scored.sort_by(|one, two| (one.0, &one.1).cmp(&(two.0, &two.1)));
        scored.truncate(self.size.get() as usize);
        scored.into_iter().map(|(_, _, endpoint)| endpoint).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::policy::vectors::{cases, text, whole};

    fn keep(size: u32, seed: u64, addresses: &[String]) -> Vec<String> {
        let subsetting = Subsetting { size: NonZeroU32::new(size).unwrap(), seed };
        subsetting.keep(addresses.iter().map(|address| (address.clone(), address.clone())).collect())
    }

    fn texts(list: &Value) -> Vec<String> {
        list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_same_endpoints_are_kept_as_in_the_vectors() {
        let cases = cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/ring_hash.json")));
        let cases: Vec<_> = cases.iter().filter(|case| case["kind"] == "random_subset").collect();
        for case in &cases {
            let (id, seed) = (text(case, "id"), whole(case, "seed"));
            let mut addresses = texts(&case["addresses"]);
            for _ in 0..2 {
                let kept = keep(whole(case, "subset_size") as u32, seed, &addresses);
                match &case["expected"] {
                    expected if expected["kept"].is_array() => assert_eq!(kept, texts(&expected["kept"]), "{id}"),
                    expected => {
                        let sorted = |mut list: Vec<String>| {
                            list.sort();
                            list
                        };
                        assert_eq!(sorted(kept), sorted(texts(&expected["kept_set"])), "{id}");
                    }
                }
                addresses.reverse();
            }
            for (address, score) in case["expected"]["scores"].as_object().into_iter().flatten() {
                let subsetting = Subsetting { size: NonZeroU32::MIN, seed };
                assert_eq!(Value::from(subsetting.score(address).to_string()), *score, "{id} {address}");
            }
        }
        assert_eq!(cases.len(), 8);
    }

    #[test]
    fn o37_one_endpoint_less_moves_at_most_one_place_of_each_client_and_loads_stay_near_the_mean() {
        let addresses: Vec<_> = (0..100).map(|n| format!("10.0.0.{n}:80")).collect();
        let (clients, size) = (200, 10);
        let mut load = std::collections::HashMap::<String, u32>::new();
        for seed in 0..clients {
            let before = keep(size, seed, &addresses);
            for gone in 0..100 {
                let without: Vec<_> =
                    addresses.iter().filter(|address| **address != addresses[gone]).cloned().collect();
                let after = keep(size, seed, &without);
                let moved = after.iter().filter(|address| !before.contains(address)).count();
                assert_eq!(moved, usize::from(before.contains(&addresses[gone])));
            }
            before.into_iter().for_each(|address| *load.entry(address).or_default() += 1);
        }
        // 20 clients an endpoint on average; the deviation is sqrt(20) = 4.5, and none is five of them away.
        assert_eq!(load.len(), 100);
        let most = *load.values().max().unwrap();
        assert!(most <= 42, "max/mean {}", f64::from(most) / 20.0);
    }
}
