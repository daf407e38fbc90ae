//! `mesh_cq`: the completion queue as C sees it.
//!
//! Decides: nothing. Invariant: handlers and callbacks run inside `mesh_cq_exchange` and `mesh_cq_run`,
//! on the thread that called them, and nowhere else.

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::sync::Arc;

use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::event::{Event, MESH_EV_WAKE, mesh_event, mesh_event_callback};
use crate::failure::Failure;
use crate::handles::{self, Handle, MESH_HANDLE_CQ};
use crate::mesh::mesh;
use crate::op::{Batch, mesh_op};
use crate::queue::Queue;
use crate::signal::{Woken, deadline_after};
use crate::sized::{self, Sized32};
use crate::submit::submit;

/// A completion queue: submit operations, take completions and arrivals. Thread-safe; one per event
/// loop or per worker thread is usual.
pub struct mesh_cq {
    queue: Arc<Queue>,
    on_event: mesh_event_callback,
    userdata: *mut c_void,
}

impl Handle for mesh_cq {
    const KIND: i32 = MESH_HANDLE_CQ;
    const NAME: &'static str = "cq";
}

impl mesh_cq {
    /// What it is made of.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Delivers up to `most` events to `sink`. Tells how many were dealt with.
    fn deliver(&self, most: usize, sink: impl FnMut(mesh_event)) -> usize {
        let events = self.queue.take(most);
        let count = events.len();
        events.into_iter().filter_map(Event::deliver).for_each(sink);
        count
    }
}

/// How to make a queue. Start from `MESH_INIT`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mesh_cq_options {
    /// Size of this struct.
    pub struct_size: u32,
    /// Zero.
    pub flags: u32,
    /// Takes the events that `mesh_cq_run` meets; NULL: it frees them.
    pub on_event: mesh_event_callback,
    /// Given to `on_event`.
    pub userdata: *mut c_void,
}

// SAFETY: `repr(C)`, numbers and pointers; a zero function pointer is `None`; the size comes first.
unsafe impl Sized32 for mesh_cq_options {
    const NAME: &'static str = "options";
}

/// Makes a queue and starts the mesh. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_new(
    mesh: *const mesh,
    options: *const mesh_cq_options,
    cq: *mut *mut mesh_cq,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_cq_new, err, {
        // SAFETY: rules 1, 3 and 6: a live handle, sized options or NULL, a writable result.
        let (mesh, options, result) = unsafe { (handles::lend(mesh)?, sized::read(options)?, handles::out(cq, "cq")?) };
        let (on_event, userdata) =
            options.map_or((None, std::ptr::null_mut()), |options| (options.on_event, options.userdata));
        result.set(handles::give(mesh_cq { queue: Queue::new(Arc::clone(&mesh.engine))?, on_event, userdata }));
        Ok(())
    })
}

/// A descriptor that is readable while events wait: for epoll, libuv, asyncio. Only the library reads
/// and writes it, and closes it in `mesh_cq_free`. -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_fd(cq: *const mesh_cq) -> c_int {
    // SAFETY: rule 1: NULL or a live handle.
    guard!(mesh_cq_fd, or - 1, { unsafe { handles::lend(cq) }.map_or(-1, |cq| cq.queue.fd()) })
}

/// Submits `op_count` operations, then takes up to `event_capacity` events into `events`, waiting for the
/// first one: `timeout_ns` 0 does not wait, negative waits for ever. `*event_count` tells how many; it may
/// be 0 early, after a handler ran. Strides are `sizeof(mesh_op)` and `sizeof(mesh_event)` of the caller.
///
/// A batch with an unknown op is refused before anything is done. Any other failure of an op is told by
/// its completion. After `MESH_E_INTERRUPTED` the ops are under way all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_exchange(
    cq: *const mesh_cq,
    ops: *const mesh_op,
    op_count: usize,
    op_stride: usize,
    events: *mut mesh_event,
    event_capacity: usize,
    event_stride: usize,
    event_count: *mut usize,
    timeout_ns: i64,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_cq_exchange, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let cq = unsafe { handles::lend(cq)? };
        cq.queue.engine().check_fork()?;
        // SAFETY: rule 6: `op_count` ops, `op_stride` bytes apart.
        let batch = unsafe { Batch::read(ops, op_count, op_stride)? };
        // SAFETY: rules 3 and 6: `event_capacity` writable events, and a writable count.
        let (mut places, result) =
            unsafe { (Places::new(events, event_capacity, event_stride)?, handles::out(event_count, "event_count")?) };
        for op in batch.iter() {
            // SAFETY: the batch was checked; handles and bytes are as rules 1 and 4 promise.
            unsafe { submit(&cq.queue, &op) };
        }
        if event_capacity > 0 {
            wait_for_some(cq, timeout_ns, || cq.deliver(event_capacity, |event| places.put(event)))?;
        }
        result.set(places.used);
        Ok(())
    })
}

