//! Files that are watched.
//!
//! Decides: whether a file's content has changed. Never: parses it, or misses a change because of how
//! it was made: in place, by atomic rename, or by swapping a symbolic link as Kubernetes does it.
//! Invariant: what is being written in place is not taken for what was written. The beginning of a file is
//! often a valid file; so content under the same inode counts once two looks in a row have read it. Nor is a file that
//! is replaced in two steps taken for one that is gone: it is, once two looks in a row have missed it.
//!
//! It polls `stat` rather than inotify: five calls a second cost nothing, work on every file system,
//! need no thread, and follow links.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::source::{EndpointSet, EndpointSource, Sink};

/// A file that holds the endpoints of a cluster.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
}

/// A file whose content is wanted.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    seen: Option<Stamp>,
    presence: Presence,
    /// Of the file that `content` was read from.
    inode: Option<u64>,
    content: Option<String>,
    /// Read once, from a file that may still be written.
    half: Option<String>,
}

/// Whether the file is there, as far as anybody has looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It was, the last time.
    There,
    /// It was not, once.
    Missed,
    /// It never was, or that it is gone has been said.
    Absent,
}

/// What `stat` says; any difference means "read again".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// How often files are looked at: a change is live well under a second.
pub const POLL_INTERVAL: Duration = Duration::from_millis(200);

impl FileSource {
    /// Follows the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl EndpointSource for FileSource {
    fn follow(&self, _: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut file = WatchedFile::new(&self.path);
        Box::pin(async move {
            loop {
                tokio::time::sleep(POLL_INTERVAL).await;
                if !file.may_have_changed() {
                    continue;
                }
                // Reading and parsing 100 000 endpoints takes a good part of a second.
                let (sink, mut taken) = (sink.clone(), file);
                let looking = tokio::task::spawn_blocking(move || {
                    look(&mut taken, &sink);
                    taken
                });
                match looking.await {
                    Ok(given_back) => file = given_back,
                    Err(_) => return,
                }
            }
        })
    }
}

fn look(file: &mut WatchedFile, sink: &Sink) {
    let path = file.path().display().to_string();
    match file.poll() {
        Ok(None) => {}
        Ok(Some(text)) => match crate::config::parse_endpoints(text, &path) {
            Ok(endpoints) => sink.publish(EndpointSet::new(endpoints.into_iter().map(Arc::new).collect())),
            Err(problems) => {
                let problems = problems.iter().map(ToString::to_string).collect::<Vec<_>>();
                sink.refuse(&problems.join("; "));
            }
        },
        Err(error) => sink.refuse(&format!("{path}: {error}")),
    }
}

