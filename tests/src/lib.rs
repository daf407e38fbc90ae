//! The scenario corpus: one file, one behaviour, the same in every language.
//!
//! A scenario (`tests/scenarios/*.yaml`) is a configuration, scripted upstreams, requests and what must come
//! of them. [`run::Runner`] plays the upstreams and hands the requests to a *driver*: a small program in some
//! language that sends them through the mesh and prints what it got ([`driver`] has the protocol).
//! Invariant: a driver decides nothing and asserts nothing; all judging is in [`judge`].

pub mod caller;
pub mod driver;
pub mod heap;
pub mod judge;
pub mod load;
pub mod metrics;
pub mod process;
pub mod run;
pub mod rust_driver;
pub mod scenario;
pub mod toolchain;
pub mod upstream;
