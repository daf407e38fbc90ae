use std::sync::Arc;

use super::*;
use crate::policy::vectors::{cases, text, whole};

const VECTORS: &str = include_str!("../../../../tests/vectors/policy_cache.json");

fn terms(spends_in_advance: bool) -> Terms {
    Terms::new((10, 1000), Duration::from_secs(60), spends_in_advance).unwrap()
}

fn full(amount: u32) -> Grant {
    Grant { amount, ..Grant::default() }
}

/// Takes until there is a question, which must come within `most` requests.
fn until_asked(lease: &mut Lease, now: Instant, most: usize) -> (Decision, Ask) {
    for _ in 0..most {
        let Step { decision, ask } = lease.take(now);
        if let Some(ask) = ask {
            return (decision, ask);
        }
        assert_eq!(decision, Decision::Pass);
    }
    panic!("no question within {most} requests");
}

#[test]
fn it_asks_when_and_for_as_much_as_mixer_did() {
    let mut asserted = 0;
    for case in cases(VECTORS).iter().filter(|case| case["kind"] == "quota_prefetch") {
        let (id, state, expected) = (text(case, "id"), &case["state"], &case["expected"]);
        if let Some(requests) = state["requests_last_second"].as_u64() {
            assert_eq!(u64::from(desired_after(requests)), whole(expected, "desired"), "{id}");
        } else if state["last_grant"] == "partial" {
            let asks = asks_after_a_partial_grant(Duration::from_millis(whole(state, "ms_since")));
            assert_eq!(Some(asks), expected["prefetch"].as_bool(), "{id}");
        } else {
            let number = |field| u32::try_from(whole(state, field)).unwrap();
            let asks = is_due(number("available"), number("desired"), state["in_flight"].as_bool().unwrap());
            assert_eq!(Some(asks), expected["prefetch"].as_bool(), "{id}");
        }
        asserted += 1;
    }
    assert_eq!(asserted, 7);
}

fn desired_after(requests: u64) -> u32 {
    let now = Instant::now();
    let mut rate = LastSecond::new(now);
    let later = now + Duration::from_secs(7);
    (0..50).for_each(|_| rate.count(now));
    (0..requests).for_each(|_| rate.count(later));
    desired(terms(true), rate.total(later + Duration::from_millis(899)))
}

fn asks_after_a_partial_grant(since: Duration) -> bool {
    let now = Instant::now();
    let mut lease = Lease::new(terms(false), now);
    let (_, ask) = until_asked(&mut lease, now, 1);
    lease.settle(&ask, full(1), now);
    assert_eq!(lease.resume(now), Decision::Pass);
    lease.take(now + since).ask.is_some()
}

#[test]
fn most_requests_pass_without_a_question() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(true), now);
    let (mut questions, mut asked_for) = (0, 0);
    for request in 0..10_000_u32 {
        let now = now + Duration::from_millis(u64::from(request));
        let step = lease.take(now);
        assert_eq!(step.decision, Decision::Pass);
        if let Some(ask) = step.ask {
            questions += 1;
            asked_for += ask.amount;
            lease.settle(&ask, full(ask.amount), now);
        }
    }
    assert!(questions < 50, "{questions} questions for 10 000 requests");
    assert!((10_000..=11_500).contains(&asked_for), "{asked_for}");
}

#[test]
fn what_was_spent_before_it_was_granted_is_paid_by_the_next_grant() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(true), now);
    let (decision, ask) = until_asked(&mut lease, now, 1);
    assert_eq!((decision, ask.amount), (Decision::Pass, 10));
    for _ in 0..5 {
        assert_eq!(lease.take(now).decision, Decision::Pass, "asked for, not granted yet");
    }
    let reset = now + Duration::from_secs(30);
    lease.settle(&ask, Grant { until: Some(reset), ..Grant::default() }, now);
    let over = Decision::Over { retry_after: Some(Duration::from_secs(30)) };
    assert_eq!(lease.take(now), Step { decision: over, ask: None });
    let later = now + PAUSE;
    let (decision, ask) = until_asked(&mut lease, later, 1);
    assert_eq!((decision, ask.amount), (Decision::Wait, 1), "after a refusal it asks for what it needs");
    lease.settle(&ask, full(1), later);
    assert_eq!(lease.resume(later), Decision::Over { retry_after: Some(PAUSE) }, "one of six is paid");
    for (amount, expected) in [(2, false), (4, true)] {
        let (decision, ask) = until_asked(&mut lease, later, 1);
        assert_eq!(
            (decision, ask.amount),
            (Decision::Wait, amount),
            "nothing is spent in advance while something is owed"
        );
        lease.settle(&ask, full(amount), later);
        assert_eq!(lease.resume(later) == Decision::Pass, expected, "six are owed");
    }
}

