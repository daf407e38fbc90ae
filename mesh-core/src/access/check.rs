//! Remote checks: asking a policy server, by Envoy's `ext_authz` gRPC protocol.
//!
//! Decides: the outcome of a check: from the cache, from the answer of another request's call, or from a
//! call of its own; and what a failure means, as the rule says.
//! Never: lets a request wait longer than the timeout, logs a header value, takes silence for an approval.
//! Invariant: every failure is counted and logged, whichever way it falls.

#[cfg(test)]
mod replay;
mod request;
mod response;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::{HeaderMap, HeaderValue, Uri};
use tonic::body::Body;
use tonic::client::GrpcService;
use tracing::Instrument;

pub use self::request::check_request;
pub use self::response::{interpret, reuse_hints};
use super::attributes::{Attributes, AttributesBuf};
use super::cache::{CacheConfig, CacheStats, CheckCache, Flight, FlightLeader, Landing, Lookup};
use super::verdict::{Failure, FailureReason, Verdict, apply_to_request};
use crate::error::BoxError;
use crate::time::{Clock, after};

/// How a check is made.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// Name in logs and metrics.
    pub name: String,
    /// Scheme and authority the call is addressed to.
    pub origin: Uri,
    /// How long a request waits for the answer.
    pub timeout: Duration,
    /// What a failure means.
    pub failure: FailureMode,
    /// HTTP status of the reply when a failure refuses.
    pub status_on_error: u16,
    /// Whether a request that a failure let through says so, in `x-envoy-auth-failure-mode-allowed`.
    pub mark_failure: bool,
    /// Fixed pairs for the server.
    pub context_extensions: HashMap<String, String>,
    /// How answers are kept.
    pub cache: CacheConfig,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            name: "check".to_owned(),
            origin: Uri::from_static("http://policy"),
            timeout: Duration::from_millis(200), // Envoy's default
            failure: FailureMode::Closed,
            status_on_error: 403, // Envoy's default
            mark_failure: false,
            context_extensions: HashMap::new(),
            cache: CacheConfig::default(),
        }
    }
}

