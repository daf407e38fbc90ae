//! The thread that writes the access log.
//!
//! Decides: how lines are batched, and when a file is opened again. Never: talks to a request; it only
//! reads its queue. Invariant: what it took off the queue is written or counted as lost before it ends.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use super::access_record::AccessRecord;

/// What the thread is told.
pub(super) enum Message {
    /// Write this. Boxed: the queue is allocated whole, at the size of its largest message.
    Line(Box<AccessRecord>),
    /// Write all that came before, then answer.
    Flush(SyncSender<()>),
    /// Write what is queued, then end.
    Stop,
}

/// Where lines go.
pub(super) enum Sink {
    Stdout,
    Stderr,
    File(LogFile),
    Writer(Box<dyn Write + Send>),
}

/// A file that is found again by its name when someone moved it away.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    checked: Option<Instant>,
}

pub(super) struct LogWriter {
    pub(super) queue: Receiver<Message>,
    pub(super) sink: Sink,
    pub(super) dropped: Arc<AtomicU64>,
}

/// What is written by one call.
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    waiting: Vec<SyncSender<()>>,
}

impl LogWriter {
    /// Runs until told to stop, or until nobody can tell it anything any more.
    pub(super) fn run(mut self) {
        let mut batch = Batch { bytes: Vec::with_capacity(BATCH_BYTES), lines: 0, waiting: Vec::new() };
        let mut stopping = false;
        while let Some(first) = self.next(stopping) {
            let mut next = Some(first);
            while let Some(message) = next {
                stopping |= batch.take(message);
                next = if batch.is_full() { None } else { self.queue.try_recv().ok() };
            }
            let is_idle = !batch.is_full();
            self.write(&mut batch);
            if is_idle && !stopping {
                // A sender only pays for a wake-up when it finds this thread waiting for a message.
                std::thread::sleep(IDLE_PAUSE);
            }
        }
    }

    /// Waits for a message; once stopping, only takes what is there.
    fn next(&self, stopping: bool) -> Option<Message> {
        if stopping { self.queue.try_recv().ok() } else { self.queue.recv().ok() }
    }

    fn write(&mut self, batch: &mut Batch) {
        if !batch.bytes.is_empty() && self.sink.write(&batch.bytes).is_err() {
            self.dropped.fetch_add(batch.lines, Relaxed);
        }
        batch.bytes.clear();
        batch.lines = 0;
        for waiting in batch.waiting.drain(..) {
            // Whoever asked may have stopped waiting; that is no concern of the log.
            let _ = waiting.try_send(());
        }
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Takes a message in; `true` if it says stop.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Line(record) => {
                record.write_line(&mut self.bytes);
                self.lines += 1;
            }
            Message::Flush(answer) => self.waiting.push(answer),
            Message::Stop => return true,
        }
        false
    }
}

impl Sink {
    /// Opens a file sink at once, so that a wrong path shows at the start.
    pub(super) fn file(path: PathBuf) -> io::Result<Self> {
        let file = Some(opened(&path)?);
        Ok(Self::File(LogFile { path, file, checked: None }))
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => write_all(&mut io::stdout().lock(), batch),
            Self::Stderr => write_all(&mut io::stderr().lock(), batch),
            Self::Writer(writer) => write_all(writer, batch),
            Self::File(file) => file.write(batch, Instant::now()),
        }
    }
}

impl LogFile {
    fn write(&mut self, batch: &[u8], now: Instant) -> io::Result<()> {
        if self.checked.is_none_or(|at| now.duration_since(at) >= CHECK_EVERY) {
            self.checked = Some(now);
            self.file = self.file.take().filter(|file| is_still_at(&self.path, file));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(opened(&self.path)?),
        };
        let result = write_all(file, batch);
        if result.is_err() {
            self.file = None;
        }
        result
    }
}

fn write_all(writer: &mut impl Write, batch: &[u8]) -> io::Result<()> {
    writer.write_all(batch)?;
    writer.flush()
}

fn opened(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the name still leads to the open file: a log rotator moves it away or removes it.
fn is_still_at(path: &PathBuf, file: &File) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => is_same_file(&named, &open),
        _ => false,
    }
}

#[cfg(unix)]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// An open file cannot be moved away there.
#[cfg(not(unix))]
fn is_same_file(_: &Metadata, _: &Metadata) -> bool {
    true
}

/// One write call for this much.
const BATCH_BYTES: usize = 64 * 1024;
/// How long lines may gather: at most 200 wake-ups a second, whatever the load. The queue holds what
/// 800 000 requests a second write in that time.
const IDLE_PAUSE: Duration = Duration::from_millis(5);
/// How soon a moved file is noticed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
