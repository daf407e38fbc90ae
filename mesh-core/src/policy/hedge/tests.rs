use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::*;
use crate::error::{ErrorKind, Sent};
use crate::policy::retry_after::PUSHBACK;
use crate::policy::vectors::{cases, text, whole};

const RULES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/retry_rules.json"));

fn plenty() -> BudgetConfig {
    BudgetConfig::new(1.0, 1000, Duration::from_secs(10)).expect("valid")
}

fn policy(delay: HedgeDelay, max_hedges: u32) -> HedgePolicy {
    HedgePolicy { max_hedges, delay, min_samples: 1, budget: plenty(), hint_cap: Duration::from_secs(300) }
}

fn fixed(ms: u64, max_hedges: u32) -> Arc<Hedging> {
    Arc::new(Hedging::new(policy(HedgeDelay::Fixed(Duration::from_millis(ms)), max_hedges)))
}

fn start(hedging: &Arc<Hedging>, now: Instant) -> HedgeState {
    HedgeState::start(hedging, &Arc::new(Budget::new(plenty())), now).expect("hedged")
}

const FAILURE: Outcome<'static> = Outcome::Failure { kind: ErrorKind::Reset, sent: Sent::Maybe };

/// How one copy of a vector ends.
#[derive(Clone, Copy)]
enum End {
    Ok,
    NonFatal,
    Fatal,
}

/// What happened, in milliseconds from the start.
#[derive(Debug, Default, PartialEq)]
struct Story {
    sent: Vec<u64>,
    finished: Option<u64>,
    cancelled: Vec<usize>,
}

/// Plays a race in steps of 1 ms until `until`. `copy(n)` says how long the n-th copy takes, and its end.
fn play(hedging: &Arc<Hedging>, copy: impl Fn(usize) -> (u64, End), until: u64) -> Story {
    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let mut state = start(hedging, begin);
    let mut story = Story { sent: vec![0], ..Story::default() };
    state.sent(begin);
    let mut open: Vec<(usize, u64, End)> = vec![(1, copy(1).0, copy(1).1)];
    for ms in 0..=until {
        while let Some(place) = open.iter().position(|(_, end, _)| *end == ms) {
            let (_, _, end) = open.remove(place);
            match end {
                End::NonFatal => state.failed(&FAILURE, (at(ms), SystemTime::UNIX_EPOCH)),
                End::Ok | End::Fatal => {
                    story.finished = Some(ms);
                    story.cancelled = open.iter().map(|(n, ..)| *n).collect();
                    return story;
                }
            }
        }
        while state.due().is_some_and(|due| due <= at(ms)) {
            state.pay(at(ms)).expect("plenty");
            state.sent(at(ms));
            story.sent.push(ms);
            let n = story.sent.len();
            open.push((n, ms + copy(n).0, copy(n).1));
        }
    }
    story
}

fn check(case: &Value) {
    let hedging = fixed(whole(case, "hedging_delay_ms"), whole(case, "max_attempts") as u32 - 1);
    let (id, expected) = (text(case, "id"), &case["expected"]);
    let story = match id {
        "hedge-500ms-max-4-slow-server" => play(&hedging, |_| (10_000, End::Ok), 2_500),
        "hedge-non-fatal-sends-next-now" => {
            play(&hedging, |n| if n == 1 { (100, End::NonFatal) } else { (50, End::Ok) }, 1_000)
        }
        "hedge-fatal-cancels-all" => {
            play(&hedging, |n| if n == 2 { (100, End::Fatal) } else { (9_000, End::Ok) }, 5_000)
        }
        "hedge-first-ok-cancels-rest" => play(&hedging, |_| (250, End::Ok), 5_000),
        "hedge-delay-0-sends-all" => play(&hedging, |_| (50, End::Ok), 5_000),
        other => panic!("unknown race {other}"),
    };
    if let Some(outstanding) = expected["outstanding_at_ms"].as_object() {
        for (ms, wanted) in outstanding {
            let ms: u64 = ms.parse().expect("ms");
            let sent = story.sent.iter().filter(|at| **at <= ms).count();
            assert_eq!(sent as u64, wanted.as_u64().expect("count"), "{id} at {ms} ms");
        }
    }
    let list = |field: &str| -> Option<Vec<u64>> {
        expected[field].as_array().map(|list| list.iter().map(|value| value.as_u64().expect("number")).collect())
    };
    if let Some(sent) = list("sent_at_ms") {
        assert_eq!(story.sent, sent, "{id}");
    }
    if let Some(finished) = expected["finished_at_ms"].as_u64() {
        assert_eq!(story.finished, Some(finished), "{id}");
    }
    if let Some(cancelled) = list("cancelled") {
        assert_eq!(story.cancelled.iter().map(|n| *n as u64).collect::<Vec<_>>(), cancelled, "{id}");
    }
}

