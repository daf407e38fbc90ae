use envoy_types::pb::envoy::service::rate_limit_quota::v3::BucketId as WireId;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    AbandonAction, BucketAction as Said, QuotaAssignmentAction,
};
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, RequestsPerTimeUnit, Strategy as Wire};
use envoy_types::pb::envoy::r#type::v3::{RateLimitStrategy, RateLimitUnit, TokenBucket};
use envoy_types::pb::google::protobuf::{Duration as WireDuration, UInt32Value};

use super::*;
use crate::access::AttributesBuf;
use crate::access::descriptor::{Absent, Action, Source};
use crate::policy::quota::{Expired, Strategy};
use crate::policy::rate_limit::RateLimit;
use crate::policy::vectors::{cases, text};

const VECTORS: &str = include_str!("../../../../tests/vectors/local_rate_limit.json");

fn by_header(name: &str, absent: Absent) -> Action {
    Action::Value { of: Source::header(name).unwrap(), key: name.trim_start_matches("x-").into(), absent }
}

fn limit(rules: Vec<DescriptorRule>) -> QuotaLimit {
    let expired = Expired { fallback: None, lasts: Duration::ZERO };
    let quota = Quota::new(QuotaConfig {
        name: "users".into(),
        cluster: "quotas".into(),
        origin: Uri::from_static("http://quotas"),
        domain: "shop".to_owned(),
        interval: Duration::from_secs(5),
        terms: Terms { unassigned: Strategy::AllowAll, expired, max_buckets: 2_000 },
    });
    QuotaLimit {
        matches: Vec::new(),
        rules,
        reply: Arc::new(Verdict::deny(429)),
        headers: HeaderForm::RateLimit,
        enforced: 1.0,
        quota: Arc::new(quota),
    }
}

fn by_user() -> QuotaLimit {
    limit(vec![DescriptorRule { actions: vec![by_header("x-user", Absent::Drops)] }])
}