impl WatchedFile {
    /// A file not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: None, presence: Presence::Absent, inode: None, content: None, half: None }
    }

    /// A file whose `content` was just read by the caller.
    pub fn with_content(path: impl Into<PathBuf>, content: String) -> Self {
        Self { presence: Presence::There, content: Some(content), ..Self::new(path) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether [`poll`](Self::poll) would have something to do. Costs one `stat`.
    pub fn may_have_changed(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => self.seen != Some(Stamp::of(&metadata)),
            Err(_) => self.presence != Presence::Absent,
        }
    }

    /// The new content, if it differs from the last. An unreadable file is an error each time it
    /// changes state, never an empty content.
    pub fn poll(&mut self) -> io::Result<Option<&str>> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(error) => return self.miss(error),
        };
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        let content = std::fs::read_to_string(&self.path)?;
        self.presence = Presence::There;
        // A file written in place within the clock's resolution keeps its stamp: look once more next
        // time unless the stamp is old enough to be trusted.
        self.seen = stamp.is_settled().then_some(stamp);
        let (before, half) = (self.inode.replace(stamp.inode), self.half.take());
        if self.content.as_deref() == Some(content.as_str()) {
            return Ok(None);
        }
        let is_whole = self.content.is_none() || before.is_some_and(|inode| inode != stamp.inode);
        if !is_whole && half.as_deref() != Some(content.as_str()) {
            (self.seen, self.half) = (None, Some(content));
            return Ok(None);
        }
        Ok(Some(self.content.insert(content)))
    }

    /// What comes under its name next is another file, and may be in the middle of being written.
    fn miss(&mut self, error: io::Error) -> io::Result<Option<&str>> {
        (self.seen, self.inode, self.half) = (None, None, None);
        let (now, said) = match self.presence {
            Presence::There => (Presence::Missed, Ok(None)),
            Presence::Missed => (Presence::Absent, Err(error)),
            Presence::Absent => (Presence::Absent, Ok(None)),
        };
        self.presence = now;
        said
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), length: metadata.len(), inode }
    }

    fn is_settled(&self) -> bool {
        /// Coarser than any common file system's time stamp (ext4 4 ms, NFS and FAT up to 2 s).
        const SETTLED: Duration = Duration::from_secs(2);
        self.modified.is_some_and(|at| at.elapsed().is_ok_and(|age| age > SETTLED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_an_overwrite_and_a_symlink_swap_are_all_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        std::fs::write(&path, "one").unwrap();
        let mut file = WatchedFile::new(&path);
        assert_eq!(file.poll().unwrap(), Some("one"));
        assert_eq!(file.poll().unwrap(), None);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(file.poll().unwrap(), None, "it may still be written");
        assert_eq!(file.poll().unwrap(), Some("two"), "overwritten in place, same length");
        std::fs::write(dir.path().join("new"), "three").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(file.poll().unwrap(), Some("three"), "renamed over");

        for version in ["v1", "v2"] {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("mesh.yaml"), version).unwrap();
        }
        let data = dir.path().join("..data");
        std::os::unix::fs::symlink("v1", &data).unwrap();
        let mut file = WatchedFile::new(data.join("mesh.yaml"));
        assert_eq!(file.poll().unwrap(), Some("v1"));
        std::os::unix::fs::symlink("v2", dir.path().join("..tmp")).unwrap();
        std::fs::rename(dir.path().join("..tmp"), &data).unwrap();
        assert_eq!(file.poll().unwrap(), Some("v2"), "link swapped");
    }

    #[test]
    fn a_file_that_is_being_written_in_place_is_not_taken_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("endpoints.yaml");
        std::fs::write(&path, "- a\n- b\n").unwrap();
        let mut file = WatchedFile::new(&path);
        assert_eq!(file.poll().unwrap(), Some("- a\n- b\n"));
        for part in ["", "- a\n", "- a\n- b\n- c\n"] {
            std::fs::write(&path, part).unwrap();
            assert_eq!(file.poll().unwrap(), None, "{part:?}");
        }
        assert_eq!(file.poll().unwrap(), Some("- a\n- b\n- c\n"));
        // Emptied on purpose: it stays empty.
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.poll().unwrap(), None);
        assert_eq!(file.poll().unwrap(), Some(""));
    }

    #[test]
    fn a_file_that_vanishes_is_reported_once_however_new_it_was_and_its_return_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        for age in [Duration::ZERO, Duration::from_secs(60)] {
            std::fs::write(&path, "one").unwrap();
            let aged = std::fs::File::options().write(true).open(&path).unwrap();
            aged.set_modified(SystemTime::now() - age).unwrap();
            let read = WatchedFile::with_content(&path, "one".to_owned());
            let mut unread = WatchedFile::new(&path);
            unread.poll().unwrap();
            std::fs::remove_file(&path).unwrap();
            for mut file in [read, unread] {
                assert!(file.may_have_changed());
                assert!(file.poll().unwrap().is_none(), "it may be on its way");
                assert!(file.may_have_changed());
                assert!(file.poll().is_err());
                assert!(!file.may_have_changed() && file.poll().unwrap().is_none(), "said once");
                std::fs::write(&path, "back").unwrap();
                assert!(file.may_have_changed());
                assert_eq!(file.poll().unwrap(), None, "it may still be written");
                assert_eq!(file.poll().unwrap(), Some("back"));
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_file_that_is_replaced_in_two_steps_is_not_gone_and_not_taken_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        std::fs::write(&path, "one").unwrap();
        let mut file = WatchedFile::new(&path);
        assert_eq!(file.poll().unwrap(), Some("one"));
        for (content, expected) in [("two", Some("two")), ("two", None)] {
            std::fs::remove_file(&path).unwrap();
            assert_eq!(file.poll().unwrap(), None, "between the two");
            std::fs::write(&path, &content[..1]).unwrap();
            assert_eq!(file.poll().unwrap(), None, "it is being written");
            std::fs::write(&path, content).unwrap();
            assert_eq!(file.poll().unwrap(), None);
            assert_eq!(file.poll().unwrap(), expected);
        }
    }

    #[test]
    fn a_file_that_never_was_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = WatchedFile::new(dir.path().join("mesh.yaml"));
        for _ in 0..3 {
            assert!(!file.may_have_changed() && file.poll().unwrap().is_none());
        }
    }
}
