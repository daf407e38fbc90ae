//! The remote checks of a listener, asked in the order they are written.
//!
//! Decides: which of them a request is asked about. Never: asks further after a refusal, lets a body through that is
//! too long to be asked about. Invariant: a check that a policy demands is asked, whatever its own conditions say.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::Inbound;
use super::admission::{Refused, refusal};
use super::facts::{Facts, expiry};
use super::judging;
use super::later_body::{Sought, Terms};
use super::policy_channel::PolicyChannel;
use super::read_ahead::read_ahead;
use super::serve::Origin;
use crate::access::attributes::Attributes;
use crate::access::check::{About, BodyTerms, CheckOutcome, Question, SentBody};
use crate::access::verdict::{Verdict, apply_to_query};
use crate::body::Body;
use crate::context::{CallContext, GaveUp};
use crate::error::{BoxError, Error, ErrorKind};
use crate::outbound::GrpcChannel;
use crate::snapshot::CheckPolicy;
use crate::time::{Clock, after};

/// Who asks, and about whom.
pub(super) struct Asking<'a> {
    pub(super) inbound: &'a Arc<Inbound>,
    pub(super) origin: &'a Origin,
    pub(super) context: &'a CallContext,
}

impl Asking<'_> {
    /// Asks them about a request and changes it as they say; the first refusal ends it.
    pub(super) async fn pass(
        &self,
        checks: &[CheckPolicy],
        about: (&mut Facts<'_>, &mut Request<Body>),
        demanded: &[&str],
    ) -> Result<Vec<Arc<Verdict>>, Refused> {
        let (facts, request) = about;
        let mut verdicts = Vec::new();
        for (nth, check) in checks.iter().enumerate() {
            let name = check.check.config().name.as_str();
            let may_be_due = |check: &CheckPolicy, request: &Request<Body>| {
                demanded.contains(&check.check.config().name.as_str())
                    || (!check.is_provider_only && facts.meets(&check.matches, request))
            };
            if !may_be_due(check, request) || (!demanded.contains(&name) && !self.is_drawn(check)?) {
                continue;
            }
            let others = checks[nth + 1..].iter().filter(|other| may_be_due(other, request));
            self.say_what_is_sought(check, others, request);
            let body = self.body(check, request).await?;
            let attributes = facts.attributes(request.headers());
            let outcome = self.ask(check, attributes, body).await?;
            judging::note(request, name, outcome.verdict());
            if !outcome.is_allowed() {
                return Err(self.denied(check_refusal(name, outcome)));
            }
            check.check.apply_to_request(&outcome, request.headers_mut());
            change_query(outcome.verdict(), request.uri_mut()).map_err(bare)?;
            facts.read_query(request.uri());
            verdicts.push(Arc::clone(outcome.verdict()));
        }
        Ok(verdicts)
    }

    /// Asks them about a connection. Whatever conditions on requests they have: asked about more, they can only refuse
    /// more.
    pub(super) async fn pass_connection(
        &self,
        checks: &[CheckPolicy],
        attributes: &Attributes<'_>,
        demanded: &[&str],
    ) -> Result<(), Refused> {
        for check in checks {
            let name = check.check.config().name.as_str();
            if !demanded.contains(&name) && (check.is_provider_only || !self.is_drawn(check)?) {
                continue;
            }
            let outcome = self.ask(check, *attributes, None).await?;
            if !outcome.is_allowed() {
                return Err(self.denied(check_refusal(name, outcome)));
            }
        }
        Ok(())
    }

    /// Whether this one is among the share that is asked about; refused, if the others are.
    fn is_drawn(&self, check: &CheckPolicy) -> Result<bool, Refused> {
        let sampling = check.sampling;
        let is_drawn = sampling.share >= 1.0 || self.inbound.core.randomness.generator().f64() < sampling.share;
        if is_drawn || !sampling.denies_others {
            return Ok(is_drawn);
        }
        let config = check.check.config();
        let error = refusal(ErrorKind::CheckDenied, format!("check {}: switched off, and denied so", config.name));
        let verdict = Some(Arc::new(Verdict::deny(config.status_on_error)));
        Err(self.denied(Refused { error, verdict }))
    }

    /// An own server that is asked for the body is asked once, for all who may look.
    fn say_what_is_sought<'c>(
        &self,
        check: &CheckPolicy,
        others: impl Iterator<Item = &'c CheckPolicy>,
        request: &Request<Body>,
    ) {
        let Some(first) = check.check.config().body else { return };
        let Some(sought) = request.extensions().get::<Sought>() else { return };
        sought.set(|| {
            let too_late = after(self.inbound.core.clock.now(), first.timeout);
            let until = self.context.deadline.map_or(too_late, |deadline| deadline.min(too_late));
            let terms = Terms { limit: first.max_bytes, beginning_will_do: first.allow_partial, until };
            others.filter_map(|other| other.check.config().body).fold(terms, |terms, other| Terms {
                limit: terms.limit.max(other.max_bytes),
                beginning_will_do: terms.beginning_will_do && other.allow_partial,
                ..terms
            })
        });
    }

    /// As much of the body as the check wants to know.
    async fn body(&self, check: &CheckPolicy, request: &mut Request<Body>) -> Result<Option<SentBody>, Refused> {
        let Some(terms) = check.check.config().body else { return Ok(None) };
        // What follows a CONNECT is no body.
        if request.method() == http::Method::CONNECT {
            return Ok(None);
        }
        let reading = read_body(request.body_mut(), terms, &*self.inbound.core.clock);
        let told = self.in_time(reading, "the body was not there").await?;
        told.map_err(|untold| match untold {
            Untold::BrokenOff(error) => bare(refusal(ErrorKind::BadRequest, format!("the body broke off: {error}"))),
            Untold::TooLong => {
                let why = format!("check {}: more than {} bytes", check.check.config().name, terms.max_bytes);
                let verdict = Some(Arc::new(Verdict::deny(TOO_LARGE)));
                self.denied(Refused { error: refusal(ErrorKind::BodyTooLarge, why), verdict })
            }
            Untold::TooSlow => {
                let name = &check.check.config().name;
                let why = format!("check {name}: the body was not there in {:?}", terms.timeout);
                let verdict = Some(Arc::new(Verdict::deny(TOO_SLOW)));
                Refused { error: refusal(ErrorKind::Timeout, why), verdict }
            }
        })
    }

    /// The policy server is a cluster like any other: balanced, retried, with breakers and telemetry.
    async fn ask(
        &self,
        policy: &CheckPolicy,
        attributes: Attributes<'_>,
        body: Option<SentBody>,
    ) -> Result<CheckOutcome, Refused> {
        let clock = &*self.inbound.core.clock;
        let about = About { attributes, has_body: body.is_some() };
        let prepared = || {
            let peer = self.origin.1.as_ref();
            let max_expiry = expiry(peer.map(|peer| &**peer), &attributes, clock);
            (self.channel(policy), Question { attributes, body, max_expiry })
        };
        self.in_time(policy.check.ask_if_needed(&about, clock, prepared), "no answer of a check").await
    }

    fn channel(&self, policy: &CheckPolicy) -> GrpcChannel<PolicyChannel> {
        // The answer is shared with others, so the deadline of this caller must not end the call; it ends the wait.
        // Nor does its failure say that what the application does was tried enough.
        let shared = CallContext { deadline: None, gave_up: GaveUp::default(), ..self.context.clone() };
        GrpcChannel::new(PolicyChannel::new(Arc::clone(&self.inbound.core), policy, Arc::new(shared)))
    }

    /// Waits no longer than the caller does.
    async fn in_time<T>(&self, waiting: impl Future<Output = T>, what: &str) -> Result<T, Refused> {
        let Some(deadline) = self.context.deadline else { return Ok(waiting.await) };
        // Set when there is something to wait for: what is there already costs no timer.
        let timer = async { self.inbound.core.clock.sleep_until(deadline).await };
        tokio::select! {
            biased;
            done = waiting => Ok(done),
            () = timer => {
                Err(bare(refusal(ErrorKind::Timeout, format!("the caller's deadline passed: {what}"))))
            }
        }
    }

    fn denied(&self, refused: Refused) -> Refused {
        self.inbound.decisions.check_denied.inc();
        refused
    }
}

