//! Every policy as a stand-alone tower layer.

pub mod access;
pub mod circuit_breaker;
pub mod concurrency;
pub mod retry;
pub mod timeout;
