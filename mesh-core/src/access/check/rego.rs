//! A check that is answered in this process: a policy in Rego, with what OPA's Envoy plugin reads and decides.
//!
//! Decides: what the policy decides. Never: calls anyone, runs longer than the check may take.
//! Invariant: question and answer are those of a policy server over gRPC, so that a policy may move there and back.

mod decision;
mod input;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use regorus::Engine;
use regorus::utils::limits::ExecutionTimerConfig;

use crate::access::verdict::{Failure, FailureReason};

/// A policy, parsed, and the rule of it that decides.
pub struct RegoPolicy {
    engine: Engine,
    rule: String,
}

impl RegoPolicy {
    /// `rule` is a path like `data.mesh.decision`. An evaluation is given up after `limit`.
    pub fn new(text: &str, rule: &str, limit: Duration) -> Result<Self, String> {
        let mut engine = Engine::new();
        engine.add_policy("policy.rego".to_owned(), text.to_owned()).map_err(|error| format!("policy: {error}"))?;
        engine
            .compile_with_entrypoint(&rule.into())
            .map_err(|error| format!("decision: the policy has no rule {rule:?}: {error}"))?;
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL });
        Ok(Self { engine, rule: rule.to_owned() })
    }

    /// What the policy says to a question. A decision that is undefined, or none, is a failure.
    pub(super) fn decide(&self, request: &CheckRequest) -> Result<Said, Failure> {
        let failed = |why: String| {
            tracing::warn!(rule = self.rule, reason = why, "the policy gave no decision");
            Failure::new(FailureReason::ServerError)
        };
        let input = match input::of(request) {
            Ok(input) => input,
            Err(why) => return Ok(Said::Unreadable(decision::unreadable(&why))),
        };
        let input = serde_json::from_value(input).map_err(|error| failed(error.to_string()))?;
        // What an evaluation leaves behind is its own; what was parsed is shared.
        let mut engine = self.engine.clone();
        engine.set_input(input);
        let value = engine.eval_rule(self.rule.clone()).map_err(|error| failed(error.to_string()))?;
        if value == regorus::Value::Undefined {
            return Err(failed("it is undefined".to_owned()));
        }
        let value = serde_json::to_value(&value).map_err(|error| failed(error.to_string()))?;
        decision::response(value).map(Said::Decision).map_err(failed)
    }
}

/// What came of a question.
pub(super) enum Said {
    /// A decision of the policy.
    Decision(CheckResponse),
    /// The policy was not asked. The answer is about what could not be read, which no key need hold.
    Unreadable(CheckResponse),
}

impl fmt::Debug for RegoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegoPolicy").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// Steps of an evaluation between two looks at the clock: some microseconds.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);
