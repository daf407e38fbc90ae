//! Remote checks: asking a policy server, by Envoy's `ext_authz` protocol, over gRPC or plain HTTP;
//! or a policy in this process.
//!
//! Decides: the outcome of a check: from the cache, from the answer of another request's call, or from a
//! call of its own; and what a failure means, as the rule says.
//! Never: lets a request wait longer than the timeout, logs a header value, takes silence for an approval.
//! Invariant: every failure is counted and logged, whichever way it falls.

mod config;
mod metadata;
mod over_http;
mod question;
#[cfg(feature = "rego")]
mod rego;
#[cfg(test)]
mod replay;
mod request;
mod response;
#[cfg(test)]
mod script;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod terms_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::{HeaderMap, HeaderValue};
use tonic::body::Body;
use tonic::client::GrpcService;
use tracing::Instrument;

pub use self::config::{BodyTerms, CheckConfig, FailureMode, Form, HttpForm, SentHeaders};
pub(crate) use self::question::About;
use self::question::QuestionBuf;
pub use self::question::{Question, SentBody};
#[cfg(feature = "rego")]
pub use self::rego::RegoPolicy;
#[cfg(feature = "rego")]
use self::rego::Said;
pub use self::request::check_request;
pub use self::response::{interpret, reuse_hints};
use super::attributes::Attributes;
use super::cache::{
    Answer, CacheStats, CheckCache, Fate, Flight, FlightLeader, Landing, Lookup, Refusal, Reuse, Share,
};
use super::verdict::{Failure, FailureReason, Verdict, apply_to_request};
use crate::error::BoxError;
use crate::time::{Clock, after};

/// How a check ended.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckOutcome {
    /// The policy server approved.
    Allow(Arc<Verdict>),
    /// The policy server refused.
    Deny(Arc<Verdict>),
    /// It gave no verdict; this one is made here, by the failure mode.
    Failed {
        /// An approval when the rule fails open, else the reply.
        verdict: Arc<Verdict>,
        /// What went wrong.
        reason: FailureReason,
    },
}

impl CheckOutcome {
    fn of(verdict: Arc<Verdict>) -> Self {
        if verdict.allow { Self::Allow(verdict) } else { Self::Deny(verdict) }
    }

    /// What to do.
    pub fn verdict(&self) -> &Arc<Verdict> {
        match self {
            Self::Allow(verdict) | Self::Deny(verdict) | Self::Failed { verdict, .. } => verdict,
        }
    }

    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        self.verdict().allow
    }
}

/// A client of the policy server: any tower service that speaks gRPC, such as a mesh client.
pub trait PolicyService:
    GrpcService<
        Body,
        Future: Send,
        ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
    > + Send
    + 'static
{
}

impl<T> PolicyService for T where
    T: GrpcService<
            Body,
            Future: Send,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
        > + Send
        + 'static
{
}

/// One configured check and the answers it has kept.
pub struct RemoteCheck {
    config: Arc<CheckConfig>,
    cache: Arc<CheckCache>,
}

impl RemoteCheck {
    /// A check with an empty cache.
    pub fn new(config: CheckConfig) -> Self {
        let cache = Arc::new(CheckCache::new(config.kept()));
        Self { config: Arc::new(config), cache }
    }

    /// The configuration.
    pub fn config(&self) -> &CheckConfig {
        &self.config
    }

    /// The counters.
    pub fn stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// How many checks failed for a reason ([`FailureReason::NAMES`]), by what was done.
    pub(crate) fn failures(&self, fate: Fate, reason: &str) -> u64 {
        self.cache.counters.failures(fate, reason)
    }

    /// Voids all kept answers: the policy, or who may ask, has changed.
    pub fn void_all(&self) {
        self.cache.void_all();
    }

