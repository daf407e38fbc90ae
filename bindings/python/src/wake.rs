//! One readable file descriptor: eventfd on Linux, a pipe elsewhere.
//!
//! Decides: nothing. Never: blocks, except in `wait`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Readable after `signal`, until `clear`.
pub struct Wake {
    reader: File,
    /// The other end, where it is another descriptor.
    writer: Option<File>,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The descriptor is readable.
    Ready,
    /// A signal arrived on this thread.
    Interrupted,
    /// Nothing happened in time.
    TimedOut,
}

impl Wake {
    /// Opens the descriptor: non-blocking, closed on exec.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = open()?;
        Ok(Self { reader: File::from(reader), writer: writer.map(File::from) })
    }

    /// The descriptor to watch for reading.
    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Makes it readable. A full pipe is readable already.
    pub fn signal(&self) {
        let mut writer = self.writer.as_ref().unwrap_or(&self.reader);
        let _ = writer.write(&1u64.to_ne_bytes());
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut buffer = [0u8; 8];
        let _ = (&self.reader).read(&mut buffer);
    }

    /// Blocks until it is readable.
    #[allow(unsafe_code)]
    pub fn wait(&self, timeout: Option<Duration>) -> Waited {
        let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
        let mut watched = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd on the stack, and the count says one.
        match unsafe { libc::poll(&raw mut watched, 1, timeout) } {
            0 => Waited::TimedOut,
            count if count > 0 => Waited::Ready,
            _ => Waited::Interrupted,
        }
    }
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn open() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    // SAFETY: no pointer is passed; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, None))
}

#[cfg(not(target_os = "linux"))]
#[allow(unsafe_code)]
fn open() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let mut ends = [0; 2];
    // SAFETY: the array has the two elements pipe() writes.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in ends {
        // SAFETY: both descriptors were just opened.
        unsafe {
            libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    // SAFETY: both were just opened and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), Some(OwnedFd::from_raw_fd(ends[1]))) })
}
