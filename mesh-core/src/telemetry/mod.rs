//! What every call leaves behind.

pub mod names;
pub mod metrics;
pub mod trace;
pub mod access_log;
