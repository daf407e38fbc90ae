//! Who may do what: the facts of a request, local rules over them, and remote checks with their cache.
//!
//! Decides: allow or deny, by rules held here ([`rbac`]) or by asking a policy server ([`check`]) whose
//! answers are kept as long as they are valid ([`cache`]).
//! Never: authenticates a peer. The principal in [`Attributes`] was proven by TLS before it got here; who the end user
//! is, a signed token proves ([`jwt`]).
//! Invariant: whatever is not clearly an approval is a denial, unless a rule was written to fail open.

pub mod attributes;
pub mod authorization;
pub mod cache;
pub mod check;
pub mod descriptor;
#[cfg_attr(not(feature = "cel"), path = "no_expression.rs")]
pub mod expression;
pub mod fact;
pub mod global_limit;
pub mod judgement;
pub mod jwt;
pub mod limit;
pub mod limit_headers;
mod query;
pub mod quota_limit;
pub mod rbac;
pub mod rollout;
pub mod shared_buckets;
pub mod verdict;

pub use attributes::{Attributes, AttributesBuf};
pub use cache::{CacheConfig, CacheStats, CheckCache};
pub use check::{CheckConfig, CheckOutcome, FailureMode, RemoteCheck};
pub use fact::Fact;
pub use jwt::EndUser;
pub use rbac::{Decision, Effect, HeaderCondition, Pattern, Rule, Rules};
pub use verdict::Verdict;
