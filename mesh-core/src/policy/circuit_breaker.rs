//! The circuit breaker: leaves an endpoint alone that keeps failing, and asks it carefully later.
//!
//! Decides: whether an attempt may start, from the results of earlier ones.
//! Never: calls anything, keeps a timer, or counts what says nothing about the endpoint (a caller that
//! went away, our own refusal). Invariant: while half-open, at most `probes` attempts of one half-open
//! period are out or judged; only their results, and none from before, decide what follows.
//!
//! ```text
//!            too many failures                    the wait is over, next attempt
//!   Closed ---------------------> Open(until) -------------------------------------> HalfOpen
//!     ^                             ^                                                  |  |
//!     |                             +---- more probes failed than tolerated -----------+  |
//!     +---------------------------------- every probe judged -----------------------------+
//! ```
//! Each transition starts a new *era*. A result carries the era of its permit and is dropped if that
//! has passed, so late answers neither close a breaker nor lengthen its wait.

mod config;
mod transitions;
mod window;

use std::mem;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::window::Window;
use super::verdict::Verdict;
use crate::time::after;

pub use self::config::{BreakerConfig, HalfOpen, Mode, RateTrip, SlowTrip, Threshold};
pub use self::transitions::Transitions;
pub use self::window::Counts;

/// The breaker of one endpoint.
#[derive(Debug)]
pub struct CircuitBreaker {
    config: BreakerConfig,
    epoch: Instant,
    mode: AtomicU8,
    /// The era, and whether it is a closed one: admission while closed reads only this.
    era: AtomicU64,
    /// Nanoseconds from `epoch` until which attempts are refused; 0 admits. For the balancer.
    shut_until: AtomicU64,
    live: Mutex<Live>,
    transitions: Arc<Transitions>,
}

/// An attempt must not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When it is worth asking again; `None` while an operator holds the breaker open.
    pub retry_after: Option<Duration>,
}

/// How the attempt ended, seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, be it with a 4xx: the fault was not its own.
    Success,
    /// It failed.
    Failure,
    /// It said "too many" (429, RESOURCE_EXHAUSTED): no failure of a healthy endpoint, but not the
    /// answer a probe hopes for [linkerd].
    Throttled,
    /// Nothing was learned: the caller went away, or we refused the request ourselves.
    Ignored,
}

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Attempts pass and are counted.
    Closed,
    /// Attempts are refused.
    Open,
    /// The wait is over; a few attempts pass and decide.
    HalfOpen,
}

/// Leave for one attempt. Dropped without a result, it was as if the attempt had not been.
#[derive(Debug)]
#[must_use = "a permit that is dropped records nothing"]
pub struct Permit {
    breaker: Arc<CircuitBreaker>,
    role: Role,
    since: Instant,
}

