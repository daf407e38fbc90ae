//! `mesh_inbound`: a request that a peer sent, admitted by the mesh, and waiting for an answer.
//!
//! Decides: nothing; by the time it exists, identity and policy have been settled. Invariant: it is
//! answered at most once; freed without an answer, the peer gets a 500, or the program's own server gave it up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use mesh_core::inbound::ConnectionAddress;
use mesh_core::inbound::own_server::Ticket;
use mesh_core::{Body, CallContext, EndUser};

use crate::buf::mesh_buf;
use crate::code::mesh_code;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_INBOUND};
use crate::headers::{Packed, lend_text};
use crate::reader::Reader;
use crate::scope;
use crate::text::{Text, mesh_bytes, mesh_str};
use crate::wait::block_on;

/// A request to be answered. One thread at a time.
pub struct mesh_inbound {
    engine: Arc<Engine>,
    id: u64,
    context: Arc<CallContext>,
    facts: Facts,
    headers: Packed,
    reader: Arc<Reader>,
    extra: Mutex<HeaderMap>,
    reply: Mutex<Reply>,
}

/// Where the answer goes.
enum Reply {
    /// To the peer, by a listener of the mesh.
    Awaited(oneshot::Sender<Response<Body>>),
    /// To the peer, by the program's own server.
    Own(Box<Ticket>),
    /// It was given.
    Given,
}

impl Handle for mesh_inbound {
    const KIND: i32 = MESH_HANDLE_INBOUND;
    const NAME: &'static str = "inbound";
}

struct Facts {
    method: Text,
    path: Text,
    authority: Text,
    peer_id: Text,
    claims: Text,
    trace_id: Text,
    remote: Text,
    local: Text,
}

impl Facts {
    fn new(head: &http::request::Parts, context: &CallContext) -> Self {
        let host = || head.headers.get(http::header::HOST).map_or(&b""[..], |host| host.as_bytes());
        let address = head.extensions.get::<ConnectionAddress>();
        let shown = |address: Option<std::net::SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        Self {
            method: Text::new(head.method.as_str()),
            path: Text::new(head.uri.path_and_query().map_or("/", |path| path.as_str())),
            authority: Text::new(head.uri.authority().map_or_else(host, |authority| authority.as_str().as_bytes())),
            peer_id: Text::new(context.peer.as_deref().unwrap_or_default()),
            claims: Text::new(head.extensions.get::<EndUser>().map_or("", EndUser::claims_json)),
            trace_id: Text::new(scope::trace_id(context)),
            remote: Text::new(shown(address.map(|address| address.remote))),
            local: Text::new(shown(address.map(|address| address.local))),
        }
    }
}

/// What the listener keeps of a request it handed out.
pub struct Receipt {
    /// Resolves with the answer, or with an error when the handle is freed without one.
    pub answer: oneshot::Receiver<Response<Body>>,
    /// Ends reads of the request's body.
    pub cancel: CancellationToken,
}

impl mesh_inbound {
    /// Takes an admitted request apart. `None` when the engine put no context on it, which it always does.
    pub fn new(engine: Arc<Engine>, request: Request<Body>) -> Option<(Self, Receipt)> {
        let (head, body) = request.into_parts();
        let context = Arc::clone(head.extensions.get::<Arc<CallContext>>()?);
        let (sender, answer) = oneshot::channel();
        let cancel = CancellationToken::new();
        let inbound = Self {
            id: next_id(),
            facts: Facts::new(&head, &context),
            context,
            headers: Packed::new(&head.headers),
            reader: Arc::new(Reader::new(Arc::clone(&engine), body, cancel.clone())),
            engine,
            extra: Mutex::default(),
            reply: Mutex::new(Reply::Awaited(sender)),
        };
        Some((inbound, Receipt { answer, cancel }))
    }

    /// A request of the program's own server, which keeps its body and sends its answer.
    pub fn of_ticket(engine: Arc<Engine>, ticket: Ticket) -> Option<Self> {
        let head = ticket.head();
        let context = Arc::clone(head.extensions.get::<Arc<CallContext>>()?);
        Some(Self {
            id: next_id(),
            facts: Facts::new(head, &context),
            context,
            headers: Packed::new(&head.headers),
            reader: Arc::new(Reader::new(Arc::clone(&engine), Body::empty(), CancellationToken::new())),
            engine,
            extra: Mutex::default(),
            reply: Mutex::new(Reply::Own(Box::new(ticket))),
        })
    }

