//! MurmurHash2, 64 bits, as libstdc++ and Envoy compute it.
//!
//! Decides: the other function that a ring may be built with, for clients that must agree with a
//! deployment that uses it. Never: hashes a request; that is XXH64 everywhere.
//! Invariant: the same bytes give the same number on every machine.

/// The hash of `bytes` with the seed of libstdc++.
pub(super) fn murmur2(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mixed = shift_mix(little_endian(word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ mixed).wrapping_mul(FACTOR);
    }
    if !words.remainder().is_empty() {
        hash = (hash ^ little_endian(words.remainder())).wrapping_mul(FACTOR);
    }
    shift_mix(shift_mix(hash).wrapping_mul(FACTOR))
}

fn shift_mix(value: u64) -> u64 {
    value ^ (value >> 47)
}

/// Up to eight bytes as a number, the first one lowest.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// `std::hash`'s seed in libstdc++, which Envoy's ring takes over.
const SEED: u64 = 0xc70f_6907;
/// The multiplier of MurmurHash64A.
const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
