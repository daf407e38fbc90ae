//! Weights from what endpoints report of their own load (gRFC A58, weighted round robin).
//!
//! Decides: the weight of an endpoint from its reports, and the turns that follow from all of them.
//! Never: parses a report. Invariant: a weight is used only while it is fresh and after the endpoint has
//! reported for a while; with fewer than two such weights the configured ones are used.
//!
//! `weight = rate / (utilization + errors per second / rate * penalty)`: what the endpoint would carry if
//! it were fully used. It reports both; where it reports no rate, ours is used, the answers per second
//! that we got from it (ours: gRPC ignores such a report).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::round_robin::Rotation;
use crate::load_report::LoadReport;

/// When reports count, and for how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReportRule {
    /// An endpoint has to report this long before its weight is used.
    pub blackout: Duration,
    /// A weight is forgotten when there was no report for this long.
    pub expiry: Duration,
    /// How often the turns are made anew.
    pub update_period: Duration,
    /// How much errors count against an endpoint.
    pub error_penalty: f64,
}

impl Default for ReportRule {
    /// gRFC A58's.
    fn default() -> Self {
        Self {
            blackout: Duration::from_secs(10),
            expiry: Duration::from_secs(180),
            update_period: Duration::from_secs(1),
            error_penalty: 1.0,
        }
    }
}

/// What one endpoint has reported.
#[derive(Debug, Default)]
pub struct LoadWeight {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last report that says something, and when it came.
    last: Option<(Reported, Instant)>,
    /// Since when reports have come without a gap as long as the expiry.
    since: Option<Instant>,
    /// Our own rate: answers since, and the rate of the time before.
    counting: Option<(Instant, u32)>,
    own_rate: f64,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    utilization: f64,
    rate: f64,
    errors: f64,
}

impl LoadWeight {
    /// Takes a report in.
    pub fn take(&self, report: &LoadReport, now: Instant) {
        let utilization = report.utilization();
        if utilization <= 0.0 {
            return;
        }
        let mut state = self.lock();
        state.count(now);
        let rate = report.rps_fractional;
        state.last = Some((Reported { utilization, rate, errors: report.eps }, now));
        state.since.get_or_insert(now);
    }

    /// The weight, if it is fresh and the blackout is over.
    pub fn weight(&self, rule: &ReportRule, now: Instant) -> Option<f64> {
        let mut state = self.lock();
        let (last, at) = state.last?;
        if now.saturating_duration_since(at) >= rule.expiry {
            *state = State::default();
            return None;
        }
        if now.saturating_duration_since(state.since?) < rule.blackout {
            return None;
        }
        let rate = if last.rate > 0.0 { last.rate } else { state.own_rate };
        let weight = rate / (last.utilization + last.errors / rate * rule.error_penalty);
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, now: Instant) {
        let (start, answers) = self.counting.unwrap_or((now, 0));
        let elapsed = now.saturating_duration_since(start);
        self.counting = if elapsed >= RATE_WINDOW {
            self.own_rate = f64::from(answers) / elapsed.as_secs_f64();
            Some((now, 1))
        } else {
            Some((start, answers.saturating_add(1)))
        };
    }
}

/// Turns by reported weights.
#[derive(Debug)]
pub(super) struct ReportedTurns {
    turns: ArcSwap<Rotation>,
    /// Whether `turns` follow reports.
    is_reported: AtomicBool,
    written: Box<[u32]>,
    seed: u64,
    base: OnceLock<Instant>,
    /// Nanoseconds from `base`; 0 = never.
    made_at: AtomicU64,
}

impl ReportedTurns {
    /// Turns by the weights as written, until there are better ones.
    pub(super) fn new(written: &[u32], seed: u64) -> Self {
        Self {
            turns: ArcSwap::from_pointee(Rotation::new(written, seed)),
            is_reported: AtomicBool::new(false),
            written: written.into(),
            seed,
            base: OnceLock::new(),
            made_at: AtomicU64::new(0),
        }
    }

    /// The place whose turn it is.
    pub(super) fn next(&self) -> usize {
        self.turns.load().next()
    }

