//! What decides how an endpoint stands: its breaker and outlier detection.

use std::num::NonZeroU32;

use crate::cluster::outlier::{FailurePercentage, LocalOrigin, OutlierConfig, SuccessRate};
use crate::config::policy::{CircuitBreaker, ForcedBreaker, Outlier};
use crate::config::value::Percent;
use crate::policy::Invalid;
use crate::policy::backoff::{Backoff, Jitter};
use crate::policy::circuit_breaker::{BreakerConfig, HalfOpen, Mode, RateTrip, SlowTrip, Threshold};

pub(super) fn breaker(written: &CircuitBreaker) -> Result<BreakerConfig, String> {
    build(written).map_err(|error| error.to_string())
}

fn build(written: &CircuitBreaker) -> Result<BreakerConfig, Invalid> {
    let trip = |threshold| match NonZeroU32::new(written.window_requests) {
        Some(requests) => RateTrip::of_last(requests, written.min_requests, threshold),
        None => RateTrip::new(written.window.0, written.min_requests, threshold),
    };
    let judges = |share: f64| share > 0.0 && written.min_requests > 0;
    let least = written.min_success_percent.fraction();
    let rate = judges(least).then(|| trip(Threshold::SuccessesBelow(least))).transpose()?;
    let most = written.max_slow_percent.fraction();
    let slow = (judges(most) && !written.slow_call.is_zero())
        .then(|| SlowTrip::new(written.slow_call.0, trip(Threshold::FailuresAtLeast(most))?));
    let probes = NonZeroU32::new(written.half_open_requests).unwrap_or(NonZeroU32::MIN);
    Ok(BreakerConfig {
        consecutive_failures: NonZeroU32::new(written.consecutive_failures),
        rate,
        slow: slow.transpose()?,
        open_for: Backoff::new(written.open.0, written.max_open.0).and_then(|wait| wait.with_jitter(Jitter::Equal))?,
        half_open: HalfOpen::new(probes, written.half_open_failures, written.max_half_open.0)?,
        mode: match written.force {
            ForcedBreaker::None => Mode::Automatic,
            ForcedBreaker::Open => Mode::ForcedOpen,
            ForcedBreaker::Closed => Mode::ForcedClosed,
            ForcedBreaker::MetricsOnly => Mode::Observe,
        },
    })
}

pub(super) fn outlier(written: &Outlier) -> OutlierConfig {
    OutlierConfig {
        interval: written.interval.0,
        base_ejection: written.base_ejection.0,
        max_ejection: written.max_ejection.0,
        max_ejection_jitter: written.max_ejection_jitter.0,
        max_ejection_percent: whole(written.max_ejection_percent),
        always_eject_one: written.always_eject_one,
        keep_last: written.keep_last,
        uneject_on_check: written.uneject_on_check,
        consecutive_5xx: written.consecutive_5xx,
        enforcing_consecutive_5xx: whole(written.enforcing_consecutive_5xx),
        consecutive_gateway: written.consecutive_gateway_failure,
        enforcing_consecutive_gateway: whole(written.enforcing_consecutive_gateway_failure),
        local_origin: LocalOrigin {
            split: written.split_external_local_origin_errors,
            consecutive: written.consecutive_local_origin_failure,
            enforcing_consecutive: whole(written.enforcing_consecutive_local_origin_failure),
            enforcing_success_rate: whole(written.enforcing_local_origin_success_rate),
            enforcing_failure_percentage: whole(written.enforcing_failure_percentage_local_origin),
        },
        success_rate: SuccessRate {
            minimum_hosts: written.success_rate_minimum_hosts,
            request_volume: written.success_rate_request_volume.into(),
            stdev_factor: written.success_rate_stdev_factor,
            enforcing: whole(written.enforcing_success_rate),
        },
        failure_percentage: FailurePercentage {
            threshold: whole(written.failure_percentage_threshold),
            minimum_hosts: written.failure_percentage_minimum_hosts,
            request_volume: written.failure_percentage_request_volume.into(),
            enforcing: whole(written.enforcing_failure_percentage),
        },
    }
}

/// Engines count in whole percent, as Envoy does.
fn whole(percent: Percent) -> u8 {
    percent.0.round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wrote_is_what_the_engines_have_as_their_default() {
        assert_eq!(breaker(&CircuitBreaker::default()).unwrap(), BreakerConfig::default());
        assert_eq!(outlier(&Outlier::default()), OutlierConfig::default());
    }
}
