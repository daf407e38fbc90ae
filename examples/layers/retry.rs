//! Only retries: a GET that meets two failures is answered by the third attempt, a POST is sent once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{Method, Request, Response};
use mesh_core::Body;
use mesh_core::error::BoxError;
use mesh_core::layer::RetryLayer;
use mesh_core::policy::retry::RetryPolicy;
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    for (method, status, attempts) in [(Method::GET, 200, 3), (Method::POST, 503, 1)] {
        let sent = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&sent);
        // Any service will do: a client of your own, a generated one, a function.
        let flaky = service_fn(move |_: Request<Body>| {
            let nth = count.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                let status = if nth < 3 { 503 } else { 200 };
                Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty())?)
            }
        });
        let client = ServiceBuilder::new().layer(RetryLayer::new(RetryPolicy::default())).service(flaky);

        let request = Request::builder().method(&method).uri("http://books/7").body(Body::from("hello"))?;
        let response = client.oneshot(request).await?;
        println!("{method}: {} after {} attempts", response.status(), sent.load(Ordering::SeqCst));
        assert_eq!((response.status().as_u16(), sent.load(Ordering::SeqCst)), (status, attempts));
    }
    Ok(())
}
