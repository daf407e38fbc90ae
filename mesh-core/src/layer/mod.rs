//! Every policy as a stand-alone tower layer.

pub mod retry;
pub mod timeout;
pub mod circuit_breaker;
pub mod concurrency;
pub mod access;
