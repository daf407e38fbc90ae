//! What a process has used: CPU time and memory.
//!
//! Never: guesses. Invariant: CPU time is user plus system, of all threads.
#![allow(unsafe_code)]

use std::time::Duration;

use crate::Failure;

/// CPU time of this process, to the microsecond.
pub fn own_cpu() -> Result<Duration, Failure> {
    // SAFETY: `rusage` is plain integers; zero is a valid value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call, which writes to it and keeps nothing.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(span(usage.ru_utime) + span(usage.ru_stime))
}

/// CPU time of another process, to the clock tick (10 ms on Linux).
pub fn cpu_of(process: u32) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // SAFETY: no pointer is involved.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let ticks = ticks(&stat).ok_or_else(|| format!("/proc/{process}/stat reads {stat:?}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_second))
}

/// Resident memory of a process (`self` or a process id), in MiB.
pub fn resident_mib(process: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| format!("/proc/{process}/status has no VmRSS").into())
}

/// Fields 14 and 15 of proc(5): user and system ticks. The second field may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(field(14)? + field(15)?)
}

fn span(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[test]
    fn a_process_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 100 0 0 0 41 2 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), Some(43));
    }

    #[test]
    fn both_clocks_agree_about_this_process() {
        let mut sum = 0_u64;
        while own_cpu().unwrap() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum + 1);
        }
        let before = own_cpu().unwrap();
        let ticked = cpu_of(std::process::id()).unwrap();
        let after = own_cpu().unwrap();
        // User and system time are each cut off to a tick.
        let is_so = ticked + 2 * TICK >= before && ticked <= after + TICK;
        assert!(is_so, "{before:?} {ticked:?} {after:?}");
        assert!(resident_mib("self").unwrap() > 0.5);
    }
}
