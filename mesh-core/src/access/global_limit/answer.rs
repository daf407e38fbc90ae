//! The answer: a `RateLimitResponse` as what it means for requests.
//!
//! Decides: whether it says yes or no, what is left until when, and which headers and body go with it.
//! Never: takes an answer without a clear code for either. Invariant: a header of the server never stands beside one
//! of the same name that the caller sent, and frames no message.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3::HeaderValue as WireHeader;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::quota::ExpirationSpecifier;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, Quota, RateLimit};
use http::{HeaderName, HeaderValue};

use super::GlobalLimitConfig;
use crate::access::limit_headers::Remainder;
use crate::access::verdict::{FailureReason, HeaderAction, HeaderChange, Verdict};
use crate::config::rule::unchangeable;

/// What the server said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) is_over: bool,
    /// What becomes of the request that was asked about.
    pub(super) verdict: Arc<Verdict>,
    /// Until something is reset: of what is over all of it, else the first.
    pub(super) reset: Option<Duration>,
    /// The least that is left of any limit.
    pub(super) remaining: Option<u32>,
    pub(super) quota: Option<Granted>,
}

/// What may be used without asking again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) requests: u32,
    pub(super) valid_for: Option<Duration>,
    pub(super) name: String,
}

/// Reads an answer that came at `wall`.
pub(super) fn interpret(
    response: RateLimitResponse,
    config: &GlobalLimitConfig,
    wall: SystemTime,
) -> Result<Said, FailureReason> {
    let is_over = match response.overall_code() {
        Code::Ok => false,
        Code::OverLimit => true,
        Code::Unknown => return Err(FailureReason::ServerError),
    };
    let limited = || response.statuses.iter().filter(|status| status.current_limit.is_some());
    let scarcest = limited().min_by_key(|status| status.limit_remaining);
    let mut verdict = if is_over { Verdict::clone(&config.reply) } else { Verdict::allow() };
    verdict.response_headers.extend(scarcest.into_iter().flat_map(|status| headers(config, status)));
    verdict.response_headers.extend(changes(&response.response_headers_to_add));
    let reset = if is_over {
        let over = response.statuses.iter().filter(|status| status.code() == Code::OverLimit);
        verdict.body = response.raw_body.into();
        over.filter_map(until_reset).max()
    } else {
        verdict.request_headers = changes(&response.request_headers_to_add);
        limited().filter_map(until_reset).min()
    };
    Ok(Said {
        is_over,
        reset,
        remaining: scarcest.map(|status| status.limit_remaining),
        verdict: Arc::new(verdict),
        quota: response.quota.map(|quota| granted(quota, wall)),
    })
}

fn granted(quota: Quota, wall: SystemTime) -> Granted {
    let valid_for = quota.expiration_specifier.map(|ExpirationSpecifier::ValidUntil(end)| {
        let since_epoch = duration(end.seconds, end.nanos).unwrap_or_default();
        since_epoch.saturating_sub(wall.duration_since(UNIX_EPOCH).unwrap_or_default())
    });
    Granted { requests: quota.requests, valid_for, name: quota.id }
}

fn headers(config: &GlobalLimitConfig, status: &DescriptorStatus) -> Vec<HeaderChange> {
    let Some(limit) = &status.current_limit else { return Vec::new() };
    config.headers.tell(Remainder {
        name: &config.name,
        limit: limit.requests_per_unit,
        window: window(limit),
        remaining: status.limit_remaining,
        reset: until_reset(status),
    })
}

fn until_reset(status: &DescriptorStatus) -> Option<Duration> {
    let span = status.duration_until_reset.as_ref()?;
    duration(span.seconds, span.nanos)
}

/// As a message has it: nanoseconds beyond a second, and negative ones, are none.
fn duration(seconds: i64, nanos: i32) -> Option<Duration> {
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).unwrap_or(0);
    Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
}

/// Months and years as Envoy has them in its headers.
fn window(limit: &RateLimit) -> Option<Duration> {
    const DAY: u64 = 86_400;
    Some(Duration::from_secs(match limit.unit() {
        Unit::Unknown => return None,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3_600,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
    }))
}

/// The first of a name takes the place of what is there, further ones are added. What cannot be sent is left out.
fn changes(headers: &[WireHeader]) -> Vec<HeaderChange> {
    let mut changes: Vec<HeaderChange> = Vec::new();
    for header in headers.iter().take(MAX_CHANGES) {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let (Ok(name), Ok(value)) = (header.key.parse::<HeaderName>(), HeaderValue::from_bytes(value)) else {
            continue;
        };
        // Whom a message is for, where it ends and what the mesh says is not for a limit to say.
        if unchangeable(name.as_str()).is_some() {
            continue;
        }
        let is_first = changes.iter().all(|change| change.name != name);
        let action = if is_first { HeaderAction::Replace } else { HeaderAction::Add };
        changes.push(HeaderChange { name, value, action });
    }
    changes
}

/// An answer about a limit has a handful of headers.
const MAX_CHANGES: usize = 64;

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf;

    use super::*;

    #[test]
    fn times_that_no_message_may_have_are_borne() {
        let wall = UNIX_EPOCH + Duration::from_secs(1_000);
        for (seconds, nanos, expected) in [
            (1_060, 0, Duration::from_secs(60)),
            (1_060, 1_000_000_000, Duration::from_secs(60)),
            (1_060, -1, Duration::from_secs(60)),
            (999, 0, Duration::ZERO),
            (-1, 0, Duration::ZERO),
            (i64::MAX, 2_000_000_000, Duration::from_secs(i64::MAX as u64 - 1_000)),
        ] {
            let end = protobuf::Timestamp { seconds, nanos };
            let quota = Quota {
                requests: 1,
                expiration_specifier: Some(ExpirationSpecifier::ValidUntil(end)),
                ..Quota::default()
            };
            assert_eq!(granted(quota, wall).valid_for, Some(expected), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_service_sets_headers_of_its_own_and_none_of_the_mesh() {
        let header = |name: &str| WireHeader { key: name.to_owned(), value: "1".to_owned(), ..WireHeader::default() };
        let written = ["x-mesh-refused", "X-Mesh-Draining", "upgrade", "te", "trailer", "host", "x-left"].map(header);
        let names: Vec<_> = changes(&written).into_iter().map(|change| change.name.to_string()).collect();
        assert_eq!(names, ["x-left"]);
    }
}