/// The query after an approval.
pub(crate) fn change_query(verdict: &Verdict, uri: &mut Uri) -> Result<(), Error> {
    if verdict.query_to_set.is_empty() && verdict.query_to_remove.is_empty() {
        return Ok(());
    }
    let target = match apply_to_query(verdict, uri.query()) {
        Some(query) => format!("{}?{query}", uri.path()),
        None => uri.path().to_owned(),
    };
    let bad = |why: String| refusal(ErrorKind::Internal, format!("a check asks for a query that is none: {why}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse::<PathAndQuery>().map_err(|error| bad(error.to_string()))?);
    *uri = Uri::from_parts(parts).map_err(|error| bad(error.to_string()))?;
    Ok(())
}

/// Why nothing is told of a body.
pub(crate) enum Untold {
    /// It ended with an error.
    BrokenOff(BoxError),
    /// There is more of it than may be told.
    TooLong,
    /// It was not there in time.
    TooSlow,
}

/// What of a body is told; nothing of an empty one. Whoever reads it afterwards gets all of it. A request that waits for
/// its body holds a place at the gate, so its caller may not take for ever.
pub(crate) async fn read_body(
    body: &mut Body,
    terms: BodyTerms,
    clock: &dyn Clock,
) -> Result<Option<SentBody>, Untold> {
    let ahead = tokio::select! {
        biased;
        ahead = read_ahead(body, terms.max_bytes, terms.allow_partial) => ahead.map_err(Untold::BrokenOff)?,
        () = clock.sleep_until(after(clock.now(), terms.timeout)) => return Err(Untold::TooSlow),
    };
    if !ahead.is_whole && !terms.allow_partial {
        return Err(Untold::TooLong);
    }
    Ok((!ahead.bytes.is_empty()).then_some(SentBody { bytes: ahead.bytes, is_partial: !ahead.is_whole }))
}

fn check_refusal(name: &str, outcome: CheckOutcome) -> Refused {
    let (kind, why) = match &outcome {
        CheckOutcome::Failed { reason, .. } => (ErrorKind::CheckFailed, reason.as_str()),
        _ => (ErrorKind::CheckDenied, "denied"),
    };
    Refused { error: refusal(kind, format!("check {name}: {why}")), verdict: Some(Arc::clone(outcome.verdict())) }
}

fn bare(error: Error) -> Refused {
    Refused { error, verdict: None }
}

/// Envoy's reply to a body that is too long to be asked about.
pub(crate) const TOO_LARGE: u16 = 413;
/// The reply to a body that does not come (RFC 9110 15.5.9).
pub(crate) const TOO_SLOW: u16 = 408;
