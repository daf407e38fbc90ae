//! Limits on work in flight, from their settings.

use crate::config::admission::{AdaptiveLimit, ClassShares, Criticality as Written, ListenerConcurrency};
use crate::config::policy::ConcurrencyLimit;
use crate::config::value::Percent;
use crate::policy::adaptive::AdaptiveConfig;
use crate::policy::concurrency::Terms;
use crate::policy::criticality::{Criticality, Shares};
use crate::snapshot::Intake;

pub(super) fn terms(written: &ConcurrencyLimit) -> Result<Terms, String> {
    compile(written.max_requests, &written.adaptive, &written.shares)
}

pub(super) fn intake(written: &ListenerConcurrency) -> Result<Intake, String> {
    Ok(Intake {
        limit: compile(written.max_requests, &written.adaptive, &written.shares)?,
        waiting: written.queue.max_requests as usize,
        max_wait: written.queue.max_wait.0,
    })
}

pub(super) fn criticality(written: Written) -> Criticality {
    match written {
        Written::Sheddable => Criticality::Sheddable,
        Written::SheddablePlus => Criticality::SheddablePlus,
        Written::Critical => Criticality::Critical,
        Written::CriticalPlus => Criticality::CriticalPlus,
    }
}

fn compile(max: u32, adaptive: &AdaptiveLimit, shares: &ClassShares) -> Result<Terms, String> {
    let percent = |share: Percent| share.0.round() as u8;
    let shares = Shares::new(percent(shares.sheddable), percent(shares.sheddable_plus), percent(shares.critical));
    let shares = shares.map_err(|error| error.to_string())?;
    let adaptive = adaptive.enabled.then(|| {
        AdaptiveConfig::new(adaptive.min_requests, max, adaptive.initial_requests)
            .and_then(|config| config.with_tolerance(1.0 + adaptive.tolerance_percent.fraction()))
            .and_then(|config| config.with_probe_interval(adaptive.probe_interval.0))
    });
    Ok(Terms { max, adaptive: adaptive.transpose().map_err(|error| error.to_string())?, shares })
}
