//! `mesh_inbound_check`: the inbound side for a program that keeps its own server.
//!
//! Decides: nothing; the engine admits or answers. Never: blocks when there is nothing to wait for: each request is
//! judged on the caller's thread first. Invariant: a request that begins ends up as exactly one of a `mesh_inbound`,
//! a `mesh_response` and an error, be it by way of a `mesh_body_wanted`.

use std::future::Future;
use std::pin::Pin;
use std::ptr::null_mut;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::noop_waker_ref;
use http::{Response, StatusCode};
use tokio_util::sync::CancellationToken;

use mesh_core::Body;
use mesh_core::inbound::own_server::{Begun, InboundCheck};

use crate::body_wanted::mesh_body_wanted;
use crate::buf::mesh_buf;
use crate::code::mesh_code;
use crate::cq::mesh_cq;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::event::Event;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_INBOUND_CHECK, Out};
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
    /// It goes on once its body is there.
    Wanted(Box<mesh_body_wanted>),
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
        result.set(handles::give(mesh_inbound_check { engine, check: opened }));
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

/// How many bytes of a body the checks of the configuration in force want to know; 0: none. For servers that hand it
/// over with each request: one byte more if there are more. A request whose body a check wants and does not get is
/// answered 400.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_check_body_limit(check: *const mesh_inbound_check) -> usize {
    guard!(mesh_inbound_check_body_limit, or 0, {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(check) = (unsafe { handles::lend(check) }) else { return 0 };
        if check.engine.is_foreign() { 0 } else { check.check.body_limit() }
    })
}

/// Admits a request, or answers it. Exactly one is set, the others NULL: `*inbound`, to be answered by the program
/// (`mesh_inbound_head`, then `mesh_inbound_end`); or `*answer`, to be sent as it is: status, headers,
/// `mesh_response_body` and trailers; or `*wanted`, for `mesh_body_wanted_give`.
///
/// `wanted` is NULL for a server that hands the body over with the request. With it a body that is not whole already
/// is asked for once a check wants to know it: whoever is refused without it, or meets no such check, is not read.
///
/// Most requests are decided at once, on this thread. For one that has to wait (for a policy server, or for room):
/// without a `cq` this call blocks; with one all results are NULL, and the outcome arrives there under `tag`:
/// `MESH_EV_ADMITTED`, `MESH_EV_ANSWERED` or `MESH_EV_BODY_WANTED`. `MESH_OP_CANCEL` ends the wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_begin(
    check: *const mesh_inbound_check,
    received: *const mesh_received,
    cq: *const mesh_cq,
    tag: u64,
    inbound: *mut *mut mesh_inbound,
    answer: *mut *mut mesh_response,
    wanted: *mut *mut mesh_body_wanted,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_begin, err, {
        // SAFETY: rules 1, 3 and 6: live handles or NULL, a sized struct or NULL, writable results.
        let (check, received, queue, outs) = unsafe {
            (
                handles::lend(check)?,
                sized::read(received)?.ok_or_else(|| Failure::null("received"))?,
                queue_of(cq)?,
                Outs::new(inbound, answer, handles::out(wanted, "wanted").ok())?,
            )
        };
        check.engine.runtime()?;
        // SAFETY: rule 4: what the struct points to is readable until this returns.
        let request = unsafe { received.request(&check.check, !wanted.is_null())? };
        let (engine, beginning) = (Arc::clone(&check.engine), check.check.begin(request));
        let work = async move { outcome(engine, beginning.await?) };
        outs.set(settle(&check.engine, queue.map(|queue| (queue, tag)), work)?);
        Ok(())
    })
}

/// Tells the head of the program's answer, and gives it back as it is to be sent: headers are added and taken away.
/// `headers` come before those of `mesh_inbound_header_add`.
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
        let sent = inbound.with_ticket(|ticket| {
            inbound.take_added(told.headers_mut());
            ticket.answer(told)
        })??;
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