/// Runs the handlers of arriving requests, and the queue's callback, on this thread until `timeout_ns`
/// passed (negative: for ever), `mesh_cq_wake` was called (ends one run), or `mesh_cq_stop` or
/// `mesh_close` (end all). Several threads may run the same queue.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_run(cq: *const mesh_cq, timeout_ns: i64, err: *mut *mut mesh_error) -> mesh_code {
    guard!(mesh_cq_run, err, {
        // SAFETY: rule 1: a live handle, checked for NULL.
        let cq = unsafe { handles::lend(cq)? };
        cq.queue.engine().check_fork()?;
        let mut woken = false;
        wait_for_some(cq, timeout_ns, || {
            // One at a time: other threads that run the queue take their share.
            while cq.deliver(1, |event| woken |= cq.pass_on(event)) > 0 && !woken {}
            usize::from(woken)
        })
    })
}

/// Makes one wait on the queue return, with `MESH_EV_WAKE`. Any thread, and signal handlers. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_wake(cq: *const mesh_cq) {
    guard!(mesh_cq_wake, or(), {
        // SAFETY: rule 1: NULL or a live handle.
        if let Ok(cq) = unsafe { handles::lend(cq) }
            && !cq.queue.engine().is_foreign()
        {
            cq.queue.wake();
        }
    });
}

/// Makes every wait on the queue return, now and later. Events that wait can still be taken; requests
/// that arrive are refused. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_stop(cq: *const mesh_cq) {
    guard!(mesh_cq_stop, or(), {
        // SAFETY: rule 1: NULL or a live handle.
        if let Ok(cq) = unsafe { handles::lend(cq) }
            && !cq.queue.engine().is_foreign()
        {
            cq.queue.stop();
        }
    });
}

/// Frees it. Operations in flight are cancelled and events that wait are freed. No thread may be inside
/// `mesh_cq_exchange` or `mesh_cq_run`. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_cq_free(cq: *mut mesh_cq) {
    guard!(mesh_cq_free, or(), {
        // SAFETY: rule 1: NULL or a handle that is freed once.
        let Some(cq) = (unsafe { handles::take(cq) }) else { return };
        if cq.queue.engine().is_foreign() {
            std::mem::forget(cq);
        } else {
            cq.queue.abandon();
        }
    });
}

impl mesh_cq {
    /// Gives an event to the callback, or frees what it holds. Tells whether it was a wake.
    fn pass_on(&self, event: mesh_event) -> bool {
        if event.kind == MESH_EV_WAKE {
            return true;
        }
        match self.on_event {
            // SAFETY: the host gave a function of this type; the event lives until it returns.
            Some(on_event) => unsafe { on_event(self.userdata, &raw const event) },
            None => event.discard(),
        }
        false
    }
}

/// Repeats `deliver` until it dealt with something, the time is over, or the queue is stopped.
fn wait_for_some(cq: &mesh_cq, timeout_ns: i64, mut deliver: impl FnMut() -> usize) -> Result<(), Failure> {
    let deadline = deadline_after(timeout_ns);
    loop {
        if deliver() > 0 || timeout_ns == 0 || cq.queue.is_stopped() {
            return Ok(());
        }
        match cq.queue.wait(deadline) {
            Woken::TimedOut if deadline.is_some_and(|deadline| deadline <= std::time::Instant::now()) => return Ok(()),
            Woken::Interrupted if cq.queue.engine().wait_interruptible() => return Err(Failure::interrupted()),
            Woken::Raised | Woken::TimedOut | Woken::Interrupted => {}
        }
    }
}

/// The caller's array of events.
struct Places {
    first: *mut u8,
    capacity: usize,
    stride: usize,
    used: usize,
}

impl Places {
    /// # Safety
    /// `events` is NULL or points to `capacity` writable events that are `stride` bytes apart.
    unsafe fn new(events: *mut mesh_event, capacity: usize, stride: usize) -> Result<Self, Failure> {
        if capacity > 0 && events.is_null() {
            return Err(Failure::null("events"));
        }
        if capacity > 0 && stride < size_of::<mesh_event>() {
            return Err(Failure::invalid("`event_stride` is not the size of a mesh_event"));
        }
        Ok(Self { first: events.cast(), capacity, stride, used: 0 })
    }

    fn put(&mut self, event: mesh_event) {
        debug_assert!(self.used < self.capacity);
        // SAFETY: at most `capacity` events are taken from the queue for these places.
        unsafe { self.first.add(self.used * self.stride).cast::<mesh_event>().write_unaligned(event) };
        self.used += 1;
    }
}
