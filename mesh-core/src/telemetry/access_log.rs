//! The access log: one JSON line a request and side.
//!
//! Decides: what happens when lines come faster than they can be written (they are dropped, counted).
//! Never: blocks a request, starts a thread nobody logs to, touches a signal.
//! Invariant: a record is queued, or counted in [`AccessLog::dropped`].

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::access_record::AccessRecord;
use super::log_writer::{LogWriter, Message, Sink};

/// A log of requests. Share it in an `Arc`; dropping the last one writes what is queued.
#[derive(Debug)]
pub struct AccessLog {
    /// `None` once the writer has it, or if the log is off.
    sink: Mutex<Option<Sink>>,
    on: bool,
    writer: OnceLock<Option<Writer>>,
    closed: AtomicBool,
    dropped: Arc<AtomicU64>,
}

/// Where a log goes.
#[derive(Default)]
pub enum Target {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; opened again by its name within a second of being moved away.
    File(PathBuf),
    /// Memory, for tests.
    Memory(Memory),
    /// Anything else, for instance a host's own log.
    Writer(Box<dyn Write + Send>),
}

/// Lines kept in memory. Clones see the same lines.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl AccessLog {
    /// A log that writes to `target`. Only a file can fail: it is opened here.
    pub fn to(target: Target) -> io::Result<Self> {
        let sink = match target {
            Target::Off => None,
            Target::Stdout => Some(Sink::Stdout),
            Target::Stderr => Some(Sink::Stderr),
            Target::File(path) => Some(Sink::file(path)?),
            Target::Memory(memory) => Some(Sink::Writer(Box::new(memory))),
            Target::Writer(writer) => Some(Sink::Writer(writer)),
        };
        Ok(Self::with(sink))
    }

    /// A log that is off.
    pub fn off() -> Self {
        Self::with(None)
    }

    fn with(sink: Option<Sink>) -> Self {
        Self {
            on: sink.is_some(),
            sink: Mutex::new(sink),
            writer: OnceLock::new(),
            closed: AtomicBool::new(false),
            dropped: Arc::default(),
        }
    }

    /// Whether records go anywhere; if not, a caller need not build one.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Queues a line. Never waits: if the queue is full the line is dropped and counted.
    pub fn record(&self, record: AccessRecord) {
        if !self.on {
            return;
        }
        let queued = !self.closed.load(Ordering::Acquire)
            && self.writer().is_some_and(|writer| writer.queue.try_send(Message::Line(Box::new(record))).is_ok());
        if !queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Starts the writer now instead of at the first record, from a thread whose signal mask it may inherit.
    pub fn start(&self) {
        if self.on {
            self.writer();
        }
    }

    /// Lines that were lost: the queue was full, the sink failed, or the log was closed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits, at most `wait`, until what was recorded before is written; whether it was. Blocks the thread.
    pub fn flush(&self, wait: Duration) -> bool {
        let Some(Some(writer)) = self.writer.get() else { return true };
        let until = Instant::now() + wait;
        let (answer, answered) = sync_channel(1);
        writer.send_until(|| Message::Flush(answer.clone()), until)
            && answered.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }

    /// Takes no more lines, writes the queued ones and ends the thread. Waits two seconds at most: a sink
    /// that hangs does not hang the process.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(Some(writer)) = self.writer.get() {
            writer.stop(Instant::now() + CLOSE_WAIT);
        }
    }

    /// The writer, started at the first record. `None`: the system gave no thread.
    fn writer(&self) -> Option<&Writer> {
        let start = || {
            let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            Writer::start(sink, self.dropped.clone()).ok()
        };
        self.writer.get_or_init(start).as_ref()
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Memory {
    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Writer {
    queue: SyncSender<Message>,
    thread: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
    /// A fork copies this struct, not the thread.
    process: u32,
}

impl Writer {
    fn start(sink: Sink, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_LINES);
        let (ending, ended) = sync_channel(0);
        let writer = LogWriter { queue: messages, sink, dropped };
        let thread = std::thread::Builder::new().name("mesh-access-log".to_owned()).spawn(move || {
            // Dropped when the thread ends, however it ends; that is the sign.
            let _ending: SyncSender<()> = ending;
            writer.run();
        })?;
        Ok(Self { queue, thread: Mutex::new(Some((thread, ended))), process: std::process::id() })
    }

    /// Waits for room in the queue, but not for ever.
    fn send_until(&self, message: impl Fn() -> Message, until: Instant) -> bool {
        loop {
            match self.queue.try_send(message()) {
                Ok(()) => return true,
                Err(TrySendError::Full(_)) if Instant::now() < until => std::thread::sleep(FULL_PAUSE),
                Err(_) => return false,
            }
        }
    }

    fn stop(&self, until: Instant) {
        if self.process != std::process::id() || !self.send_until(|| Message::Stop, until) {
            return;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((thread, ended)) = thread else { return };
        let left = until.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {
            // It has ended, so this does not wait.
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

/// Lines that may wait. At 25 000 requests a second this is 160 ms of a sink that stalls.
const QUEUE_LINES: usize = 4096;
/// How long closing waits for the sink.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at a full queue while closing or flushing.
const FULL_PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
#[path = "access_log_tests.rs"]
mod tests;
