//! A [`ServiceClient`] as the channel of a generated gRPC client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::body::Body;
use crate::error::Error;
use crate::outbound::ServiceClient;

/// Carries tonic's bodies over a mesh client.
#[derive(Clone)]
pub struct GrpcChannel(ServiceClient);

impl GrpcChannel {
    /// Over `client`.
    pub fn new(client: ServiceClient) -> Self {
        Self(client)
    }
}

impl Service<Request<tonic::body::Body>> for GrpcChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move { client.call(request.map(Body::new)).await })
    }
}
