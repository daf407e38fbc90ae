//! Adaptive limits compared: the same server and the same arrivals, each limiter in front of it.

mod peers;
mod queue;
mod scenario;

use crate::curve::Table;

pub use queue::queue_disciplines;
use scenario::SCENARIOS;

/// A limiter under test. `ours` is the engine of the library; the others are what it was chosen against.
pub fn adaptive_limits() -> Table {
    let columns = ["scenario", "limiter", "goodput", "refused", "p50_ms", "p99_ms", "limit_mean", "limit_max"];
    let mut table = Table::new("adaptive_limits", &columns);
    for scenario in SCENARIOS {
        for name in peers::NAMES {
            let seen = scenario.play(peers::limiter(name), 11);
            table.row(scenario.name, name, &seen.row());
        }
    }
    table
}

/// The limit second by second: what a limiter makes of a change.
pub fn limit_over_time(scenario: &str) -> Table {
    let scenario = SCENARIOS.iter().find(|known| known.name == scenario).expect("a scenario of that name");
    let mut table = Table::new("limit_over_time", &["limiter", "second", "limit"]);
    for name in peers::NAMES.into_iter().filter(|name| *name != "none") {
        let seen = scenario.play(peers::limiter(name), 11);
        for (tenth, limit) in seen.limits.iter().enumerate().step_by(5) {
            table.row(name, tenth as f64 / 10.0, &[f64::from(*limit)]);
        }
    }
    table
}

#[test]
fn the_chosen_limit_is_never_far_from_the_best_and_others_are() {
    let table = adaptive_limits();
    table.print();
    for scenario in SCENARIOS {
        let goodput = |name: &str| table.value(scenario.name, name, "goodput");
        let ours = goodput("ours");
        let best = peers::NAMES.iter().map(|name| goodput(name)).fold(0.0, f64::max);
        assert!(ours >= 0.9 * best, "{}: {ours} of {best}", scenario.name);
    }
    for name in peers::NAMES.into_iter().filter(|name| *name != "ours") {
        let falls_short = SCENARIOS.iter().any(|scenario| {
            let goodput = |name: &str| table.value(scenario.name, name, "goodput");
            let best = peers::NAMES.iter().map(|name| goodput(name)).fold(0.0, f64::max);
            goodput(name) < 0.9 * best
        });
        assert!(falls_short, "{name} is as good everywhere");
    }
}
