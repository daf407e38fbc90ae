//! Faults that a rule injects on purpose.
//!
//! Decides: nothing; `policy/fault.rs` draws. Never: waits beyond the request's deadline, or lets an aborted request
//! reach a service.

use std::time::Instant;

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::policy::fault::{Abort, Injected};

/// Waits as drawn, and gives the answer that was drawn instead of the service's.
pub(crate) async fn inject(
    core: &Core,
    injected: Injected,
    (cluster, is_grpc): (&str, bool),
    deadline: Option<Instant>,
) -> Result<Option<Response<Body>>, Error> {
    if let Some(delay) = injected.delay {
        core.telemetry.fault_injected(cluster, "delay");
        let until = crate::time::after(core.clock.now(), delay);
        core.clock.sleep_until(deadline.map_or(until, |deadline| deadline.min(until))).await;
        if deadline.is_some_and(|deadline| deadline <= until) {
            return Err(Error::new(ErrorKind::Timeout, "the deadline passed during a delay that the rule injects"));
        }
    }
    let Some(abort) = injected.abort else { return Ok(None) };
    core.telemetry.fault_injected(cluster, "abort");
    Ok(Some(aborted(abort, is_grpc)))
}

fn aborted(abort: Abort, is_grpc: bool) -> Response<Body> {
    let (status, code) = abort.statuses();
    let mut response = Response::new(Body::empty());
    if is_grpc {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    } else {
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    }
    response
}
