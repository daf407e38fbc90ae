//! The check cache: remote answers, kept as long as they are valid.
//!
//! Decides: whether a request can be answered by an earlier answer to an equal question. "Equal" is what
//! the policy server said it looked at (a [`References`] set), or what the configuration says, and always
//! the caller's identity, the service, the listener and the credentials.
//! Never: calls anyone, reads a clock, stores a credential, extends an answer's life because it is used.
//! Invariant: a hit is found only through the entry's own reference set, by comparing all key bytes; two
//! answers that disagree are both dropped.

mod entry;
mod epoch;
mod eviction;
mod flight;
mod key;
#[cfg(test)]
mod properties;
mod references;
mod stats;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use self::entry::{Age, Entry, Refresh, Turn, Verdicts};
pub use self::epoch::Epoch;
use self::epoch::{Epochs, Heard};
use self::eviction::Bounds;
use self::flight::Flights;
pub use self::flight::{Flight, FlightLeader, Landing, Share, Shared};
use self::key::Keys;
use self::references::ReferenceSets;
pub use self::references::References;
pub use self::stats::CacheStats;
pub(super) use self::stats::Counters;
pub(crate) use self::stats::Fate;
use self::table::Table;
use super::attributes::Attributes;
use super::fact::Fact;
use super::verdict::Verdict;
use crate::time::after;

/// How long answers are kept and what they depend on.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// What an answer without hints depends on. `None`: such an answer is not kept.
    pub key: Option<Vec<Fact>>,
    /// How long an approval without hints is kept.
    pub ttl: Duration,
    /// How long a refusal without hints is kept.
    pub negative_ttl: Duration,
    /// The longest an approval is kept, whatever the server says.
    pub max_ttl: Duration,
    /// The longest a refusal is kept. Zero: refusals are not kept.
    pub max_negative_ttl: Duration,
    /// Most entries.
    pub max_entries: usize,
    /// Most bytes, keys and answers together.
    pub max_bytes: usize,
    /// Most reference sets. A lookup walks them all.
    pub max_reference_sets: usize,
    /// Share of an answer's life after which a hit asks for a new one in the background.
    pub refresh_ahead: Option<f64>,
    /// Whether an expired answer within its grace stands in while the server fails.
    pub stale_if_error: bool,
    /// The grace of an answer that names none.
    pub grace: Duration,
    /// Whether an answer without hints is kept that changes an allowed request, its query or its response, or refuses
    /// with headers that may be about the request.
    pub cache_header_changes: bool,
    /// What is part of every key, whatever the server says it looked at: facts that it is told, and that two requests
    /// of one caller may differ in.
    pub told: Vec<Fact>,
}

impl CacheConfig {
    /// Answers without hints are kept under a configured key. What the operator wrote is not capped by a default.
    pub fn keyed(key: Vec<Fact>, ttl: Duration, negative_ttl: Duration) -> Self {
        let defaults = Self::default();
        Self {
            key: Some(key),
            ttl,
            negative_ttl,
            max_ttl: defaults.max_ttl.max(ttl),
            max_negative_ttl: defaults.max_negative_ttl.max(negative_ttl),
            ..defaults
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            key: None,
            ttl: Duration::from_secs(60),         // Mixer's server default
            negative_ttl: Duration::from_secs(5), // Mixer's denier adapter
            max_ttl: Duration::from_secs(300),
            max_negative_ttl: Duration::from_secs(60),
            max_entries: 10_000, // Mixer's client default
            max_bytes: 16 << 20,
            max_reference_sets: 64,
            refresh_ahead: None,
            stale_if_error: false,
            grace: Duration::ZERO,
            cache_header_changes: false,
            told: Vec::new(),
        }
    }
}

/// Answers of one remote check.
pub struct CheckCache<S = RandomState> {
    config: CacheConfig,
    table: Table,
    sets: ReferenceSets,
    flights: Flights,
    keys: Keys<S>,
    /// The verdict of all entries that approve and change nothing.
    approval: Verdicts,
    epochs: Epochs,
    /// Whether the last answer could be shared; if not, waiting for one is time lost.
    is_worth_waiting: AtomicBool,
    pub(super) counters: Counters,
}

/// What a lookup found.
pub enum Lookup<S: BuildHasher + Clone = RandomState> {
    /// A valid answer.
    Hit(Arc<Verdict>),
    /// A valid answer near its end: use it, and ask for a new one in the background.
    Refresh(Arc<Verdict>, FlightLeader<S>),
    /// Someone is asking already: wait, each under its own deadline.
    Wait(Flight),
    /// Ask the server.
    Lead(FlightLeader<S>),
}

