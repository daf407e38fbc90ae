//! Global rate limits: a limit that did not change keeps what it was granted.

#[cfg(test)]
mod vectors;

use std::sync::Arc;

use super::Context;
use super::limit::{header_changes, header_form};
use super::problems::Problems;
use super::route::{compile_header, compile_matches, compile_query};
use crate::access::check::FailureMode;
use crate::access::descriptor::{Absent, Action, Conditions, DescriptorRule, Source};
use crate::access::fact::Fact;
use crate::access::global_limit::{GlobalLimit, GlobalLimitConfig};
use crate::access::verdict::{HeaderChange, Verdict};
use crate::config::document::Document;
use crate::config::global_limit::{Action as WrittenAction, DescriptorRule as WrittenRule, GlobalRateLimit as Written};
use crate::config::policy::FailureMode as WrittenFailure;
use crate::config::value::Name;
use crate::policy::lease::Terms;
use crate::snapshot::GlobalLimitPolicy;

/// Each limit with the listeners it is for; `None`: all.
pub(super) fn compile(
    document: &Document,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Vec<(Option<Vec<Name>>, GlobalLimitPolicy)> {
    let mut limits = Vec::new();
    for (index, written) in document.policy.global_rate_limits.iter().enumerate() {
        let limit = compile_limit(written, document, context);
        let limit = problems.note(format!("policy.global_rate_limits[{index}]"), limit);
        limits.extend(limit.map(|limit| (written.listeners.clone(), limit)));
    }
    limits
}

fn compile_limit(written: &Written, document: &Document, context: &Context<'_>) -> Result<GlobalLimitPolicy, String> {
    let limit = match kept(written, document, context) {
        Some(limit) => limit,
        None => Arc::new(GlobalLimit::new(config(written, document)?)),
    };
    let matches = compile_matches(&written.matches).map_err(|reason| format!("match: {reason}"))?;
    Ok(GlobalLimitPolicy { limit, matches, cluster: written.cluster.as_str().into() })
}

/// The node's name is part of what is asked.
fn kept(written: &Written, document: &Document, context: &Context<'_>) -> Option<Arc<GlobalLimit>> {
    let previous = context.previous?;
    let before = &previous.document;
    before.policy.global_rate_limits.iter().find(|limit| *limit == written)?;
    (before.node.service_name() == document.node.service_name()).then_some(())?;
    let mut limits = previous.listeners.values().flat_map(|listener| &listener.global_limits);
    limits.find(|policy| *policy.limit.config().name == *written.name.as_str()).map(|policy| Arc::clone(&policy.limit))
}

fn config(written: &Written, document: &Document) -> Result<GlobalLimitConfig, String> {
    let origin = format!("http://{}", written.cluster.as_str());
    let failure = match written.failure {
        WrittenFailure::Open => FailureMode::Open,
        WrittenFailure::Closed => FailureMode::Closed,
    };
    let terms = |lease: &crate::config::global_limit::Lease| {
        let terms = Terms::new((lease.min, lease.max), lease.ttl.0, failure == FailureMode::Open);
        terms.map(|terms| (terms, lease.max_keys as usize)).map_err(|invalid| format!("lease: {invalid}"))
    };
    Ok(GlobalLimitConfig {
        name: written.name.as_str().into(),
        origin: origin.parse().map_err(|error| format!("the cluster's name is no host: {error}"))?,
        domain: written.domain.clone(),
        rules: compile_rules((&written.descriptors, "descriptors"), document.node.service_name())?,
        timeout: written.timeout.0,
        failure,
        reply: Arc::new(reply(written)?),
        reply_on_error: Arc::new(Verdict::deny(written.status_on_error)),
        headers: header_form(written.headers),
        enforced: written.enforce_percent.fraction(),
        lease: written.lease.as_ref().map(terms).transpose()?,
    })
}

fn reply(written: &Written) -> Result<Verdict, String> {
    let mut response_headers = header_changes(&written.response_headers)?;
    if !written.disable_x_envoy_ratelimited_header {
        response_headers.extend(HeaderChange::set("x-envoy-ratelimited", "true"));
    }
    let grpc = if written.rate_limited_as_resource_exhausted { RESOURCE_EXHAUSTED } else { UNAVAILABLE };
    Ok(Verdict { response_headers, grpc_status: Some(grpc), ..Verdict::deny(written.status) })
}

/// The rules, in that field, of a node whose service has that name.
pub(super) fn compile_rules(
    (written, field): (&[WrittenRule], &str),
    service: &str,
) -> Result<Vec<DescriptorRule>, String> {
    let mut rules = Vec::with_capacity(written.len());
    for (index, rule) in written.iter().enumerate() {
        let action = |(at, action): (usize, &WrittenAction)| {
            compile_action(action, service).map_err(|reason| format!("{field}[{index}].actions[{at}]: {reason}"))
        };
        rules.push(DescriptorRule { actions: rule.actions.iter().enumerate().map(action).collect::<Result<_, _>>()? });
    }
    Ok(rules)
}

fn compile_action(written: &WrittenAction, service: &str) -> Result<Action, String> {
    if written.source_cluster.is_some() {
        return Ok(fixed("source_cluster", service));
    }
    if written.destination_cluster.is_some() {
        return Ok(Action::Destination);
    }
    if written.remote_address.is_some() {
        return Ok(Action::RemoteAddress);
    }
    if let Some(mask) = &written.masked_remote_address {
        let bits = |bits: u32| u8::try_from(bits).map_err(|_| "a mask has at most 128 bits");
        return Ok(Action::RemoteNetwork(bits(mask.v4_prefix_mask_len)?, bits(mask.v6_prefix_mask_len)?));
    }
    if let Some(generic) = &written.generic_key {
        return Ok(fixed(generic.descriptor_key.as_deref().unwrap_or("generic_key"), &generic.descriptor_value));
    }
    match compile_match(written)? {
        Some(action) => Ok(action),
        None => compile_value(written),
    }
}

fn compile_match(written: &WrittenAction) -> Result<Option<Action>, String> {
    if let Some(on) = &written.header_value_match {
        let conditions = on.headers.iter().map(compile_header).collect::<Result<_, _>>()?;
        return Ok(Some(Action::Match {
            on: Conditions::Headers(conditions),
            expected: on.expect_match,
            key: on.descriptor_key.as_deref().unwrap_or("header_match").into(),
            value: on.descriptor_value.as_str().into(),
        }));
    }
    let Some(on) = &written.query_parameter_value_match else { return Ok(None) };
    let conditions = on.query_parameters.iter().map(compile_query).collect::<Result<_, _>>()?;
    Ok(Some(Action::Match {
        on: Conditions::Query(conditions),
        expected: on.expect_match,
        key: on.descriptor_key.as_deref().unwrap_or("query_match").into(),
        value: on.descriptor_value.as_str().into(),
    }))
}

fn compile_value(written: &WrittenAction) -> Result<Action, String> {
    if let Some(header) = &written.request_headers {
        let of = Source::header(&header.header_name).ok_or("no name of a header")?;
        return Ok(Action::Value {
            of,
            key: header.descriptor_key.as_str().into(),
            absent: absent(header.skip_if_absent),
        });
    }
    if let Some(claim) = &written.claim {
        let default = claim.default_value.as_deref().map(|value| Absent::Is(value.into()));
        return Ok(Action::Value {
            of: Source::Claim(claim.path.clone()),
            key: claim.descriptor_key.as_str().into(),
            absent: default.unwrap_or(absent(claim.skip_if_absent)),
        });
    }
    let attribute = written.attribute.as_ref().ok_or("an action makes something")?;
    let name = attribute.name.to_string();
    Ok(Action::Value {
        of: Source::Fact(Fact::parse(&name).map_err(|unknown| unknown.to_string())?),
        key: attribute.descriptor_key.as_deref().unwrap_or(&name).into(),
        absent: absent(attribute.skip_if_absent),
    })
}

fn fixed(key: &str, value: &str) -> Action {
    Action::Fixed { key: key.into(), value: value.into() }
}

fn absent(skips: bool) -> Absent {
    if skips { Absent::Skips } else { Absent::Drops }
}

/// gRPC status 8: who comes too often should not try elsewhere.
pub(super) const RESOURCE_EXHAUSTED: u16 = 8;
/// gRPC status 14, Envoy's default.
pub(super) const UNAVAILABLE: u16 = 14;
