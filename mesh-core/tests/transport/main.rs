//! Connections that behave: field reports and limits, over real loopback sockets and scripted peers.
//!
//! A test named `o07_...` is field report 07 of the conformance list; it fails without its fix.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod framing;
mod http1;
mod http2;
mod peers;
mod serving;
mod upgrades;
