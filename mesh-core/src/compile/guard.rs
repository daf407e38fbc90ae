//! Guards: defaults are filled in, live state is carried over by name.

use std::sync::Arc;

use super::Context;
use super::cluster::budget_config;
use super::effects::Effects;
use super::retry::retry_policy;
use super::standing;
use crate::config::document::Document;
use crate::config::guard as written;
use crate::policy::guard::{Guarded, Terms};

/// Compiles one guard; the same text as before gives the same guard.
pub(super) fn compile(
    guard: &written::Guard,
    (document, context): (&Document, &Context<'_>),
    effects: &mut Effects,
) -> Result<Arc<Guarded>, String> {
    let previous = context.previous.and_then(|previous| previous.guards.get(guard.name.as_str()));
    let is_same = context.previous.is_some_and(|previous| {
        previous.document.guards.contains(guard) && previous.document.defaults == document.defaults
    });
    if let (Some(previous), true) = (previous, is_same) {
        return Ok(Arc::clone(previous));
    }
    let terms = terms(guard, document)?;
    let guarded = Arc::new(Guarded::new(terms, previous.map(|previous| &**previous), context.clock.now()));
    let made = Arc::clone(&guarded);
    effects.later(move || made.take_over());
    Ok(guarded)
}

fn terms(guard: &written::Guard, document: &Document) -> Result<Terms, String> {
    let defaults = &document.defaults;
    let limit = guard.concurrency_limit.clone().unwrap_or_default().over(&defaults.concurrency_limit);
    let breaker = guard.circuit_breaker.clone().unwrap_or_default().over(&defaults.circuit_breaker);
    let budget = guard.retry_budget.clone().unwrap_or_default().over(&defaults.retry_budget);
    Ok(Terms {
        name: guard.name.as_str().into(),
        timeout: guard.timeout.unwrap_or(defaults.timeout).nonzero(),
        attempt_timeout: guard.attempt_timeout.unwrap_or(defaults.attempt_timeout).nonzero(),
        retry: Arc::new(retry_policy(&guard.retry.over(&defaults.retry))?),
        breaker: standing::breaker(&breaker)?,
        max_in_flight: limit.max_requests,
        budget: budget_config(&budget)?,
        idempotent: guard.idempotent,
    })
}