impl CircuitBreaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig, now: Instant) -> Arc<Self> {
        Self::counted(config, Arc::default(), now)
    }

    /// A closed breaker whose transitions are counted together with those of others.
    pub fn counted(config: BreakerConfig, transitions: Arc<Transitions>, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch: now,
            mode: AtomicU8::new(config.mode.code()),
            era: AtomicU64::new(CLOSED),
            shut_until: AtomicU64::new(0),
            live: Mutex::new(Live::new(&config, now)),
            config,
            transitions,
        })
    }

    /// A breaker with other rules that stands where this one stands: a reload closes no breaker, unless nothing
    /// opens it any more. Probes that are out report to the old one; the new one sends its own.
    pub fn under(&self, config: BreakerConfig, now: Instant) -> Arc<Self> {
        let breaker = Self::counted(config, Arc::clone(&self.transitions), now);
        let (mine, mut live) = (self.lock(), breaker.lock());
        (live.opened, live.since, live.soonest) = (mine.opened, mine.since, mine.soonest);
        live.era = mine.era + 1;
        live.phase = match &mine.phase {
            Phase::Closed => Phase::Closed,
            // Switched off.
            _ if !config.can_open() => Phase::Closed,
            Phase::Open { until } => Phase::Open { until: *until },
            Phase::HalfOpen(_) => Phase::Open { until: now },
        };
        breaker.publish(&live);
        drop((mine, live));
        breaker
    }

    /// How often it changed its state, or all did that are counted with it.
    pub fn transitions(&self) -> &Arc<Transitions> {
        &self.transitions
    }

    /// Its rules.
    pub fn config(&self) -> &BreakerConfig {
        &self.config
    }

    /// Asks for leave to start an attempt. Never waits; a refusal costs two loads, or a short lock.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Refused> {
        let mode = self.mode();
        let role = match mode {
            Mode::ForcedOpen => return Err(Refused { retry_after: None }),
            Mode::ForcedClosed => Role::Bystander,
            Mode::Automatic | Mode::Observe => match self.admit_by_results(now) {
                Err(_) if mode == Mode::Observe => Role::Bystander,
                other => other?,
            },
        };
        Ok(Permit { breaker: Arc::clone(self), role, since: now })
    }

    /// Whether [`admit`](Self::admit) would refuse now. Lock free: the balancer asks it of every candidate.
    pub fn is_open(&self, now: Instant) -> bool {
        match self.mode() {
            Mode::ForcedOpen => true,
            Mode::ForcedClosed | Mode::Observe => false,
            Mode::Automatic => {
                // 0 while closed, which is nearly always: then the time need not be worked out.
                let until = self.shut_until.load(Ordering::Acquire);
                until != 0 && self.nanos(now) < until
            }
        }
    }

    /// What [`admit`](Self::admit) would refuse with now, if it would. Lock free, and takes no permit.
    pub fn refusal(&self, now: Instant) -> Option<Refused> {
        if !self.is_open(now) {
            return None;
        }
        let left = self.shut_until.load(Ordering::Acquire).saturating_sub(self.nanos(now));
        let is_forced = self.mode() == Mode::ForcedOpen;
        Some(Refused { retry_after: (!is_forced).then(|| Duration::from_nanos(left)) })
    }

    /// Where the results have brought it, whatever the mode.
    pub fn state(&self, now: Instant) -> State {
        match self.lock().phase {
            Phase::Closed => State::Closed,
            Phase::Open { until } if now < until => State::Open,
            Phase::Open { .. } | Phase::HalfOpen(_) => State::HalfOpen,
        }
    }

    /// The results in the window; nothing without a rate trip.
    pub fn counts(&self, now: Instant) -> Counts {
        self.lock().failures.as_ref().map(|window| window.counts(now)).unwrap_or_default()
    }

    /// Who decides: the results, or an operator.
    pub fn mode(&self) -> Mode {
        Mode::from_code(self.mode.load(Ordering::Relaxed))
    }

    /// Takes the decision away from the results, or gives it back.
    pub fn force(&self, mode: Mode) {
        self.mode.store(mode.code(), Ordering::Relaxed);
    }

    /// Asks for leave where nothing else is left: a wait that grew with failed probes is over after as long as
    /// the first one, and after `at_most`. So a service that was down for long is found again as soon as one that was
    /// not; and one that nobody can do without, sooner.
    pub fn admit_last(self: &Arc<Self>, now: Instant, at_most: Option<Duration>) -> Result<Permit, Refused> {
        let mut live = self.lock();
        let soonest = at_most.map_or(live.soonest, |wait| live.soonest.min(after(live.since, wait)));
        if let Phase::Open { until } = &mut live.phase
            && soonest <= now
            && *until > now
        {
            *until = now;
            self.publish(&live);
        }
        drop(live);
        self.admit(now)
    }

    fn admit_by_results(&self, now: Instant) -> Result<Role, Refused> {
        let era = self.era.load(Ordering::Acquire);
        if era & CLOSED != 0 {
            return Ok(Role::Ordinary(era >> 1));
        }
        let mut live = self.lock();
        match &mut live.phase {
            Phase::Closed => return Ok(Role::Ordinary(live.era)),
            Phase::Open { until } if now < *until => return Err(refused(*until, now)),
            Phase::HalfOpen(trial) if now < trial.until => {
                if trial.issued >= self.config.half_open.probes() {
                    return Err(refused(trial.until, now));
                }
                trial.issued += 1;
            }
            // The wait is over, or probes never came back: a new half-open period begins with this one.
            Phase::Open { .. } | Phase::HalfOpen(_) => {
                let until = after(now, self.config.half_open.max_wait());
                live.enter(Phase::HalfOpen(Trial { until, issued: 1, succeeded: 0, failed: 0 }));
                self.transitions.to(State::HalfOpen);
            }
        }
        self.publish(&live);
        Ok(Role::Probe(live.era))
    }

    fn record(&self, role: Role, ended: Ended, now: Instant, rng: &mut fastrand::Rng) {
        let Ended { outcome, took } = ended;
        let is_slow = self.config.slow.is_some_and(|slow| took >= slow.after());
        match (role, outcome) {
            (Role::Bystander, _) | (Role::Ordinary(_), Outcome::Ignored | Outcome::Throttled) => {}
            (Role::Probe(era), Outcome::Ignored) => self.give_back(era),
            (Role::Ordinary(era), _) => self.count(era, (outcome == Outcome::Failure, is_slow), now, rng),
            (Role::Probe(era), _) => self.judge(era, outcome == Outcome::Success && !is_slow, now, rng),
        }
    }

    /// A result while closed.
    fn count(&self, era: u64, (failed, is_slow): (bool, bool), now: Instant, rng: &mut fastrand::Rng) {
        let mut guard = self.lock();
        let live = &mut *guard;
        if live.era != era {
            return;
        }
        live.streak = if failed { live.streak.saturating_add(1) } else { 0 };
        let by_streak = self.config.consecutive_failures.is_some_and(|limit| live.streak >= limit.get());
        let trips = [
            (self.config.rate, &mut live.failures, failed),
            (self.config.slow.map(|slow| slow.trip()), &mut live.slow, is_slow),
        ];
        // No short cut: each window has to see the result.
        let by_share = trips.map(|(trip, window, is_bad)| match (trip, window) {
            (Some(trip), Some(window)) => {
                window.add(is_bad, now);
                trip.is_exceeded(window.counts(now))
            }
            _ => false,
        });
        if by_streak || by_share.contains(&true) {
            self.open(live, now, rng);
        }
    }

    /// The result of a probe.
    fn judge(&self, era: u64, succeeded: bool, now: Instant, rng: &mut fastrand::Rng) {
        let mut live = self.lock();
        let half_open = &self.config.half_open;
        if live.era != era {
            return;
        }
        let Phase::HalfOpen(trial) = &mut live.phase else { return };
        if succeeded {
            trial.succeeded += 1;
        } else {
            trial.failed += 1;
        }
        if trial.failed > half_open.tolerated_failures() {
            self.open(&mut live, now, rng);
        } else if trial.succeeded + trial.failed >= half_open.probes() {
            live.opened = 0;
            live.enter(Phase::Closed);
            self.transitions.to(State::Closed);
            self.publish(&live);
        }
    }

    /// The permit of a probe that told nothing is free again.
    fn give_back(&self, era: u64) {
        let mut live = self.lock();
        if live.era != era {
            return;
        }
        if let Phase::HalfOpen(trial) = &mut live.phase {
            trial.issued = trial.issued.saturating_sub(1);
            self.publish(&live);
        }
    }

    /// Each opening without a recovery in between waits longer than the one before.
    fn open(&self, live: &mut Live, now: Instant, rng: &mut fastrand::Rng) {
        live.opened = live.opened.saturating_add(1);
        live.since = now;
        let until = after(now, self.config.open_for.delay(live.opened, rng));
        live.soonest = after(now, self.config.open_for.delay(1, rng)).min(until);
        live.enter(Phase::Open { until });
        self.transitions.to(State::Open);
        self.publish(live);
    }

    /// Shows what the lock guards to those who do not take it.
    fn publish(&self, live: &Live) {
        let (closed, shut_until) = match &live.phase {
            Phase::Closed => (CLOSED, 0),
            Phase::Open { until } => (0, self.nanos(*until)),
            Phase::HalfOpen(trial) if trial.issued < self.config.half_open.probes() => (0, 0),
            Phase::HalfOpen(trial) => (0, self.nanos(trial.until)),
        };
        self.shut_until.store(shut_until, Ordering::Release);
        self.era.store(live.era << 1 | closed, Ordering::Release);
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Says how the attempt ended.
    pub fn record(mut self, outcome: Outcome, now: Instant, rng: &mut fastrand::Rng) {
        let role = mem::replace(&mut self.role, Role::Bystander);
        let took = now.saturating_duration_since(self.since);
        self.breaker.record(role, Ended { outcome, took }, now, rng);
    }

    /// Whether this attempt decides if the endpoint is used again.
    pub fn is_probe(&self) -> bool {
        matches!(self.role, Role::Probe(_))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Role::Probe(era) = self.role {
            self.breaker.give_back(era);
        }
    }
}

