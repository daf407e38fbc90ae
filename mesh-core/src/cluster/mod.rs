//! Which endpoint an attempt goes to.
//!
//! Decides: the order of preference between a cluster's endpoints, by locality, availability and
//! load, and which of them are ejected. Never: opens a connection.
//! Invariant: a picker is immutable; a change of endpoints builds a new one, and live state (load,
//! ejections) belongs to the endpoint and survives.

pub mod bounded_load;
pub mod group;
pub mod hashing;
pub mod least_request;
pub mod locality;
pub mod maglev;
pub mod member;
mod mersenne_twister;
mod murmur2;
pub mod outlier;
pub mod peak_ewma;
pub mod picker;
pub mod ring_hash;
pub mod round_robin;
mod session;
pub mod taken;

pub use locality::{Locality, Proximity};
pub use picker::{BalancerKind, Candidate, NoEndpoint, Pick, Picker};
