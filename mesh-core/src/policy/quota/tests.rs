use super::*;
use crate::policy::rate_limit::RateLimit;
use crate::policy::vectors::{cases, text};

const VECTORS: &str = include_str!("../../../../tests/vectors/local_rate_limit.json");
const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> BucketId {
    BucketId::new([("name", name)])
}

fn tokens(requests: u64) -> Strategy {
    Strategy::per(requests, SECOND)
}

fn buckets(unassigned: Strategy, expired: Expired) -> Buckets {
    Buckets::new(Terms { unassigned, expired, max_buckets: 100 })
}

/// The protocol's defaults.
fn plain() -> Buckets {
    buckets(Strategy::AllowAll, Expired { fallback: None, lasts: Duration::ZERO })
}

fn assignment(strategy: Strategy, seconds: u64) -> Assignment {
    Assignment { strategy, ttl: Some(SECOND * seconds as u32) }
}

fn passed(buckets: &Buckets, requests: usize, now: Instant) -> usize {
    (0..requests).filter(|_| buckets.take(&id("a"), now).over.is_none()).count()
}

/// Allowed and denied, of each report.
fn sums(reports: &[Report]) -> (u64, u64) {
    reports.iter().fold((0, 0), |(allowed, denied), report| (allowed + report.allowed, denied + report.denied))
}

#[test]
fn a_bucket_goes_through_the_stages_of_the_protocol() {
    let mut asserted = 0;
    for case in cases(VECTORS).iter().filter(|case| text(case, "kind") == "rlqs") {
        let (id, expected) = (text(case, "id"), &case["expected"]);
        // A request that no action describes has no bucket: asserted where it is described, in `access/quota_limit.rs`.
        if id == "rlqs-no-bucket-match" {
            continue;
        }
        let (buckets, start) = (plain(), Instant::now());
        // An assignment answers a report, so that there is a bucket.
        if case["events"][0].as_str().unwrap().starts_with("assignment") {
            buckets.take(&self::id("a"), start);
        }
        let (mut at, mut last) = (start, None);
        for event in case["events"].as_array().unwrap() {
            last = play(&buckets, event.as_str().unwrap(), (start, &mut at)).or(last);
        }
        if let Some(admitted) = expected["admitted"].as_bool() {
            assert_eq!(last, Some(admitted), "{id}");
        } else {
            assert_eq!(expected, &serde_json::json!({ "report": "sent at once with allowed 1" }), "{id}");
            assert_eq!(sums(&buckets.report_news(at)), (1, 0), "{id}");
        }
        asserted += 1;
    }
    assert_eq!(asserted, 5);
}

/// Plays one event of a vector; says whether the last request passed.
fn play(buckets: &Buckets, event: &str, (start, at): (Instant, &mut Instant)) -> Option<bool> {
    let words: Vec<&str> = event.split(' ').collect();
    if let Some(place) = words.iter().position(|word| *word == "at") {
        *at = start + SECOND * words[place + 1].parse::<u32>().unwrap();
    }
    let deny = |ttl: &str| Some((Strategy::DenyAll, ttl.parse().unwrap()));
    let ten = Strategy::Tokens(RateLimit::new(10, 10, SECOND * 60).unwrap());
    let assigned: Option<(Strategy, u64)> = match words[..] {
        ["assignment", "DENY", "ttl", ttl] => deny(ttl),
        ["assignment", "bucket(10)", "ttl", ttl] => Some((ten, ttl.parse().unwrap())),
        ["same", "assignment", ..] => Some((ten, 5)),
        _ => None,
    };
    if let Some((strategy, seconds)) = assigned {
        assert_ne!(buckets.assign(&id("a"), assignment(strategy, seconds), *at), Applied::Unknown);
        return None;
    }
    let requests = words[0].parse().unwrap_or(1);
    Some(passed(buckets, requests, *at) == requests)
}