#[test]
fn who_fails_closed_spends_nothing_that_was_not_granted() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(false), now);
    let (decision, first) = until_asked(&mut lease, now, 1);
    assert_eq!((decision, first.amount), (Decision::Wait, 10));
    let (decision, second) = until_asked(&mut lease, now, 1);
    assert_eq!((decision, second.amount), (Decision::Wait, 1), "one asks for all, the others for themselves");
    assert_eq!(lease.fail(&second, now), 0);
    lease.settle(&first, full(10), now);
    assert_eq!(lease.resume(now), Decision::Pass);
    let step = lease.take(now);
    assert_eq!(step, Step { decision: Decision::Pass, ask: None });
}

#[test]
fn an_outage_lets_requests_pass_and_costs_two_questions_a_second() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(true), now);
    let (mut questions, mut unpaid) = (0, 0);
    for request in 0..1_000_u32 {
        let now = now + Duration::from_millis(u64::from(request) * 2);
        let step = lease.take(now);
        match step.decision {
            Decision::Pass => {}
            Decision::Unpaid => unpaid += 1,
            other => panic!("{other:?}"),
        }
        if let Some(ask) = step.ask {
            questions += 1;
            unpaid += lease.fail(&ask, now);
        }
    }
    assert_eq!((questions, unpaid), (4, 1_000), "each is known to have passed unpaid");
}

#[test]
fn a_grant_ends_with_the_time_it_was_given_for() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(false), now);
    let (_, ask) = until_asked(&mut lease, now, 1);
    lease.settle(&ask, Grant { until: Some(now + Duration::from_secs(1)), ..full(10) }, now);
    assert_eq!(lease.take(now + Duration::from_millis(999)).decision, Decision::Pass);
    assert_eq!(lease.take(now + Duration::from_secs(1)).decision, Decision::Wait);
}

#[test]
fn no_more_is_asked_for_than_the_server_said_is_left() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(true), now);
    let (_, ask) = until_asked(&mut lease, now, 1);
    lease.settle(&ask, Grant { remaining: Some(3), ..full(10) }, now);
    assert_eq!(until_asked(&mut lease, now, 10).1.amount, 3);
}

#[test]
fn a_quota_is_all_there_is_until_its_end() {
    let now = Instant::now();
    let mut lease = Lease::new(terms(true), now);
    let (_, ask) = until_asked(&mut lease, now, 1);
    let until = Some(now + Duration::from_secs(5));
    lease.settle(&ask, Grant { until, is_quota: true, ..full(3) }, now);
    for expected in [true, true, false] {
        let step = lease.take(now);
        assert_eq!((step.decision == Decision::Pass, step.ask), (expected, None));
    }
    let step = lease.take(now + Duration::from_secs(5));
    assert!(step.ask.is_some(), "it has ended");
}

#[test]
fn quotas_of_one_name_are_one_quota() {
    let now = Instant::now();
    let leases = Leases::new(terms(false), 100);
    let quota = |amount| Grant { until: Some(now + Duration::from_secs(5)), is_quota: true, ..full(amount) };
    for (key, amount, expected) in [(b"staging", 3, 2), (b"develop", 2, 1)] {
        let slot = leases.of(key, now);
        let ask = lock(&slot).take(now).ask.unwrap();
        let shared = leases.settle((key, &slot), &ask, (quota(amount), "q"), now);
        assert_eq!(lock(&shared).resume(now), Decision::Pass);
        assert_eq!(lock(&shared).grants.total(), expected, "the new one takes the place of the old one");
    }
    assert!(Arc::ptr_eq(&leases.of(b"staging", now), &leases.of(b"develop", now)));
    assert_eq!(lock(&leases.of(b"staging", now)).take(now).decision, Decision::Pass);
    assert!(matches!(lock(&leases.of(b"develop", now)).take(now).decision, Decision::Over { .. }));
}

#[test]
fn there_is_room_for_so_many_keys_and_idle_ones_go_first() {
    let now = Instant::now();
    let leases = Leases::new(terms(true), 64);
    for key in 0..10_000_u32 {
        leases.of(&key.to_le_bytes(), now + IDLE * key);
    }
    assert!(leases.keys() <= 64 + 16, "{} keys", leases.keys());
    assert_eq!(leases.evicted(), 0);
    for key in 0..1_000_u32 {
        leases.of(&key.to_be_bytes(), now + IDLE * 20_000);
    }
    assert!(leases.keys() <= 64 + 16, "{} keys", leases.keys());
    assert!(leases.evicted() > 0, "too little room is counted");
}

#[test]
fn terms_that_ask_for_nothing_are_refused() {
    for ((min, max), ttl, field) in [((0, 1), 1, "min"), ((2, 1), 1, "max"), ((1, 1), 0, "ttl")] {
        assert_eq!(Terms::new((min, max), Duration::from_secs(ttl), true).unwrap_err().field, field);
    }
}
