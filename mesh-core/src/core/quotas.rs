//! Gauges of rate limits that a server assigns.

use std::sync::Arc;

use super::Core;
use crate::access::quota_limit::{ORDERS, Quota, StreamEnd};
use crate::policy::quota::Stage;
use crate::telemetry::names::{Metric, label, metric};

impl Core {
    pub(super) fn register_quota(&self, quota: &Arc<Quota>) {
        let registry = &self.telemetry.registry;
        let name = [(label::LIMIT, &*quota.config().name)];
        let of = |ask: Box<dyn Fn(&Quota) -> u64 + Send + Sync>| {
            let quota = Arc::downgrade(quota);
            move || quota.upgrade().map(|quota| ask(&quota))
        };
        for stage in Stage::ALL {
            let labels = [name[0], (label::STATE, stage.as_str())];
            let clock = Arc::clone(&self.clock);
            let count = of(Box::new(move |quota| quota.buckets().count(stage, clock.now()) as u64));
            registry.gauge_fn(&metric::RATE_LIMIT_QUOTA_BUCKETS, &labels, move || count().map(|count| count as f64));
        }
        for outcome in ORDERS {
            let labels = [name[0], (label::OUTCOME, outcome)];
            let ask = move |quota: &Quota| quota.counts().orders(outcome);
            registry.counter_fn(&metric::RATE_LIMIT_QUOTA_ASSIGNMENTS, &labels, of(Box::new(ask)));
        }
        for end in StreamEnd::ALL {
            let labels = [name[0], (label::REASON, end.as_str())];
            let ask = move |quota: &Quota| quota.counts().ends(end);
            registry.counter_fn(&metric::RATE_LIMIT_QUOTA_STREAM_ENDS, &labels, of(Box::new(ask)));
        }
        for (metric, ask) in COUNTERS {
            registry.counter_fn(metric, &name, of(Box::new(*ask)));
        }
        let is_open = of(Box::new(|quota| u64::from(quota.counts().is_open())));
        registry.gauge_fn(&metric::RATE_LIMIT_QUOTA_STREAM, &name, move || is_open().map(|is_open| is_open as f64));
    }
}

type Ask = fn(&Quota) -> u64;

const COUNTERS: &[(&Metric, Ask)] = &[
    (&metric::RATE_LIMIT_QUOTA_OVERFLOWED, |quota| quota.buckets().overflowed()),
    (&metric::RATE_LIMIT_QUOTA_REPORTS, |quota| quota.counts().reports()),
    (&metric::RATE_LIMIT_QUOTA_STREAMS, |quota| quota.counts().streams()),
];
