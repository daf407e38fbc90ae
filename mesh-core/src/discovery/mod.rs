//! Where configuration and endpoints come from.

pub mod dns;
pub mod feeds;
pub mod file;
pub mod inquiry;
pub mod names;
pub mod publish;
pub mod refresh;
pub mod resolver;
pub mod source;

pub use source::{EndpointSet, EndpointSource, Sink};