/// What a failed check means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureMode {
    /// It is refused.
    #[default]
    Closed,
    /// It goes on.
    Open,
}

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
        let cache = Arc::new(CheckCache::new(config.cache.clone()));
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

    /// How many checks failed for a reason ([`FailureReason::NAMES`]), and were let through or not.
    pub fn failures(&self, is_let_through: bool, reason: &str) -> u64 {
        self.cache.counters.failures(is_let_through, reason)
    }

    /// Voids all kept answers: the policy, or who may ask, has changed.
    pub fn void_all(&self) {
        self.cache.void_all();
    }

    /// Checks one request. An answer is kept until `max_expiry` at most: the end of the peer's certificate.
    /// Dropping the future is safe at any time and does not disturb others that wait for the same answer.
    pub async fn check<S: PolicyService>(
        &self,
        service: S,
        attributes: &Attributes<'_>,
        clock: &dyn Clock,
        max_expiry: Option<Instant>,
    ) -> CheckOutcome {
        let deadline = after(clock.now(), self.config.timeout);
        let call = |leader| self.call(leader, attributes, (max_expiry, clock.sleep_until(deadline)));
        for _ in 0..MAX_FLIGHTS {
            let waited = match self.cache.lookup(attributes, clock.now()) {
                Lookup::Hit(verdict) => return CheckOutcome::of(verdict),
                Lookup::Refresh(verdict, leader) => {
                    self.refresh(call(leader), service);
                    return CheckOutcome::of(verdict);
                }
                Lookup::Lead(leader) => return self.finish(call(leader).conclude(service).await, attributes, clock),
                Lookup::Wait(flight) => self.wait(flight, attributes, clock.sleep_until(deadline)).await,
            };
            match waited {
                Waited::Ended(result) => return self.finish(result, attributes, clock),
                Waited::NotOurs => break,
                Waited::Abandoned => {}
            }
        }
        let leader = self.cache.lead_alone(clock.now());
        self.finish(call(leader).conclude(service).await, attributes, clock)
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

    fn call(&self, leader: FlightLeader, attributes: &Attributes<'_>, end: (Option<Instant>, Timer)) -> Call {
        Call {
            config: self.config.clone(),
            cache: self.cache.clone(),
            leader,
            attributes: attributes.to_buf(),
            max_expiry: end.0,
            timer: end.1,
        }
    }

    fn refresh<S: PolicyService>(&self, call: Call, service: S) {
        // Without a runtime the leader is dropped and the answer simply expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let name = self.config.name.clone();
            runtime.spawn(async move {
                if let Err(failure) = call.run(service).await {
                    tracing::warn!(check = name, error.type = failure.reason.as_str(), "background refresh failed");
                }
            });
        }
    }

    async fn wait(&self, flight: Flight, attributes: &Attributes<'_>, timer: Timer) -> Waited {
        let landing = tokio::select! {
            biased;
            landing = flight.landing() => landing,
            () = timer => Landing::Failed(Arc::new(Failure::new(FailureReason::Timeout))),
        };
        match landing {
            Landing::Answered(shared) => match self.cache.share(&shared, attributes) {
                Some(verdict) => Waited::Ended(Ok(verdict)),
                None => Waited::NotOurs,
            },
            Landing::NotShared => Waited::NotOurs,
            Landing::Failed(failure) => Waited::Ended(Err(failure)),
            Landing::Abandoned => Waited::Abandoned,
        }
    }

    fn finish(&self, result: CallResult, attributes: &Attributes<'_>, clock: &dyn Clock) -> CheckOutcome {
        let failure = match result {
            Ok(verdict) => return CheckOutcome::of(verdict),
            Err(failure) => failure,
        };
        match self.cache.stale(attributes, clock.now()) {
            Some(verdict) => {
                tracing::warn!(check = self.config.name, error.type = failure.reason.as_str(), "stale answer used");
                CheckOutcome::of(verdict)
            }
            None => self.fail(&failure),
        }
    }

    fn fail(&self, failure: &Failure) -> CheckOutcome {
        let is_open = self.config.failure == FailureMode::Open;
        self.cache.counters.failed(is_open, failure.reason);
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

enum Waited {
    Ended(CallResult),
    NotOurs,
    Abandoned,
}

/// Everything one call needs, owned: it belongs to all who wait for it, not to the request that began it.
struct Call {
    config: Arc<CheckConfig>,
    cache: Arc<CheckCache>,
    leader: FlightLeader,
    attributes: AttributesBuf,
    max_expiry: Option<Instant>,
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
        let attributes = self.attributes.borrow();
        let mut request = tonic::Request::new(check_request(&attributes, &self.config.context_extensions));
        request.set_timeout(self.config.timeout);
        let answer = tokio::select! {
            biased;
            answer = ask(service, self.config.origin.clone(), request) => answer,
            () = self.timer => Err(Failure::new(FailureReason::Timeout)),
        };
        match answer.and_then(|response| interpret(response, self.config.status_on_error)) {
            Ok(answer) => {
                let verdict = answer.verdict.clone();
                if let Err(refusal) = self.leader.complete(&attributes, answer, self.max_expiry) {
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

async fn ask<S: PolicyService>(
    service: S,
    origin: Uri,
    request: tonic::Request<envoy_types::pb::envoy::service::auth::v3::CheckRequest>,
) -> Result<CheckResponse, Failure> {
    let mut client = AuthorizationClient::with_origin(service, origin).max_decoding_message_size(MAX_ANSWER_BYTES);
    let response = client.check(request).await.map_err(|status| Failure::new(FailureReason::Rpc(status.code())))?;
    Ok(response.into_inner())
}

/// How many leaders may vanish before a waiter asks by itself.
const MAX_FLIGHTS: usize = 3;
/// An answer is headers and a short body. Tonic's default would be 4 MiB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Set on a request that a failure let through.
const FAILURE_MARK: &str = "x-envoy-auth-failure-mode-allowed";
