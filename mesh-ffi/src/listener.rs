//! `mesh_listener`: a port of the configuration that is open.
//!
//! Decides: nothing; address, TLS and policy are the configuration's. Invariant: a listener lives until
//! the mesh drains or closes; the handle is only for looking at it.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::runtime::Handle;

use mesh_core::{Error, Listening};

use crate::code::mesh_code;
use crate::cq::mesh_cq;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::event::{Handler, mesh_handler};
use crate::failure::Failure;
use crate::handles::{self, MESH_HANDLE_LISTENER};
use crate::mesh::mesh;
use crate::server::{Inlet, QueueService};
use crate::sized::{self, Sized32};
use crate::text::{Text, mesh_str};
use crate::wait::block_on;

/// An open listener.
pub struct mesh_listener {
    engine: Arc<Engine>,
    address: Text,
    listening: Arc<Listening>,
}

impl handles::Handle for mesh_listener {
    const KIND: i32 = MESH_HANDLE_LISTENER;
    const NAME: &'static str = "listener";
}

impl mesh_listener {
    fn new(engine: &Arc<Engine>, listening: Listening) -> Self {
        let address = Text::new(listening.address());
        Self { engine: Arc::clone(engine), address, listening: Arc::new(listening) }
    }
}

/// How requests of a listener arrive. Start from `MESH_INIT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_listen_options {
    /// Size of this struct.
    pub struct_size: u32,
    /// Requests that may wait to be taken from the queue; more are refused with 503. 0: 1024.
    pub max_pending: u32,
    /// Tag of this listener's events.
    pub tag: u64,
    /// Runs for each request, on the thread that takes it; NULL: requests arrive as `MESH_EV_INBOUND`.
    pub handler: mesh_handler,
    /// Given to the handler. Must stay valid until `mesh_close` returned.
    pub userdata: *mut c_void,
}

// SAFETY: `repr(C)`, numbers and pointers; a zero function pointer is `None`; the size comes first.
unsafe impl Sized32 for mesh_listen_options {
    const NAME: &'static str = "options";
}

/// Opens the listener of that name; its requests arrive on `cq`. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_listen(
    mesh: *const mesh,
    name: mesh_str,
    cq: *const mesh_cq,
    options: *const mesh_listen_options,
    listener: *mut *mut mesh_listener,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_listen, err, {
        // SAFETY: rules 1, 3, 4 and 6: live handles, readable text, sized options or NULL, a writable result.
        let (mesh, name, cq, options, result) = unsafe {
            (
                handles::lend(mesh)?,
                name.read("name")?,
                handles::lend(cq)?,
                sized::read(options)?,
                handles::out(listener, "listener")?,
            )
        };
        result.set(handles::give(listen(mesh, name, cq, options.as_ref())?));
        Ok(())
    })
}

/// Opens the listener of that name and has `handler` answer its requests. Handlers run inside
/// `mesh_cq_run` on the threads that call it, each as the active request of its thread, so calls made
/// in them continue its trace and deadline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_serve(
    mesh: *const mesh,
    name: mesh_str,
    cq: *const mesh_cq,
    handler: mesh_handler,
    userdata: *mut c_void,
    listener: *mut *mut mesh_listener,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_serve, err, {
        // SAFETY: rules 1, 3 and 4: live handles, readable text, a writable result.
        let (mesh, name, cq, result) = unsafe {
            (handles::lend(mesh)?, name.read("name")?, handles::lend(cq)?, handles::out(listener, "listener")?)
        };
        if handler.is_none() {
            return Err(Failure::null("handler"));
        }
        let options = mesh_listen_options { struct_size: 0, max_pending: 0, tag: 0, handler, userdata };
        result.set(handles::give(listen(mesh, name, cq, Some(&options))?));
        Ok(())
    })
}

/// Opens the listener of that name as an ingress: its requests are routed by `routes` of the
/// configuration. No code of the host is involved.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_forward(
    mesh: *const mesh,
    name: mesh_str,
    listener: *mut *mut mesh_listener,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_forward, err, {
        // SAFETY: rules 1, 3 and 4: a live handle, readable text, a writable result.
        let (mesh, name, result) =
            unsafe { (handles::lend(mesh)?, name.read("name")?, handles::out(listener, "listener")?) };
        let (core, name) = (mesh.engine.mesh()?.clone(), name.to_owned());
        let listening = open(&mesh.engine, move |runtime| runtime.block_on(core.forward(&name)))?;
        result.set(handles::give(mesh_listener::new(&mesh.engine, listening)));
        Ok(())
    })
}

/// Where it listens, such as `127.0.0.1:8080`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_listener_address(listener: *const mesh_listener) -> mesh_str {
    guard!(mesh_listener_address, or mesh_str::empty(), {
        // SAFETY: rule 1: NULL or a live handle.
        unsafe { handles::lend(listener) }.map_or(mesh_str::empty(), |listener| listener.address.lend())
    })
}

/// Blocks until the listener is closed: by `mesh_drain`, `mesh_close`, or a configuration without it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_listener_wait(listener: *const mesh_listener, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_listener_wait, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let listener = unsafe { handles::lend(listener)? };
        let listening = Arc::clone(&listener.listening);
        block_on(&listener.engine, async move {
            listening.closed().await;
            Ok(())
        })
    })
}

/// Frees the handle. The listener goes on until `mesh_drain` or `mesh_close`. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_listener_free(listener: *mut mesh_listener) {
    guard!(mesh_listener_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(listener) = (unsafe { handles::take(listener) }) else { return };
        if listener.engine.is_foreign() {
            std::mem::forget(listener);
        }
    });
}

fn listen(
    mesh: &mesh,
    name: &str,
    cq: &mesh_cq,
    options: Option<&mesh_listen_options>,
) -> Result<mesh_listener, Failure> {
    if !Arc::ptr_eq(&mesh.engine, cq.queue().engine()) {
        return Err(Failure::invalid("the queue was made for another mesh"));
    }
    let inlet = Inlet {
        tag: options.map_or(0, |options| options.tag),
        handler: options.and_then(|options| Handler::new(options.handler, options.userdata)),
        max_pending: options.map_or(0, |options| options.max_pending as usize),
        pending: AtomicUsize::new(0),
    };
    let inlet = Inlet { max_pending: if inlet.max_pending == 0 { MAX_PENDING } else { inlet.max_pending }, ..inlet };
    let service = QueueService::new(Arc::clone(cq.queue()), inlet);
    let (core, name) = (mesh.engine.mesh()?.clone(), name.to_owned());
    let listening = open(&mesh.engine, move |runtime| runtime.block_on(core.listen(&name, service)))?;
    Ok(mesh_listener::new(&mesh.engine, listening))
}

/// Opens a listener on a thread that may block: the engine's future stays on the thread it began on.
fn open<F>(engine: &Engine, opening: F) -> Result<Listening, Failure>
where
    F: FnOnce(&Handle) -> Result<Listening, Error> + Send + 'static,
{
    block_on(engine, async move {
        let opened = tokio::task::spawn_blocking(move || opening(&Handle::current())).await;
        Ok(opened.map_err(|error| Failure::internal(format!("opening a listener failed: {error}")))??)
    })
}

/// As the default concurrency limit of a cluster (Envoy's `max_requests`).
const MAX_PENDING: usize = 1024;
