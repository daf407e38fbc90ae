use std::num::NonZeroU32;

use super::*;

fn thresholds(healthy: u32, unhealthy: u32) -> Thresholds {
    let number = |number| NonZeroU32::new(number).expect("above zero");
    Thresholds { healthy: number(healthy), unhealthy: number(unhealthy) }
}

fn probe(found: Found) -> Probe {
    Probe { found, speaks: true }
}

/// What is said after each of the results, one a second.
fn said(is_late: bool, of: Thresholds, results: &[Found]) -> Vec<Health> {
    let start = Instant::now();
    let state = HealthState::new(is_late, start);
    let second = |n: usize| start + Duration::from_secs(n as u64);
    let after = results.iter().enumerate().map(|(n, found)| {
        state.probed(probe(*found), second(n), (of, second(n)));
        state.health(true, second(n))
    });
    after.collect()
}

#[test]
fn o38_a_single_result_never_flips_health_rise_and_fall_count_both_ways() {
    use Found::{Failed as F, Healthy as S};
    use Health::{Healthy as Up, Unhealthy as Down};
    assert_eq!(said(false, thresholds(2, 3), &[S, F, F, F, S, S]), [Up, Up, Up, Down, Down, Up]);
    // The report's own script, after a first success: the pause of one probe changes nothing.
    assert_eq!(said(false, thresholds(2, 3), &[S, F, S, F, F, F, S, S]), [Up, Up, Up, Up, Up, Down, Down, Up]);
    assert_eq!(said(false, thresholds(2, 2), &[S, F, S, F, S, F, S]), [Up; 7], "a streak is in a row");
}

#[test]
fn the_first_result_decides_at_once_and_only_who_joins_later_has_to_wait_for_it() {
    let start = Instant::now();
    assert_eq!(HealthState::new(false, start).health(true, start), Health::Healthy);
    assert_eq!(HealthState::new(true, start).health(true, start), Health::Unhealthy);
    assert_eq!(HealthState::new(true, start).health(false, start), Health::Healthy, "without a check nobody waits");
    for is_late in [false, true] {
        assert_eq!(said(is_late, thresholds(2, 3), &[Found::Healthy]), [Health::Healthy]);
        assert_eq!(said(is_late, thresholds(2, 3), &[Found::Failed]), [Health::Unhealthy]);
    }
}

#[test]
fn what_an_endpoint_says_itself_counts_at_once() {
    use Found::{Degraded, Draining, Failed, Healthy, Refused};
    assert_eq!(
        said(false, thresholds(2, 3), &[Healthy, Degraded, Healthy, Draining, Healthy, Refused, Healthy, Healthy]),
        [
            Health::Healthy,
            Health::Degraded,
            Health::Healthy,
            Health::Draining,
            Health::Healthy,
            Health::Unhealthy,
            Health::Unhealthy,
            Health::Healthy
        ]
    );
    // While it is draining, failures are still counted: it is leaving.
    let expected = [Health::Draining, Health::Draining, Health::Unhealthy];
    assert_eq!(said(false, thresholds(2, 2), &[Draining, Failed, Failed]), expected);
}

#[test]
fn a_notice_lasts_thirty_seconds_after_it_was_last_heard() {
    let start = Instant::now();
    let state = HealthState::new(false, start);
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(state.told_draining(at(0)), "news");
    assert!(!state.told_draining(at(10)), "heard before");
    assert_eq!(state.health(false, at(39)), Health::Draining);
    assert_eq!(state.health(false, at(40)), Health::Healthy);
}

#[test]
fn only_a_later_answer_of_the_endpoint_itself_ends_a_notice_early() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for (found, speaks, since, expected) in [
        (Found::Healthy, true, 6, Health::Healthy),
        (Found::Healthy, true, 4, Health::Draining),
        (Found::Healthy, false, 6, Health::Draining),
        (Found::Failed, true, 6, Health::Draining),
        (Found::Draining, true, 6, Health::Draining),
    ] {
        let state = HealthState::new(false, start);
        state.told_draining(at(5));
        state.asked(Probe { found, speaks }, at(since), at(7));
        assert_eq!(state.health(false, at(8)), expected, "{found:?} {speaks} {since}");
    }
}

#[test]
fn the_worst_word_counts() {
    let start = Instant::now();
    let state = HealthState::new(false, start);
    state.probed(probe(Found::Degraded), start, (thresholds(1, 1), start));
    state.told_draining(start + Duration::from_secs(1));
    assert_eq!(state.health(true, start + Duration::from_secs(2)), Health::Draining);
    state.probed(probe(Found::Failed), start, (thresholds(1, 1), start));
    assert_eq!(state.health(true, start + Duration::from_secs(2)), Health::Unhealthy);
}

#[test]
fn one_probe_at_a_time_and_the_next_after_interval_and_jitter() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let schedule = Schedule { interval: Duration::from_secs(10), jitter_percent: 10 };
    let mut waits = Vec::new();
    for _ in 0..100 {
        let state = HealthState::new(false, start);
        assert!(state.take_turn(schedule, start, &mut rng), "the first is due at once");
        assert!(!state.take_turn(schedule, start + Duration::from_secs(60), &mut rng), "the first is still out");
        state.not_probed(start);
        let millis = (0..20_000_u64).step_by(10);
        let due = millis.map(Duration::from_millis).find(|wait| state.take_turn(schedule, start + *wait, &mut rng));
        waits.push(due.expect("due within 20 s"));
    }
    assert!(waits.iter().all(|wait| (10_000..=11_000).contains(&wait.as_millis())), "{waits:?}");
    assert!(waits.iter().max() > waits.iter().min(), "spread");
}

#[test]
fn a_shorter_schedule_counts_for_a_wait_that_has_begun() {
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let every = |seconds| Schedule { interval: Duration::from_secs(seconds), jitter_percent: 0 };
    let state = HealthState::new(false, start);
    assert!(state.take_turn(every(60), start, &mut rng));
    state.not_probed(start);
    let later = start + Duration::from_secs(6);
    assert!(!state.take_turn(every(60), later, &mut rng));
    assert!(state.take_turn(every(5), later, &mut rng), "traffic began");
}
