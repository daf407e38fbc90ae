//! `mesh_request`: a request being written, and the blocking way to send it.
//!
//! Decides: nothing; timeout and idempotence are passed on. Invariant: a request is sent at most once;
//! after that the handle only serves to cancel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Uri};
use tokio_util::sync::CancellationToken;

use mesh_core::outbound::CallOptions;
use mesh_core::{Body, CallContext};

use crate::body::mesh_body;
use crate::code::mesh_code;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_REQUEST};
use crate::headers;
use crate::inbound::mesh_inbound;
use crate::mesh::{duration, mesh};
use crate::response::mesh_response;
use crate::text::{mesh_bytes, mesh_str};
use crate::wait::block_on;

/// A request. One thread at a time, except `mesh_request_cancel`.
pub struct mesh_request {
    engine: Arc<Engine>,
    draft: Mutex<Option<Draft>>,
    cancel: CancellationToken,
}

impl Handle for mesh_request {
    const KIND: i32 = MESH_HANDLE_REQUEST;
    const NAME: &'static str = "request";
}

struct Draft {
    request: Request<Body>,
    options: CallOptions,
    parent: Option<Arc<CallContext>>,
}

/// A request on its way.
pub struct Launch {
    engine: Arc<Engine>,
    request: Request<Body>,
    cancel: CancellationToken,
}

impl mesh_request {
    /// Takes the written request out. The parent is the one that was set, else the inbound request that
    /// was active when it was made, else the one active now.
    pub fn launch(&self) -> Result<Launch, Failure> {
        self.engine.check_fork()?;
        let mut draft = self.lock().take().ok_or_else(spent)?;
        let extensions = draft.request.extensions_mut();
        extensions.insert(draft.options);
        if let Some(parent) = draft.parent.or_else(CallContext::current) {
            extensions.insert(parent);
        }
        Ok(Launch { engine: Arc::clone(&self.engine), request: draft.request, cancel: self.cancel.clone() })
    }

    /// What ends the call from any thread.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Draft>> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Draft) -> Result<T, Failure>) -> Result<T, Failure> {
        self.engine.check_fork()?;
        change(self.lock().as_mut().ok_or_else(spent)?)
    }
}

impl Launch {
    /// Sends it and waits for the head of the response.
    pub async fn perform(self) -> Result<mesh_response, Failure> {
        let Self { engine, request, cancel } = self;
        let client = engine.client().clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::cancelled("the call was cancelled")),
            response = client.call(request) => Ok(mesh_response::new(engine, response?, cancel.clone())),
        }
    }
}

/// Starts a request. `target` is an absolute URI whose authority is the logical service, such as
/// `http://reviews/reviews/0`; routes decide where it goes.
///
/// Made while an inbound request is active on this thread (in a handler, or after
/// `mesh_inbound_activate`), it continues that request's trace and deadline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_new(
    mesh: *const mesh,
    method: mesh_str,
    target: mesh_str,
    request: *mut *mut mesh_request,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_new, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable text, a writable result.
        let (mesh, method, target, result) = unsafe {
            (handles::lend(mesh)?, method.read("method")?, target.read("target")?, handles::out(request, "request")?)
        };
        mesh.engine.check_fork()?;
        let mut request = Request::new(Body::empty());
        *request.method_mut() =
            Method::from_bytes(method.as_bytes()).map_err(|_| Failure::invalid("`method` is no HTTP method"))?;
        *request.uri_mut() =
            target.parse::<Uri>().map_err(|error| Failure::invalid(format!("`target` is no URI: {error}")))?;
        let draft = Draft { request, options: CallOptions::default(), parent: CallContext::current() };
        result.set(handles::give(mesh_request {
            engine: Arc::clone(&mesh.engine),
            draft: Mutex::new(Some(draft)),
            cancel: CancellationToken::new(),
        }));
        Ok(())
    })
}

/// Adds a header. Repeating a name adds a second value.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_header_add(
    request: *const mesh_request,
    name: mesh_str,
    value: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_header_add, err, {
        // SAFETY: rules 1 and 4: a live handle, readable text and bytes.
        let (request, name, value) = unsafe { (handles::lend(request)?, name.read("name")?, value.read("value")?) };
        request.edit(|draft| headers::append(draft.request.headers_mut(), name.as_bytes(), value))
    })
}

/// Adds a whole packed header list (see `mesh_response_headers_packed` for the layout).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_headers_packed(
    request: *const mesh_request,
    block: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_headers_packed, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes.
        let (request, block) = unsafe { (handles::lend(request)?, block.read("block")?) };
        request.edit(|draft| headers::unpack_into(draft.request.headers_mut(), block))
    })
}

