//! `mesh`: one engine with its threads, from `mesh_open` to `mesh_close`.
//!
//! Decides: nothing. Never: starts a thread before first use, or keeps one after `mesh_close`.
//! Invariant: a handle started before a fork is refused in the child.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Mesh;

use crate::buf::mesh_buf;
use crate::code::mesh_code;
use crate::config::mesh_config;
use crate::engine::Engine;
use crate::error::mesh_error;
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_MESH};
use crate::sized::{self, Sized32};
use crate::wait::block_on;
use crate::{fork, threads};

/// The version of this interface. Library and header fit when they are equal.
pub const MESH_ABI_VERSION: u32 = 1;
/// A signal handler that runs during a blocking call ends it with `MESH_E_INTERRUPTED`. Without it,
/// blocking calls go on waiting.
pub const MESH_WAIT_INTR: u32 = 1;
/// The Prometheus text format, for `mesh_metrics`.
pub const MESH_METRICS_PROMETHEUS: i32 = 0;

/// One service mesh engine. Thread-safe.
pub struct mesh {
    /// Shared with every handle made from it.
    pub engine: Arc<Engine>,
}

impl Handle for mesh {
    const KIND: i32 = MESH_HANDLE_MESH;
    const NAME: &'static str = "mesh";
}

/// How to open a mesh. Start from `MESH_OPTIONS_INIT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_options {
    /// Size of this struct.
    pub struct_size: u32,
    /// `MESH_ABI_VERSION` of the header the program was compiled with.
    pub abi_version: u32,
    /// `MESH_WAIT_INTR` or 0.
    pub flags: u32,
    /// Threads; 0: one per core, at most four.
    pub worker_threads: u32,
    /// Seed of every random choice, for reproducible tests; 0: from the system.
    pub seed: u64,
}

// SAFETY: `repr(C)`, numbers only, the size comes first.
unsafe impl Sized32 for mesh_options {
    const NAME: &'static str = "options";
}

impl mesh_options {
    fn check(&self) -> Result<(), Failure> {
        if self.abi_version != MESH_ABI_VERSION {
            let (theirs, ours) = (self.abi_version, MESH_ABI_VERSION);
            return Err(Failure::abi(format!("the program was compiled for ABI {theirs}, the library has {ours}")));
        }
        if self.flags & !MESH_WAIT_INTR != 0 {
            return Err(Failure::unsupported("unknown bits in `options.flags`"));
        }
        Ok(())
    }
}

/// The ABI version of the library that was loaded.
#[unsafe(no_mangle)]
pub extern "C" fn mesh_abi_version() -> u32 {
    guard!(mesh_abi_version, or 0, { MESH_ABI_VERSION })
}

/// The release version of the library that was loaded, such as `0.1.0`. Static text.
#[unsafe(no_mangle)]
pub extern "C" fn mesh_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    guard!(mesh_version, or std::ptr::null(), { VERSION.as_ptr().cast() })
}

/// Opens a mesh. Cheap: no thread and no socket until first use. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_open(
    options: *const mesh_options,
    config: *const mesh_config,
    mesh: *mut *mut mesh,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_open, err, {
        // SAFETY: rules 1, 3 and 6: sized options or NULL, a live handle, a writable result.
        let (options, config, mesh) =
            unsafe { (sized::read(options)?, handles::lend(config)?, handles::out(mesh, "mesh")?) };
        fork::watch();
        let mut builder = Mesh::builder().on_thread_start(threads::on_start());
        if let Some(options) = &options {
            options.check()?;
            builder = builder.worker_threads(options.worker_threads as usize);
            if options.seed != 0 {
                builder = builder.seed(options.seed);
            }
        }
        let interruptible = options.is_some_and(|options| options.flags & MESH_WAIT_INTR != 0);
        let engine = Engine::new(config.build(builder)?, interruptible);
        mesh.set(handles::give(self::mesh { engine: Arc::new(engine) }));
        Ok(())
    })
}

