//! Simulations: the real engines in virtual time, seeded, without a socket.
//!
//! Decides: which engine is worth having, by curves anybody can reproduce. Never: reads a clock or draws an
//! unseeded number, so that a run is the same on every machine.
//!
//! `cargo test --test simulation` asserts what the curves show. `-- --ignored publish --nocapture` writes
//! them to `docs/simulation/` (see `docs/simulation.md`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(missing_docs, reason = "a test has no API")]

mod balancers;
mod curve;
mod ejection;
mod limits;
mod publish;
mod server;
mod storm;
mod timeline;
