//! Which endpoint an attempt goes to.
//!
//! Decides: the order of preference between a cluster's endpoints, by locality, availability and
//! load, and which of them are ejected. Never: opens a connection.
//! Invariant: a picker is immutable; a change of endpoints builds a new one, and live state (load,
//! ejections) belongs to the endpoint and survives.

mod alias;
mod area;
pub mod balancing;
pub mod bounded_load;
pub mod candidate;
pub mod candidates;
mod census;
pub mod choice;
pub mod group;
pub mod hashing;
pub mod health;
pub mod least_request;
mod level;
pub mod load_weight;
pub mod locality;
pub mod maglev;
pub mod member;
pub mod membership;
mod mersenne_twister;
mod murmur2;
mod news;
mod order;
pub mod outlier;
pub mod peak_ewma;
pub mod picker;
mod pickers;
pub mod priority;
pub mod ring_hash;
pub mod round_robin;
mod session;
pub mod slow_start;
pub mod subset;
pub mod subsetting;
pub mod taken;

pub use balancing::{BalancerKind, Balancing};
pub use locality::{Locality, Proximity};
pub use picker::{Candidate, NoEndpoint, Pick, Picker};
