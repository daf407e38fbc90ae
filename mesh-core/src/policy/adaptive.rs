//! The adaptive limit: how many requests may be in flight, found by measuring.
//!
//! Decides: a limit that keeps a server busy and its queue short, from how long requests take.
//! Never: refuses anything itself (the [`concurrency`](super::concurrency) limit does), keeps a timer, or
//! waits for a lock: a sample that meets another one is dropped, there are plenty.
//! Invariant: the limit stays within `min` and `max`, and moves only by what was measured while it was
//! at least half used.
//!
//! # The rule
//! Envoy's gradient, once a window: `limit * clamp(tolerance * base / median, 0.5, 1.5) + sqrt(limit)`,
//! where `base` is the median of requests that did not queue. What is ours is where `base` comes from,
//! because each of the known limiters fails there (`docs/simulation.md` has the curves):
//! - While less than half of the limit is used nothing queues because of it: `base` follows the median.
//!   A service that becomes slower for its own reasons is not throttled for it.
//! - When a used limit sees the median rise, it does not believe its memory: it *probes*, with half the
//!   limit for one window. What is still as slow at half the load is not slow because of the load, and
//!   becomes the new base. Probes that find nothing new become rarer, up to `probe_interval`.
//!   [Envoy probes at a concurrency of 3, which costs most of the throughput each time.]
//! - Growth stops at twice what is used, so that an idle limit does not grow to its ceiling and let the
//!   next burst through [concurrency-limits #134].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Invalid;

/// The numbers of an adaptive limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveConfig {
    min: u32,
    max: u32,
    initial: u32,
    tolerance: f64,
    probe_interval: Duration,
}

impl AdaptiveConfig {
    /// A limit between `min` and `max` that starts at `initial`.
    pub fn new(min: u32, max: u32, initial: u32) -> Result<Self, Invalid> {
        if min == 0 || min > max {
            return Err(Invalid { field: "adaptive.min", must: "be within 1 and the ceiling" });
        }
        let initial = initial.clamp(min, max);
        Ok(Self { min, max, initial, tolerance: DEFAULT_TOLERANCE, probe_interval: DEFAULT_PROBE_INTERVAL })
    }

    /// How much slower than unqueued is fine: 1.25 allows a quarter.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self, Invalid> {
        if !(1.0..=10.0).contains(&tolerance) {
            return Err(Invalid { field: "adaptive.tolerance_percent", must: "be within 0 and 900" });
        }
        Ok(Self { tolerance, ..self })
    }

    /// The longest time between two probes of a limit in use.
    pub fn with_probe_interval(self, probe_interval: Duration) -> Result<Self, Invalid> {
        if probe_interval < FIRST_PROBE_PAUSE {
            return Err(Invalid { field: "adaptive.probe_interval", must: "be at least 1 s" });
        }
        Ok(Self { probe_interval, ..self })
    }
}

/// Between 3 [Envoy `min_concurrency`] and 1024 [the default ceiling], starting at 20 [concurrency-limits].
impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self { min: 3, max: 1024, initial: 20, tolerance: DEFAULT_TOLERANCE, probe_interval: DEFAULT_PROBE_INTERVAL }
    }
}

/// One request that ended.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was admitted.
    pub started: Instant,
    /// Requests in flight then, itself included.
    pub in_flight: u32,
    /// Whether the other end said that it is overloaded, or did not answer in time.
    pub dropped: bool,
}

/// A limit that follows measurements.
#[derive(Debug)]
pub struct Adaptive {
    config: AdaptiveConfig,
    /// What is in force; half of `State::limit` during a probe.
    in_force: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Median response time of requests that did not queue, in seconds; 0 while unknown.
    base: f64,
    window: Window,
    probe: Option<Instant>,
    next_probe: Option<Instant>,
    pause: Duration,
}

/// Samples since `began`.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    seconds: Vec<f32>,
    count: usize,
    dropped: usize,
    peak: u32,
}

impl Adaptive {
    /// At its initial limit, knowing nothing.
    pub fn new(config: AdaptiveConfig) -> Self {
        let state = State {
            limit: f64::from(config.initial),
            base: 0.0,
            window: Window::default(),
            probe: None,
            next_probe: None,
            pause: FIRST_PROBE_PAUSE,
        };
        Self { config, in_force: AtomicU32::new(config.initial), state: Mutex::new(state) }
    }

    /// With other numbers, on reload: goes on from where it stands.
    pub fn retuned(&self, config: AdaptiveConfig) -> Self {
        Self::new(AdaptiveConfig { initial: self.limit().clamp(config.min, config.max), ..config })
    }

    /// The limit in force now.
    pub fn limit(&self) -> u32 {
        self.in_force.load(Ordering::Relaxed)
    }

    /// Its numbers.
    pub fn config(&self) -> AdaptiveConfig {
        self.config
    }

    /// The median response time that counts as unqueued, if it is known.
    pub fn base(&self) -> Option<Duration> {
        let base = self.state.lock().unwrap_or_else(PoisonError::into_inner).base;
        (base > 0.0).then(|| Duration::from_secs_f64(base))
    }