fn request(headers: &[(&'static str, &str)]) -> AttributesBuf {
    let mut request = AttributesBuf::default();
    for (name, value) in headers {
        request.headers.insert(*name, value.parse().unwrap());
    }
    request
}

fn described(limit: &QuotaLimit, headers: &[(&'static str, &str)]) -> Option<Vec<String>> {
    let bucket = limit.bucket(&request(headers).borrow())?;
    Some(bucket.pairs().map(|(key, value)| format!("{key}={value}")).collect())
}

#[test]
fn the_first_that_makes_entries_is_the_bucket_and_an_empty_value_makes_none() {
    let limit = limit(vec![
        DescriptorRule { actions: vec![by_header("x-user", Absent::Drops), by_header("x-plan", Absent::Skips)] },
        DescriptorRule { actions: vec![Action::Fixed { key: "who".into(), value: "anybody".into() }] },
    ]);
    for (headers, expected) in [
        (&[("x-user", "u1"), ("x-plan", "gold")][..], &["plan=gold", "user=u1"][..]),
        (&[("x-user", "u1")], &["user=u1"]),
        (&[("x-plan", "gold")], &["who=anybody"]),
        (&[("x-user", ""), ("x-plan", "gold")], &["who=anybody"]),
    ] {
        assert_eq!(described(&limit, headers).unwrap(), expected, "{headers:?}");
    }
}

#[test]
fn a_request_without_a_bucket_passes_and_is_not_reported() {
    let cases = cases(VECTORS);
    let case = cases.iter().find(|case| text(case, "id") == "rlqs-no-bucket-match").unwrap();
    assert_eq!(case["expected"], serde_json::json!({ "admitted": true, "reported": false }));
    let limit = by_user();
    assert_eq!(described(&limit, &[]), None);
    assert!(limit.quota.report_all(Instant::now()).is_empty());
}

fn action(of: &str, said: Option<Said>) -> BucketAction {
    let bucket = [("user".to_owned(), of.to_owned())].into();
    BucketAction { bucket_id: Some(WireId { bucket }), bucket_action: said }
}

fn assigned(strategy: Option<Wire>, ttl: Option<i64>) -> Option<Said> {
    let rate_limit_strategy = strategy.map(|strategy| RateLimitStrategy { strategy: Some(strategy) });
    let ttl = ttl.map(|seconds| WireDuration { seconds, nanos: 0 });
    Some(Said::QuotaAssignmentAction(QuotaAssignmentAction { assignment_time_to_live: ttl, rate_limit_strategy }))
}

fn tokens(max_tokens: u32, fill: Option<u32>, seconds: Option<i64>) -> Wire {
    let fill_interval = seconds.map(|seconds| WireDuration { seconds, nanos: 0 });
    Wire::TokenBucket(TokenBucket {
        max_tokens,
        tokens_per_fill: fill.map(|value| UInt32Value { value }),
        fill_interval,
    })
}

fn per(requests_per_time_unit: u64, unit: RateLimitUnit) -> Wire {
    Wire::RequestsPerTimeUnit(RequestsPerTimeUnit { requests_per_time_unit, time_unit: unit as i32 })
}

#[test]
fn what_a_server_says_is_read_as_it_is_written_and_nothing_is_guessed() {
    let bucket =
        |max, fill, seconds| Some(Strategy::Tokens(RateLimit::new(max, fill, Duration::from_secs(seconds)).unwrap()));
    for (said, expected) in [
        (None, Some(Strategy::AllowAll)),
        (Some(Wire::BlanketRule(BlanketRule::AllowAll as i32)), Some(Strategy::AllowAll)),
        (Some(Wire::BlanketRule(BlanketRule::DenyAll as i32)), Some(Strategy::DenyAll)),
        (Some(Wire::BlanketRule(7)), None),
        (Some(per(5, RateLimitUnit::Minute)), bucket(5, 5, 60)),
        (Some(per(0, RateLimitUnit::Unknown)), Some(Strategy::DenyAll)),
        (Some(per(5, RateLimitUnit::Unknown)), None),
        (Some(tokens(9, Some(3), Some(2))), bucket(9, 3, 2)),
        (Some(tokens(9, None, Some(2))), bucket(9, 1, 2)),
        (Some(tokens(0, None, Some(2))), None),
        (Some(tokens(9, Some(0), Some(2))), None),
        (Some(tokens(9, None, None)), None),
        (Some(tokens(9, None, Some(0))), None),
        (Some(tokens(9, None, Some(-1))), None),
    ] {
        let read = wire::read(action("u1", assigned(said, Some(10))));
        let strategy = read.map(|(_, assignment)| {
            let assignment = assignment.unwrap();
            assert_eq!(assignment.ttl, Some(Duration::from_secs(10)));
            assignment.strategy
        });
        assert_eq!(strategy, expected, "{said:?}");
    }
    let deny = Some(Wire::BlanketRule(BlanketRule::DenyAll as i32));
    let (id, assignment) = wire::read(action("u1", assigned(deny, None))).unwrap();
    assert_eq!((id, assignment.unwrap().ttl), (BucketId::new([("user", "u1")]), None));
    assert!(wire::read(action("u1", Some(Said::AbandonAction(AbandonAction {})))).unwrap().1.is_none());
    for nonsense in [
        action("u1", None),
        action("u1", assigned(deny, Some(-1))),
        BucketAction { bucket_id: None, ..action("", assigned(deny, None)) },
        BucketAction { bucket_id: Some(WireId::default()), ..action("", assigned(deny, None)) },
    ] {
        assert_eq!(wire::read(nonsense), None);
    }
}

#[test]
fn each_thing_the_server_says_is_counted_by_what_became_of_it() {
    let (limit, now, mut rng) = (by_user(), Instant::now(), fastrand::Rng::with_seed(1));
    let bucket = limit.bucket(&request(&[("x-user", "u1")]).borrow()).unwrap();
    assert!(limit.take(&bucket, (now, &mut rng)).is_ok());
    let five = || assigned(Some(per(5, RateLimitUnit::Second)), Some(10));
    let abandon = || Some(Said::AbandonAction(AbandonAction {}));
    let bucket_action = vec![
        action("u1", five()),
        action("u1", five()),
        action("u2", five()),
        action("u1", None),
        action("u1", abandon()),
        action("u1", abandon()),
    ];
    limit.quota.follow(RateLimitQuotaResponse { bucket_action }, now);
    let counted = ORDERS.map(|order| (order, limit.quota.counts().orders(order)));
    let expected = [("replaced", 1), ("extended", 1), ("abandoned", 1), ("unknown", 2), ("malformed", 1)];
    assert_eq!(counted, expected);
}

#[test]
fn a_refusal_says_when_there_is_a_token_again_and_a_blanket_one_says_nothing() {
    let (limit, now, mut rng) = (by_user(), Instant::now(), fastrand::Rng::with_seed(1));
    let bucket = limit.bucket(&request(&[("x-user", "u1")]).borrow()).unwrap();
    limit.take(&bucket, (now, &mut rng)).unwrap();
    let one = assigned(Some(per(1, RateLimitUnit::Minute)), Some(600));
    limit.quota.follow(RateLimitQuotaResponse { bucket_action: vec![action("u1", one)] }, now);
    limit.take(&bucket, (now, &mut rng)).unwrap();
    let over = limit.take(&bucket, (now, &mut rng)).unwrap_err();
    assert_eq!((over.retry_after, over.is_enforced), (Some(Duration::from_secs(60)), true));
    let told: Vec<_> = over.reply.response_headers.iter().map(|change| change.value.to_str().unwrap()).collect();
    assert_eq!(told, ["\"users\";q=1;w=60", "\"users\";r=0;t=60"]);
    let none = assigned(Some(Wire::BlanketRule(BlanketRule::DenyAll as i32)), None);
    limit.quota.follow(RateLimitQuotaResponse { bucket_action: vec![action("u1", none)] }, now);
    let over = limit.take(&bucket, (now, &mut rng)).unwrap_err();
    assert_eq!((over.retry_after, over.reply.response_headers.len()), (None, 0));
}

#[test]
fn reports_of_many_buckets_are_several_messages_each_with_the_domain_and_some_time() {
    let (limit, now, mut rng) = (by_user(), Instant::now(), fastrand::Rng::with_seed(1));
    for user in 0..1_100 {
        limit.take(&BucketId::new([("user", user.to_string())]), (now, &mut rng)).unwrap();
    }
    let messages = limit.quota.report_news(now);
    let counts: Vec<_> = messages.iter().map(|message| message.bucket_quota_usages.len()).collect();
    assert_eq!((counts, limit.quota.counts().reports()), (vec![500, 500, 100], 1_100));
    for message in messages {
        assert_eq!(message.domain, "shop");
        for usage in message.bucket_quota_usages {
            assert_eq!((usage.num_requests_allowed, usage.num_requests_denied), (1, 0));
            assert_eq!(usage.time_elapsed, Some(WireDuration { seconds: 0, nanos: 1 }), "the protocol wants some");
        }
    }
}
