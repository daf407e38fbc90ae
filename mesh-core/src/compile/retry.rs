//! Retries and hedges, as their engines take them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::route::compile_header;
use crate::config::document::Document;
use crate::config::hedge::HedgeDelay as WrittenDelay;
use crate::config::policy::{Hedge, Retry, RetryCondition, RetryJitter};
use crate::config::route::{HeaderMatch, Rule};
use crate::policy::backoff::{Backoff, Jitter};
use crate::policy::budget::BudgetConfig;
use crate::policy::hedge::{HedgeDelay, HedgePolicy, Hedging};
use crate::policy::retry::{HeaderRule, RetryConditions, RetryPolicy};
use crate::snapshot::Snapshot;

/// Retry settings as the engine takes them.
pub(super) fn retry_policy(written: &Retry) -> Result<RetryPolicy, String> {
    let conditions = written.conditions.iter().map(|condition| condition_named(*condition));
    Ok(RetryPolicy {
        retries: written.attempts,
        conditions: conditions.fold(RetryConditions::NONE, RetryConditions::with),
        retriable_codes: written.retriable_status_codes.clone(),
        retriable_headers: header_rule(&written.retriable_headers)?,
        request_headers: header_rule(&written.retriable_request_headers)?,
        idempotency_key: written.idempotency_key,
        nested: written.nested,
        buffer_response: written.buffer_response as usize,
        backoff: backoff(written).map_err(|error| error.to_string())?,
        non_idempotent: written.non_idempotent,
        hint_cap: written.max_hint.0,
    })
}

fn backoff(written: &Retry) -> Result<Backoff, crate::policy::Invalid> {
    let jitter = match written.jitter {
        RetryJitter::Envoy => Jitter::Envoy,
        RetryJitter::Full => Jitter::Full,
        RetryJitter::Equal => Jitter::Equal,
        RetryJitter::Grpc => Jitter::Spread(GRPC_SPREAD),
        RetryJitter::None => Jitter::Off,
    };
    Backoff::new(written.base.0, written.max.0)?.with_growth(written.multiplier)?.with_jitter(jitter)
}

fn condition_named(condition: RetryCondition) -> RetryConditions {
    let name = serde_json::to_value(condition).ok();
    let name = name.as_ref().and_then(serde_json::Value::as_str);
    name.and_then(RetryConditions::named).unwrap_or(RetryConditions::NONE)
}

/// One of the matchers has to hold; none is no rule.
fn header_rule(written: &[HeaderMatch]) -> Result<Option<HeaderRule>, String> {
    let matchers = written.iter().map(compile_header).collect::<Result<Vec<_>, _>>()?;
    let test = move |headers: &http::HeaderMap| matchers.iter().any(|matcher| matcher.matches(headers));
    Ok((!written.is_empty()).then(|| HeaderRule::new(test)))
}

/// What each rule has learned of response times, by the rule's name.
pub(super) type Learned = BTreeMap<Arc<str>, Arc<Hedging>>;

pub(super) fn learned(previous: Option<&Snapshot>) -> Learned {
    let hosts = previous.iter().flat_map(|previous| previous.routes.virtual_hosts());
    let actions = hosts.flat_map(|host| &host.rules).map(|rule| &rule.action);
    actions.filter_map(|action| Some((Arc::clone(&action.name), Arc::clone(action.hedge.as_ref()?)))).collect()
}

/// What a rule hedges by; `None`: it does not.
pub(super) fn hedging(
    rule: &Rule,
    document: &Document,
    known: Option<&Arc<Hedging>>,
) -> Result<Option<Arc<Hedging>>, String> {
    let defaults = &document.defaults;
    let written = match (&rule.hedge, &defaults.hedge) {
        (Some(own), base) => own.over(&base.clone().unwrap_or_default()),
        (None, Some(base)) => base.clone(),
        (None, None) => return Ok(None),
    };
    if written.max_hedges == 0 {
        return Ok(None);
    }
    let retry = rule.retry.as_ref().map_or_else(|| defaults.retry.clone(), |own| own.over(&defaults.retry));
    let policy = hedge_policy(&written, &retry, document).map_err(|error| error.to_string())?;
    Ok(Some(Arc::new(known.map_or_else(|| Hedging::new(policy), |known| known.under(policy)))))
}

fn hedge_policy(written: &Hedge, retry: &Retry, document: &Document) -> Result<HedgePolicy, crate::policy::Invalid> {
    let window = document.defaults.retry_budget.window.0;
    Ok(HedgePolicy {
        max_hedges: written.max_hedges,
        delay: match written.delay {
            WrittenDelay::Fixed(span) => HedgeDelay::Fixed(span.0),
            WrittenDelay::Percentile(percent) => HedgeDelay::Percentile(percent),
        },
        min_samples: written.min_samples,
        budget: BudgetConfig::new(written.budget_percent.fraction(), written.min_per_second, window)?,
        hint_cap: retry.max_hint.0,
    })
}

/// gRFC A6: plus or minus 20 %.
const GRPC_SPREAD: f64 = 0.2;
