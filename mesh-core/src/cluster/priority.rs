//! Priority levels: how much of the traffic each level takes (Envoy's rule).
//!
//! Decides: the share of every level, in whole percent, and which levels panic. Never: picks, counts or
//! remembers. Invariant: while any endpoint may be used the shares add up to exactly 100.
//!
//! # The rule
//! - *health* of a level = min(100, factor x healthy hosts / hosts); likewise for degraded hosts.
//! - *total* = min(100, the sum of all of it). Below 100 every share is scaled up by 100 / total.
//! - Level 0 takes as much as its health, the next what is left as far as its health goes, and so on; then
//!   the degraded hosts, in the same order. What integer division leaves over goes to the first level
//!   that has any health.
//! - A level *panics*, when total is below 100 and less than the threshold of its hosts is usable
//!   (healthy or degraded): its health is no longer believed. If every level panics, the shares follow
//!   the number of hosts.

/// What is counted of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// All hosts that take traffic at all.
    pub hosts: u32,
    /// Those that are fit.
    pub healthy: u32,
    /// Those to be used only when the healthy ones do not suffice.
    pub degraded: u32,
}

/// The numbers of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How much a host may take over for lost ones, in percent: 140 (Envoy) = a level is whole as long as
    /// 72 % of it are healthy.
    pub overprovisioning_percent: u32,
    /// Below this share of usable hosts a level panics; 0 = never.
    pub panic_percent: u32,
}

/// What one level takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Percent of the traffic for its healthy hosts (all hosts, when it panics).
    pub healthy: u32,
    /// Percent for its degraded hosts.
    pub degraded: u32,
    /// Whether its health is ignored.
    pub panics: bool,
}

impl Default for Rule {
    /// Envoy's.
    fn default() -> Self {
        Self { overprovisioning_percent: 140, panic_percent: 50 }
    }
}

impl Level {
    /// Percent of what this level should have that its healthy and its degraded hosts can carry.
    fn health(self, factor: u32) -> (u32, u32) {
        let part = |hosts: u32| {
            let percent = u64::from(factor) * u64::from(hosts) / u64::from(self.hosts.max(1));
            percent.min(100) as u32
        };
        (part(self.healthy), part(self.degraded))
    }

    fn panics(self, percent: u32) -> bool {
        let usable = u64::from(self.healthy) + u64::from(self.degraded);
        usable * 100 < u64::from(percent) * u64::from(self.hosts)
    }
}

/// The share of every level.
pub fn spread(levels: &[Level], rule: Rule) -> Vec<Share> {
    let health: Vec<_> = levels.iter().map(|level| level.health(rule.overprovisioning_percent)).collect();
    let total = total(&health);
    let panics: Vec<_> = levels.iter().map(|level| total < 100 && level.panics(rule.panic_percent)).collect();
    // An empty level cannot panic, nor keep the others from it.
    let all_panic = levels.iter().zip(&panics).all(|(level, panics)| *panics || level.hosts == 0);
    if total == 0 || all_panic {
        return by_hosts(levels, &panics);
    }
    let mut left = 100;
    let mut take = |health: u32| {
        let share = (health * 100 / total).min(left);
        left -= share;
        share
    };
    let healthy: Vec<_> = health.iter().map(|(healthy, _)| take(*healthy)).collect();
    let degraded: Vec<_> = health.iter().map(|(_, degraded)| take(*degraded)).collect();
    let shares = healthy.into_iter().zip(degraded).zip(panics);
    let mut shares: Vec<_> = shares.map(|((healthy, degraded), panics)| Share { healthy, degraded, panics }).collect();
    give_rest(&mut shares, &health, left);
    shares
}

/// min(100, all health together), the measure of whether the cluster as a whole suffices.
fn total(health: &[(u32, u32)]) -> u32 {
    health.iter().map(|(healthy, degraded)| healthy + degraded).sum::<u32>().min(100)
}

fn give_rest(shares: &mut [Share], health: &[(u32, u32)], rest: u32) {
    if let Some(first) = health.iter().position(|(healthy, _)| *healthy > 0) {
        shares[first].healthy += rest;
    } else if let Some(first) = health.iter().position(|(_, degraded)| *degraded > 0) {
        shares[first].degraded += rest;
    }
}

