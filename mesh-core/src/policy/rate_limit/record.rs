//! A bucket as two numbers, for where several processes see them.
//!
//! Decides: as a bucket does, by the calendar: intervals begin with multiples of their length, so that all agree.
//! Invariant: numbers that nobody can have written, or a clock that was set back, make a full bucket.

use std::time::Duration;

use super::{Limited, RateLimit};

/// What is kept of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Intervals since the epoch that were counted.
    pub fills: u64,
    /// Tokens left.
    pub left: u32,
}

impl RateLimit {
    /// Takes a token at that time since the epoch. Nothing kept is a full bucket.
    pub fn take(self, kept: Option<Record>, at: Duration) -> (Record, Result<(), Limited>) {
        let interval = self.fill_interval.as_nanos();
        let now = u64::try_from(at.as_nanos() / interval).unwrap_or(u64::MAX);
        let ahead = u64::try_from(MAX_AHEAD.as_nanos().div_ceil(interval)).unwrap_or(u64::MAX);
        let record = match kept.filter(|kept| kept.fills <= now.saturating_add(ahead)) {
            None => Record { fills: now, left: self.max_tokens },
            Some(kept) => {
                let new = u32::try_from(now.saturating_sub(kept.fills)).unwrap_or(u32::MAX);
                let left = kept.left.saturating_add(new.saturating_mul(self.tokens_per_fill));
                Record { fills: kept.fills.max(now), left: left.min(self.max_tokens) }
            }
        };
        match record.left.checked_sub(1) {
            Some(left) => (Record { left, ..record }, Ok(())),
            None => {
                let next = u128::from(record.fills.saturating_add(1)) * interval;
                let wait = u64::try_from(next.saturating_sub(at.as_nanos())).unwrap_or(u64::MAX);
                (record, Err(Limited { retry_after: Duration::from_nanos(wait) }))
            }
        }
    }
}

/// Clocks of one machine do not differ; one that is set back by more is believed.
const MAX_AHEAD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u32, fill: u32, interval: u64) -> RateLimit {
        RateLimit::new(max, fill, Duration::from_secs(interval)).unwrap()
    }

    #[test]
    fn it_passes_what_a_bucket_that_starts_with_an_interval_passes() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let limit = limit(rng.u32(1..9), rng.u32(1..9), rng.u64(1..5));
            let start = std::time::Instant::now();
            let bucket = super::super::TokenBucket::new(limit, start);
            let (mut at, mut kept) = (Duration::ZERO, None);
            for _ in 0..200 {
                at += Duration::from_millis(rng.u64(0..1_500));
                let (record, taken) = limit.take(kept, at);
                kept = Some(record);
                assert_eq!(taken, bucket.take(start + at), "{limit:?} at {at:?}");
            }
        }
    }

    #[test]
    fn time_that_runs_backwards_adds_nothing_and_a_clock_that_was_set_back_is_believed() {
        let limit = limit(1, 1, 10);
        let noon = Duration::from_secs(43_200);
        let (spent, taken) = limit.take(None, noon);
        assert_eq!((spent.left, taken), (0, Ok(())));
        let before = limit.take(Some(spent), noon - Duration::from_secs(20)).1;
        assert_eq!(before, Err(Limited { retry_after: Duration::from_secs(30) }));
        assert_eq!(limit.take(Some(spent), noon - Duration::from_secs(3_600)).1, Ok(()));
        assert_eq!(limit.take(Some(Record { fills: u64::MAX, left: 0 }), noon).1, Ok(()), "nobody wrote that");
        assert!(limit.take(Some(Record { fills: spent.fills, left: u32::MAX }), noon).0.left == 0, "nor that");
    }
}
