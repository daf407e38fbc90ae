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
//! Whatever is not HTTP goes over bare connections, under the same balancing, retries, breakers, mutual TLS, access
//! rules and telemetry. [`Mesh::dial`] opens one to a cluster with `protocol: tcp`; [`Mesh::listen_tcp`] accepts them
//! on a listener with `protocol: tcp`:
//!
//! ```no_run
//! # async fn example(mesh: mesh_core::Mesh) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let listening = mesh.listen_tcp("front")?;
//! while let Ok(mut caller) = listening.accept().await {
//!     let mesh = mesh.clone();
//!     tokio::spawn(async move {
//!         let mut ledger = mesh.dial("ledger").await?;
//!         // Half closes pass. Over TLS an end has to be said, as this does by `shutdown`: a stream that is merely
//!         // dropped looks cut off to its peer.
//!         tokio::io::copy_bidirectional(&mut caller, &mut ledger).await?;
//!         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//!     });
//! }
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
pub mod stream;
pub mod telemetry;
pub mod time;

pub use access::jwt::EndUser;
pub use body::Body;
pub use context::CallContext;
pub use discovery::publish::ConfigError;
pub use error::{Error, ErrorKind, Sent};
pub use guard::Guard;
pub use identity::tls::PeerIdentity;
pub use inbound::ServerLayer;
pub use inbound::accept::TcpListening;
pub use inbound::listener::Listening;
pub use mesh::{Mesh, MeshBuilder};
pub use outbound::dial::DialOptions;
pub use outbound::{CallOptions, CallReport, GrpcChannel, ServiceClient};
pub use stream::MeshStream;
