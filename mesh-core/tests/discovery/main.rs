//! Where endpoints come from: stories over loopback sockets, name servers of our own, and clocks that are set.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod membership;
mod name_server;
mod names;
mod sources;
mod support;
