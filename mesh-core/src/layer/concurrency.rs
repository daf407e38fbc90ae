//! A ceiling on requests in flight.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::Pending;
use crate::body::Body;
use crate::error::{BoxError, Error, ErrorKind};
use crate::policy::concurrency::ConcurrencyLimit;

/// Refuses what is above the ceiling, at once. All services it makes share one ceiling.
#[derive(Clone)]
pub struct ConcurrencyLayer {
    limit: Arc<ConcurrencyLimit>,
}

impl ConcurrencyLayer {
    /// At most `max` requests at once, up to the head of their responses.
    pub fn new(max: u32) -> Self {
        Self::shared(ConcurrencyLimit::new(max))
    }

    /// Under a ceiling that others count against too.
    pub fn shared(limit: Arc<ConcurrencyLimit>) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency { inner, limit: Arc::clone(&self.limit) }
    }
}

/// A service under a ceiling.
#[derive(Clone)]
pub struct Concurrency<S> {
    inner: S,
    limit: Arc<ConcurrencyLimit>,
}

impl<S, B> Service<Request<Body>> for Concurrency<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.limit.admit() {
            Ok(permit) => {
                let answering = self.inner.call(request);
                Box::pin(async move {
                    let _permit = permit;
                    answering.await.map_err(Into::into)
                })
            }
            Err(full) => {
                let error =
                    Error::new(ErrorKind::Overloaded, format!("{} requests are in flight, the limit", full.max));
                Box::pin(std::future::ready(Err(error.into())))
            }
        }
    }
}