#[test]
fn until_the_first_assignment_and_after_the_last_what_was_written_holds() {
    let reuse = |lasts| Expired { fallback: None, lasts: SECOND * lasts };
    let fallback = |strategy, lasts| Expired { fallback: Some(strategy), lasts: SECOND * lasts };
    // Of ten requests at each of these seconds so many pass; two a second are assigned at the second 1, for 5 s.
    for (unassigned, expired, expected) in [
        (Strategy::AllowAll, reuse(0), [10, 2, 2, 10, 10]),
        (Strategy::DenyAll, reuse(0), [0, 2, 2, 0, 0]),
        (tokens(3), reuse(0), [3, 2, 2, 3, 3]),
        (Strategy::AllowAll, reuse(3), [10, 2, 2, 2, 10]),
        (Strategy::AllowAll, fallback(Strategy::DenyAll, 3), [10, 2, 2, 0, 10]),
        (Strategy::DenyAll, fallback(tokens(4), 3), [0, 2, 2, 4, 0]),
    ] {
        let (buckets, start) = (buckets(unassigned, expired), Instant::now());
        let mut seen = Vec::new();
        for second in [0, 1, 4, 7, 9] {
            let now = start + SECOND * second;
            if second == 1 {
                assert_eq!(buckets.assign(&id("a"), assignment(tokens(2), 5), now), Applied::Replaced);
            }
            seen.push(passed(&buckets, 10, now));
        }
        assert_eq!(seen, expected, "{unassigned:?} {expired:?}");
    }
}

#[test]
fn another_assignment_is_in_force_at_once_and_the_same_one_fills_nothing() {
    let (buckets, now) = (plain(), Instant::now());
    passed(&buckets, 1, now);
    assert_eq!(buckets.assign(&id("a"), assignment(tokens(5), 60), now), Applied::Replaced);
    assert_eq!(passed(&buckets, 9, now), 5);
    assert_eq!(buckets.assign(&id("a"), assignment(tokens(5), 60), now), Applied::Extended);
    assert_eq!(passed(&buckets, 9, now), 0);
    assert_eq!(buckets.assign(&id("a"), assignment(tokens(6), 60), now), Applied::Replaced);
    assert_eq!(passed(&buckets, 9, now), 6);
    let over = buckets.take(&id("a"), now).over.unwrap();
    assert_eq!(over, Over { limit: Some((6, SECOND)), retry_after: Some(SECOND) });
    let for_ever = Assignment { strategy: Strategy::DenyAll, ttl: None };
    assert_eq!(buckets.assign(&id("a"), for_ever, now), Applied::Replaced);
    let later = now + SECOND * 1_000_000;
    assert_eq!(buckets.take(&id("a"), later).over, Some(Over { limit: None, retry_after: None }));
}

#[test]
fn what_is_abandoned_is_not_reported_and_begins_anew() {
    let (buckets, now) = (plain(), Instant::now());
    assert_eq!(buckets.assign(&id("a"), assignment(Strategy::DenyAll, 60), now), Applied::Unknown);
    passed(&buckets, 3, now);
    buckets.assign(&id("a"), assignment(Strategy::DenyAll, 60), now);
    assert_eq!(passed(&buckets, 3, now), 0);
    assert!(buckets.abandon(&id("a")) && !buckets.abandon(&id("a")));
    assert!(buckets.report_news(now).is_empty() && buckets.report_all(now).is_empty());
    assert_eq!(buckets.take(&id("a"), now), Taken { over: None, is_news: true });
    assert_eq!(sums(&buckets.report_news(now)), (1, 0));
}

#[test]
fn the_first_request_and_each_other_assignment_are_reported_at_once_all_the_rest_with_the_interval() {
    let (buckets, start) = (plain(), Instant::now());
    assert!(buckets.take(&id("a"), start).is_news);
    assert!(!buckets.take(&id("a"), start).is_news);
    let at = start + SECOND;
    let report = |allowed, denied, elapsed| vec![Report { id: id("a"), elapsed, allowed, denied }];
    assert_eq!(buckets.report_news(at), report(2, 0, SECOND));
    assert!(buckets.report_news(at).is_empty());
    buckets.assign(&id("a"), assignment(Strategy::DenyAll, 60), at);
    passed(&buckets, 3, at);
    assert_eq!(buckets.report_news(at + SECOND), report(0, 3, SECOND));
    buckets.assign(&id("a"), assignment(Strategy::DenyAll, 60), at + SECOND);
    assert!(buckets.report_news(at + SECOND).is_empty(), "the same is no news");
    assert_eq!(buckets.report_all(at + SECOND * 3), report(0, 0, SECOND * 2), "so that the server knows");
}

#[test]
fn buckets_are_the_same_in_any_order_of_keys_and_no_two_are_confused() {
    let (buckets, now) = (plain(), Instant::now());
    buckets.take(&BucketId::new([("a", "1"), ("b", "2")]), now);
    let same = BucketId::new([("b", "2"), ("a", "1")]);
    assert_eq!(buckets.assign(&same, assignment(Strategy::DenyAll, 60), now), Applied::Replaced);
    for other in [&[("a", "1")][..], &[("a", "1"), ("b", "3")], &[("a", "1b"), ("", "2")], &[("a1", ""), ("b", "2")]] {
        assert!(buckets.take(&BucketId::new(other.iter().copied()), now).over.is_none(), "{other:?}");
    }
    assert!(buckets.take(&same, now).over.is_some());
}