/// The answer broke off after `response_bytes` of its body, and the peer saw it. `reason` is for the log. Before
/// `mesh_inbound_head` it counts as a 500, which the program's own server answers then.
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
        inbound.with_ticket(|ticket| match ticket.is_answered() {
            true => Ok(()),
            false => ticket.answer(failed()).map(drop),
        })??;
        let ticket = inbound.take_ticket()?;
        ticket.count_request(request_bytes);
        ticket.fail(response_bytes, reason);
        Ok(())
    })
}

fn failed() -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    head
}

/// Where the outcome of a beginning goes.
pub struct Outs {
    inbound: Out<*mut mesh_inbound>,
    answer: Out<*mut mesh_response>,
    wanted: Option<Out<*mut mesh_body_wanted>>,
}

impl Outs {
    /// # Safety
    /// What is not NULL is writable until the call returns (rule 3).
    pub unsafe fn new(
        inbound: *mut *mut mesh_inbound,
        answer: *mut *mut mesh_response,
        wanted: Option<Out<*mut mesh_body_wanted>>,
    ) -> Result<Self, Failure> {
        // SAFETY: as promised.
        let (inbound, answer) = unsafe { (handles::out(inbound, "inbound")?, handles::out(answer, "answer")?) };
        Ok(Self { inbound, answer, wanted })
    }

    /// One of them is it, the others are NULL.
    pub fn set(self, outcome: Option<Outcome>) {
        let (mut admitted, mut answered, mut asked) = (null_mut(), null_mut(), null_mut());
        match outcome {
            Some(Outcome::Admitted(request)) => admitted = handles::give(*request),
            Some(Outcome::Answered(response)) => answered = handles::give(*response),
            Some(Outcome::Wanted(wanted)) => asked = handles::give(*wanted),
            None => {}
        }
        self.inbound.set(admitted);
        self.answer.set(answered);
        if let Some(wanted) = self.wanted {
            wanted.set(asked);
        }
    }
}

/// The queue of a handle, or none.
///
/// # Safety
/// `cq` is NULL or a live handle (rule 1).
pub unsafe fn queue_of<'a>(cq: *const mesh_cq) -> Result<Option<&'a Arc<Queue>>, Failure> {
    // SAFETY: as promised.
    if cq.is_null() { Ok(None) } else { Ok(Some(unsafe { handles::lend(cq)? }.queue())) }
}

/// An outcome comes to a queue of the mesh that makes it.
pub fn of_same_mesh(engine: &Arc<Engine>, queue: Option<&Arc<Queue>>) -> Result<(), Failure> {
    match queue {
        Some(queue) if !Arc::ptr_eq(engine, queue.engine()) => {
            Err(Failure::invalid("the queue was made for another mesh"))
        }
        _ => Ok(()),
    }
}

/// The outcome, if there is nothing to wait for; `None`: it goes to the queue.
pub fn settle(
    engine: &Arc<Engine>,
    queue: Option<(&Arc<Queue>, u64)>,
    work: impl Future<Output = Result<Outcome, Failure>> + Send + 'static,
) -> Result<Option<Outcome>, Failure> {
    of_same_mesh(engine, queue.map(|(queue, _)| queue))?;
    let mut work = Box::pin(work);
    if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(noop_waker_ref())) {
        return outcome.map(Some);
    }
    match queue {
        None => block_on(engine, work).map(Some),
        Some((queue, tag)) => {
            wait_for(queue, tag, work);
            Ok(None)
        }
    }
}

/// What became of a request, as C has it.
pub fn outcome(engine: Arc<Engine>, begun: Begun) -> Result<Outcome, Failure> {
    match begun {
        Begun::Admitted(ticket) => {
            let inbound = mesh_inbound::of_ticket(engine, ticket)
                .ok_or_else(|| Failure::internal("the request has no context".to_owned()))?;
            Ok(Outcome::Admitted(Box::new(inbound)))
        }
        Begun::Answered(answer) => Ok(Outcome::Answered(Box::new(mesh_response::of_answer(engine, answer)))),
        Begun::Wanted(wanted) => Ok(Outcome::Wanted(Box::new(mesh_body_wanted::new(engine, wanted)))),
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