    /// Makes the turns anew, if it is time; one caller does, the others go on.
    pub(super) fn refresh(&self, rule: &ReportRule, now: Instant, weight: impl Fn(usize) -> Option<f64>) {
        let since_base = now.saturating_duration_since(*self.base.get_or_init(|| now)).as_nanos() as u64;
        let made_at = self.made_at.load(Ordering::Relaxed);
        let is_due = made_at == 0 || since_base.saturating_sub(made_at) >= rule.update_period.as_nanos() as u64;
        let claim = || self.made_at.compare_exchange(made_at, since_base.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if is_due && claim().is_ok() {
            let reported: Vec<_> = (0..self.written.len()).map(weight).collect();
            let weights = turns_of(&reported);
            // Turns by the weights as written go on, rather than begin anew every second.
            if !self.is_reported.swap(weights.is_some(), Ordering::Relaxed) && weights.is_none() {
                return;
            }
            let seed = fastrand::Rng::with_seed(self.seed ^ since_base).u64(..);
            self.turns.store(Arc::new(Rotation::new(weights.as_deref().unwrap_or(&self.written), seed)));
        }
    }
}

/// Whole-number weights; endpoints without one get the mean, none more than ten times or less than a
/// tenth of it (gRPC). `None`: too little is known.
fn turns_of(reported: &[Option<f64>]) -> Option<Vec<u32>> {
    let known: Vec<f64> = reported.iter().copied().flatten().collect();
    if known.len() < 2 {
        return None;
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let scaled = |weight: &Option<f64>| {
        let relative = weight.map_or(1.0, |weight| (weight / mean).clamp(0.1, 10.0));
        ((relative * f64::from(SCALE)).round() as u32).max(1)
    };
    Some(reported.iter().map(scaled).collect())
}

/// Over which our own rate is measured: 1 s, as short as an update.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// The mean, as a whole number: fine enough for turns of 16 bits.
const SCALE: u32 = 6553;

#[cfg(test)]
mod tests {
    use super::*;

    fn report(utilization: f64, rps: f64, eps: f64) -> LoadReport {
        LoadReport { cpu_utilization: utilization, rps_fractional: rps, eps, ..LoadReport::default() }
    }

    #[test]
    fn the_weight_is_what_the_endpoint_would_carry_fully_used_less_its_errors() {
        let rule = ReportRule { blackout: Duration::ZERO, ..ReportRule::default() };
        let now = Instant::now();
        for (report, expected) in [
            (report(0.5, 100.0, 0.0), Some(200.0)),
            (report(0.5, 100.0, 10.0), Some(100.0 / 0.6)),
            (report(2.0, 100.0, 0.0), Some(50.0)),
            (LoadReport { application_utilization: 0.25, ..report(0.5, 100.0, 0.0) }, Some(400.0)),
            (report(0.0, 100.0, 0.0), None),
            (report(0.5, 0.0, 0.0), None),
        ] {
            let weight = LoadWeight::default();
            weight.take(&report, now);
            assert_eq!(weight.weight(&rule, now), expected, "{report:?}");
        }
    }

    #[test]
    fn a_weight_counts_after_the_blackout_and_until_it_expires() {
        let (rule, start) = (ReportRule::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let weight = LoadWeight::default();
        assert_eq!(weight.weight(&rule, start), None);
        weight.take(&report(0.5, 100.0, 0.0), start);
        assert_eq!(weight.weight(&rule, at(9)), None, "blackout");
        assert_eq!(weight.weight(&rule, at(10)), Some(200.0));
        weight.take(&report(0.25, 100.0, 0.0), at(100));
        assert_eq!(weight.weight(&rule, at(279)), Some(400.0));
        assert_eq!(weight.weight(&rule, at(280)), None, "expired");
        weight.take(&report(0.25, 100.0, 0.0), at(281));
        assert_eq!(weight.weight(&rule, at(282)), None, "and the blackout begins again");
    }

    #[test]
    fn without_a_reported_rate_our_own_is_used() {
        let (rule, start) = (ReportRule::default(), Instant::now());
        let weight = LoadWeight::default();
        for n in 0..=600_u64 {
            weight.take(&report(0.5, 0.0, 0.0), start + Duration::from_millis(n * 20));
        }
        let got = weight.weight(&rule, start + Duration::from_secs(12)).unwrap();
        assert!((got - 100.0).abs() < 1.0, "50 answers a second at half load: {got}");
    }

    #[test]
    fn turns_need_two_weights_give_the_mean_to_the_others_and_stay_within_ten_times() {
        assert_eq!(turns_of(&[None, Some(3.0), None]), None);
        assert_eq!(turns_of(&[Some(1.0), Some(3.0), None]), Some(vec![SCALE / 2 + 1, SCALE * 3 / 2 + 1, SCALE]));
        let extreme = turns_of(&[Some(1e-9), Some(1e9), Some(1.0)]).unwrap();
        assert_eq!(extreme[0], (f64::from(SCALE) * 0.1).round() as u32);
    }
}