    /// Takes a request that ended into account.
    pub fn record(&self, sample: Sample, now: Instant) {
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.probe.is_some_and(|since| sample.started < since) {
            // It began before the probe and says nothing about half the load.
            if state.is_probe_stuck(now) {
                state.end_probe(now, &self.config);
                self.put_in_force(&state);
            }
            return;
        }
        state.window.add(sample, now);
        if !state.window.is_full(now) {
            return;
        }
        state.close_window(now, &self.config);
        self.put_in_force(&state);
    }

    fn put_in_force(&self, state: &State) {
        let limit = if state.probe.is_some() { state.limit / 2.0 } else { state.limit };
        let limit = (limit as u32).clamp(self.config.min, self.config.max);
        self.in_force.store(limit, Ordering::Relaxed);
    }
}

impl State {
    fn close_window(&mut self, now: Instant, config: &AdaptiveConfig) {
        let mut window = std::mem::take(&mut self.window);
        let Some(median) = window.median() else {
            // Nothing but drops: the limit shrinks, the base stays.
            self.limit = (self.limit * BACK_OFF).clamp(f64::from(config.min), f64::from(config.max));
            return self.end_probe(now, config);
        };
        if self.probe.is_some() {
            let found_new = self.base <= 0.0 || (median / self.base - 1.0).abs() > NOTHING_NEW;
            self.base = median;
            self.pause = if found_new { FIRST_PROBE_PAUSE } else { (self.pause * 2).min(config.probe_interval) };
            return self.end_probe(now, config);
        }
        let is_used = f64::from(window.peak) >= self.limit / 2.0;
        if self.base <= 0.0 || (!is_used && window.dropped == 0) {
            let follow = if self.base <= 0.0 || median < self.base { 1.0 } else { FOLLOW_UP };
            self.base += (median - self.base) * follow;
            return;
        }
        let ratio = config.tolerance * self.base / median;
        let is_full = f64::from(window.peak) >= self.limit - 1.0;
        if is_full && ratio < SUSPICIOUS && self.next_probe.is_none_or(|at| at <= now) {
            self.probe = Some(now);
            return;
        }
        let dropping = window.dropped * 10 > window.count;
        let gradient = if dropping { ratio.min(BACK_OFF) } else { ratio };
        let headroom = if dropping { 0.0 } else { self.limit.sqrt() };
        let next = self.limit * gradient.clamp(0.5, 1.5) + headroom;
        let ceiling = (f64::from(window.peak) * 2.0).max(self.limit);
        self.limit += (next.min(ceiling) - self.limit) * SMOOTHING;
        self.limit = self.limit.clamp(f64::from(config.min), f64::from(config.max));
    }

    fn is_probe_stuck(&self, now: Instant) -> bool {
        self.probe.is_some_and(|since| now.saturating_duration_since(since) > LONGEST_PROBE)
    }

    fn end_probe(&mut self, now: Instant, config: &AdaptiveConfig) {
        self.probe = None;
        self.window = Window::default();
        self.next_probe = Some(now + self.pause.min(config.probe_interval));
    }
}

impl Window {
    fn add(&mut self, sample: Sample, now: Instant) {
        self.began.get_or_insert(now);
        self.count += 1;
        self.peak = self.peak.max(sample.in_flight);
        if sample.dropped {
            // How long a refusal or a timeout took says nothing about a request that is answered.
            self.dropped += 1;
            return;
        }
        let seconds = now.saturating_duration_since(sample.started).as_secs_f32();
        if self.seconds.len() < MOST_SAMPLES {
            self.seconds.push(seconds);
        } else {
            // Spread over the window, without a generator: a stride coprime to the size.
            self.seconds[(self.count * 97) % MOST_SAMPLES] = seconds;
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        let age = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        (age >= WINDOW && self.count >= ENOUGH_SAMPLES) || (age >= LONGEST_WINDOW && self.count >= FEWEST_SAMPLES)
    }

    fn median(&mut self) -> Option<f64> {
        let middle = self.seconds.len() / 2;
        if self.seconds.is_empty() {
            return None;
        }
        let (_, median, _) = self.seconds.select_nth_unstable_by(middle, f32::total_cmp);
        Some(f64::from(*median).max(1e-6))
    }
}

/// A quarter [Envoy `min_rtt_calc_params.buffer`: 25 %].
const DEFAULT_TOLERANCE: f64 = 1.25;
/// Ten seconds; Envoy's documentation shows 60 s for its far dearer probe.
const DEFAULT_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two probes at first.
const FIRST_PROBE_PAUSE: Duration = Duration::from_secs(1);
/// A probe that gets no answers ends by itself.
const LONGEST_PROBE: Duration = Duration::from_secs(2);
/// A window lasts at least this long [Envoy `concurrency_update_interval`: 100 ms].
const WINDOW: Duration = Duration::from_millis(100);
/// And holds at least this many samples [Envoy `request_count`: 50],
const ENOUGH_SAMPLES: usize = 50;
/// unless it takes this long to get them;
const LONGEST_WINDOW: Duration = Duration::from_secs(5);
/// fewer than this are no evidence.
const FEWEST_SAMPLES: usize = 10;
/// A median of more samples is no better.
const MOST_SAMPLES: usize = 256;
/// A probe within this share of what was known found nothing new.
const NOTHING_NEW: f64 = 0.2;
/// `tolerance * base / median` below which the base is measured again before it is believed.
const SUSPICIOUS: f64 = 0.9;
/// How fast the base follows a slower median of an unused limit, in shares a window.
const FOLLOW_UP: f64 = 0.1;
/// How far one window moves the limit towards what it says [Gradient2: 0.2; ours by simulation].
const SMOOTHING: f64 = 0.5;
/// What a window with many drops leaves of the limit [AIMD: 0.9].
const BACK_OFF: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends requests one by one, each `millis` long, with `in_flight` at once, for `windows` windows.
    struct Feed {
        adaptive: Adaptive,
        now: Instant,
    }