/// The caller's total timeout. The smallest of it, the route's, and what is left of the inbound
/// request's deadline counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_set_timeout(
    request: *const mesh_request,
    timeout_ns: i64,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_set_timeout, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let request = unsafe { handles::lend(request)? };
        let timeout = duration(timeout_ns, "timeout_ns")?;
        request.edit(|draft| {
            draft.options.timeout = Some(timeout);
            Ok(())
        })
    })
}

/// Says whether sending it twice does no harm: 1 yes, 0 no, -1 as the method says (the default).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_set_idempotent(
    request: *const mesh_request,
    idempotent: i32,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_set_idempotent, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let request = unsafe { handles::lend(request)? };
        let answer = match idempotent {
            -1 => None,
            0 => Some(false),
            1 => Some(true),
            _ => return Err(Failure::invalid("`idempotent` is -1, 0 or 1")),
        };
        request.edit(|draft| {
            draft.options.idempotent = answer;
            Ok(())
        })
    })
}

/// Says whether it goes on when the inbound request it belongs to runs out of time: 1 yes, 0 no (the default).
/// For what is sent and not waited for; it stays in the trace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_set_detached(
    request: *const mesh_request,
    detached: i32,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_set_detached, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let request = unsafe { handles::lend(request)? };
        let answer = match detached {
            0 => false,
            1 => true,
            _ => return Err(Failure::invalid("`detached` is 0 or 1")),
        };
        request.edit(|draft| {
            draft.options.detached = answer;
            Ok(())
        })
    })
}

/// Makes it continue the trace and deadline of `inbound`, whichever request is active on the thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_set_parent(
    request: *const mesh_request,
    inbound: *const mesh_inbound,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_set_parent, err, {
        // SAFETY: rule 1: live handles, checked for NULL.
        let (request, inbound) = unsafe { (handles::lend(request)?, handles::lend(inbound)?) };
        request.edit(|draft| {
            draft.parent = Some(inbound.context());
            Ok(())
        })
    })
}

/// Sets the body to a copy of `body`. Such a request can be retried.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_body_copy(
    request: *const mesh_request,
    body: mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_body_copy, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes.
        let (request, body) = unsafe { (handles::lend(request)?, body.read("body")?) };
        request.edit(|draft| {
            *draft.request.body_mut() = Bytes::copy_from_slice(body).into();
            Ok(())
        })
    })
}

/// Makes the body a stream and returns its writing end. `length` is its size, or -1 for unknown.
/// With `mesh_call`, write from another thread: the call blocks until the response's head.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_body_stream(
    request: *const mesh_request,
    length: i64,
    body: *mut *mut mesh_body,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_request_body_stream, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result.
        let (request, result) = unsafe { (handles::lend(request)?, handles::out(body, "body")?) };
        let (writer, body) = mesh_body::pair(Arc::clone(&request.engine), length);
        request.edit(|draft| {
            *draft.request.body_mut() = body;
            Ok(())
        })?;
        result.set(handles::give(writer));
        Ok(())
    })
}

/// Sends the request and blocks until the head of the response, or the error, is there. The request
/// stays the caller's to free and cannot be sent again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_call(
    mesh: *const mesh,
    request: *const mesh_request,
    response: *mut *mut mesh_response,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_call, err, {
        // SAFETY: rules 1 and 3: live handles and a writable result, each checked for NULL.
        let (mesh, request, result) =
            unsafe { (handles::lend(mesh)?, handles::lend(request)?, handles::out(response, "response")?) };
        if !Arc::ptr_eq(&mesh.engine, &request.engine) {
            return Err(Failure::invalid("the request was made for another mesh"));
        }
        let launch = request.launch()?;
        result.set(handles::give(block_on(&mesh.engine, launch.perform())?));
        Ok(())
    })
}

/// Ends the call, and the reading of its response, with `MESH_E_CANCELLED`. Any thread, any time before
/// the handle is freed. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_cancel(request: *const mesh_request) {
    guard!(mesh_request_cancel, or(), {
        // SAFETY: rule 1: NULL or a live handle.
        if let Ok(request) = unsafe { handles::lend(request) }
            && request.engine.check_fork().is_ok()
        {
            request.cancel.cancel();
        }
    });
}

/// Frees it. Does not end a call in flight. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_request_free(request: *mut mesh_request) {
    guard!(mesh_request_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(request) = (unsafe { handles::take(request) }) else { return };
        if request.engine.is_foreign() {
            std::mem::forget(request);
        }
    });
}

fn spent() -> Failure {
    Failure::invalid("the request was sent already")
}
