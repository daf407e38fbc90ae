//! The server side.

pub mod serve;
pub mod listener;
pub mod forward;
