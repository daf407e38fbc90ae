//! The limiters compared: ours, and the rules of others written down again from their sources.

use std::time::{Duration, Instant};

use mesh_core::policy::adaptive::{Adaptive, AdaptiveConfig, Sample};

use super::scenario::{Limiter, Seen};

pub const NAMES: [&str; 9] =
    ["none", "aimd", "vegas", "vegas_1s", "gradient2", "gradient2_1s", "failsafe", "envoy", "ours"];

pub fn limiter(name: &str) -> Box<dyn Limiter> {
    match name {
        "none" => Box::new(Fixed(1024)),
        "aimd" => Box::new(Aimd(20.0)),
        "vegas" => Box::new(Vegas { limit: 20.0, no_load: 0.0, probes: 0.0, rng: fastrand::Rng::with_seed(5) }),
        "gradient2" => Box::new(Gradient2 { limit: 20.0, long: Average::new(600.0) }),
        "vegas_1s" => Box::new(Windowed::over("vegas")),
        "gradient2_1s" => Box::new(Windowed::over("gradient2")),
        "failsafe" => Box::new(Failsafe::new()),
        "envoy" => Box::new(Envoy::new()),
        "ours" => Box::new(Ours(Adaptive::new(AdaptiveConfig::default()))),
        other => panic!("no limiter is called {other}"),
    }
}

/// No adaptation: the default ceiling of a cluster.
struct Fixed(u32);

impl Limiter for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }
    fn record(&mut self, _: Seen, _: Instant) {}
}

struct Ours(Adaptive);

impl Limiter for Ours {
    fn limit(&self) -> u32 {
        self.0.limit()
    }
    fn record(&mut self, seen: Seen, now: Instant) {
        self.0.record(Sample { started: seen.started, in_flight: seen.in_flight, dropped: false }, now);
    }
}

/// Netflix AIMD: a request slower than 5 s is a drop; 20 to 200.
struct Aimd(f64);

impl Limiter for Aimd {
    fn limit(&self) -> u32 {
        self.0 as u32
    }
    fn record(&mut self, seen: Seen, _: Instant) {
        if seen.rtt > Duration::from_secs(5) {
            self.0 *= 0.9;
        } else if f64::from(seen.in_flight) * 2.0 >= self.0 {
            self.0 += 1.0;
        }
        self.0 = self.0.clamp(20.0, 200.0);
    }
}

/// Netflix Vegas: every sample moves the limit.
struct Vegas {
    limit: f64,
    no_load: f64,
    probes: f64,
    rng: fastrand::Rng,
}

impl Limiter for Vegas {
    fn limit(&self) -> u32 {
        self.limit as u32
    }
    fn record(&mut self, seen: Seen, _: Instant) {
        let rtt = seen.rtt.as_secs_f64();
        self.probes += 1.0;
        let is_due = self.probes >= (0.5 + 0.5 * self.rng.f64()) * 30.0 * self.limit;
        if is_due || self.no_load == 0.0 || rtt < self.no_load {
            self.probes = if is_due { 0.0 } else { self.probes };
            self.no_load = rtt;
            return;
        }
        if f64::from(seen.in_flight) * 2.0 < self.limit {
            return;
        }
        let queue = (self.limit * (1.0 - self.no_load / rtt)).ceil();
        let step = self.limit.log10().floor().max(1.0);
        self.limit += match queue {
            queue if queue <= step => 6.0 * step,
            queue if queue < 3.0 * step => step,
            queue if queue > 6.0 * step => -step,
            _ => 0.0,
        };
        self.limit = self.limit.clamp(1.0, 1000.0);
    }
}

/// An exponential average that starts as a plain one.
struct Average {
    window: f64,
    count: f64,
    value: f64,
}

impl Average {
    fn new(window: f64) -> Self {
        Self { window, count: 0.0, value: 0.0 }
    }
    fn add(&mut self, sample: f64) -> f64 {
        self.count += 1.0;
        let share = if self.count <= 10.0 { 1.0 / self.count } else { 2.0 / (self.window + 1.0) };
        self.value += (sample - self.value) * share;
        self.value
    }
}

/// Netflix Gradient2: every sample moves the limit.
struct Gradient2 {
    limit: f64,
    long: Average,
}

impl Limiter for Gradient2 {
    fn limit(&self) -> u32 {
        self.limit as u32
    }
    fn record(&mut self, seen: Seen, _: Instant) {
        let short = seen.rtt.as_secs_f64();
        let long = self.long.add(short);
        if long / short > 2.0 {
            self.long.value *= 0.9;
        }
        if f64::from(seen.in_flight) < self.limit / 2.0 {
            return;
        }
        let next = self.limit * (1.5 * long / short).clamp(0.5, 1.0) + 4.0;
        self.limit = (self.limit * 0.8 + next * 0.2).clamp(20.0, 200.0);
    }
}

/// A window of samples that ends after a time and a number.
#[derive(Default)]
struct Samples {
    since: Option<Instant>,
    seconds: Vec<f64>,
    peak: u32,
}

