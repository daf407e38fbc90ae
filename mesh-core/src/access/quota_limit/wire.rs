//! The messages of the rate limit quota protocol.
//!
//! Decides: which of what a server says can be followed. Never: guesses a number that is not there.

use std::time::Duration;

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{BucketId as WireId, RateLimitQuotaUsageReports};
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy as Wire};
use envoy_types::pb::envoy::r#type::v3::{RateLimitStrategy, RateLimitUnit, TokenBucket};
use envoy_types::pb::google::protobuf::Duration as WireDuration;

use crate::policy::quota::{Assignment, BucketId, Report, Strategy};

/// Reports as messages, none too long for a server. Each names the domain, as Envoy's do; the protocol wants it in the
/// first.
pub(super) fn messages(domain: &str, reports: Vec<Report>) -> Vec<RateLimitQuotaUsageReports> {
    let message = |reports: &[Report]| RateLimitQuotaUsageReports {
        domain: domain.to_owned(),
        bucket_quota_usages: reports.iter().map(usage).collect(),
    };
    reports.chunks(BUCKETS_A_MESSAGE).map(message).collect()
}

fn usage(report: &Report) -> BucketQuotaUsage {
    // The protocol wants some time to have passed.
    let elapsed = report.elapsed.max(Duration::from_nanos(1));
    let seconds = i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX);
    BucketQuotaUsage {
        bucket_id: Some(WireId {
            bucket: report.id.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }),
        time_elapsed: Some(WireDuration { seconds, nanos: elapsed.subsec_nanos().cast_signed() }),
        num_requests_allowed: report.allowed,
        num_requests_denied: report.denied,
    }
}

/// What is said of which bucket; nothing assigned: it is to be forgotten. `None`: it cannot be followed.
pub(super) fn read(action: BucketAction) -> Option<(BucketId, Option<Assignment>)> {
    let id = action.bucket_id.filter(|id| !id.bucket.is_empty())?;
    let assignment = match action.bucket_action? {
        bucket_action::BucketAction::AbandonAction(_) => None,
        bucket_action::BucketAction::QuotaAssignmentAction(said) => {
            let ttl = match said.assignment_time_to_live {
                Some(ttl) => Some(span(ttl)?),
                None => None,
            };
            Some(Assignment { strategy: strategy(said.rate_limit_strategy)?, ttl })
        }
    };
    Some((BucketId::new(id.bucket), assignment))
}

fn strategy(said: Option<RateLimitStrategy>) -> Option<Strategy> {
    Some(match said.and_then(|said| said.strategy) {
        // Its written meaning, unlike Envoy's.
        None => Strategy::AllowAll,
        Some(Wire::BlanketRule(rule)) => match BlanketRule::try_from(rule).ok()? {
            BlanketRule::AllowAll => Strategy::AllowAll,
            BlanketRule::DenyAll => Strategy::DenyAll,
        },
        Some(Wire::RequestsPerTimeUnit(said)) if said.requests_per_time_unit == 0 => Strategy::DenyAll,
        Some(Wire::RequestsPerTimeUnit(said)) => Strategy::per(said.requests_per_time_unit, unit(said.time_unit())?),
        Some(Wire::TokenBucket(said)) => tokens(said)?,
    })
}

fn tokens(said: TokenBucket) -> Option<Strategy> {
    let fill = said.tokens_per_fill.map_or(1, |fill| fill.value);
    Strategy::bucket(said.max_tokens, fill, span(said.fill_interval?)?).ok()
}

/// Months and years as Envoy has them.
fn unit(unit: RateLimitUnit) -> Option<Duration> {
    const DAY: u64 = 86_400;
    Some(Duration::from_secs(match unit {
        RateLimitUnit::Unknown => return None,
        RateLimitUnit::Second => 1,
        RateLimitUnit::Minute => 60,
        RateLimitUnit::Hour => 3_600,
        RateLimitUnit::Day => DAY,
        RateLimitUnit::Month => 30 * DAY,
        RateLimitUnit::Year => 365 * DAY,
    }))
}

fn span(said: WireDuration) -> Option<Duration> {
    Some(Duration::new(u64::try_from(said.seconds).ok()?, u32::try_from(said.nanos).ok()?))
}

/// With the longest of ids 2 MiB, half of what servers take by default.
const BUCKETS_A_MESSAGE: usize = 500;
