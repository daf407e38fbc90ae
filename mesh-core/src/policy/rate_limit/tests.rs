use std::sync::Barrier;
use std::sync::atomic::AtomicU32;

use serde_json::Value;

use super::*;
use crate::policy::vectors::{cases, seconds, text, whole};

const VECTORS: &str = include_str!("../../../../tests/vectors/local_rate_limit.json");

const LEFT_OUT: &[&str] = &[
    // Asserted where buckets get assignments: `policy/quota/tests.rs`, the one without a bucket in `access/quota_limit.rs`.
    "rlqs-no-assignment-allows",
    "rlqs-deny-all",
    "rlqs-ttl-zero-expires-now",
    "rlqs-same-strategy-extends",
    "rlqs-no-bucket-match",
    "rlqs-first-report-subscribes",
    // Buckets here are independent of each other, so that an interval needs no relation to another's.
    "config-descriptor-interval-not-multiple",
    // A limit that is written is in force; `enforce_percent` says otherwise.
    "filter-default-percent-zero",
    // Asserted where requests are answered: `mesh-core/tests/rate_limits.rs`.
    "filter-enabled-not-enforced",
    "filter-enabled-and-enforced",
    "filter-custom-status-503",
    "filter-response-header-added",
    "descriptor-own-bucket",
    "descriptor-also-takes-default",
    "descriptor-no-uses-default",
    "descriptor-default-not-consumed-by-descriptor",
    // Refused when the document is read, which says so instead of answering otherwise than written; asserted there, too.
    "filter-status-below-400-is-429",
];

fn limit(of: &Value) -> Result<RateLimit, Invalid> {
    RateLimit::new(whole(of, "max_tokens") as u32, whole(of, "tokens_per_fill") as u32, seconds(of, "fill_interval_s"))
}

fn admitted(bucket: &TokenBucket, requests: u64, now: Instant) -> u64 {
    (0..requests).filter(|_| bucket.take(now).is_ok()).count() as u64
}

#[test]
fn buckets_fill_and_empty_as_envoys_do() {
    let mut asserted = 0;
    for case in &cases(VECTORS) {
        let (id, start) = (text(case, "id"), Instant::now());
        if LEFT_OUT.contains(&id) {
            continue;
        }
        match text(case, "kind") {
            "token_bucket" => {
                let bucket = TokenBucket::new(limit(case).unwrap(), start);
                for step in case["timeline"].as_array().unwrap() {
                    let passed = admitted(&bucket, whole(step, "requests"), start + seconds(step, "at_s"));
                    assert_eq!(passed, whole(step, "admitted"), "{id} at {}", step["at_s"]);
                }
            }
            "concurrency" if case["events"].is_null() => at_once(case, start),
            "concurrency" => {
                let events = case["events"].as_array().unwrap();
                let bucket = TokenBucket::new(limit(case).unwrap(), start + seconds(&events[0], "at_s"));
                let passed = events
                    .iter()
                    .map(|event| admitted(&bucket, whole(event, "requests"), start + seconds(event, "at_s")));
                assert_eq!(passed.last(), case["expected"]["admitted_last"].as_u64(), "{id}");
            }
            "config" => {
                assert_eq!(Some(limit(&case["config"]).is_ok()), case["expected"]["accepted"].as_bool(), "{id}");
            }
            other => panic!("{id}: a case of kind {other} is neither asserted nor left out"),
        }
        asserted += 1;
    }
    assert_eq!(asserted, 17);
}

fn at_once(case: &Value, now: Instant) {
    let bucket = TokenBucket::new(limit(case).unwrap(), now);
    let requests = whole(case, "concurrent_requests") as usize;
    let (barrier, passed) = (Barrier::new(requests), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..requests {
            scope.spawn(|| {
                barrier.wait();
                if bucket.take(now).is_ok() {
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(u64::from(passed.into_inner()), whole(&case["expected"], "admitted"));
}

#[test]
fn o42_no_window_admits_more_than_its_tokens_however_many_wait() {
    let now = Instant::now();
    let bucket = TokenBucket::new(RateLimit::new(3, 3, Duration::from_secs(10)).unwrap(), now);
    for window in 0..5 {
        let begin = now + Duration::from_secs(10 * window);
        assert_eq!(admitted(&bucket, 30, begin), 3, "window {window}");
        let limited = bucket.take(begin + Duration::from_secs(4)).unwrap_err();
        assert_eq!(limited.retry_after, Duration::from_secs(6), "window {window}");
    }
}

/// Threads that take at once, until nothing is left: a token that two of them took would be one too many.
#[test]
fn o42_no_window_admits_more_than_its_tokens_however_many_ask_at_once() {
    const TOKENS: u32 = 200_000;
    let (now, interval) = (Instant::now(), Duration::from_secs(10));
    let bucket = TokenBucket::new(RateLimit::new(TOKENS, TOKENS, interval).unwrap(), now);
    for window in 0..3 {
        let begin = now + interval * window;
        let (barrier, passed) = (Barrier::new(30), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..30 {
                scope.spawn(|| {
                    barrier.wait();
                    while bucket.take(begin).is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), TOKENS, "window {window}");
    }
}

#[test]
fn each_key_has_its_own_bucket_and_a_full_one_is_forgotten_first() {
    let now = Instant::now();
    let buckets = KeyedBuckets::new(RateLimit::new(1, 1, Duration::from_secs(1)).unwrap(), 64);
    assert!(buckets.take(b"a", now).is_ok());
    assert!(buckets.take(b"a", now).is_err());
    assert!(buckets.take(b"b", now).is_ok());
    let later = now + Duration::from_secs(5);
    for key in 0..10_000_u32 {
        // Each key comes a second after the one before, so all earlier buckets are full again.
        let _ = buckets.take(&key.to_le_bytes(), later + Duration::from_secs(u64::from(key)));
    }
    assert!(buckets.keys() <= 64 + 16, "{} keys", buckets.keys());
    assert_eq!(buckets.evicted(), 0);
    for key in 0..1_000_u32 {
        let _ = buckets.take(&key.to_be_bytes(), later + Duration::from_secs(20_000));
    }
    assert!(buckets.keys() <= 64 + 16, "{} keys", buckets.keys());
    assert!(buckets.evicted() > 0, "too little room is counted");
}
