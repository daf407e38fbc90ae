//! Limits on work in flight that contradict each other.

use super::Report;
use super::limits::not_zero;
use crate::config::admission::{AdaptiveLimit, ClassShares, ListenerConcurrency};
use crate::config::diagnostic::Path;
use crate::config::duration::TimeSpan;
use crate::config::policy::ConcurrencyLimit;

pub(super) fn check_limit(limit: &ConcurrencyLimit, path: &Path<'_>, report: &mut Report<'_>) {
    check_adaptive((&limit.adaptive, limit.max_requests), path, report);
    check_shares(&limit.shares, &path.field("shares"), report);
}

pub(super) fn check_listener(limit: &ListenerConcurrency, path: &Path<'_>, report: &mut Report<'_>) {
    check_adaptive((&limit.adaptive, limit.max_requests), path, report);
    check_shares(&limit.shares, &path.field("shares"), report);
    if limit.queue.max_requests > 0 {
        let queue = path.field("queue");
        not_zero(limit.queue.max_wait, &queue.field("max_wait"), report);
    }
}

fn check_adaptive((adaptive, max): (&AdaptiveLimit, u32), path: &Path<'_>, report: &mut Report<'_>) {
    let path = path.field("adaptive");
    if !adaptive.enabled {
        return;
    }
    if adaptive.min_requests > max {
        let message = format!("`min_requests` ({}) is greater than `max_requests` ({max})", adaptive.min_requests);
        report.error(&path, message);
    }
    if adaptive.probe_interval < TimeSpan::secs(1) {
        report.error(&path.field("probe_interval"), "the probe interval is shorter than 1s".to_owned());
    }
}

fn check_shares(shares: &ClassShares, path: &Path<'_>, report: &mut Report<'_>) {
    let [sheddable, plus, critical] =
        [&shares.sheddable, &shares.sheddable_plus, &shares.critical].map(|share| share.0);
    if sheddable > plus || plus > critical {
        let message = format!("a lower class has the greater share ({sheddable}, {plus}, {critical} percent)");
        report.error(path, message);
    }
}