    impl Feed {
        fn new(config: AdaptiveConfig) -> Self {
            Self { adaptive: Adaptive::new(config), now: Instant::now() }
        }

        fn windows(
            &mut self,
            windows: u32,
            in_flight: impl Fn(u32) -> u32,
            millis: impl Fn(u32) -> f64,
            dropped: bool,
        ) {
            for _ in 0..windows * 60 {
                self.now += Duration::from_millis(2);
                let in_flight = in_flight(self.adaptive.limit());
                let took = Duration::from_secs_f64(millis(in_flight) / 1000.0);
                self.adaptive.record(Sample { started: self.now - took, in_flight, dropped }, self.now);
            }
        }
    }

    fn config() -> AdaptiveConfig {
        AdaptiveConfig::new(3, 200, 20).unwrap()
    }

    /// Ten workers of 10 ms: more in flight take longer.
    fn queueing(in_flight: u32) -> f64 {
        10.0 * f64::from(in_flight.max(10)) / 10.0
    }

    #[test]
    fn a_used_limit_grows_while_requests_take_no_longer() {
        let mut feed = Feed::new(config());
        feed.windows(40, |limit| limit, |_| 10.0, false);
        assert_eq!(feed.adaptive.limit(), 200);
    }

    #[test]
    fn an_unused_limit_stays_where_it_is() {
        let mut feed = Feed::new(config());
        feed.windows(100, |_| 5, |_| 10.0, false);
        assert_eq!(feed.adaptive.limit(), 20);
    }

    #[test]
    fn growth_stops_at_twice_what_is_used() {
        let mut feed = Feed::new(config());
        feed.windows(100, |_| 15, |_| 10.0, false);
        assert_eq!(feed.adaptive.limit(), 30);
    }

    #[test]
    fn a_full_limit_settles_a_little_above_what_the_server_can_do() {
        let mut feed = Feed::new(config());
        feed.windows(300, |limit| limit, queueing, false);
        let limit = feed.adaptive.limit();
        assert!((10..=30).contains(&limit), "{limit}");
    }

    #[test]
    fn a_service_that_becomes_slower_on_its_own_is_not_throttled_for_long() {
        let mut feed = Feed::new(config());
        feed.windows(50, |limit| limit.min(60), |_| 10.0, false);
        let before = feed.adaptive.limit();
        feed.windows(50, |limit| limit, |_| 40.0, false);
        assert!(feed.adaptive.limit() >= before, "{} before, {} after", before, feed.adaptive.limit());
        assert!(feed.adaptive.base().unwrap() > Duration::from_millis(35));
    }

    #[test]
    fn drops_lower_the_limit_and_bounds_hold() {
        let mut feed = Feed::new(config());
        feed.windows(5, |limit| limit, |_| 10.0, false);
        let base = feed.adaptive.base();
        feed.windows(100, |limit| limit, |_| 1.0, true);
        assert_eq!((feed.adaptive.limit(), feed.adaptive.base()), (3, base), "refusals are quick, and no base");
    }

    #[test]
    fn a_probe_without_an_answer_ends_by_itself() {
        let mut feed = Feed::new(config());
        feed.windows(40, |limit| limit.min(50), |_| 10.0, false);
        let full = feed.adaptive.limit();
        while feed.adaptive.limit() >= full {
            feed.windows(1, |limit| limit, |_| 100.0, false);
        }
        // Only requests from before the probe still end.
        let old = feed.now - Duration::from_secs(1);
        let late = feed.now + LONGEST_PROBE + Duration::from_secs(1);
        feed.adaptive.record(Sample { started: old, in_flight: 1, dropped: false }, late);
        assert_eq!(feed.adaptive.limit(), full);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert!(AdaptiveConfig::new(0, 10, 5).is_err());
        assert!(AdaptiveConfig::new(11, 10, 5).is_err());
        assert!(config().with_tolerance(0.9).is_err());
        assert!(config().with_probe_interval(Duration::from_millis(999)).is_err());
    }
}
