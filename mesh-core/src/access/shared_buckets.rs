//! Buckets that the processes of one host share, in a file.
//!
//! Decides: where a key's bucket stands in the file, and which is forgotten when there is no place: the one not used
//! for the longest time. Never: waits for another process longer than a moment, blocks a thread while it waits, writes a
//! key or a credential: what stands there is an HMAC under a secret of the file.
//! Invariant: whoever changes a bucket holds the file's lock. While the file cannot be used it says so, and counts that.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;

use crate::identity::tls::provider;
use crate::policy::rate_limit::{Limited, RateLimit, Record};
use crate::time::{Clock, after};

/// Buckets of one limit in a file that others may use as well.
pub struct SharedBuckets {
    path: PathBuf,
    limit: RateLimit,
    /// What tells this limit's buckets from others in the file.
    label: Vec<u8>,
    sets: u64,
    clock: Arc<dyn Clock>,
    longest_wait: Duration,
    file: Mutex<State>,
    failures: AtomicU64,
}

enum State {
    Open(Opened),
    /// Not yet, or not at the moment.
    Closed {
        retry_at: Option<Instant>,
    },
}

struct Opened {
    file: File,
    sets: u64,
    secret: [u8; SECRET],
}

impl SharedBuckets {
    /// Room for about `max_keys` keys, if the file is not there yet. It is opened by the first request.
    pub fn new(path: PathBuf, (name, limit): (&str, RateLimit), max_keys: usize, clock: Arc<dyn Clock>) -> Self {
        // Half of the places stay free, so that keys that meet in one set find room.
        let sets = (max_keys.max(1) as u64 * 2).div_ceil(PLACES as u64);
        let label = format!("{name}\0{limit:?}\0").into_bytes();
        let file = Mutex::new(State::Closed { retry_at: None });
        Self { path, limit, label, sets, clock, longest_wait: LONGEST_WAIT, file, failures: AtomicU64::new(0) }
    }

    /// Takes a token of `key`'s bucket. `None`: the file cannot be used now.
    pub async fn take(&self, key: &[u8]) -> Option<Result<(), Limited>> {
        let until = after(self.clock.now(), self.longest_wait);
        loop {
            let now = self.clock.now();
            match self.try_to_take(key, now) {
                Ok(taken) => return taken,
                Err(Held) if now < until => self.clock.sleep_until(after(now, STEP)).await,
                Err(Held) => {
                    let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                    let held = io::Error::new(ErrorKind::TimedOut, "another process holds the lock");
                    return self.give_up(&mut state, &held, now);
                }
            }
        }
    }

    fn try_to_take(&self, key: &[u8], now: Instant) -> Result<Option<Result<(), Limited>>, Held> {
        let mut state = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Closed { retry_at: Some(at) } if now < at) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        match self.take_of(&mut state, key) {
            Ok(taken) => Ok(Some(taken)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(Held),
            Err(error) => Ok(self.give_up(&mut state, &error, now)),
        }
    }

    /// For a while nobody asks the file again.
    fn give_up(&self, state: &mut State, error: &io::Error, now: Instant) -> Option<Result<(), Limited>> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path = %self.path.display(), error = %error, "shared rate limit counts alone");
        *state = State::Closed { retry_at: Some(after(now, PAUSE)) };
        None
    }

    /// Requests that came while the file could not be used.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn take_of(&self, state: &mut State, key: &[u8]) -> io::Result<Result<(), Limited>> {
        if matches!(state, State::Closed { .. }) {
            *state = State::Open(self.open()?);
        }
        let State::Open(opened) = state else { return Err(ErrorKind::NotFound.into()) };
        let at = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let digest = opened.digest(&self.label, key);
        let _locked = Locked::at_once(&opened.file)?;
        let mut set = Set::read(&opened.file, opened.offset(&digest))?;
        let (place, kept) = set.place(&digest);
        let (record, taken) = self.limit.take(kept, at);
        set.write(&opened.file, place, (&digest, record, at.as_secs()))?;
        Ok(taken)
    }

    fn open(&self) -> io::Result<Opened> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let _locked = Locked::at_once(&file)?;
        let mut header = [0; HEADER];
        // Who died between making the file long and writing its beginning has left it empty.
        let is_new = file.metadata()?.len() == 0 || file.read_exact_at(&mut header, 0).is_ok() && header == [0; HEADER];
        if is_new {
            header[..MAGIC.len()].copy_from_slice(MAGIC);
            header[8..16].copy_from_slice(&self.sets.to_le_bytes());
            let random = provider().secure_random.fill(&mut header[16..16 + SECRET]);
            random.map_err(|_| io::Error::other("no randomness"))?;
            file.set_len(HEADER as u64 + self.sets * SET as u64)?;
            file.write_all_at(&header, 0)?;
        }
        file.read_exact_at(&mut header, 0)?;
        let (sets, mut secret) = (u64_at(&header, 8), [0; SECRET]);
        secret.copy_from_slice(&header[16..16 + SECRET]);
        let is_whole = file.metadata()?.len() == sets.saturating_mul(SET as u64).saturating_add(HEADER as u64);
        if header[..MAGIC.len()] != *MAGIC || sets == 0 || !is_whole {
            return Err(io::Error::new(ErrorKind::InvalidData, "not a file of rate limits"));
        }
        drop(_locked);
        Ok(Opened { file, sets, secret })
    }
}

