//! Answering a `mesh_inbound`.
//!
//! Decides: nothing. Invariant: the first answer counts, a second is refused.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};

use mesh_core::Body;

use crate::body::mesh_body;
use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles;
use crate::headers;
use crate::inbound::mesh_inbound;
use crate::text::{mesh_bytes, mesh_str};

/// A response from its C parts.
pub fn response(status: i64, packed: &[u8], body: Body) -> Result<Response<Body>, Failure> {
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| !status.is_informational());
    let mut response = Response::new(body);
    *response.status_mut() = status.ok_or_else(|| Failure::invalid("`status` is no final HTTP status"))?;
    headers::unpack_into(response.headers_mut(), packed)?;
    Ok(response)
}

/// Adds a header to the answer to come.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_header_add(
    inbound: *const mesh_inbound,
    name: mesh_str,
    value: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_header_add, err, {
        // SAFETY: rules 1 and 4: a live handle, readable text and bytes.
        let (inbound, name, value) = unsafe { (handles::lend(inbound)?, name.read("name")?, value.read("value")?) };
        inbound.add_header(|added| headers::append(added, name.as_bytes(), value))
    })
}

/// Answers in one go. `headers` is a packed list or empty; `body` is copied. `MESH_E_CANCELLED`: the
/// peer is gone. The handle is still to be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_respond(
    inbound: *const mesh_inbound,
    status: u16,
    headers: mesh_bytes,
    body: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_respond, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes.
        let (inbound, headers, body) =
            unsafe { (handles::lend(inbound)?, headers.read("headers")?, body.read("body")?) };
        inbound.answer(response(status.into(), headers, Bytes::copy_from_slice(body).into())?)
    })
}

/// Sends the head now and returns the writing end of the body. `length` is its size, or -1 for unknown.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_respond_stream(
    inbound: *const mesh_inbound,
    status: u16,
    headers: mesh_bytes,
    length: i64,
    body: *mut *mut mesh_body,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_respond_stream, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable bytes, a writable result.
        let (inbound, headers, result) =
            unsafe { (handles::lend(inbound)?, headers.read("headers")?, handles::out(body, "body")?) };
        let (writer, body) = mesh_body::pair(Arc::clone(inbound.engine()), length);
        inbound.answer(response(status.into(), headers, body)?)?;
        result.set(handles::give(writer));
        Ok(())
    })
}
