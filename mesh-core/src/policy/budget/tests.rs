use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::policy::vectors::{cases, seconds, text, whole};

const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/retry_rules.json"));

/// tower cuts 1/0.3 to 3 whole tokens and so grants 333 of 1,000; we keep Finagle's three decimals, 300.
const TOWER_TRUNCATION: &str = "budget-tower-percent-0-3-truncation";

fn config_of(case: &Value) -> Result<BudgetConfig, Invalid> {
    let ratio = case["percent_can_retry"].as_f64().unwrap_or(f64::NAN);
    let floor = u32::try_from(case["min_retries_per_s"].as_i64().expect("floor"))
        .map_err(|_| Invalid { field: "budget.min_per_second", must: "not be negative" })?;
    BudgetConfig::new(ratio, floor, seconds(case, "ttl_s"))
}

fn budget_of(case: &Value) -> Budget {
    Budget::new(config_of(case).expect("valid"))
}

fn check_steps(case: &Value, now: Instant) {
    let (id, budget) = (text(case, "id"), budget_of(case));
    assert_eq!(budget.balance(now), whole(&case["expected"], "start_balance_in_retries"), "{id}: start");
    for step in case["expected"]["steps"].as_array().expect("steps") {
        let times = whole(step, "times");
        let granted = match text(step, "op") {
            "deposit" => {
                (0..times).for_each(|_| budget.deposit(now));
                None
            }
            "withdraw" => Some((0..times).filter(|_| budget.withdraw(now).is_ok()).count() as u64),
            other => panic!("unknown step {other}"),
        };
        assert_eq!(granted, step["granted"].as_u64(), "{id}: {step}");
        assert_eq!(budget.balance(now), whole(step, "balance_in_retries"), "{id}: {step}");
    }
}

fn check_interleaved(case: &Value, now: Instant) {
    let budget = budget_of(case);
    let granted = (0..10_000)
        .filter(|_| {
            budget.deposit(now);
            budget.withdraw(now).is_ok()
        })
        .count();
    assert_eq!(granted as u64, whole(&case["expected"], "granted_exact"), "{}", text(case, "id"));
}

fn check_timeline(case: &Value, start: Instant) {
    let (id, budget) = (text(case, "id"), budget_of(case));
    for event in case["events"].as_array().expect("events") {
        let now = start + seconds(event, "at_s");
        match text(event, "op") {
            "deposit" => budget.deposit(now),
            "withdraw" => {
                assert_eq!(budget.withdraw(now).is_ok(), event["expected_granted"] == true, "{id}: {event}");
            }
            other => panic!("unknown event {other}"),
        }
    }
}

/// 2,000 requests a second for ten seconds, each wants three retries.
fn check_outage(case: &Value, start: Instant) {
    let budget = budget_of(case);
    let mut attempts = 0_u32;
    for request in 0..20_000_u32 {
        let now = start + Duration::from_micros(u64::from(request) * 500);
        budget.deposit(now);
        attempts += 1 + (0..3).filter(|_| budget.withdraw(now).is_ok()).count() as u32;
    }
    let most = case["expected"]["upstream_attempts_at_most"].as_f64().expect("limit");
    assert!(f64::from(attempts) <= most, "{attempts} attempts, allowed {most}");
    assert!(attempts > 23_900, "the budget is used: {attempts}");
}

#[test]
fn every_budget_vector_holds() {
    let start = Instant::now();
    let mut count = BTreeMap::new();
    for case in cases(VECTORS) {
        let kind = text(&case, "kind").to_owned();
        match kind.as_str() {
            "retry_budget" if text(&case, "id") == TOWER_TRUNCATION => {
                let budget = budget_of(&case);
                (0..1000).for_each(|_| budget.deposit(start));
                assert_eq!(budget.balance(start), 300);
            }
            "retry_budget" => check_steps(&case, start),
            "retry_budget_interleaved" => check_interleaved(&case, start),
            "retry_budget_timeline" => check_timeline(&case, start),
            "retry_budget_simulation" => check_outage(&case, start),
            "retry_budget_validity" => {
                let valid = config_of(&case["config"]).is_ok();
                assert_eq!(valid, case["expected"]["valid"] == true, "{}", text(&case, "id"));
            }
            _ => continue,
        }
        *count.entry(kind).or_insert(0) += 1;
    }
    let expected = [
        ("retry_budget", 19),
        ("retry_budget_interleaved", 10),
        ("retry_budget_simulation", 1),
        ("retry_budget_timeline", 3),
        ("retry_budget_validity", 9),
    ];
    assert_eq!(count, expected.map(|(kind, n)| (kind.to_owned(), n)).into());
}

#[test]
fn spent_reserve_comes_back_after_a_window() {
    let (budget, start) = (Budget::default(), Instant::now());
    while budget.withdraw(start).is_ok() {}
    assert_eq!(budget.balance(start + Duration::from_secs(8)), 0);
    assert_eq!(budget.balance(start + Duration::from_secs(10)), 100);
}

#[test]
fn time_that_runs_backwards_is_harmless() {
    let (budget, start) = (Budget::default(), Instant::now() + Duration::from_secs(100));
    budget.deposit(start);
    budget.deposit(start - Duration::from_secs(50));
    assert_eq!(budget.withdraw(start - Duration::from_secs(99)), Ok(()));
}

#[test]
fn threads_never_withdraw_more_than_the_balance() {
    let (budget, now) = (Budget::default(), Instant::now());
    let granted: usize = std::thread::scope(|scope| {
        let take = || (0..200).filter(|_| budget.withdraw(now).is_ok()).count();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).sum()
    });
    assert_eq!(granted, 100);
}

/// The definition, kept as a list: tokens live for ten buckets, counted from the first event.
struct Naive {
    events: Vec<(u64, i64)>,
    reserve: i64,
}

impl Naive {
    fn balance(&self, tick: u64) -> i64 {
        self.events.iter().filter(|(at, _)| at + 10 > tick).map(|(_, tokens)| tokens).sum::<i64>() + self.reserve
    }
}

proptest! {
    #[test]
    fn the_budget_agrees_with_a_list_of_events(
        steps in prop::collection::vec((0_u64..400, any::<bool>()), 1..300),
        percent in 1_u32..300,
        floor in 0_u32..5,
    ) {
        let config = BudgetConfig::new(f64::from(percent) / 100.0, floor, Duration::from_secs(1)).expect("valid");
        let (budget, start) = (Budget::new(config), Instant::now());
        budget.balance(start);
        let cost = (1000.0 / (f64::from(percent) / 100.0)) as i64;
        let mut naive = Naive { events: Vec::new(), reserve: i64::from(floor) * cost };
        let mut millis = 0;
        for (gap, is_deposit) in steps {
            millis += gap;
            let (now, tick) = (start + Duration::from_millis(millis), millis / 100);
            if is_deposit {
                budget.deposit(now);
                naive.events.push((tick, 1000));
            } else {
                let affordable = naive.balance(tick) >= cost;
                prop_assert_eq!(budget.withdraw(now).is_ok(), affordable);
                if affordable {
                    naive.events.push((tick, -cost));
                }
            }
            prop_assert_eq!(budget.balance(now) as i64, naive.balance(tick).max(0) / cost);
        }
    }
}
