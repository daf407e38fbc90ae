//! `mesh_response`: the head of a response and the reading end of its body.
//!
//! Decides: nothing. Invariant: freeing it early releases the connection; nobody has to read to the end.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use tokio_util::sync::CancellationToken;

use mesh_core::inbound::own_server::Answer;
use mesh_core::{Body, CallReport};

use crate::buf::mesh_buf;
use crate::code::mesh_code;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_RESPONSE};
use crate::headers::{Packed, lend_text};
use crate::reader::Reader;
use crate::sized::{self, Sized32};
use crate::text::{Text, mesh_bytes, mesh_str};
use crate::wait::block_on;

/// A response. One thread at a time, except `mesh_response_cancel`.
pub struct mesh_response {
    engine: Arc<Engine>,
    status: u16,
    headers: Packed,
    report: Option<Report>,
    reader: Arc<Reader>,
    /// Bytes lent out by an event, kept as long as the handle.
    whole: Option<Bytes>,
}

impl Handle for mesh_response {
    const KIND: i32 = MESH_HANDLE_RESPONSE;
    const NAME: &'static str = "response";
}

struct Report {
    attempts: u32,
    revision: u64,
    route: Text,
    cluster: Text,
    endpoint: Text,
    peer: Text,
}

impl From<&CallReport> for Report {
    fn from(report: &CallReport) -> Self {
        Self {
            attempts: report.attempts,
            revision: report.revision,
            route: Text::new(report.route.as_bytes()),
            cluster: Text::new(report.cluster.as_bytes()),
            endpoint: Text::new(report.endpoint.as_bytes()),
            peer: Text::new(report.peer.as_deref().unwrap_or_default()),
        }
    }
}

/// How a call went. Fill in with `mesh_response_info`. The text is borrowed from the response.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_call_info {
    /// Size of this struct.
    pub struct_size: u32,
    /// Attempts made, the first included.
    pub attempts: u32,
    /// Revision of the configuration it ran on.
    pub revision: u64,
    /// Route rule.
    pub route: mesh_str,
    /// Cluster.
    pub cluster: mesh_str,
    /// Address of the endpoint that answered.
    pub endpoint: mesh_str,
    /// SPIFFE ID the endpoint proved; empty without mTLS.
    pub peer_id: mesh_str,
}

// SAFETY: `repr(C)`, numbers and pointers only, the size comes first.
unsafe impl Sized32 for mesh_call_info {
    const NAME: &'static str = "info";
}

impl mesh_response {
    /// Takes a response of the engine apart.
    pub fn new(engine: Arc<Engine>, response: Response<Body>, cancel: CancellationToken) -> Self {
        let (head, body) = response.into_parts();
        Self {
            reader: Arc::new(Reader::new(Arc::clone(&engine), body, cancel)),
            engine,
            status: head.status.as_u16(),
            headers: Packed::new(&head.headers),
            report: head.extensions.get::<CallReport>().map(Report::from),
            whole: None,
        }
    }

    /// An answer of the mesh itself, which is in memory.
    pub fn of_answer(engine: Arc<Engine>, answer: Answer) -> Self {
        let body = answer.response.body().clone();
        let mut made = Self::new(engine, answer.response.map(Body::from), CancellationToken::new());
        if let Some(trailers) = &answer.trailers {
            made.reader.foretell(Packed::new(trailers));
        }
        made.whole = Some(body);
        made
    }

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The whole body, if it is in memory.
    pub fn whole(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    /// Keeps the whole body for as long as the handle lives.
    pub fn keep(&mut self, whole: Option<Bytes>) {
        self.whole = whole;
    }

    /// The body, for a read on a queue.
    pub fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.reader)
    }

    /// Whether it belongs to a parent process.
    pub fn is_foreign(&self) -> bool {
        self.engine.is_foreign()
    }
}

impl Drop for mesh_response {
    fn drop(&mut self) {
        self.reader.cancel();
    }
}

/// HTTP status; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_status(response: *const mesh_response) -> u16 {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_response_status, or 0, { unsafe { handles::lend(response) }.map_or(0, mesh_response::status) })
}

/// The whole body, where it is in memory already: an answer of `mesh_inbound_begin`, or `MESH_EVF_WHOLE_BODY`. Else
/// `ptr` is NULL. Borrowed from the response; reading it is possible as well.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_body(response: *const mesh_response) -> mesh_bytes {
    guard!(mesh_response_body, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(response) = (unsafe { handles::lend(response) }) else { return mesh_bytes::empty() };
        response.whole().map_or(mesh_bytes::empty(), |whole| mesh_bytes::of(whole))
    })
}

