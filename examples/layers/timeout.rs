//! Only timeouts: a service that hangs is given up after its bound, or after the deadline that its caller has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use mesh_core::error::BoxError;
use mesh_core::layer::TimeoutLayer;
use mesh_core::{Body, CallContext, Error, ErrorKind};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let answers = service_fn(|request: Request<Body>| async move {
        if request.uri().path() == "/hangs" {
            std::future::pending::<()>().await;
        }
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    let get = |path: &str| Request::get(format!("http://books{path}")).body(Body::empty());

    let patient = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_secs(60))).service(answers);
    println!("in time: {}", patient.clone().oneshot(get("/7")?).await?.status());

    let hasty = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(20))).service(answers);
    let given_up = hasty.oneshot(get("/hangs")?).await;
    println!("bounded: {}", kind_of(&given_up)?);
    assert_eq!(kind_of(&given_up)?, ErrorKind::Timeout);

    // The deadline of the request that is being served holds for what it causes, whatever the layer allows.
    let mut serving = CallContext::new(mesh_core::telemetry::TraceContext::root(&mut Default::default(), 0.0));
    serving.deadline = Some(Instant::now() + Duration::from_millis(20));
    let given_up = CallContext::scope(Arc::new(serving), patient.oneshot(get("/hangs")?)).await;
    println!("bounded by the caller: {}", kind_of(&given_up)?);
    assert_eq!(kind_of(&given_up)?, ErrorKind::Timeout);
    Ok(())
}

/// What an error of a layer says.
fn kind_of<T>(result: &Result<T, BoxError>) -> Result<ErrorKind, BoxError> {
    let error = result.as_ref().err().and_then(|error| error.downcast_ref::<Error>());
    Ok(error.ok_or("an error of the mesh was expected")?.kind())
}
