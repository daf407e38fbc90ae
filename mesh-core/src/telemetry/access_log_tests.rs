use std::sync::mpsc::{Receiver, SyncSender};

use http::{Method, Uri};

use super::*;
use crate::telemetry::Reporter;

const WAIT: Duration = Duration::from_secs(20);

fn record(status: u16) -> AccessRecord {
    let uri = Uri::from_static("/x");
    let mut record = AccessRecord::new(std::time::SystemTime::UNIX_EPOCH, Reporter::Source, &Method::GET, &uri);
    record.status = status;
    record
}

fn statuses(lines: &[String]) -> Vec<u64> {
    let status = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap()["status"].as_u64().unwrap();
    lines.iter().map(status).collect()
}

/// A sink in which every write waits for a word.
struct Gate {
    reached: SyncSender<()>,
    open: Receiver<()>,
    memory: Memory,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.reached.try_send(());
        let _ = self.open.recv();
        self.memory.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_are_written_in_order_and_closing_writes_the_rest() {
    let memory = Memory::default();
    let log = AccessLog::to(Target::Memory(memory.clone())).unwrap();
    assert!(log.is_on() && log.writer.get().is_none(), "the thread starts with the first record");
    log.record(record(200));
    assert!(log.flush(WAIT));
    assert_eq!(statuses(&memory.lines()), [200]);
    (0..2000).for_each(|n| log.record(record(n)));
    drop(log);
    assert_eq!(statuses(&memory.lines())[1..], (0..2000).collect::<Vec<u64>>());
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let (reached, at_gate) = sync_channel(1);
    let (opener, open) = sync_channel::<()>(0);
    let memory = Memory::default();
    let log = AccessLog::to(Target::Writer(Box::new(Gate { reached, open, memory: memory.clone() }))).unwrap();
    log.record(record(0));
    at_gate.recv_timeout(WAIT).unwrap();
    let extra = 100;
    (0..QUEUE_LINES + extra).for_each(|_| log.record(record(1)));
    assert_eq!(log.dropped(), extra as u64);
    assert!(!log.flush(Duration::from_millis(5)), "a sink that hangs is not waited for");
    drop(opener);
    assert!(log.flush(WAIT));
    log.close();
    assert_eq!(memory.lines().len(), 1 + QUEUE_LINES);
    log.record(record(2));
    assert_eq!(log.dropped(), extra as u64 + 1, "a closed log takes no more");
}

#[test]
fn a_failing_sink_is_counted() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = AccessLog::to(Target::Writer(Box::new(Broken))).unwrap();
    (0..3).for_each(|_| log.record(record(200)));
    assert!(log.flush(WAIT));
    assert_eq!(log.dropped(), 3);
}

#[test]
fn a_log_that_is_off_does_nothing() {
    let log = AccessLog::off();
    log.record(record(200));
    assert!(!log.is_on() && log.dropped() == 0 && log.writer.get().is_none() && log.flush(WAIT));
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = AccessLog::to(Target::File(path.clone())).unwrap();
    log.record(record(1));
    assert!(log.flush(WAIT));
    std::fs::rename(&path, &moved).unwrap();
    let until = Instant::now() + WAIT;
    while !path.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        log.record(record(2));
        assert!(log.flush(WAIT));
    }
    let read = |path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(statuses(&read(&moved))[0], 1);
    assert_eq!(statuses(&read(&path)), [2]);
    assert_eq!(log.dropped(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_refused_at_once() {
    assert!(AccessLog::to(Target::File("/nonexistent/folder/access.log".into())).is_err());
}