/// An answer of the server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What it decided.
    pub verdict: Arc<Verdict>,
    /// Whether it may be used again.
    pub reuse: Reuse,
    /// Which policy it is of, where the server says so.
    pub epoch: Option<Epoch>,
}

/// Whether and how an answer may be used again.
#[derive(Debug, Clone)]
pub enum Reuse {
    /// The server said how.
    Hinted(Hints),
    /// The server said nothing; the configuration decides.
    Configured,
    /// It may not.
    Never(Refusal),
}

/// What the server said about the life of its answer.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// What it looked at; `None`: it did not say, the configured key stands in.
    pub references: Option<References>,
    /// How long the answer holds; `None`: the cap decides.
    pub valid_for: Option<Duration>,
    /// How many further requests it may answer; `None`: any number. The one that fetched it is not counted, those that
    /// waited for it are: `n` answers `1 + n` requests.
    pub uses: Option<u64>,
    /// How long after its end it may stand in while the server fails; `None`: the configuration says.
    pub grace: Option<Duration>,
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It sets a cookie.
    SetCookie,
    /// The request body was part of the question.
    BodySent,
    /// The question could not be read: the answer is about that, not about what a key holds.
    Unreadable,
    /// Its status reports trouble in the server.
    ErrorStatus,
    /// Its hints can not be read, or refer to something that is not a fact.
    MalformedHints,
    /// Neither hints nor a configured key.
    NoKey,
    /// It changes headers or the query, and nobody said that the change is the same for the next request.
    ChangesHeaders,
    /// Its references do not describe the request it answers.
    Mismatch,
    /// Key or body are too large to keep.
    TooLarge,
    /// It is over already, or may not be used again.
    NotUsable,
    /// The policy changed while the server was asked, or this server does not know yet that it changed.
    Voided,
}

/// Under which circumstances an answer was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    epoch: u64,
    at: Instant,
}

impl CheckCache {
    /// An empty cache.
    pub fn new(config: CacheConfig) -> Self {
        Self::with_hasher(config, RandomState::default())
    }
}

impl<S: BuildHasher + Clone> CheckCache<S> {
    /// An empty cache whose table hashes by `hasher`. A poor hash makes it slow, never wrong.
    pub fn with_hasher(config: CacheConfig, hasher: S) -> Self {
        Self {
            table: Table::new(Bounds { entries: config.max_entries, bytes: config.max_bytes }),
            sets: ReferenceSets::new(config.max_reference_sets, config.told.clone()),
            flights: Flights::default(),
            keys: Keys::new(hasher),
            approval: Verdicts::approval(),
            epochs: Epochs::default(),
            is_worth_waiting: AtomicBool::new(true),
            counters: Counters::default(),
            config,
        }
    }

    /// Answers from the cache, joins a call in flight, or asks the caller to make one.
    pub fn lookup(self: &Arc<Self>, attributes: &Attributes<'_>, now: Instant) -> Lookup<S> {
        match self.find(attributes, now, Age::Valid) {
            Found::Hit(hit) => self.hit(hit, attributes, now),
            Found::Miss { expired } => {
                self.counters.expired.add(u64::from(expired));
                self.join_or_lead(attributes, now)
            }
        }
    }

    /// An expired answer within its grace, for when the server fails.
    pub fn stale(&self, attributes: &Attributes<'_>, now: Instant) -> Option<Arc<Verdict>> {
        if !self.config.stale_if_error {
            return None;
        }
        let Found::Hit(hit) = self.find(attributes, now, Age::InGrace) else { return None };
        self.counters.stale_served.add(1);
        Some(hit.verdict)
    }

    /// What the answer of a flight is to a request that waited for it.
    pub fn share(&self, shared: &Shared, attributes: &Attributes<'_>) -> Share {
        let identity = self.keys.identity(attributes);
        let sought = self.keys.sought(&shared.set, &identity, self.keys.hash_of(&identity));
        if !sought.is_some_and(|sought| sought.is(&shared.key)) {
            return Share::Other;
        }
        if shared.is_limited {
            return Share::ForFew;
        }
        self.counters.coalesced.add(1);
        Share::Same(Arc::clone(&shared.verdict))
    }

