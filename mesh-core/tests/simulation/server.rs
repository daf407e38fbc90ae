//! A server: workers, a queue, and how long one request takes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::timeline::ms;

/// How long a worker is busy with one request.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    /// Mean in milliseconds, coefficient of variation 1.
    Exponential(f64),
    /// Median in milliseconds, and sigma of the logarithm.
    LogNormal(f64, f64),
    /// Scale in milliseconds and shape: the smaller the shape, the heavier the tail. Cut at 1000 scales.
    Pareto(f64, f64),
}

impl Service {
    pub fn draw(self, rng: &mut fastrand::Rng) -> Duration {
        let uniform = 1.0 - rng.f64();
        ms(match self {
            Self::Exponential(mean) => -uniform.ln() * mean,
            Self::LogNormal(median, sigma) => {
                let normal = (-2.0 * uniform.ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos();
                median * (sigma * normal).exp()
            }
            Self::Pareto(scale, shape) => scale * uniform.powf(-1.0 / shape).min(1000.0),
        })
    }
}

/// First in, first out, `workers` at a time.
pub struct Server<J> {
    pub service: Service,
    /// Multiplies the time of each request.
    pub slowness: f64,
    pub workers: usize,
    busy: usize,
    queue: VecDeque<J>,
}

impl<J> Server<J> {
    pub fn new(service: Service, workers: usize) -> Self {
        Self { service, slowness: 1.0, workers, busy: 0, queue: VecDeque::new() }
    }

    /// Takes a job; `Some` when it starts at once, with the time it will take.
    pub fn arrive(&mut self, job: J, rng: &mut fastrand::Rng) -> Option<(J, Duration)> {
        if self.busy < self.workers {
            return Some(self.begin(job, rng));
        }
        self.queue.push_back(job);
        None
    }

    /// A job is done; the next one, if a worker may take it.
    pub fn finish(&mut self, rng: &mut fastrand::Rng) -> Option<(J, Duration)> {
        self.busy -= 1;
        self.top_up(rng)
    }

    /// A job for an idle worker, of which there may be more after `workers` was raised.
    pub fn top_up(&mut self, rng: &mut fastrand::Rng) -> Option<(J, Duration)> {
        if self.busy >= self.workers {
            return None;
        }
        self.queue.pop_front().map(|job| self.begin(job, rng))
    }

    fn begin(&mut self, job: J, rng: &mut fastrand::Rng) -> (J, Duration) {
        self.busy += 1;
        (job, self.service.draw(rng).mul_f64(self.slowness))
    }
}
