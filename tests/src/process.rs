//! Processes that a story starts, freezes and kills.
//!
//! Invariant: none outlives the value that holds it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running process.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, without stdin.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Self { child })
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Freezes it: its sockets stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    #[allow(unsafe_code, reason = "the standard library sends no signal but SIGKILL")]
    fn signal(&self, signal: i32) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        // SAFETY: kill reads no memory; the child was not waited for, so its id is still its own.
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets this process and its children open as many files as they may, which must be so many.
#[allow(unsafe_code, reason = "the standard library knows no limits")]
pub fn open_file_limit(needed: u64) -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one value of this type.
    let mut code = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    if code == 0 {
        // SAFETY: the kernel reads one value of this type.
        code = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    match code {
        0 if limit.rlim_max >= needed => Ok(()),
        0 => Err(format!("the story opens {needed} files and the limit (ulimit -Hn) is {}", limit.rlim_max)),
        _ => Err(format!("the limit of open files: {}", std::io::Error::last_os_error())),
    }
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens there.
pub fn wait_for_port(port: u16) -> Result<(), String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until(&format!("a listener on {address}"), || TcpStream::connect(address).is_ok())
}

/// Waits until it is so, for at most 20 s.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        if Instant::now() > end {
            return Err(format!("waited 20 s for {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
