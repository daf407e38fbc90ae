//! Rate limits that a server assigns: a limit whose buckets are described as before keeps them.

use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::global_limit::{RESOURCE_EXHAUSTED, UNAVAILABLE, compile_rules};
use super::limit::{header_changes, header_form};
use super::problems::Problems;
use super::route::compile_matches;
use crate::access::quota_limit::{Quota, QuotaConfig, QuotaLimit};
use crate::access::verdict::Verdict;
use crate::config::document::Document;
use crate::config::rate_limit_quota::{
    BlanketRule, RateLimitQuota as Written, RateLimitStrategy as WrittenStrategy, TimeUnit,
};
use crate::config::value::Name;
use crate::policy::quota::{Expired, Strategy, Terms};

/// Each limit with the listeners it is for; `None`: all.
pub(super) fn compile(
    document: &Document,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Vec<(Option<Vec<Name>>, Arc<QuotaLimit>)> {
    let mut limits = Vec::new();
    for (index, written) in document.policy.rate_limit_quotas.iter().enumerate() {
        let limit = compile_limit(written, document, context);
        let limit = problems.note(format!("policy.rate_limit_quotas[{index}]"), limit);
        limits.extend(limit.map(|limit| (written.listeners.clone(), Arc::new(limit))));
    }
    limits
}

fn compile_limit(written: &Written, document: &Document, context: &Context<'_>) -> Result<QuotaLimit, String> {
    let grpc = if written.rate_limited_as_resource_exhausted { RESOURCE_EXHAUSTED } else { UNAVAILABLE };
    let reply = Verdict {
        response_headers: header_changes(&written.response_headers)?,
        grpc_status: Some(grpc),
        ..Verdict::deny(written.status)
    };
    let quota = match kept(written, document, context) {
        Some(quota) => quota,
        None => Arc::new(Quota::new(config(written)?)),
    };
    Ok(QuotaLimit {
        matches: compile_matches(&written.matches).map_err(|reason| format!("match: {reason}"))?,
        rules: compile_rules((&written.buckets, "buckets"), document.node.service_name())?,
        reply: Arc::new(reply),
        headers: header_form(written.headers),
        enforced: written.enforce_percent.fraction(),
        quota,
    })
}

fn config(written: &Written) -> Result<QuotaConfig, String> {
    let origin = format!("http://{}", written.cluster.as_str());
    Ok(QuotaConfig {
        name: written.name.as_str().into(),
        cluster: written.cluster.as_str().into(),
        origin: origin.parse().map_err(|error| format!("the cluster's name is no host: {error}"))?,
        domain: written.domain.clone(),
        interval: written.reporting_interval.0,
        terms: terms(written)?,
    })
}

fn terms(written: &Written) -> Result<Terms, String> {
    let unassigned = written.no_assignment_behavior.as_ref().map(|written| strategy(&written.fallback_rate_limit));
    let unassigned = unassigned.transpose().map_err(|reason| format!("no_assignment_behavior: {reason}"))?;
    let expired = match &written.expired_assignment_behavior {
        None => Expired { fallback: None, lasts: Duration::ZERO },
        Some(written) => {
            let fallback = written.fallback_rate_limit.as_ref().map(strategy).transpose();
            let fallback = fallback.map_err(|reason| format!("expired_assignment_behavior: {reason}"))?;
            Expired { fallback, lasts: written.expired_assignment_behavior_timeout.0 }
        }
    };
    let unassigned = unassigned.unwrap_or(Strategy::AllowAll);
    Ok(Terms { unassigned, expired, max_buckets: written.max_buckets as usize })
}

fn strategy(written: &WrittenStrategy) -> Result<Strategy, String> {
    if let Some(rule) = written.blanket_rule {
        return Ok(match rule {
            BlanketRule::AllowAll => Strategy::AllowAll,
            BlanketRule::DenyAll => Strategy::DenyAll,
        });
    }
    if let Some(written) = &written.requests_per_time_unit {
        return Ok(Strategy::per(u64::from(written.requests_per_time_unit), unit(written.time_unit)));
    }
    let bucket = written.token_bucket.as_ref().ok_or("a strategy says how many requests pass")?;
    let strategy = Strategy::bucket(bucket.max_tokens, bucket.tokens_per_fill, bucket.fill_interval.0);
    strategy.map_err(|invalid| invalid.to_string())
}

/// Months and years as Envoy has them.
fn unit(unit: TimeUnit) -> Duration {
    const DAY: u64 = 86_400;
    Duration::from_secs(match unit {
        TimeUnit::Second => 1,
        TimeUnit::Minute => 60,
        TimeUnit::Hour => 3_600,
        TimeUnit::Day => DAY,
        TimeUnit::Month => 30 * DAY,
        TimeUnit::Year => 365 * DAY,
    })
}

/// What the buckets are, and what they hold, depends on these fields and on the node's name.
fn kept(written: &Written, document: &Document, context: &Context<'_>) -> Option<Arc<Quota>> {
    let previous = context.previous?;
    let before = &previous.document;
    let behaviours = |written: &Written| {
        (written.no_assignment_behavior.clone(), written.expired_assignment_behavior.clone(), written.max_buckets)
    };
    let same = |before: &&Written| {
        (&before.name, &before.cluster, &before.domain) == (&written.name, &written.cluster, &written.domain)
            && (&before.buckets, before.reporting_interval) == (&written.buckets, written.reporting_interval)
            && behaviours(before) == behaviours(written)
    };
    before.policy.rate_limit_quotas.iter().find(same)?;
    (before.node.service_name() == document.node.service_name()).then_some(())?;
    let mut limits = previous.listeners.values().flat_map(|listener| &listener.quota_limits);
    let limit = limits.find(|limit| *limit.quota.config().name == *written.name.as_str())?;
    Some(Arc::clone(&limit.quota))
}
