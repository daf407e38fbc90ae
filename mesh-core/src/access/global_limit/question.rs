//! One call to the server, and the lease that waits for its answer.
//!
//! Decides: nothing but when an answer is too late. Invariant: what was asked for is settled, or said to have failed,
//! however the call ends, also when nobody waits for it any more.

use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tracing::Instrument;

use super::answer::{Said, interpret};
use super::{GlobalLimit, GlobalLimitConfig, Purpose};
use crate::access::check::PolicyService;
use crate::access::descriptor::Descriptor;
use crate::access::verdict::FailureReason;
use crate::policy::lease::{Ask, Decision, Grant, Slot, lock};
use crate::time::{Clock, after};

/// Everything one call needs, owned.
pub(super) struct Call {
    config: Arc<GlobalLimitConfig>,
    request: RateLimitRequest,
}

impl Call {
    pub(super) fn new(config: &Arc<GlobalLimitConfig>, descriptors: &[Descriptor<'_>], hits: u32) -> Self {
        let entry = |(key, value): &(&str, std::borrow::Cow<'_, str>)| Entry {
            key: (*key).to_owned(),
            value: value.clone().into_owned(),
        };
        let descriptors = descriptors.iter().map(|descriptor| RateLimitDescriptor {
            entries: descriptor.iter().map(entry).collect(),
            ..RateLimitDescriptor::default()
        });
        let request =
            RateLimitRequest { domain: config.domain.clone(), descriptors: descriptors.collect(), hits_addend: hits };
        Self { config: Arc::clone(config), request }
    }

    pub(super) async fn run<S: PolicyService>(self, service: S, clock: &dyn Clock) -> Result<Said, FailureReason> {
        let config = &self.config;
        let mut request = tonic::Request::new(self.request);
        request.set_timeout(config.timeout);
        let mut client = RateLimitServiceClient::with_origin(service, config.origin.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        let answer = tokio::select! {
            biased;
            answer = client.should_rate_limit(request) => answer.map_err(|status| reason(status.code())),
            () = clock.sleep_until(after(clock.now(), config.timeout)) => Err(FailureReason::Timeout),
        };
        let said = answer.and_then(|response| interpret(response.into_inner(), config, clock.wall()));
        if let Err(reason) = &said {
            let code = match reason {
                FailureReason::Rpc(code) => Some(*code as i32),
                _ => None,
            };
            tracing::warn!(
                limit = &*config.name,
                error.type = reason.as_str(),
                rpc.grpc.status_code = code,
                allowed = config.failure == super::FailureMode::Open,
                "rate limit service failed"
            );
        }
        said
    }
}

/// A call for a lease.
pub(super) struct Question {
    limit: Arc<GlobalLimit>,
    lease: ([u8; 16], Slot),
    /// Taken when it is settled.
    ask: Option<Ask>,
    call: Option<Call>,
    clock: Arc<dyn Clock>,
    asked_at: Instant,
}

impl Question {
    pub(super) fn new(
        limit: Arc<GlobalLimit>,
        lease: ([u8; 16], Slot),
        ask: Ask,
        (call, clock): (Call, Arc<dyn Clock>),
    ) -> Self {
        let asked_at = clock.now();
        Self { limit, lease, ask: Some(ask), call: Some(call), clock, asked_at }
    }

    /// Asks, for a request that waits: what was said, and what that means for it. A request that is given up does not
    /// end the call: by that a caller could make a limit forget what it knows.
    pub(super) async fn put<S: PolicyService>(self, service: S) -> Result<(Said, Decision), FailureReason> {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let aborted = |_| Err(FailureReason::Rpc(tonic::Code::Internal));
                runtime.spawn(self.answer(service).in_current_span()).await.unwrap_or_else(aborted)
            }
            Err(_) => self.answer(service).await,
        }
    }

    async fn answer<S: PolicyService>(mut self, service: S) -> Result<(Said, Decision), FailureReason> {
        let said = self.run(service).await?;
        let Some(ask) = self.ask.take() else { return Err(FailureReason::Malformed) };
        let slot = self.settle(&ask, &said);
        let decision = lock(&slot).resume(self.clock.now());
        Ok((said, decision))
    }

    /// Asks beside the requests. Without a runtime nobody is asked, which is a failure.
    pub(super) fn put_aside<S: PolicyService>(mut self, service: S) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let asking = async move {
            if let Ok(said) = self.run(service).await
                && let Some(ask) = self.ask.take()
            {
                self.settle(&ask, &said);
            }
        };
        runtime.spawn(asking.in_current_span());
    }

    async fn run<S: PolicyService>(&mut self, service: S) -> Result<Said, FailureReason> {
        let Some(call) = self.call.take() else { return Err(FailureReason::Malformed) };
        self.limit.counts.called(Purpose::Lease);
        let said = call.run(service, &*self.clock).await;
        if let Err(reason) = &said {
            self.fail(*reason);
        }
        said
    }

    fn settle(&self, ask: &Ask, said: &Said) -> Slot {
        let now = self.clock.now();
        // The time left was measured after the question was put: counted from there, it never ends too late.
        let reset = said.reset.map(|left| after(self.asked_at, left));
        let (grant, name) = match &said.quota {
            Some(quota) if !said.is_over => {
                let until = quota.valid_for.map(|left| after(now, left));
                (Grant { amount: quota.requests, until, remaining: None, is_quota: true }, &*quota.name)
            }
            _ => {
                let amount = if said.is_over { 0 } else { ask.amount };
                let remaining = said.remaining.filter(|_| !said.is_over);
                (Grant { amount, until: reset, remaining, is_quota: false }, "")
            }
        };
        let (key, slot) = &self.lease;
        match &self.limit.leases {
            Some(leases) => leases.settle((key, slot), ask, (grant, name), now),
            None => Arc::clone(slot),
        }
    }

    /// Those who have passed on it have passed because nobody answered.
    fn fail(&mut self, reason: FailureReason) {
        let Some(ask) = self.ask.take() else { return };
        let unpaid = lock(&self.lease.1).fail(&ask, self.clock.now());
        if unpaid > 0 {
            self.limit.counts.failed(reason, true, u64::from(unpaid));
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.fail(FailureReason::Rpc(tonic::Code::Cancelled));
    }
}

/// The other end may be the first to say that the time is over.
fn reason(code: tonic::Code) -> FailureReason {
    if code == tonic::Code::DeadlineExceeded { FailureReason::Timeout } else { FailureReason::Rpc(code) }
}

/// An answer is a status for each descriptor and a few headers. Tonic's default would be 4 MiB.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
