//! `mesh_inbound_check`: the inbound side for a program that keeps its own server.
//!
//! Decides: nothing; the engine admits or answers. Never: blocks when there is nothing to wait for: each request is
//! judged on the caller's thread first. Invariant: a request that begins ends up as exactly one of a `mesh_inbound`,
//! a `mesh_response` and an error.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use http::{Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use mesh_core::Body;
use mesh_core::inbound::own_server::{Begun, Given, InboundCheck};

use crate::buf::mesh_buf;
use crate::code::mesh_code;
use crate::cq::mesh_cq;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::event::Event;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_INBOUND_CHECK};
use crate::headers::{self, Packed};
use crate::inbound::mesh_inbound;
use crate::mesh::mesh;
use crate::queue::Queue;
use crate::received::mesh_received;
use crate::response::mesh_response;
use crate::sized;
use crate::text::{mesh_bytes, mesh_str};
use crate::wait::{block_on, caught};

/// What the mesh asks of each request that the program's own server receives. Thread-safe; a reload reaches it.
pub struct mesh_inbound_check {
    engine: Arc<Engine>,
    check: InboundCheck,
    ids: Arc<AtomicU64>,
}

impl Handle for mesh_inbound_check {
    const KIND: i32 = MESH_HANDLE_INBOUND_CHECK;
    const NAME: &'static str = "check";
}

/// What a queue or a caller gets.
pub enum Outcome {
    /// The program answers it.
    Admitted(Box<mesh_inbound>),
    /// The mesh has answered it.
    Answered(Box<mesh_response>),
}

/// The listener of that name as a check: it needs no address. Its requests meet the access rules, end users, limits
/// and checks of the configuration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_check_open(
    mesh: *const mesh,
    name: mesh_str,
    check: *mut *mut mesh_inbound_check,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_check_open, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable text and a writable result.
        let (mesh, name, result) = unsafe { (handles::lend(mesh)?, name.read("name")?, handles::out(check, "check")?) };
        let opened = mesh.engine.mesh()?.inbound_check(name)?;
        let engine = Arc::clone(&mesh.engine);
        result.set(handles::give(mesh_inbound_check { engine, check: opened, ids: Arc::new(AtomicU64::new(1)) }));
        Ok(())
    })
}

/// Frees the check; its requests go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_check_free(check: *mut mesh_inbound_check) {
    guard!(mesh_inbound_check_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(check) = (unsafe { handles::take(check) }) else { return };
        if check.engine.is_foreign() {
            std::mem::forget(check);
        }
    });
}

/// How many bytes of a body the checks of the configuration in force want to know; 0: none. Hand over one more if
/// there are more. A request whose body a check wants and does not get is answered 400.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_check_body_limit(check: *const mesh_inbound_check) -> usize {
    guard!(mesh_inbound_check_body_limit, or 0, {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(check) = (unsafe { handles::lend(check) }) else { return 0 };
        if check.engine.is_foreign() { 0 } else { check.check.body_limit() }
    })
}

/// Admits a request, or answers it. Exactly one is set, the other NULL: `*inbound`, to be answered by the program
/// (`mesh_inbound_head`, then `mesh_inbound_end`); or `*answer`, to be sent as it is: status, headers,
/// `mesh_response_body` and trailers.
///
/// Most requests are decided at once, on this thread. For one that has to wait (for a policy server, or for room):
/// without a `cq` this call blocks; with one both results are NULL, and the outcome arrives there under `tag`:
/// `MESH_EV_ADMITTED` or `MESH_EV_ANSWERED`. `MESH_OP_CANCEL` ends the wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_begin(
    check: *const mesh_inbound_check,
    received: *const mesh_received,
    cq: *const mesh_cq,
    tag: u64,
    inbound: *mut *mut mesh_inbound,
    answer: *mut *mut mesh_response,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_begin, err, {
        // SAFETY: rules 1, 3 and 6: a live handle, a sized struct or NULL, writable results.
        let (check, received, inbound, answer) = unsafe {
            (
                handles::lend(check)?,
                sized::read(received)?.ok_or_else(|| Failure::null("received"))?,
                handles::out(inbound, "inbound")?,
                handles::out(answer, "answer")?,
            )
        };
        // SAFETY: rule 1: NULL or a live handle.
        let queue = if cq.is_null() { None } else { Some(unsafe { handles::lend(cq)? }.queue()) };
        if queue.is_some_and(|queue| !Arc::ptr_eq(&check.engine, queue.engine())) {
            return Err(Failure::invalid("the queue was made for another mesh"));
        }
        check.engine.runtime()?;
        // SAFETY: rule 4: what the struct points to is readable until this returns.
        let request = unsafe { received.request(&check.check)? };
        let outcome = check.begin(request, queue.map(|queue| (queue, tag)))?;
        let (mut admitted, mut answered) = (std::ptr::null_mut(), std::ptr::null_mut());
        match outcome {
            Some(Outcome::Admitted(request)) => admitted = handles::give(*request),
            Some(Outcome::Answered(response)) => answered = handles::give(*response),
            None => {}
        }
        inbound.set(admitted);
        answer.set(answered);
        Ok(())
    })
}