#[test]
fn every_race_vector_ends_as_it_says() {
    let races: Vec<_> = cases(RULES).into_iter().filter(|case| case["kind"] == "grpc_hedging").collect();
    races.iter().for_each(check);
    assert_eq!(races.len(), 5);
}

#[test]
fn a_percentile_is_waited_for_only_when_enough_is_known() {
    let now = Instant::now();
    let by_percentile = HedgePolicy { min_samples: 50, ..policy(HedgeDelay::Percentile(95.0), 1) };
    let hedging = Arc::new(Hedging::new(by_percentile));
    let shared = Arc::new(Budget::new(plenty()));
    for n in 0..50_u64 {
        assert!(HedgeState::start(&hedging, &shared, now).is_none(), "after {n} samples");
        hedging.observe(Duration::from_millis(if n % 25 == 0 { 400 } else { 20 }), now);
    }
    let mut state = HedgeState::start(&hedging, &shared, now).expect("enough is known");
    state.sent(now);
    let delay = state.due().expect("due") - now;
    assert!((Duration::from_millis(20)..Duration::from_millis(23)).contains(&delay), "{delay:?}");
}

#[test]
fn the_least_delay_by_percentile_is_a_millisecond() {
    let now = Instant::now();
    let hedging = Hedging::new(policy(HedgeDelay::Percentile(50.0), 1));
    hedging.observe(Duration::from_micros(80), now);
    assert_eq!(hedging.delay(now), Some(MIN_DELAY));
}

#[test]
fn a_copy_pays_its_own_budget_and_the_shared_one_or_neither() {
    let now = Instant::now();
    let one = BudgetConfig::new(0.0, 1, Duration::from_secs(1)).expect("valid");
    let hedging = Arc::new(Hedging::new(HedgePolicy { budget: one, ..policy(HedgeDelay::Fixed(Duration::ZERO), 3) }));
    let empty = Arc::new(Budget::new(BudgetConfig::new(0.0, 0, Duration::from_secs(1)).expect("valid")));
    let mut state = HedgeState::start(&hedging, &empty, now).expect("hedged");
    state.sent(now);
    assert_eq!(state.pay(now), Err(HedgeRefused::BudgetEmpty));
    assert_eq!(hedging.budget.balance(now), 1, "what could not be sent is paid back");
    state.sent(now);
    assert_eq!(state.due(), None, "a refusal ends hedging");

    let shared = Arc::new(Budget::new(plenty()));
    let before = shared.balance(now);
    let mut state = HedgeState::start(&hedging, &shared, now).expect("hedged");
    state.pay(now).expect("one token");
    assert_eq!((hedging.budget.balance(now), shared.balance(now)), (0, before - 1));
    assert_eq!(state.pay(now), Err(HedgeRefused::HedgeBudgetEmpty));
    assert_eq!(shared.balance(now), before - 1);
}

#[test]
fn a_server_may_delay_the_next_copy_or_forbid_it() {
    let now = Instant::now();
    let wall = SystemTime::UNIX_EPOCH;
    let asked = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        let mut state = start(&fixed(500, 2), now);
        state.sent(now);
        state.failed(&Outcome::Response { status: 503, grpc_status: None, headers: &headers }, (now, wall));
        state.due().map(|due| due - now)
    };
    assert_eq!(asked("x-other", "1"), Some(Duration::ZERO));
    assert_eq!(asked(PUSHBACK, "70"), Some(Duration::from_millis(70)));
    assert_eq!(asked(PUSHBACK, "-1"), None);
    assert_eq!(asked("retry-after", "2"), Some(Duration::from_secs(2)));
    assert_eq!(asked("retry-after", "9999"), None);
}

#[test]
fn a_new_policy_keeps_what_was_learned_and_a_budget_that_did_not_change() {
    let now = Instant::now();
    let before = Hedging::new(policy(HedgeDelay::Percentile(50.0), 1));
    before.observe(Duration::from_millis(40), now);
    before.budget.withdraw(now).expect("plenty");
    let same = before.under(policy(HedgeDelay::Percentile(99.0), 2));
    assert!(same.delay(now).expect("known") >= Duration::from_millis(40));
    assert_eq!(same.budget.balance(now), before.budget.balance(now));
    let budget = BudgetConfig::new(0.5, 1000, Duration::from_secs(10)).expect("valid");
    let other = before.under(HedgePolicy { budget, ..policy(HedgeDelay::Percentile(99.0), 2) });
    assert_ne!(other.budget.balance(now), before.budget.balance(now));
}