    /// Unique in this process, whatever queue or check it came by.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Trace, deadline and peer, for the calls made on behalf of it.
    pub fn context(&self) -> Arc<CallContext> {
        Arc::clone(&self.context)
    }

    /// The mesh it came through.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The body, for a read on a queue.
    pub fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.reader)
    }

    /// Adds a header to the answer to come.
    pub fn add_header(&self, change: impl FnOnce(&mut HeaderMap) -> Result<(), Failure>) -> Result<(), Failure> {
        self.engine.check_fork()?;
        change(&mut self.extra.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was added comes to the headers of an answer.
    pub fn take_added(&self, headers: &mut HeaderMap) {
        let added = std::mem::take(&mut *self.extra.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, value) in &added {
            headers.append(name, value.clone());
        }
    }

    /// Sends the answer; `headers` come after those added before.
    pub fn answer(&self, mut response: Response<Body>) -> Result<(), Failure> {
        self.engine.check_fork()?;
        let sender = match &mut *self.reply() {
            Reply::Own(_) => {
                return Err(Failure::invalid("the program's own server answers it: see mesh_inbound_head"));
            }
            reply => std::mem::replace(reply, Reply::Given),
        };
        let Reply::Awaited(sender) = sender else { return Err(Failure::invalid("the request was answered already")) };
        self.take_added(response.headers_mut());
        sender.send(response).map_err(|_| Failure::cancelled("the peer is gone"))
    }
}

impl mesh_inbound {
    /// What the engine holds of a request of the program's own server.
    pub fn with_ticket<T>(&self, act: impl FnOnce(&mut Ticket) -> T) -> Result<T, Failure> {
        self.engine.check_fork()?;
        match &mut *self.reply() {
            Reply::Own(ticket) => Ok(act(ticket)),
            Reply::Awaited(_) => Err(Failure::invalid("a listener of the mesh serves it: see mesh_inbound_respond")),
            Reply::Given => Err(Failure::invalid("the request has ended already")),
        }
    }

    /// Ends it; its head was told.
    pub fn take_ticket(&self) -> Result<Ticket, Failure> {
        if !self.with_ticket(|ticket| ticket.is_answered())? {
            return Err(Failure::invalid("its answer has no head yet: see mesh_inbound_head"));
        }
        match std::mem::replace(&mut *self.reply(), Reply::Given) {
            Reply::Own(ticket) => Ok(*ticket),
            _ => Err(Failure::invalid("the request has ended already")),
        }
    }

    fn reply(&self) -> MutexGuard<'_, Reply> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for mesh_inbound {
    fn drop(&mut self) {
        self.reader.cancel();
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

unsafe fn fact(inbound: *const mesh_inbound, pick: fn(&Facts) -> &Text) -> mesh_str {
    // SAFETY: rule 1, as the entry points promise: NULL or a live handle.
    unsafe { handles::lend(inbound) }.map_or(mesh_str::empty(), |inbound| pick(&inbound.facts).lend())
}

/// Its number, unique in this process: what `MESH_EV_INBOUND_GONE` names it by. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_id(inbound: *const mesh_inbound) -> u64 {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_id, or 0, { unsafe { handles::lend(inbound) }.map_or(0, mesh_inbound::id) })
}

/// HTTP method.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_method(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_method, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.method) } })
}

/// Path and query.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_path(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_path, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.path) } })
}

/// Authority (HTTP/2) or Host (HTTP/1.1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_authority(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_authority, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.authority) } })
}

/// SPIFFE ID the peer proved with its certificate; empty without mTLS. A header is never an identity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_peer_id(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_peer_id, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.peer_id) } })
}

/// Claims of the end user's token, once it was verified: a JSON object, as the issuer wrote it, each name once. Empty
/// when the request came without a token, or the listener asks for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_claims_json(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_claims_json, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.claims) } })
}

/// Trace it belongs to: 32 hexadecimal digits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_trace_id(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_trace_id, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.trace_id) } })
}

