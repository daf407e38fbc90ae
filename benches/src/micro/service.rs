//! What the layers are measured over: a request as an application sends it, and a service that answers
//! at once.
//!
//! Decides: nothing. Invariant: one request runs to its end before the next begins, so that a number is
//! the cost of a request and never of a queue; and every request ends in a 200, or the run ends.

use std::future::{Ready, poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use mesh_core::body::Body;
use tower::{BoxError, Service};

use super::Run;

/// Answers at once, with 200, or with 503 and 200 in turn.
#[derive(Clone, Default)]
pub struct Answering {
    /// Set: the next answer is a 503. `None`: none is.
    fails: Option<Arc<AtomicBool>>,
}

impl Answering {
    /// Each first answer is a 503, each second a 200.
    pub fn after_a_failure() -> Self {
        Self { fails: Some(Arc::new(AtomicBool::new(true))) }
    }
}

impl Service<Request<Body>> for Answering {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        drop(request);
        let mut response = Response::new(Body::empty());
        if self.fails.as_ref().is_some_and(|fails| fails.fetch_xor(true, Ordering::Relaxed)) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        ready(Ok(response))
    }
}

/// Runs requests through the service that `make` makes, on a runtime of one thread.
pub fn requests<S>(make: impl FnOnce() -> S) -> Run
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + 'static,
{
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        panic!("no runtime could be started");
    };
    let mut service = {
        let _inside = runtime.enter();
        make()
    };
    let template = template();
    Box::new(move |times| {
        // A budget of polls would make every 128th request wait for the next turn of the runtime.
        runtime.block_on(tokio::task::unconstrained(async {
            for _ in 0..times {
                let status = one(&mut service, copy(&template)).await.map(|answer| answer.status());
                assert!(matches!(status, Ok(StatusCode::OK)), "{status:?}");
            }
        }));
    })
}

async fn one<S>(service: &mut S, request: Request<Body>) -> Result<Response<Body>, BoxError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError>,
{
    poll_fn(|context| service.poll_ready(context)).await?;
    service.call(request).await
}

/// The same request again: a GET without a body. What a retry of tower's copies, too.
pub fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy.extensions_mut().clone_from(request.extensions());
    copy
}

/// Four headers, as many as a small client sends.
fn template() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static("http://hello/things/1?verbose=true");
    for (name, value) in [
        (http::header::ACCEPT, "application/json"),
        (http::header::ACCEPT_ENCODING, "gzip"),
        (http::header::USER_AGENT, "bench/1.0"),
        (http::header::AUTHORIZATION, "Bearer 0123456789abcdef"),
    ] {
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    request
}