/// Nothing is believed any more: each level in proportion to its hosts.
fn by_hosts(levels: &[Level], panics: &[bool]) -> Vec<Share> {
    let hosts: u64 = levels.iter().map(|level| u64::from(level.hosts)).sum::<u64>().max(1);
    let part = |level: &Level| (u64::from(level.hosts) * 100 / hosts) as u32;
    let rest = 100 - levels.iter().map(part).sum::<u32>();
    let first = levels.iter().position(|level| level.hosts > 0).unwrap_or(0);
    let share = |(index, (level, panics)): (usize, (&Level, &bool))| Share {
        healthy: part(level) + if index == first { rest } else { 0 },
        degraded: 0,
        panics: *panics,
    };
    levels.iter().zip(panics).enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::policy::vectors::{cases, text, whole};

    /// Envoy's total panic shares by the number of hosts (`recalculateLoadInTotalPanic` in
    /// `load_balancer_impl.cc`), which this row, restated from a documentation page, leaves out.
    const DISPUTED: (&str, [u64; 3]) = ("p0-25-p1-25-p2-20", [34, 33, 33]);

    fn read(case: &Value) -> (Vec<Level>, Rule) {
        let levels = case["priorities"].as_array().unwrap().iter();
        let number = |level: &Value, field: &str| u32::try_from(whole(level, field)).unwrap();
        let levels = levels.map(|level| Level {
            hosts: number(level, "hosts"),
            healthy: number(level, "healthy"),
            degraded: number(level, "degraded"),
        });
        let rule = Rule {
            overprovisioning_percent: number(case, "overprovisioning_percent"),
            panic_percent: number(case, "panic_threshold_percent"),
        };
        (levels.collect(), rule)
    }

    fn assert_numbers(got: &[u32], expected: &Value, tolerance: u64, id: &str) {
        let Some(expected) = expected.as_array() else { return };
        let near = |(got, expected): (&u32, &Value)| u64::from(*got).abs_diff(expected.as_u64().unwrap()) <= tolerance;
        assert!(got.len() == expected.len() && got.iter().zip(expected).all(near), "{id}: {got:?} {expected:?}");
    }

    #[test]
    fn shares_and_panic_follow_the_vectors() {
        let cases = cases(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/priority_load.json")));
        for case in &cases {
            let (id, expected) = (text(case, "id"), &case["expected"]);
            let (levels, rule) = read(case);
            let shares = spread(&levels, rule);
            let health: Vec<_> = levels.iter().map(|level| level.health(rule.overprovisioning_percent)).collect();
            let healthy: Vec<_> = health.iter().map(|(healthy, _)| *healthy).collect();
            assert_numbers(&healthy, &expected["priority_health_percent"], 0, id);
            if let Some(total_percent) = expected["normalised_total_percent"].as_u64() {
                assert_eq!(u64::from(total(&health)), total_percent, "{id}");
            }
            let tolerance = case["tolerance_percent"].as_u64().unwrap_or(0);
            let load: Vec<_> = shares.iter().map(|share| share.healthy).collect();
            if id == DISPUTED.0 {
                assert_numbers(&load, &Value::from(DISPUTED.1.to_vec()), 0, id);
            } else {
                assert_numbers(&load, &expected["load_percent"], tolerance, id);
            }
            let degraded: Vec<_> = shares.iter().map(|share| share.degraded).collect();
            assert_numbers(&degraded, &expected["degraded_load_percent"], tolerance, id);
            let panics: Vec<Value> = shares.iter().map(|share| Value::from(share.panics)).collect();
            assert_eq!(Value::from(panics), expected["panic"], "{id}");
        }
        assert_eq!(cases.len(), 41);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_only_what_is_there_gets_any(
            counts in proptest::collection::vec((0..50_u32, 0..50_u32, 0..50_u32), 1..6),
            factor in 100..300_u32,
            panic_percent in 0..=100_u32,
        ) {
            let levels: Vec<_> = counts.iter()
                .map(|(up, degraded, down)| Level { hosts: up + degraded + down, healthy: *up, degraded: *degraded })
                .collect();
            let shares = spread(&levels, Rule { overprovisioning_percent: factor, panic_percent });
            prop_assert_eq!(shares.iter().map(|share| share.healthy + share.degraded).sum::<u32>(), 100);
            for (share, level) in shares.iter().zip(&levels) {
                let total_panic = shares.iter().zip(&levels).all(|(share, level)| share.panics || level.hosts == 0);
                let none_usable = levels.iter().all(|level| level.healthy + level.degraded == 0);
                prop_assert!(share.healthy == 0 || level.healthy > 0 || total_panic || none_usable);
                prop_assert!(share.degraded == 0 || level.degraded > 0);
            }
        }
    }
}
