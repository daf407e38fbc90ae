//! libmesh: a service mesh without the sidecar.
//!
//! One engine, linked into the application, connects, manages, observes and secures every call.

pub mod access;
pub mod admin;
pub mod body;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod context;
mod background;
mod core;
pub mod drain;
pub mod discovery;
pub mod endpoint;
pub mod error;
pub mod identity;
pub mod inbound;
pub mod layer;
pub mod mesh;
pub mod outbound;
pub mod policy;
pub mod route;
pub mod runtime;
pub mod snapshot;
pub mod telemetry;
pub mod time;
