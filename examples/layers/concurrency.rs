//! Only a concurrency limit: with two requests in flight the third is refused at once; when one has ended there
//! is room again.

use std::sync::Arc;

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::layer::ConcurrencyLayer;
use mesh_core::{Body, Error, ErrorKind};
use tokio::sync::{Semaphore, mpsc};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let may_answer = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may_answer);
    let server = service_fn(move |_: Request<Body>| {
        let (arrived, gate) = (arrived.clone(), Arc::clone(&gate));
        async move {
            arrived.send(())?;
            gate.acquire().await?.forget();
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    let client = ServiceBuilder::new().layer(ConcurrencyLayer::new(2)).service(server);
    let get = || client.clone().oneshot(Request::new(Body::empty()));

    let in_flight = [tokio::spawn(get()), tokio::spawn(get())];
    for _ in &in_flight {
        arrivals.recv().await.ok_or("a request arrives")?;
    }
    let refused = get().await.err().ok_or("there is no room")?;
    println!("the third: {refused}");
    assert_eq!(refused.downcast_ref().map(Error::kind), Some(ErrorKind::Overloaded));

    may_answer.add_permits(3);
    for request in in_flight {
        assert_eq!(request.await??.status(), 200);
    }
    println!("when they have ended: {}", get().await?.status());
    Ok(())
}