/// Address of the peer's socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_remote_address(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_remote_address, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.remote) } })
}

/// Address of our socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_local_address(inbound: *const mesh_inbound) -> mesh_str {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_inbound_local_address, or mesh_str::empty(), { unsafe { fact(inbound, |facts| &facts.local) } })
}

/// Nanoseconds until the caller stops waiting; 0 when it has, -1 without a deadline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_remaining_ns(inbound: *const mesh_inbound) -> i64 {
    guard!(mesh_inbound_remaining_ns, or - 1, {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(inbound) = (unsafe { handles::lend(inbound) }) else { return -1 };
        let Some(deadline) = inbound.context.deadline else { return -1 };
        i64::try_from(deadline.saturating_duration_since(Instant::now()).as_nanos()).unwrap_or(i64::MAX)
    })
}

/// The `nth` (from 0) value of a header, by name in any case. `ptr` is NULL when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_header(inbound: *const mesh_inbound, name: mesh_str, nth: usize) -> mesh_bytes {
    guard!(mesh_inbound_header, or mesh_bytes::empty(), {
        // SAFETY: rules 1 and 4: NULL or a live handle, and readable text.
        let (Ok(inbound), Ok(name)) = (unsafe { handles::lend(inbound) }, unsafe { name.read("name") }) else {
            return mesh_bytes::empty();
        };
        inbound.headers.find(name, nth).map_or(mesh_bytes::empty(), mesh_bytes::of)
    })
}

/// How many headers; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_header_count(inbound: *const mesh_inbound) -> usize {
    guard!(mesh_inbound_header_count, or 0, {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(inbound) }.map_or(0, |inbound| inbound.headers.count())
    })
}

/// The header at `index`. Duplicates are kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_header_at(
    inbound: *const mesh_inbound,
    index: usize,
    name: *mut mesh_str,
    value: *mut mesh_bytes,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_header_at, err, {
        // SAFETY: rules 1 and 3: a live handle and writable results, each checked for NULL.
        let (inbound, name, value) =
            unsafe { (handles::lend(inbound)?, handles::out(name, "name")?, handles::out(value, "value")?) };
        let found = inbound.headers.at(index).ok_or_else(|| Failure::invalid("`index` is out of range"))?;
        name.set(lend_text(found.0));
        value.set(mesh_bytes::of(found.1));
        Ok(())
    })
}

/// All headers in one block; layout as `mesh_response_headers_packed`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_headers_packed(inbound: *const mesh_inbound) -> mesh_bytes {
    guard!(mesh_inbound_headers_packed, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(inbound) }.map_or(mesh_bytes::empty(), |inbound| inbound.headers.lend())
    })
}

/// Trailers of the request, once its body was read to the end; same layout.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_trailers_packed(inbound: *const mesh_inbound) -> mesh_bytes {
    guard!(mesh_inbound_trailers_packed, or mesh_bytes::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        let Ok(inbound) = (unsafe { handles::lend(inbound) }) else { return mesh_bytes::empty() };
        inbound.reader.trailers().map_or(mesh_bytes::empty(), Packed::lend)
    })
}

/// Blocks until the next chunk of the body. `*chunk` is NULL at the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_read(
    inbound: *const mesh_inbound,
    chunk: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_inbound_read, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result, each checked for NULL.
        let (inbound, result) = unsafe { (handles::lend(inbound)?, handles::out(chunk, "chunk")?) };
        let reader = inbound.reader();
        let chunk: Option<Bytes> = block_on(&inbound.engine, async move { reader.next().await })?;
        result.set(chunk.map_or(std::ptr::null_mut(), |chunk| handles::give(mesh_buf::new(chunk))));
        Ok(())
    })
}

/// Frees it. Without an answer the peer gets a 500; of one that `mesh_inbound_begin` admitted, the answer was given up,
/// and what its peer gets is the program's own server's to say. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_inbound_free(inbound: *mut mesh_inbound) {
    guard!(mesh_inbound_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(inbound) = (unsafe { handles::take(inbound) }) else { return };
        if inbound.engine.is_foreign() {
            std::mem::forget(inbound);
        } else {
            scope::leave(inbound.context());
        }
    });
}