impl fmt::Debug for SharedBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuckets").field("path", &self.path).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Opened {
    fn digest(&self, label: &[u8], key: &[u8]) -> [u8; DIGEST] {
        let mut digest = [0; DIGEST];
        if let rustls::SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 {
            let tag = suite.hkdf_provider.hmac_sign(&OkmBlock::new(&self.secret), &[label, key].concat());
            digest.copy_from_slice(&tag.as_ref()[..DIGEST]);
        }
        digest
    }

    fn offset(&self, digest: &[u8; DIGEST]) -> u64 {
        HEADER as u64 + u64_at(digest, 0) % self.sets * SET as u64
    }
}

/// The places where a bucket may stand.
struct Set {
    offset: u64,
    bytes: [u8; SET],
}

impl Set {
    fn read(file: &File, offset: u64) -> io::Result<Self> {
        let mut bytes = [0; SET];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Self { offset, bytes })
    }

    /// Where the bucket stands, else the place that was not used for the longest time; an empty one never was.
    fn place(&self, digest: &[u8; DIGEST]) -> (usize, Option<Record>) {
        let places = self.bytes.chunks_exact(PLACE).enumerate();
        if let Some((at, place)) = places.clone().find(|(_, place)| used(place) > 0 && place[..DIGEST] == *digest) {
            return (at, Some(Record { fills: u64_at(place, 16), left: u32_at(place, 24) }));
        }
        (places.min_by_key(|(_, place)| used(place)).map_or(0, |(at, _)| at), None)
    }

    fn write(
        &mut self,
        file: &File,
        at: usize,
        (digest, record, seconds): (&[u8; DIGEST], Record, u64),
    ) -> io::Result<()> {
        let place = &mut self.bytes[at * PLACE..(at + 1) * PLACE];
        place[..DIGEST].copy_from_slice(digest);
        place[16..24].copy_from_slice(&record.fills.to_le_bytes());
        place[24..28].copy_from_slice(&record.left.to_le_bytes());
        place[28..].copy_from_slice(&u32::try_from(seconds).unwrap_or(u32::MAX).max(1).to_le_bytes());
        file.write_all_at(place, self.offset + (at * PLACE) as u64)
    }
}

/// When a place was used, in seconds since the epoch; 0: never.
fn used(place: &[u8]) -> u32 {
    u32_at(place, 28)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Another process holds the lock, longer than a look takes.
struct Held;

/// The file's lock, until it is dropped. A process that dies gives it back.
struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    /// A holder needs a few microseconds: so long it is tried again. `WouldBlock`: it needs longer.
    fn at_once(file: &'a File) -> io::Result<Self> {
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the file would do it, too; nothing more can be done here.
        let _ = self.0.unlock();
    }
}