    /// A leader that nobody waits for.
    pub fn lead_alone(self: &Arc<Self>, now: Instant) -> FlightLeader<S> {
        FlightLeader::alone(self.clone(), Asked { epoch: self.epoch(), at: now })
    }

    /// Voids all answers, those in flight included: the policy changed.
    pub fn void_all(&self) {
        self.epochs.advance();
        self.voided();
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.table.len() as u64,
            bytes: self.table.bytes() as u64,
            reference_sets: self.sets.load().len() as u64,
            ..self.counters.snapshot()
        }
    }

    #[inline]
    fn epoch(&self) -> u64 {
        self.epochs.generation()
    }

    /// What is of an older epoch is never found again; nor need it take room.
    fn voided(&self) {
        self.counters.voided.add(1);
        self.table.clear();
    }

    /// Walks the known sets, most specific first. The first valid entry wins unless a later one disagrees.
    fn find(&self, attributes: &Attributes<'_>, now: Instant, age: Age) -> Found {
        let (epoch, view) = (self.epoch(), self.table.view());
        let identity = self.keys.identity(attributes);
        let identity_hash = self.keys.hash_of(&identity);
        let mut best: Option<&Entry> = None;
        let mut expired = false;
        for set in self.sets.load().iter() {
            let Some(sought) = self.keys.sought(set, &identity, identity_hash) else { continue };
            let Some(entry) = view.find(&sought) else { continue };
            expired |= entry.is_expired(now, epoch);
            if !entry.is_usable(now, epoch, age) {
                continue;
            }
            match best {
                Some(first) if !first.agrees_with(entry) => {
                    first.void();
                    entry.void();
                    return Found::Miss { expired };
                }
                Some(_) => {}
                None => {
                    self.sets.touch(set);
                    best = Some(entry);
                }
            }
        }
        match best {
            Some(entry) if entry.take_use() => Found::Hit(Hit {
                verdict: entry.verdict(&self.approval).clone(),
                turn: if age == Age::Valid { entry.turn_to_refresh(now) } else { None },
            }),
            _ => Found::Miss { expired },
        }
    }

    fn hit(self: &Arc<Self>, hit: Hit, attributes: &Attributes<'_>, now: Instant) -> Lookup<S> {
        self.counters.hits.add(1);
        self.counters.negative_hits.add(u64::from(!hit.verdict.allow));
        if let Some(turn) = hit.turn {
            let asked = Asked { epoch: self.epoch(), at: now };
            let key = self.flight_key(attributes, asked.epoch);
            match FlightLeader::register(self, key, asked) {
                Ok(leader) => {
                    self.counters.refreshes.add(1);
                    return Lookup::Refresh(hit.verdict, leader);
                }
                // What is in the air may be about a neighbour that shares the coarse key.
                Err(_) => turn.give_back(),
            }
        }
        Lookup::Hit(hit.verdict)
    }

    fn join_or_lead(self: &Arc<Self>, attributes: &Attributes<'_>, now: Instant) -> Lookup<S> {
        let asked = Asked { epoch: self.epoch(), at: now };
        if !self.is_worth_waiting.load(Ordering::Relaxed) {
            self.counters.misses.add(1);
            return Lookup::Lead(FlightLeader::alone(self.clone(), asked));
        }
        let leader = match FlightLeader::register(self, self.flight_key(attributes, asked.epoch), asked) {
            Ok(leader) => leader,
            Err(flight) => {
                self.counters.misses.add(1);
                return Lookup::Wait(flight);
            }
        };
        // A leader stores before it leaves the list of flights. Whoever became the next leader looks again,
        // or a burst that straddles the landing would make two calls.
        if let Found::Hit(hit) = self.find(attributes, now, Age::Valid) {
            drop(leader);
            return self.hit(hit, attributes, now);
        }
        self.counters.misses.add(1);
        Lookup::Lead(leader)
    }

    /// Requests that are likely to share an answer. Whether they do is checked when it arrives.
    fn flight_key(&self, attributes: &Attributes<'_>, epoch: u64) -> Box<[u8]> {
        const COARSE: [Fact; 4] = [Fact::Method, Fact::Host, Fact::Path, Fact::Query];
        let facts = self.config.key.as_deref().unwrap_or(&COARSE).iter();
        self.keys.of_flight(epoch, facts.chain(&self.config.told), attributes)
    }

    /// Keeps an answer if it may be kept.
    fn store(
        &self,
        attributes: &Attributes<'_>,
        answer: Answer,
        mut asked: Asked,
        max_expiry: Option<Instant>,
    ) -> Result<Shared, Refusal> {
        // An answer that is not kept itself may still say that the policy has changed.
        match answer.epoch.map(|epoch| self.epochs.hear(&epoch, &mut asked)) {
            None | Some(Heard::Same) => {}
            Some(Heard::New) => self.voided(),
            Some(Heard::Old) => return Err(Refusal::Voided),
        }
        let verdict = answer.verdict;
        if verdict.body.len() > MAX_BODY_BYTES {
            return Err(Refusal::TooLarge);
        }
        let (references, hints) = self.reusable(answer.reuse, &verdict)?;
        let entry = self.entry(&verdict, &hints, asked, max_expiry)?;
        if self.epoch() != asked.epoch {
            return Err(Refusal::Voided);
        }
        if !references.hold(attributes) {
            return Err(Refusal::Mismatch);
        }
        let set = self.sets.intern(references);
        let identity = self.keys.identity(attributes);
        let sought = self.keys.sought(&set, &identity, self.keys.hash_of(&identity));
        let key = sought.and_then(|sought| sought.write()).ok_or(Refusal::TooLarge)?;
        let evicted = self.table.insert(&key, entry, asked.at).ok_or(Refusal::TooLarge)?;
        self.counters.evicted.add(evicted);
        Ok(Shared { verdict, set, key, is_limited: hints.uses.is_some() })
    }

    /// What an answer depends on, and its life.
    fn reusable(&self, reuse: Reuse, verdict: &Verdict) -> Result<(References, Hints), Refusal> {
        let configured = || self.config.key.as_deref().map(References::of_key);
        match reuse {
            Reuse::Never(refusal) => Err(refusal),
            Reuse::Hinted(mut hints) => {
                // A life without references must not read as "depends on nothing".
                let references = hints.references.take().or_else(configured).ok_or(Refusal::NoKey)?;
                Ok((references, hints))
            }
            Reuse::Configured => {
                let references = configured().ok_or(Refusal::NoKey)?;
                if verdict.may_be_personal() && !self.config.cache_header_changes {
                    return Err(Refusal::ChangesHeaders);
                }
                let ttl = if verdict.allow { self.config.ttl } else { self.config.negative_ttl };
                Ok((references, Hints { valid_for: Some(ttl), ..Hints::default() }))
            }
        }
    }

    /// Its life is counted from the question, not from the answer: what the server saw may be that old.
    fn entry(
        &self,
        verdict: &Arc<Verdict>,
        hints: &Hints,
        asked: Asked,
        max_expiry: Option<Instant>,
    ) -> Result<Entry, Refusal> {
        let cap = if verdict.allow { self.config.max_ttl } else { self.config.max_negative_ttl };
        let bounded = |instant: Instant| max_expiry.map_or(instant, |bound| bound.min(instant));
        let expires = bounded(after(asked.at, hints.valid_for.map_or(cap, |ttl| ttl.min(cap))));
        if expires <= asked.at || hints.uses == Some(0) {
            return Err(Refusal::NotUsable);
        }
        let grace_ends = bounded(after(expires, hints.grace.unwrap_or(self.config.grace).min(self.config.max_ttl)));
        let life = expires.saturating_duration_since(asked.at);
        let share = self.config.refresh_ahead.map(|share| share.clamp(0.0, 1.0));
        let mut entry = Entry::new(verdict.clone(), asked.epoch, expires);
        entry.uses = hints.uses.map(AtomicU64::new);
        entry.grace_ends = grace_ends;
        entry.refresh = share.map(|share| Refresh::at(after(asked.at, life.mul_f64(share))));
        Ok(entry)
    }

    fn land(&self, stored: &Result<Shared, Refusal>) {
        match stored {
            Ok(_) => self.is_worth_waiting.store(true, Ordering::Relaxed),
            Err(refusal) => {
                self.counters.uncacheable.add(1);
                self.counters.malformed_hints.add(u64::from(*refusal == Refusal::MalformedHints));
                if *refusal == Refusal::NoKey {
                    self.is_worth_waiting.store(false, Ordering::Relaxed);
                }
            }
        }
    }
}

enum Found {
    Hit(Hit),
    Miss { expired: bool },
}

struct Hit {
    verdict: Arc<Verdict>,
    /// To ask for a new one.
    turn: Option<Turn>,
}

/// Larger denial bodies are not kept.
const MAX_BODY_BYTES: usize = 16 * 1024;
