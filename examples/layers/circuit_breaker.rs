//! Only a circuit breaker: after five failures nothing is sent; when its time is over one probe goes out, and
//! closes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::layer::CircuitBreakerLayer;
use mesh_core::time::ManualClock;
use mesh_core::{Body, Error, ErrorKind};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let (is_down, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (state, count) = (Arc::clone(&is_down), Arc::clone(&sent));
    let server = service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        let status = if state.load(Ordering::SeqCst) { 503 } else { 200 };
        async move { Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty())?) }
    });
    // Time stands still until it is told to pass. Without `with_clock` it is the system's.
    let clock = ManualClock::new();
    let breaker = CircuitBreakerLayer::default().with_clock(Arc::new(clock.clone()));
    let client = ServiceBuilder::new().layer(breaker).service(server);
    let get = || client.clone().oneshot(Request::new(Body::empty()));

    for _ in 0..5 {
        assert_eq!(get().await?.status(), 503);
    }
    let refused = get().await.err().ok_or("the breaker is open")?;
    println!("after {} requests: {refused}", sent.load(Ordering::SeqCst));
    assert_eq!(refused.downcast_ref().map(Error::kind), Some(ErrorKind::CircuitOpen));
    assert_eq!(sent.load(Ordering::SeqCst), 5, "what is refused is not sent");

    is_down.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(5));
    for _ in 0..2 {
        println!("later: {}", get().await?.status());
    }
    assert_eq!(sent.load(Ordering::SeqCst), 7, "the probe and what followed it");
    Ok(())
}