#[test]
fn there_are_never_more_buckets_than_room_and_who_finds_none_is_treated_as_unassigned() {
    let (start, max_buckets) = (Instant::now(), 32);
    let expired = Expired { fallback: None, lasts: Duration::ZERO };
    let buckets = Buckets::new(Terms { unassigned: tokens(1), expired, max_buckets });
    let known = |buckets: &Buckets| Stage::ALL.map(|stage| buckets.count(stage, start)).iter().sum::<usize>();
    let mut refused = 0;
    for key in 0..1_000 {
        refused += usize::from(buckets.take(&id(&key.to_string()), start).over.is_some());
    }
    assert!(known(&buckets) <= max_buckets, "{}", known(&buckets));
    let beyond = 1_000 - known(&buckets);
    assert_eq!((buckets.overflowed(), refused), (beyond as u64, beyond - 1), "they share one token a second");
    assert_eq!(buckets.report_all(start).len(), known(&buckets));
    assert!(!buckets.take(&id(&"x".repeat(5_000)), start).is_news, "it is longer than anything useful");
    assert_eq!(buckets.overflowed(), beyond as u64 + 1);
    // Ten minutes later nobody has used them: there is room again, and the last report of them is the end.
    let later = start + Duration::from_secs(600);
    let before = buckets.overflowed();
    buckets.take(&id("x"), later);
    assert_eq!(buckets.overflowed(), before);
    buckets.report_all(later);
    assert_eq!((known(&buckets), buckets.report_all(later).len()), (1, 1));
}

#[test]
fn an_assignment_that_has_expired_counts_as_such_without_a_request() {
    let (buckets, start) = (plain(), Instant::now());
    let counts = |now| Stage::ALL.map(|stage| buckets.count(stage, now));
    passed(&buckets, 1, start);
    assert_eq!(counts(start), [1, 0, 0]);
    buckets.assign(&id("a"), assignment(Strategy::AllowAll, 5), start);
    assert_eq!((counts(start), counts(start + SECOND * 5)), ([0, 1, 0], [0, 0, 1]));
}

/// Eight threads take what another one reports.
#[test]
fn no_token_is_taken_twice_and_no_request_is_reported_twice_however_many_come_at_once() {
    const REQUESTS: u64 = 5_000;
    let (buckets, now) = (plain(), Instant::now());
    buckets.take(&id("a"), now);
    buckets.assign(&id("a"), assignment(tokens(20_000), 60), now);
    buckets.report_all(now);
    let mut reports = Vec::new();
    std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..REQUESTS).filter(|_| buckets.take(&id("a"), now).over.is_none()).count()))
            .collect();
        while takers.iter().any(|taker| !taker.is_finished()) {
            reports.extend(buckets.report_all(now));
        }
    });
    reports.extend(buckets.report_all(now));
    assert_eq!(sums(&reports), (20_000, 8 * REQUESTS - 20_000));
}

/// However requests, assignments, expiries and reports follow each other, each request is reported once.
#[test]
fn the_reports_sum_up_to_what_was_decided() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let lasts = SECOND * rng.u32(0..3);
        let fallback = [None, Some(Strategy::DenyAll), Some(tokens(3))][rng.usize(0..3)];
        let buckets = buckets(tokens(2), Expired { fallback, lasts });
        let (mut now, mut decided, mut reported) = (Instant::now(), (0, 0), (0, 0));
        let mut add = |reports: Vec<Report>| {
            let (allowed, denied) = sums(&reports);
            reported = (reported.0 + allowed, reported.1 + denied);
        };
        for _ in 0..500 {
            let bucket = id(&rng.u8(0..5).to_string());
            match rng.u8(0..10) {
                0 => add(buckets.report_news(now)),
                1 => add(buckets.report_all(now)),
                2 => {
                    let strategy = [Strategy::AllowAll, Strategy::DenyAll, tokens(1), tokens(4)][rng.usize(0..4)];
                    buckets.assign(&bucket, assignment(strategy, rng.u64(0..4)), now);
                }
                3 => now += Duration::from_millis(rng.u64(0..2_000)),
                _ => match buckets.take(&bucket, now).over {
                    None => decided.0 += 1,
                    Some(_) => decided.1 += 1,
                },
            }
        }
        add(buckets.report_all(now));
        assert_eq!(reported, decided, "seed {seed}");
    }
}
