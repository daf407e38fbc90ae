//! libmesh: a service mesh without the sidecar.
//!
//! One engine, linked into the application, connects, manages, observes and secures every call between
//! services. A program opens a [`Mesh`] from a configuration file, sends requests to logical names through
//! its [`ServiceClient`], and serves through [`Mesh::listen`] or [`ServerLayer`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use mesh_core::{Body, Mesh};
//!
//! let mesh = Mesh::from_file("mesh.yaml")?;
//! let request = http::Request::get("http://reviews/reviews/0").body(Body::empty())?;
//! let response = mesh.client().call(request).await?;
//! println!("{}", response.status());
//! # Ok(())
//! # }
//! ```
//!
//! Decisions are plain synchronous engines ([`policy`], [`route`], [`cluster`], [`access`]) that take the
//! time as an argument; [`outbound`] and [`inbound`] tell the two stories in order; [`layer`] offers each
//! policy as a tower layer of its own.

pub mod access;
mod admin;
mod background;
pub mod body;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod context;
mod core;
pub mod discovery;
pub mod drain;
pub mod endpoint;
pub mod error;
pub mod guard;
pub mod identity;
pub mod inbound;
pub mod layer;
pub mod load_report;
pub mod mesh;
pub mod outbound;
pub mod own_load;
pub mod policy;
pub mod route;
pub mod runtime;
pub mod snapshot;
pub mod telemetry;
pub mod time;

pub use body::Body;
pub use context::CallContext;
pub use discovery::publish::ConfigError;
pub use error::{Error, ErrorKind, Sent};
pub use guard::Guard;
pub use identity::tls::PeerIdentity;
pub use inbound::ServerLayer;
pub use inbound::listener::Listening;
pub use mesh::{Mesh, MeshBuilder};
pub use outbound::{CallOptions, CallReport, GrpcChannel, ServiceClient};
