//! A file descriptor that is readable while something waits.
//!
//! Decides: nothing. Never: blocks in `raise`, which is safe in a signal handler.
//! Invariant: `raise` happens before `wait` returns, however often either is called.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// A level: raised or not. An eventfd.
#[derive(Debug)]
pub struct Signal(OwnedFd);

/// Why a wait returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The level is raised.
    Raised,
    /// The deadline passed (or 24 days did, the longest one `poll` waits).
    TimedOut,
    /// A signal handler of the host ran on this thread.
    Interrupted,
}

impl Signal {
    /// A lowered signal.
    pub fn new() -> Result<Self, Failure> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Failure::internal(format!("no eventfd: {}", io::Error::last_os_error())));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What to poll for reading.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes the descriptor readable. Only a `write`: safe in a signal handler.
    pub fn raise(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight readable bytes. A full counter (EAGAIN) is raised already.
        let _ = unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor not readable.
    pub fn lower(&self) {
        let mut count = [0u8; 8];
        // SAFETY: eight writable bytes. EAGAIN means that it is lowered already.
        let _ = unsafe { libc::read(self.fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    /// Waits until raised, until the deadline (`None`: for ever), or until a signal handler ran.
    pub fn wait(&self, deadline: Option<Instant>) -> Woken {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, millis_until(deadline)) } {
            0 => Woken::TimedOut,
            count if count > 0 => Woken::Raised,
            _ => Woken::Interrupted,
        }
    }
}

/// Rounded up, so that a wait never ends before its deadline and then spins.
fn millis_until(deadline: Option<Instant>) -> i32 {
    let Some(deadline) = deadline else { return -1 };
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_nanos(999_999);
    i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
}

/// A timeout as C gives it: negative waits for ever.
pub fn deadline_after(timeout_ns: i64) -> Option<Instant> {
    u64::try_from(timeout_ns).ok().map(|wait| mesh_core::time::after(Instant::now(), Duration::from_nanos(wait)))
}