    /// Checks one request by its facts alone. An answer is kept until `max_expiry` at most: the end of the peer's
    /// certificate. Dropping the future is safe at any time and does not disturb others that wait for the same answer.
    pub async fn check<S: PolicyService>(
        &self,
        service: S,
        attributes: &Attributes<'_>,
        clock: &dyn Clock,
        max_expiry: Option<Instant>,
    ) -> CheckOutcome {
        self.ask(service, &Question { max_expiry, ..Question::about(*attributes) }, clock).await
    }

    /// Checks one request.
    pub async fn ask<S: PolicyService>(&self, service: S, question: &Question<'_>, clock: &dyn Clock) -> CheckOutcome {
        let about = About { attributes: question.attributes, has_body: question.body.is_some() };
        self.ask_if_needed(&about, clock, || (service, question.clone())).await
    }

    /// Checks one request. What it takes to ask the server is `prepared` only if it is asked. A call is boxed: it takes
    /// kilobytes, which a request that is answered from the cache would move about with it.
    pub(crate) async fn ask_if_needed<'a, S: PolicyService>(
        &self,
        about: &About<'a>,
        clock: &dyn Clock,
        prepared: impl FnOnce() -> (S, Question<'a>),
    ) -> CheckOutcome {
        let start = clock.now();
        let end = after(start, self.config.timeout);
        let timer = || clock.sleep_until(end);
        // No key names a body: nothing that was answered before is about this one.
        let mut flights = if about.has_body { 0 } else { MAX_FLIGHTS };
        let mut now = start;
        while flights > 0 {
            let waited = match self.cache.lookup(&about.attributes, now) {
                Lookup::Hit(verdict) => return CheckOutcome::of(verdict),
                Lookup::Refresh(verdict, leader) => {
                    let (service, question) = prepared();
                    self.refresh(self.call(leader, &question, timer()), service);
                    return CheckOutcome::of(verdict);
                }
                Lookup::Lead(leader) => {
                    let (service, question) = prepared();
                    let result = Box::pin(self.call(leader, &question, timer()).conclude(service)).await;
                    return self.finish(result, about, clock);
                }
                Lookup::Wait(flight) => self.wait(flight, &about.attributes, timer()).await,
            };
            now = clock.now();
            match waited {
                Waited::Ended(result) => return self.finish(result, about, clock),
                Waited::NotOurs => break,
                Waited::Abandoned => flights -= 1,
                Waited::Late(failure) if now >= end => return self.finish(Err(failure), about, clock),
                Waited::Late(_) => flights -= 1,
                // Every flight answers somebody, so the turn comes; who has stood in line for half of the time asks.
                Waited::ForFew if now < after(start, self.config.timeout / 2) => {}
                Waited::ForFew => break,
            }
        }
        let (service, question) = prepared();
        let leader = self.cache.lead_alone(clock.now());
        let result = Box::pin(self.call(leader, &question, timer()).conclude(service)).await;
        self.finish(result, about, clock)
    }

    /// Applies an outcome that allows to the request. A marker the caller sent itself does not survive.
    pub fn apply_to_request(&self, outcome: &CheckOutcome, headers: &mut HeaderMap) {
        apply_to_request(outcome.verdict(), headers);
        if self.config.mark_failure {
            headers.remove(FAILURE_MARK);
            if matches!(outcome, CheckOutcome::Failed { .. }) {
                headers.insert(FAILURE_MARK, HeaderValue::from_static("true"));
            }
        }
    }

    fn call(&self, leader: FlightLeader, question: &Question<'_>, timer: Timer) -> Call {
        Call { config: self.config.clone(), cache: self.cache.clone(), leader, question: question.to_buf(), timer }
    }