/// The `nth` (from 0) value of a header, by name in any case. `ptr` is NULL when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_header(
    response: *const mesh_response,
    name: mesh_str,
    nth: usize,
) -> mesh_bytes {
    guard!(mesh_response_header, or mesh_bytes::empty(), {
        // SAFETY: rules 1 and 4: NULL or a live handle, and readable text.
        let (Ok(response), Ok(name)) = (unsafe { handles::lend(response) }, unsafe { name.read("name") }) else {
            return mesh_bytes::empty();
        };
        response.headers.find(name, nth).map_or(mesh_bytes::empty(), mesh_bytes::of)
    })
}

/// How many headers; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_header_count(response: *const mesh_response) -> usize {
    guard!(mesh_response_header_count, or 0, {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(response) }.map_or(0, |response| response.headers.count())
    })
}

/// The header at `index`. Duplicates are kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_header_at(
    response: *const mesh_response,
    index: usize,
    name: *mut mesh_str,
    value: *mut mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_response_header_at, err, {
        // SAFETY: rules 1 and 3: a live handle and writable results, each checked for NULL.
        let (response, name, value) =
            unsafe { (handles::lend(response)?, handles::out(name, "name")?, handles::out(value, "value")?) };
        let found = response.headers.at(index).ok_or_else(|| Failure::invalid("`index` is out of range"))?;
        name.set(lend_text(found.0));
        value.set(mesh_bytes::of(found.1));
        Ok(())
    })
}

/// All headers in one block: `uint32_t count`, then per header `uint32_t name_offset, name_length,
/// value_offset, value_length`, then the text. Offsets count from the start of the block; numbers are
/// in native byte order. Borrowed from the response.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_headers_packed(response: *const mesh_response) -> mesh_bytes {
    guard!(mesh_response_headers_packed, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(response) }.map_or(mesh_bytes::empty(), |response| response.headers.lend())
    })
}

/// The trailers in the same layout; empty until the end of the body was read (an answer of `mesh_inbound_begin` has
/// them at once), or without trailers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_trailers_packed(response: *const mesh_response) -> mesh_bytes {
    guard!(mesh_response_trailers_packed, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(response) = (unsafe { handles::lend(response) }) else { return mesh_bytes::empty() };
        response.reader.trailers().map_or(mesh_bytes::empty(), Packed::lend)
    })
}

/// Blocks until the next chunk of the body. `*chunk` is NULL at the end. Not reading stops the peer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_read(
    response: *const mesh_response,
    chunk: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_response_read, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result, each checked for NULL.
        let (response, result) = unsafe { (handles::lend(response)?, handles::out(chunk, "chunk")?) };
        let reader = response.reader();
        let chunk: Option<Bytes> = block_on(&response.engine, async move { reader.next().await })?;
        result.set(chunk.map_or(std::ptr::null_mut(), |chunk| handles::give(mesh_buf::new(chunk))));
        Ok(())
    })
}

/// How the call went: attempts, endpoint, the peer's identity. `info` starts from `MESH_INIT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_info(
    response: *const mesh_response,
    info: *mut mesh_call_info,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_response_info, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let response = unsafe { handles::lend(response)? };
        let lend = |text: fn(&Report) -> &Text| response.report.as_ref().map_or(mesh_str::empty(), |r| text(r).lend());
        let answer = mesh_call_info {
            struct_size: 0,
            attempts: response.report.as_ref().map_or(0, |report| report.attempts),
            revision: response.report.as_ref().map_or(0, |report| report.revision),
            route: lend(|report| &report.route),
            cluster: lend(|report| &report.cluster),
            endpoint: lend(|report| &report.endpoint),
            peer_id: lend(|report| &report.peer),
        };
        // SAFETY: rule 6: NULL or `struct_size` writable bytes.
        unsafe { sized::write(info, &answer) }
    })
}

/// Ends reads in flight and to come with `MESH_E_CANCELLED`. Any thread. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_cancel(response: *const mesh_response) {
    guard!(mesh_response_cancel, or(), {
        // SAFETY: rule 1: NULL or a live handle.
        if let Ok(response) = unsafe { handles::lend(response) }
            && !response.is_foreign()
        {
            response.reader.cancel();
        }
    });
}

/// Frees it, wherever its body is. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_response_free(response: *mut mesh_response) {
    guard!(mesh_response_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(response) = (unsafe { handles::take(response) }) else { return };
        if response.is_foreign() {
            std::mem::forget(response);
        }
    });
}