/// Starts the threads now instead of at first use. Again is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_start(mesh: *const mesh, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_start, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let mesh = unsafe { handles::lend(mesh)? };
        mesh.engine.runtime().map(drop)
    })
}

/// Replaces the configuration, all or nothing, and tells its revision (`revision` may be NULL). Calls
/// in flight finish on the old one. On an error the old one stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_reload(
    mesh: *const mesh,
    config: *const mesh_config,
    revision: *mut u64,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_reload, err, {
        // SAFETY: rule 1: live handles, checked for NULL.
        let (mesh, config) = unsafe { (handles::lend(mesh)?, handles::lend(config)?) };
        let new = mesh.engine.mesh()?.reload(&config.text, &config.origin)?;
        // SAFETY: rule 3: NULL or writable.
        if let Ok(revision) = unsafe { handles::out(revision, "revision") } {
            revision.set(new);
        }
        Ok(())
    })
}

/// What a support engineer asks for, as one JSON object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_status_json(
    mesh: *const mesh,
    json: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_status_json, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result, each checked for NULL.
        let (mesh, json) = unsafe { (handles::lend(mesh)?, handles::out(json, "json")?) };
        json.set(handles::give(mesh_buf::text(mesh.engine.mesh()?.status().to_string())));
        Ok(())
    })
}

/// All metrics in `format`, now only `MESH_METRICS_PROMETHEUS`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_metrics(
    mesh: *const mesh,
    format: i32,
    page: *mut *mut mesh_buf,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_metrics, err, {
        // SAFETY: rules 1 and 3: a live handle and a writable result, each checked for NULL.
        let (mesh, page) = unsafe { (handles::lend(mesh)?, handles::out(page, "page")?) };
        if format != MESH_METRICS_PROMETHEUS {
            return Err(Failure::unsupported("unknown metrics format"));
        }
        page.set(handles::give(mesh_buf::text(mesh.engine.mesh()?.metrics_text())));
        Ok(())
    })
}

/// Says whether new requests are wanted: 1 yes (as at first), 0 no. Callers within the mesh learn it from the
/// next response and go elsewhere while they can; what still comes is served.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_set_serving(mesh: *const mesh, serving: i32, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_set_serving, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let mesh = unsafe { handles::lend(mesh)? };
        let serving = match serving {
            0 => false,
            1 => true,
            _ => return Err(Failure::invalid("`serving` is 0 or 1")),
        };
        mesh.engine.mesh()?.set_serving(serving);
        Ok(())
    })
}

/// Lame duck: listeners say so to their peers, take no new connection and finish what is in flight,
/// for at most `grace_ns`. Blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_drain(mesh: *const mesh, grace_ns: i64, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_drain, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let mesh = unsafe { handles::lend(mesh)? };
        let grace = duration(grace_ns, "grace_ns")?;
        let core = mesh.engine.mesh()?.clone();
        block_on(&mesh.engine, async move {
            core.drain(grace).await;
            Ok(())
        })
    })
}

/// Ends all calls and listeners and joins the threads, for at most `timeout_ns`. Operations in flight
/// complete with `MESH_E_CLOSED`; queues are stopped. Again is fine. `mesh_free` comes after.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_close(mesh: *const mesh, timeout_ns: i64, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_close, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let mesh = unsafe { handles::lend(mesh)? };
        mesh.engine.close(duration(timeout_ns, "timeout_ns")?)
    })
}

/// Frees the handle; a mesh that was not closed is closed without waiting. NULL is fine. In a forked
/// child it leaks on purpose: the threads and sockets are the parent's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_free(mesh: *mut mesh) {
    guard!(mesh_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(mesh) = (unsafe { handles::take(mesh) }) else { return };
        match mesh.engine.close(Duration::ZERO) {
            Ok(()) => drop(mesh),
            Err(_) => std::mem::forget(mesh),
        }
    });
}

/// A length of time that is not negative.
pub fn duration(nanoseconds: i64, what: &str) -> Result<Duration, Failure> {
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| Failure::invalid(format!("`{what}` is negative")))?;
    Ok(Duration::from_nanos(nanoseconds))
}