    fn refresh<S: PolicyService>(&self, call: Call, service: S) {
        // Without a runtime the leader is dropped and the answer simply expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (name, cache) = (self.config.name.clone(), Arc::clone(&self.cache));
            runtime.spawn(async move {
                if let Err(failure) = call.run(service).await {
                    cache.counters.failed(Fate::Refresh, failure.reason);
                    tracing::warn!(check = name, error.type = failure.reason.as_str(), "background refresh failed");
                }
            });
        }
    }

    async fn wait(&self, flight: Flight, attributes: &Attributes<'_>, timer: Timer) -> Waited {
        let landing = tokio::select! {
            biased;
            landing = flight.landing() => landing,
            () = timer => return Waited::Ended(Err(Arc::new(Failure::new(FailureReason::Timeout)))),
        };
        match landing {
            Landing::Answered(shared) => match self.cache.share(&shared, attributes) {
                Share::Same(verdict) => Waited::Ended(Ok(verdict)),
                Share::ForFew => Waited::ForFew,
                Share::Other => Waited::NotOurs,
            },
            Landing::NotShared => Waited::NotOurs,
            Landing::Failed(failure) if failure.reason.is_of_the_way() => Waited::Ended(Err(failure)),
            Landing::Failed(failure) if failure.reason.is_of_time() => Waited::Late(failure),
            // What the server could not answer was another question.
            Landing::Failed(_) => Waited::NotOurs,
            Landing::Abandoned => Waited::Abandoned,
        }
    }

    fn finish(&self, result: CallResult, about: &About<'_>, clock: &dyn Clock) -> CheckOutcome {
        let failure = match result {
            Ok(verdict) => return CheckOutcome::of(verdict),
            Err(failure) => failure,
        };
        // What is kept is not about a body.
        let kept = || self.cache.stale(&about.attributes, clock.now());
        match (!about.has_body).then(kept).flatten() {
            Some(verdict) => {
                self.cache.counters.failed(Fate::Stale, failure.reason);
                tracing::warn!(check = self.config.name, error.type = failure.reason.as_str(), "stale answer used");
                CheckOutcome::of(verdict)
            }
            None => self.fail(&failure),
        }
    }

    fn fail(&self, failure: &Failure) -> CheckOutcome {
        let is_open = self.config.failure == FailureMode::Open;
        let fate = if is_open { Fate::FailOpen } else { Fate::FailClosed };
        self.cache.counters.failed(fate, failure.reason);
        let code = match failure.reason {
            FailureReason::Rpc(code) => Some(code as i32),
            _ => None,
        };
        tracing::warn!(
            check = self.config.name,
            error.type = failure.reason.as_str(),
            rpc.grpc.status_code = code,
            allowed = is_open,
            "check failed"
        );
        let verdict = match &failure.reply {
            _ if is_open => Verdict::allow(),
            Some(reply) => Verdict::clone(reply),
            None => Verdict::deny(self.config.status_on_error),
        };
        CheckOutcome::Failed { verdict: Arc::new(verdict), reason: failure.reason }
    }
}

impl fmt::Debug for RemoteCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCheck").field("config", &self.config).finish_non_exhaustive()
    }
}

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;
type CallResult = Result<Arc<Verdict>, Arc<Failure>>;

/// What came of waiting for another's call.
enum Waited {
    Ended(CallResult),
    /// It says nothing about this request.
    NotOurs,
    /// It came to nothing.
    Abandoned,
    /// The leader's time ran out.
    Late(Arc<Failure>),
    /// An answer for so many requests.
    ForFew,
}

/// Everything one call needs, owned: it belongs to all who wait for it, not to the request that began it.
struct Call {
    config: Arc<CheckConfig>,
    cache: Arc<CheckCache>,
    leader: FlightLeader,
    question: QuestionBuf,
    timer: Timer,
}

