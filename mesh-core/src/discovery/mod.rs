//! Where configuration and endpoints come from.

pub mod file;
pub mod publish;
