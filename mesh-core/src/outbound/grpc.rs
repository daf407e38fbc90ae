//! Any service that takes the mesh's requests, as the channel of a generated gRPC client.
//!
//! Decides: which gRPC status an error of the mesh reads as to a caller in this process. Never: sends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::{Code, Status};
use tower_service::Service;

use crate::body::Body;
use crate::error::{BoxError, Error, ErrorKind};
use crate::outbound::ServiceClient;

/// Carries tonic's bodies over a mesh client, and its errors as statuses.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
/// use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
/// use mesh_core::{GrpcChannel, Mesh};
///
/// let mesh = Mesh::from_yaml("{version: 1}", "mesh.yaml")?;
/// let channel = GrpcChannel::new(mesh.client());
/// let mut policy = AuthorizationClient::with_origin(channel, "http://policy".try_into()?);
/// // There is no route to it.
/// let status = policy.check(CheckRequest::default()).await.unwrap_err();
/// assert_eq!(status.code(), tonic::Code::Unimplemented);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct GrpcChannel<S = ServiceClient>(S);

impl<S> GrpcChannel<S> {
    /// Over `service`: a mesh client, or a stack of layers.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S, B> Service<Request<tonic::body::Body>> for GrpcChannel<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    type Response = Response<B>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx).map_err(|error| to_status(error.into()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let answering = self.0.call(request.map(Body::new));
        Box::pin(async move { answering.await.map_err(|error| to_status(error.into())) })
    }
}

/// What an error reads as to the caller of a generated client: one of the mesh by its kind, others as tonic
/// reads them. Goes above the layers: `ServiceBuilder::new().map_err(to_status).layer(..)`.
pub fn to_status(error: BoxError) -> Status {
    match error.downcast::<Error>() {
        Ok(error) => Status::from(*error),
        Err(error) => Status::from_error(error),
    }
}

/// The error itself is the status's source.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            // A client of gRPC says so of its own deadline; the table says what a proxy answers (504).
            ErrorKind::Timeout | ErrorKind::AttemptTimeout => Code::DeadlineExceeded,
            kind => Code::from_i32(i32::from(kind.status().grpc)),
        };
        let mut status = Self::new(code, error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_error_of_the_mesh_reads_as_the_status_of_its_kind_and_is_its_source() {
        for (kind, code) in [
            (ErrorKind::CircuitOpen, Code::Unavailable),
            (ErrorKind::Timeout, Code::DeadlineExceeded),
            (ErrorKind::Denied, Code::PermissionDenied),
            (ErrorKind::NoRoute, Code::Unimplemented),
        ] {
            let status = to_status(Error::new(kind, "why").into());
            assert_eq!(status.code(), code, "{kind}");
            let source = status.source().and_then(|source| source.downcast_ref::<Error>());
            assert_eq!(source.map(Error::kind), Some(kind));
        }
        assert_eq!(to_status(Status::aborted("by the service").into()).code(), Code::Aborted);
        assert_eq!(to_status("somebody else's".into()).code(), Code::Unknown);
    }
}
