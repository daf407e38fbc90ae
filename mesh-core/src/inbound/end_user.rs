//! The end user of a request, asked before any rule: who it is, is a fact that rules read.
//!
//! Decides: nothing itself; it asks ([`crate::access::jwt`]), counts, and refuses. Never: writes a token or a claim into
//! a log, a metric or an answer. Invariant: a header that a claim is written to, and [`EndUser`] among the extensions,
//! come from a verified token or are not there.

use std::sync::Arc;
use std::time::SystemTime;

use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::Inbound;
use super::admission::{Refused, refusal};
use super::facts::Facts;
use crate::access::jwt::{EndUser, EndUsers, Refusal, Refused as Unproven, Verified};
use crate::access::verdict::{HeaderChange, Verdict};
use crate::body::Body;
use crate::error::ErrorKind;
use crate::snapshot::ListenerPolicy;
use crate::telemetry::names::{label, metric, value};

/// Finds out who the end user is; without issuers on the listener it costs one look.
pub(super) fn authenticate(
    inbound: &Inbound,
    policy: &ListenerPolicy,
    facts: &mut Facts<'_>,
    request: &mut Request<Body>,
) -> Result<(), Refused> {
    let end_users = &policy.end_users;
    if end_users.is_empty() {
        return Ok(());
    }
    // Keys are kept current by work in the background. Where the application has its own server, this is its first use.
    if let Err(error) = inbound.core.dialer() {
        tracing::debug!(%error, "keys of end users' issuers are not kept current");
    }
    match prove(end_users, request, inbound.core.clock.wall()) {
        Ok(None) => Ok(()),
        Ok(Some(verified)) => {
            count(inbound, &verified.issuer.name, "verified");
            facts.query = request.uri().query().map(str::to_owned);
            facts.user = Some(verified.user);
            Ok(())
        }
        Err(unproven) => Err(refuse(inbound, &unproven)),
    }
}

/// Makes a request say who its user is, by its extensions and headers, and nothing that nobody has proven.
pub(crate) fn prove<In>(
    end_users: &EndUsers,
    request: &mut Request<In>,
    now: SystemTime,
) -> Result<Option<Verified>, Unproven> {
    request.extensions_mut().remove::<EndUser>();
    end_users.strip_claims(request.headers_mut());
    let Some(verified) = end_users.authenticate(request.headers(), request.uri().query(), now)? else {
        return Ok(None);
    };
    let query = request.uri().query().map(str::to_owned);
    if let Some(query) = verified.apply(request.headers_mut(), query.as_deref()) {
        replace_query(request, query.as_deref());
    }
    request.extensions_mut().insert(verified.user.clone());
    Ok(Some(verified))
}

/// RFC 6750 3: the caller learns that its token is no good, or that it needs one; why, only we know.
pub(crate) fn challenge(unproven: &Unproven) -> Verdict {
    let challenge = if unproven.reason == Refusal::Missing { "Bearer" } else { "Bearer error=\"invalid_token\"" };
    Verdict {
        response_headers: HeaderChange::set("www-authenticate", challenge).into_iter().collect(),
        ..Verdict::deny(ErrorKind::Unauthenticated.status().http)
    }
}

fn refuse(inbound: &Inbound, unproven: &Unproven) -> Refused {
    let issuer = unproven.issuer.as_deref().unwrap_or(value::UNKNOWN);
    let reason = unproven.reason.as_str();
    count(inbound, issuer, reason);
    inbound.decisions.unauthenticated.inc();
    let error = refusal(ErrorKind::Unauthenticated, format!("end user: token of issuer {issuer}: {reason}"));
    Refused { error, verdict: Some(Arc::new(challenge(unproven))) }
}

/// Issuers are named by the configuration, reasons are a closed list.
fn count(inbound: &Inbound, issuer: &str, outcome: &str) {
    let labels = [(label::LISTENER, &*inbound.name), (label::ISSUER, issuer), (label::OUTCOME, outcome)];
    inbound.core.telemetry.registry.counter(&metric::END_USERS, &labels).inc();
}

/// A part of a good target is a good target; were it not, the old one would hold a token that nobody is to see.
fn replace_query<In>(request: &mut Request<In>, query: Option<&str>) {
    let path = request.uri().path();
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(target.parse().unwrap_or_else(|_| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}