impl Samples {
    fn add(&mut self, seen: Seen, now: Instant) -> Duration {
        self.seconds.push(seen.rtt.as_secs_f64());
        self.peak = self.peak.max(seen.in_flight);
        now.duration_since(*self.since.get_or_insert(now))
    }
    fn quantile(&mut self, share: f64) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        self.seconds[((self.seconds.len() as f64 * share) as usize).min(self.seconds.len() - 1)]
    }
}

/// Netflix WindowedLimit: the mean of a second, at least ten samples, as one sample.
struct Windowed {
    inner: Box<dyn Limiter>,
    samples: Samples,
}

impl Windowed {
    fn over(name: &str) -> Self {
        Self { inner: limiter(name), samples: Samples::default() }
    }
}

impl Limiter for Windowed {
    fn limit(&self) -> u32 {
        self.inner.limit()
    }
    fn record(&mut self, seen: Seen, now: Instant) {
        let age = self.samples.add(seen, now);
        if age < Duration::from_secs(1) || self.samples.seconds.len() < 10 {
            return;
        }
        let window = std::mem::take(&mut self.samples);
        let mean = window.seconds.iter().sum::<f64>() / window.seconds.len() as f64;
        self.inner.record(Seen { rtt: Duration::from_secs_f64(mean), in_flight: window.peak, ..seen }, now);
    }
}

/// failsafe-go: p90 against a moving baseline, and correlations of concurrency with throughput and time.
struct Failsafe {
    limit: f64,
    samples: Samples,
    smoothed: Average,
    baseline: Average,
    /// Concurrency, throughput and time of past windows.
    history: Vec<(f64, f64, f64)>,
}

impl Failsafe {
    fn new() -> Self {
        let (smoothed, baseline) = (Average::new(5.0), Average::new(10.0));
        Self { limit: 20.0, samples: Samples::default(), smoothed, baseline, history: Vec::new() }
    }

    fn correlation(&self, of: fn(&(f64, f64, f64)) -> f64) -> f64 {
        let count = self.history.len() as f64;
        if count < 10.0 {
            return 0.0;
        }
        let mean = |of: fn(&(f64, f64, f64)) -> f64| self.history.iter().map(of).sum::<f64>() / count;
        let (mean_x, mean_y) = (mean(|row| row.0), mean(of));
        let sum = |term: &dyn Fn(f64, f64) -> f64| {
            self.history.iter().map(|row| term(row.0 - mean_x, of(row) - mean_y)).sum::<f64>()
        };
        let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
        if spread > 0.0 { sum(&|x, y| x * y) / spread } else { 0.0 }
    }
}

impl Limiter for Failsafe {
    fn limit(&self) -> u32 {
        self.limit as u32
    }
    fn record(&mut self, seen: Seen, now: Instant) {
        let age = self.samples.add(seen, now);
        if age < Duration::from_secs(1) || self.samples.seconds.len() < 50 {
            return;
        }
        let recent = self.smoothed.add(self.samples.quantile(0.9));
        let peak = f64::from(std::mem::take(&mut self.samples).peak);
        let queue = (self.limit * (1.0 - self.baseline.add(recent) / recent)).ceil();
        self.history.push((peak, peak / recent, recent));
        if self.history.len() > 50 {
            self.history.remove(0);
        }
        let (throughput, time) = (self.correlation(|row| row.1), self.correlation(|row| row.2));
        let step = self.limit.log10().floor().max(1.0);
        let is_full = peak >= self.limit;
        let shrinks = queue > 6.0 * step || (is_full && (throughput < 0.0 || (throughput < 0.3 && time > 0.5)));
        if shrinks || self.limit > peak * 5.0 {
            self.limit -= step;
        } else if queue < 3.0 * step {
            self.limit += step;
        }
        self.limit = self.limit.clamp(1.0, 200.0);
    }
}

/// Envoy: minRTT measured at a concurrency of 3 every 60 s, gradient of medians every 100 ms.
struct Envoy {
    limit: f64,
    min_rtt: f64,
    samples: Samples,
    measuring: Option<Instant>,
    next: Option<Instant>,
    started: bool,
}

impl Envoy {
    fn new() -> Self {
        Self { limit: 3.0, min_rtt: 0.0, samples: Samples::default(), measuring: None, next: None, started: false }
    }
}

impl Limiter for Envoy {
    fn limit(&self) -> u32 {
        if self.measuring.is_some() || !self.started { 3 } else { self.limit as u32 }
    }
    fn record(&mut self, seen: Seen, now: Instant) {
        if self.measuring.is_some_and(|since| seen.started < since) {
            return;
        }
        let age = self.samples.add(seen, now);
        if self.measuring.is_some() || !self.started {
            if self.samples.seconds.len() >= 50 {
                self.min_rtt = std::mem::take(&mut self.samples).quantile(0.5);
                self.next = Some(now + Duration::from_secs(60));
                (self.measuring, self.started) = (None, true);
            }
            return;
        }
        if age < Duration::from_millis(100) {
            return;
        }
        let median = std::mem::take(&mut self.samples).quantile(0.5);
        let limit = self.limit * (1.25 * self.min_rtt / median).clamp(0.5, 2.0);
        self.limit = (limit + limit.sqrt()).floor().clamp(3.0, 1000.0);
        if self.next.is_some_and(|at| at <= now) {
            self.measuring = Some(now);
        }
    }
}