/// `None` is an end that says nothing about the endpoint.
impl From<Option<Verdict>> for Outcome {
    fn from(verdict: Option<Verdict>) -> Self {
        match verdict {
            Some(Verdict::Success) => Self::Success,
            Some(Verdict::Throttled) => Self::Throttled,
            Some(Verdict::ServerError | Verdict::GatewayError) => Self::Failure,
            None => Self::Ignored,
        }
    }
}

/// What an attempt is to its breaker, and in which era it was admitted.
#[derive(Debug, Clone, Copy)]
enum Role {
    Ordinary(u64),
    Probe(u64),
    /// An operator decided; the result counts nowhere.
    Bystander,
}

/// How an attempt ended, and how long it took to say so.
struct Ended {
    outcome: Outcome,
    took: Duration,
}

#[derive(Debug)]
struct Live {
    phase: Phase,
    era: u64,
    /// Failures in a row.
    streak: u32,
    /// Openings since the last recovery.
    opened: u32,
    /// When it was opened last.
    since: Instant,
    /// When the first wait of an opening would be over.
    soonest: Instant,
    failures: Option<Window>,
    slow: Option<Window>,
}

#[derive(Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen(Trial),
}

/// One half-open period.
#[derive(Debug)]
struct Trial {
    /// When probes that did not come back are given up.
    until: Instant,
    /// Probes out or judged.
    issued: u32,
    succeeded: u32,
    failed: u32,
}

impl Live {
    fn new(config: &BreakerConfig, now: Instant) -> Self {
        let window = |trip: RateTrip| trip.window(now);
        Self {
            phase: Phase::Closed,
            era: 0,
            streak: 0,
            opened: 0,
            since: now,
            soonest: now,
            failures: config.rate.map(window),
            slow: config.slow.map(|slow| window(slow.trip())),
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.era += 1;
        // A recovered endpoint starts clean: its volume has to be reached again.
        self.streak = 0;
        for window in self.failures.iter_mut().chain(&mut self.slow) {
            window.clear();
        }
    }
}

fn refused(until: Instant, now: Instant) -> Refused {
    Refused { retry_after: Some(until.saturating_duration_since(now)) }
}

/// The lowest bit of the published era: set while closed.
const CLOSED: u64 = 1;

#[cfg(test)]
mod tests;
