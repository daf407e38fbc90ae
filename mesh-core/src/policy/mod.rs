//! Resilience decisions, as plain synchronous engines.

pub mod retry;
pub mod budget;
pub mod backoff;
pub mod timeout;
pub mod circuit_breaker;
pub mod concurrency;
