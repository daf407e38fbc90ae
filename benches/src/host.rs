//! The machine: which CPU does what, and how to name it in a report.

use std::ffi::OsStr;
use std::process::Command;

/// Which CPUs the two sides of a connection get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// Client and sidecar on CPU 0, upstream on CPU 1: the sidecar is charged to the host it lives on.
    Apart,
    /// As the scheduler likes.
    None,
}

/// One end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client and its sidecar.
    Client,
    /// The upstream.
    Upstream,
}

impl Pinning {
    /// Apart where that is possible: two CPUs and taskset(1).
    pub fn choose(is_wanted: bool) -> Self {
        let has_taskset = Command::new("taskset").arg("--version").output().is_ok_and(|output| output.status.success());
        if is_wanted && has_taskset && cpus() >= 2 { Self::Apart } else { Self::None }
    }

    /// A command that runs `program` where `end` belongs.
    pub fn command(self, end: End, program: impl AsRef<OsStr>) -> Command {
        if self == Self::None {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", if end == End::Client { "0" } else { "1" }]).arg(program);
        command
    }

    /// For the report.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Apart => "client and sidecar on CPU 0, upstream on CPU 1",
            Self::None => "CPUs not pinned",
        }
    }
}

/// `2 x Some CPU @ 2 GHz, Linux 6.1`.
pub fn describe() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown CPU");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} x {}, Linux {}", cpus(), model.trim_start_matches([' ', '\t', ':']), release.trim())
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