/// Tells the head of the program's answer, and gives it back as it is to be sent: headers are added and taken away.
/// `status` is a final one, or 101. Once. Free `*head` when it was sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_head(
    inbound: *const mesh_inbound,
    status: u16,
    headers: mesh_bytes,
    head: *mut *mut mesh_response,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_head, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable bytes, a writable result.
        let (inbound, headers, result) =
            unsafe { (handles::lend(inbound)?, headers.read("headers")?, handles::out(head, "head")?) };
        let status = StatusCode::from_u16(status).ok();
        let status = status.filter(|status| !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS);
        let mut told = Response::new(());
        *told.status_mut() = status.ok_or_else(|| Failure::invalid("`status` is no final HTTP status"))?;
        headers::unpack_into(told.headers_mut(), headers)?;
        let sent = inbound.with_ticket(|ticket| ticket.answer(told))??;
        let sent = sent.map(|()| Body::empty());
        result.set(handles::give(mesh_response::new(Arc::clone(inbound.engine()), sent, CancellationToken::new())));
        Ok(())
    })
}

/// The answer was sent: `response_bytes` of body, then packed `trailers` or none; `request_bytes` of the request's
/// body were read. `*sent` (NULL, if the caller does not care) becomes the trailers as they are to be sent, packed,
/// or NULL without any. The handle is still to be freed; freed without this, the answer was given up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_end(
    inbound: *const mesh_inbound,
    request_bytes: u64,
    response_bytes: u64,
    trailers: mesh_bytes,
    sent: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_end, err, {
        // SAFETY: rules 1 and 4: a live handle and readable bytes.
        let (inbound, trailers) = unsafe { (handles::lend(inbound)?, trailers.read("trailers")?) };
        let mut told = http::HeaderMap::new();
        headers::unpack_into(&mut told, trailers)?;
        let told = (!told.is_empty()).then_some(told);
        let ticket = inbound.take_ticket()?;
        ticket.count_request(request_bytes);
        let trailers = ticket.end(response_bytes, told);
        // SAFETY: rule 3: NULL or a writable place.
        if let Ok(result) = unsafe { handles::out(sent, "sent") } {
            let packed = trailers.map(|trailers| Packed::new(&trailers).into_bytes());
            result.set(packed.map_or(std::ptr::null_mut(), |packed| handles::give(mesh_buf::new(packed))));
        }
        Ok(())
    })
}

/// The answer broke off after `response_bytes` of its body, and the peer saw it. `reason` is for the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_fail(
    inbound: *const mesh_inbound,
    request_bytes: u64,
    response_bytes: u64,
    reason: mesh_str,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_fail, err, {
        // SAFETY: rules 1 and 4: a live handle and readable text.
        let (inbound, reason) = unsafe { (handles::lend(inbound)?, reason.read("reason")?) };
        let ticket = inbound.take_ticket()?;
        ticket.count_request(request_bytes);
        ticket.fail(response_bytes, reason);
        Ok(())
    })
}

impl mesh_inbound_check {
    /// The outcome, if there is nothing to wait for; `None`: it goes to the queue.
    fn begin(&self, request: Request<Given>, queue: Option<(&Arc<Queue>, u64)>) -> Result<Option<Outcome>, Failure> {
        let (engine, ids) = (Arc::clone(&self.engine), Arc::clone(&self.ids));
        let beginning = self.check.begin(request);
        let mut work = Box::pin(async move { outcome(engine, &ids, beginning.await?) });
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(noop_waker_ref())) {
            return outcome.map(Some);
        }
        match queue {
            None => block_on(&self.engine, work).map(Some),
            Some((queue, tag)) => {
                wait_for(queue, tag, work);
                Ok(None)
            }
        }
    }
}

fn outcome(engine: Arc<Engine>, ids: &AtomicU64, begun: Begun) -> Result<Outcome, Failure> {
    match begun {
        Begun::Admitted(ticket) => {
            let id = ids.fetch_add(1, Ordering::Relaxed);
            let inbound = mesh_inbound::of_ticket(engine, id, ticket)
                .ok_or_else(|| Failure::internal("the request has no context".to_owned()))?;
            Ok(Outcome::Admitted(Box::new(inbound)))
        }
        Begun::Answered(answer) => Ok(Outcome::Answered(Box::new(mesh_response::of_answer(engine, answer)))),
    }
}

fn wait_for(
    queue: &Arc<Queue>,
    tag: u64,
    work: Pin<Box<impl Future<Output = Result<Outcome, Failure>> + Send + 'static>>,
) {
    let cancel = CancellationToken::new();
    let Some(pending) = queue.begin(tag, cancel.clone(), Event::failed_begin) else { return };
    queue.runtime().spawn(async move {
        let work = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled("the wait was cancelled")),
                outcome = work => outcome,
            }
        };
        let (tag, outcome) = (pending.tag(), caught(work).await);
        pending.complete(Event::Begun { tag, outcome });
    });
}
