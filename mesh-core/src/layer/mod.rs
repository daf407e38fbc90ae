//! Policies as tower layers, each of its own; rate limits, mirrors and faults are not among them.
//!
//! An application that wants only retries, or only the breaker, takes only that. Each layer is a thin
//! shell: it asks the same engine that [`crate::outbound`] and [`crate::inbound`] ask, with the time of
//! its clock. Layers compose; [`compose`] builds the whole client out of them, and the scenario corpus
//! holds that it behaves as the client does.
//!
//! ```
//! # use std::sync::Arc;
//! use mesh_core::layer::{CircuitBreakerLayer, RetryLayer, TimeoutLayer};
//! use mesh_core::policy::retry::RetryPolicy;
//! use tower::ServiceBuilder;
//!
//! let stack = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(std::time::Duration::from_secs(1)))
//!     .layer(RetryLayer::new(RetryPolicy::default()))
//!     .layer(CircuitBreakerLayer::default());
//! # let _ = stack.service(tower::service_fn(|_: http::Request<mesh_core::Body>| async {
//! #     Ok::<_, mesh_core::Error>(http::Response::new(mesh_core::Body::empty()))
//! # }));
//! ```
//!
//! A request's body goes through as it is, so a layer stands above a tonic channel or an axum router as it
//! stands above the mesh's own; [`RetryLayer`] and [`HedgeLayer`], which send it again, take a
//! [`RequestBody`].
//!
//! Errors are boxed; one that a layer made is a [`crate::Error`] inside, which [`to_status`] makes a gRPC
//! status. An inner service's foreign error counts as "the peer may have acted", so nothing unsafe is repeated
//! because of it; except where tonic's channel says that it could not connect. [`AccessLayer`], [`EndUserLayer`]
//! and [`CheckLayer`] add no error of their own: what they refuse is answered.
//!
//! `examples/layers` has a program for each.

use std::future::Future;
use std::pin::Pin;

use crate::error::{BoxError, Error, ErrorKind, Sent};

mod access;
mod balance;
mod check;
mod circuit_breaker;
mod compose;
mod concurrency;
mod end_user;
mod endpoint;
mod hedge;
mod request_body;
mod retry;
mod shed;
mod timeout;
mod trace;

pub use access::{Access, AccessLayer};
pub use balance::{Balance, Member};
pub use check::{Bodies, Check, CheckLayer, Read, Unread};
pub use circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
pub use compose::{Composed, compose};
pub use concurrency::{Concurrency, ConcurrencyLayer};
pub use end_user::{EndUserLayer, Users};
pub use endpoint::EndpointService;
pub use hedge::{Hedge, HedgeLayer};
pub use request_body::RequestBody;
pub use retry::{Retry, RetryLayer};
pub use shed::{Shed, ShedLayer};
pub use timeout::{Timeout, TimeoutLayer};
pub use trace::{Trace, TraceLayer};

pub use crate::outbound::to_status;

/// What the layers' services return.
pub type Pending<T, E = BoxError> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// How far a request got, read from any error.
pub(crate) fn facts_of(error: &BoxError) -> (ErrorKind, Sent) {
    match error.downcast_ref::<Error>() {
        Some(error) => (error.kind(), error.sent()),
        None if is_of_connecting(error) => (ErrorKind::Connect, Sent::Never),
        None => (ErrorKind::Reset, Sent::Maybe),
    }
}

/// Whether tonic's channel says that it has no connection.
fn is_of_connecting(error: &BoxError) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}
