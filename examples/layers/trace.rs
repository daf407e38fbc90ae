//! Only trace context: a request continues the trace of its caller as a new span, or begins a trace.

use http::{HeaderMap, Request, Response};
use mesh_core::Body;
use mesh_core::error::BoxError;
use mesh_core::layer::TraceLayer;
use mesh_core::telemetry::TraceContext;
use tower::{ServiceBuilder, ServiceExt, service_fn};

const CALLERS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    // Shows what the next process is told.
    let echo = service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = request.headers().clone();
        Ok::<_, BoxError>(response)
    });
    let client = ServiceBuilder::new().layer(TraceLayer::new(100.0)).service(echo);

    let mut caller = HeaderMap::new();
    caller.insert("traceparent", CALLERS.parse()?);
    let before = TraceContext::from_headers(&caller).ok_or("a trace context")?;
    let mut request = Request::new(Body::empty());
    *request.headers_mut() = caller;
    let told = client.clone().oneshot(request).await?;
    let after = TraceContext::from_headers(told.headers()).ok_or("the trace goes on")?;
    println!("{} -> {}", before.traceparent(), after.traceparent());
    assert_eq!(after.trace_id, before.trace_id);
    assert_ne!(after.span_id, before.span_id);

    let told = client.oneshot(Request::new(Body::empty())).await?;
    let begun = TraceContext::from_headers(told.headers()).ok_or("a trace begins")?;
    println!("none -> {}", begun.traceparent());
    assert!(begun.is_sampled() && begun.trace_id != before.trace_id);
    Ok(())
}
