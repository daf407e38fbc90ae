//! Rate limits: a limit whose numbers did not change keeps its tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Context;
use super::global_limit::RESOURCE_EXHAUSTED;
use super::problems::Problems;
use super::route::compile_matches;
use crate::access::fact::Fact;
use crate::access::limit::LocalLimit;
use crate::access::limit_headers::HeaderForm;
use crate::access::shared_buckets::SharedBuckets;
use crate::access::verdict::{HeaderChange, Verdict};
use crate::config::document::Document;
use crate::config::rate_limit::{RateLimit as Written, RateLimitHeaders};
use crate::config::value::{HeaderName, Name};
use crate::policy::rate_limit::{KeyedBuckets, RateLimit};

/// Each limit with the listeners it is for; `None`: all.
pub(super) fn compile(
    document: &Document,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Vec<(Option<Vec<Name>>, Arc<LocalLimit>)> {
    let mut limits = Vec::new();
    for (index, written) in document.policy.rate_limits.iter().enumerate() {
        let limit = problems.note(format!("policy.rate_limits[{index}]"), compile_limit(written, context));
        limits.extend(limit.map(|limit| (written.listeners.clone(), Arc::new(limit))));
    }
    limits
}

fn compile_limit(written: &Written, context: &Context<'_>) -> Result<LocalLimit, String> {
    let tokens_per_fill = written.tokens_per_fill.unwrap_or(written.max_tokens);
    let limit = RateLimit::new(written.max_tokens, tokens_per_fill, written.fill_interval.0)
        .map_err(|error| error.to_string())?;
    let by = written.by.iter().map(|fact| Fact::parse(&fact.to_string()).map_err(|unknown| unknown.to_string()));
    let reply = Verdict {
        response_headers: header_changes(&written.response_headers)?,
        grpc_status: Some(RESOURCE_EXHAUSTED),
        ..Verdict::deny(written.status)
    };
    let before = kept(written, context);
    let shared = written.shared.as_ref().map(|path| {
        let room = written.max_keys as usize;
        let clock = Arc::clone(context.clock);
        let fresh = || SharedBuckets::new(context.base.join(path), (written.name.as_str(), limit), room, clock);
        let kept = before.as_ref().and_then(|before| before.shared.clone());
        kept.unwrap_or_else(|| Arc::new(fresh()))
    });
    Ok(LocalLimit {
        name: written.name.as_str().into(),
        matches: compile_matches(&written.matches).map_err(|reason| format!("match: {reason}"))?,
        by: by.collect::<Result<_, _>>()?,
        reply: Arc::new(reply),
        headers: header_form(written.headers),
        enforced: written.enforce_percent.fraction(),
        buckets: before.map_or_else(
            || Arc::new(KeyedBuckets::new(limit, written.max_keys as usize)),
            |before| Arc::clone(&before.buckets),
        ),
        shared,
    })
}

pub(super) fn header_changes(written: &BTreeMap<HeaderName, String>) -> Result<Vec<HeaderChange>, String> {
    let change = |(name, value): (&HeaderName, &String)| {
        HeaderChange::set(name.as_str(), value)
            .ok_or_else(|| format!("response_headers.{}: not a value", name.as_str()))
    };
    written.iter().map(change).collect()
}

pub(super) fn header_form(written: RateLimitHeaders) -> HeaderForm {
    match written {
        RateLimitHeaders::Off => HeaderForm::Off,
        RateLimitHeaders::RateLimit => HeaderForm::RateLimit,
        RateLimitHeaders::XRateLimit => HeaderForm::XRateLimit,
    }
}

/// What a bucket holds depends on these fields alone.
fn kept(written: &Written, context: &Context<'_>) -> Option<Arc<LocalLimit>> {
    let previous = context.previous?;
    let same = |before: &&Written| {
        before.name == written.name
            && (before.max_tokens, before.tokens_per_fill, before.fill_interval, before.max_keys)
                == (written.max_tokens, written.tokens_per_fill, written.fill_interval, written.max_keys)
            && (&before.by, &before.shared) == (&written.by, &written.shared)
    };
    previous.document.policy.rate_limits.iter().find(same)?;
    let mut limits = previous.listeners.values().flat_map(|listener| &listener.limits);
    limits.find(|limit| *limit.name == *written.name.as_str()).cloned()
}