const MAGIC: &[u8; 8] = b"libmesh1";
const SECRET: usize = 32;
const HEADER: usize = 64;
/// An HMAC-SHA256, cut to 128 bits.
const DIGEST: usize = 16;
/// Digest, fills, left, used: 16 + 8 + 4 + 4 bytes.
const PLACE: usize = 32;
const PLACES: usize = 8;
const SET: usize = PLACE * PLACES;
/// Longer than any process that runs needs, short for the one request in a second that waits for one that does not.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// Looks at a lock before a request waits for it: some ten microseconds, in which a holder that runs is done.
const TRIES: usize = 16;
/// Until a request that waits looks again: the least that a timer of the runtime can do.
const STEP: Duration = Duration::from_millis(1);
/// After a failure, until the file is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::time::SystemClock;

    fn limit(max: u32) -> RateLimit {
        RateLimit::new(max, max, Duration::from_secs(1 << 32)).unwrap()
    }

    /// As another process has it: opened by itself, so that the lock is between them. It waits for as long as it takes.
    fn process(path: &std::path::Path, name: &str, max: u32) -> SharedBuckets {
        let buckets = SharedBuckets::new(path.to_owned(), (name, limit(max)), 1_000, Arc::new(SystemClock));
        SharedBuckets { longest_wait: Duration::from_secs(600), ..buckets }
    }

    async fn passes(buckets: &SharedBuckets, key: &[u8]) -> bool {
        buckets.take(key).await.expect("the file can be used").is_ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn processes_that_take_at_once_get_no_more_than_there_is() {
        const TOKENS: u32 = 2_000;
        let directory = tempfile::tempdir().unwrap();
        let (path, passed) = (directory.path().join("limits"), AtomicU32::new(0));
        let runtime = tokio::runtime::Handle::current();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let buckets = process(&path, "all", TOKENS);
                    for _ in 0..TOKENS {
                        let is_passed = runtime.block_on(passes(&buckets, b"k"));
                        passed.fetch_add(u32::from(is_passed), Ordering::Relaxed);
                    }
                    assert_eq!(buckets.failures(), 0);
                });
            }
        });
        assert_eq!(passed.into_inner(), TOKENS);
    }

    #[tokio::test]
    async fn a_file_whose_maker_died_before_it_wrote_the_beginning_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        File::create(&path).unwrap().set_len(HEADER as u64 + 7 * SET as u64).unwrap();
        let buckets = process(&path, "all", 1);
        assert!(passes(&buckets, b"k").await);
        assert!(!passes(&process(&path, "all", 1), b"k").await, "another process reads the same file");
    }

    #[tokio::test]
    async fn keys_names_and_numbers_have_buckets_of_their_own_and_no_key_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        for (name, max, key, expected) in [
            ("a", 1, "sesame", true),
            ("a", 1, "sesame", false),
            ("a", 1, "barley", true),
            ("b", 1, "sesame", true),
            ("a", 2, "sesame", true),
        ] {
            assert_eq!(passes(&process(&path, name, max), key.as_bytes()).await, expected, "{name} {max} {key}");
        }
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"sesame"));
    }

    #[tokio::test]
    async fn a_file_is_as_large_as_its_first_user_made_it_and_what_was_used_last_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        let buckets = process(&path, "a", 1);
        assert!(passes(&buckets, b"first").await);
        let size = std::fs::metadata(&path).unwrap().len();
        for key in 0..3_000_u32 {
            let _ = buckets.take(&key.to_le_bytes()).await;
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        assert_eq!(size, (HEADER + 250 * SET) as u64);
        assert_eq!(buckets.failures(), 0);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_or_that_is_held_says_so_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        std::fs::write(&path, "something else entirely").unwrap();
        let foreign = process(&path, "a", 1);
        for _ in 0..3 {
            assert_eq!(foreign.take(b"k").await, None);
        }
        assert_eq!(foreign.failures(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely", "it is not ours to change");

        let path = directory.path().join("held");
        assert!(passes(&process(&path, "a", 1), b"k").await);
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        let waiting = SharedBuckets { longest_wait: Duration::ZERO, ..process(&path, "a", 1) };
        assert_eq!(waiting.take(b"k").await, None);
        assert_eq!(waiting.failures(), 1);
        holder.unlock().unwrap();
        assert!(!passes(&process(&path, "a", 1), b"k").await, "what was taken stays taken");
    }

    /// With one thread for all: were it blocked, nobody would give the lock back.
    #[tokio::test]
    async fn who_waits_for_the_lock_holds_no_thread_and_gets_its_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        assert!(passes(&process(&path, "a", 2), b"k").await);
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        let buckets = process(&path, "a", 2);
        let others = async {
            tokio::task::yield_now().await;
            holder.unlock().unwrap();
        };
        let (is_passed, ()) = tokio::join!(passes(&buckets, b"k"), others);
        assert!(is_passed);
        assert_eq!(buckets.failures(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_never_given_back_is_waited_for_once_and_then_left_alone_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits");
        assert!(passes(&process(&path, "a", 2), b"k").await);
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        let buckets = SharedBuckets { longest_wait: LONGEST_WAIT, ..process(&path, "a", 2) };
        let buckets = SharedBuckets { clock: Arc::new(Virtual), ..buckets };
        for (waited, then) in [(LONGEST_WAIT, PAUSE / 2), (Duration::ZERO, PAUSE), (LONGEST_WAIT, PAUSE)] {
            let began = tokio::time::Instant::now();
            assert_eq!(buckets.take(b"k").await, None);
            let took = began.elapsed();
            assert!(took >= waited && took <= waited + 2 * STEP, "{took:?}");
            tokio::time::advance(then).await;
        }
        holder.unlock().unwrap();
        assert!(passes(&buckets, b"k").await);
        assert_eq!(buckets.failures(), 3);
    }

    /// The time of a test's runtime.
    struct Virtual;

    impl Clock for Virtual {
        fn now(&self) -> Instant {
            tokio::time::Instant::now().into_std()
        }

        fn wall(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(tokio::time::sleep_until(deadline.into()))
        }
    }
}