impl Call {
    /// A call that others may be waiting for survives the request that began it.
    async fn conclude<S: PolicyService>(self, service: S) -> CallResult {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.leader.may_be_awaited() => {
                let aborted = |_| Err(Arc::new(Failure::new(FailureReason::Rpc(tonic::Code::Internal))));
                runtime.spawn(self.run(service).in_current_span()).await.unwrap_or_else(aborted)
            }
            _ => self.run(service).await,
        }
    }

    async fn run<S: PolicyService>(self, service: S) -> CallResult {
        self.cache.counters.calls.add(1);
        let question = self.question.borrow();
        let answer = tokio::select! {
            biased;
            answer = ask(service, &self.config, question.clone()) => answer,
            () = self.timer => Err(Failure::new(FailureReason::Timeout)),
        };
        match answer {
            Ok(answer) => {
                let verdict = answer.verdict.clone();
                if let Err(refusal) = self.leader.complete(&question.attributes, answer, question.max_expiry) {
                    tracing::trace!(check = self.config.name, ?refusal, "answer not kept");
                }
                Ok(verdict)
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                self.leader.fail(failure.clone());
                Err(failure)
            }
        }
    }
}

/// Asks in the form that is configured. What a body was part of answers nothing else.
async fn ask<S: PolicyService>(service: S, config: &CheckConfig, question: Question<'_>) -> Result<Answer, Failure> {
    let has_body = question.body.is_some();
    let answer = match &config.form {
        Form::Grpc => ask_grpc(service, config, question).await,
        Form::Http(form) => over_http::ask(service, question, config, form).await,
        #[cfg(feature = "rego")]
        Form::Rego(policy) => policy.decide(&check_request(&question, config)).and_then(|said| match said {
            Said::Decision(answer) => answer_of(answer, config),
            Said::Unreadable(answer) => {
                let reuse = Reuse::Never(Refusal::Unreadable);
                answer_of(answer, config).map(|answer| Answer { reuse, ..answer })
            }
        }),
    }?;
    let reuse = if has_body { Reuse::Never(Refusal::BodySent) } else { answer.reuse };
    Ok(Answer { reuse, ..answer })
}

async fn ask_grpc<S: PolicyService>(
    service: S,
    config: &CheckConfig,
    question: Question<'_>,
) -> Result<Answer, Failure> {
    let mut request = tonic::Request::new(check_request(&question, config));
    request.set_timeout(config.timeout);
    let mut client =
        AuthorizationClient::with_origin(service, config.origin.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
    let response = client.check(request).await.map_err(|status| Failure::new(FailureReason::Rpc(status.code())))?;
    answer_of(response.into_inner(), config)
}

fn answer_of(response: CheckResponse, config: &CheckConfig) -> Result<Answer, Failure> {
    let metadata = response.dynamic_metadata.as_ref().filter(|_| config.logs_metadata).and_then(metadata::logged);
    let answer = interpret(response, config.status_on_error);
    let answer = answer.map(|answer| told(answer, metadata));
    answer.map(|answer| shorten(answer, config.max_denied_body)).map_err(|failure| Failure {
        reply: failure.reply.map(|reply| Box::new(cut(*reply, config.max_denied_body))),
        ..failure
    })
}

/// The same answer, with what it says for the log.
fn told(answer: Answer, metadata: Option<Arc<str>>) -> Answer {
    if metadata.is_none() {
        return answer;
    }
    Answer { verdict: Arc::new(Verdict { metadata, ..Verdict::clone(&answer.verdict) }), ..answer }
}

/// A refusal's body is cut where the configuration says so.
fn shorten(answer: Answer, limit: Option<usize>) -> Answer {
    if answer.verdict.allow || limit.is_none() {
        return answer;
    }
    Answer { verdict: Arc::new(cut(Verdict::clone(&answer.verdict), limit)), ..answer }
}

fn cut(verdict: Verdict, limit: Option<usize>) -> Verdict {
    let mut body = verdict.body;
    body.truncate(limit.unwrap_or(usize::MAX));
    Verdict { body, ..verdict }
}

/// How many leaders may vanish, or run out of time, before a waiter asks by itself.
const MAX_FLIGHTS: usize = 3;
/// An answer is headers and a short body. Tonic's default would be 4 MiB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Set on a request that a failure let through.
const FAILURE_MARK: &str = "x-envoy-auth-failure-mode-allowed";
