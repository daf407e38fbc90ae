//! How many requests of a bucket pass.
//!
//! Decides: what each strategy of the protocol is here. Never: fills a bucket anew because the same is said again.

use std::time::{Duration, Instant};

use crate::policy::Invalid;
use crate::policy::rate_limit::{MIN_INTERVAL, RateLimit, TokenBucket};

/// Envoy's `RateLimitStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// All pass.
    AllowAll,
    /// None passes.
    DenyAll,
    /// Who finds a token passes.
    Tokens(RateLimit),
}

/// A request is over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Requests, and in which span, that pass in the long run; `None`: none does.
    pub limit: Option<(u32, Duration)>,
    /// Until there is a token again; `None`: nobody knows.
    pub retry_after: Option<Duration>,
}

impl Strategy {
    /// So many requests in each span. None denies all, and more than can be counted allows all.
    pub fn per(requests: u64, span: Duration) -> Self {
        if requests == 0 {
            return Self::DenyAll;
        }
        // A token bucket counts to 2^32: more of a long span are that many of a part of it.
        let parts = requests.div_ceil(u64::from(u32::MAX));
        let Ok(each) = u32::try_from(requests / parts) else { return Self::AllowAll };
        let interval = u32::try_from(parts).map_or(Duration::ZERO, |parts| span / parts);
        RateLimit::new(each, each, interval).map_or(Self::AllowAll, Self::Tokens)
    }

    /// A token bucket. Shorter intervals than ours can be are put together, so that the rate is as written.
    pub fn bucket(max_tokens: u32, tokens_per_fill: u32, fill_interval: Duration) -> Result<Self, Invalid> {
        if fill_interval.is_zero() {
            return Err(Invalid { field: "fill_interval", must: "be more than 0s" });
        }
        let together = MIN_INTERVAL.as_nanos().div_ceil(fill_interval.as_nanos());
        let together = u32::try_from(together).unwrap_or(u32::MAX);
        if together <= 1 {
            return RateLimit::new(max_tokens, tokens_per_fill, fill_interval).map(Self::Tokens);
        }
        let fill = tokens_per_fill.min(max_tokens).saturating_mul(together);
        // A bucket without tokens stays one, and is refused as such.
        RateLimit::new(if max_tokens == 0 { 0 } else { max_tokens.max(fill) }, fill, fill_interval * together)
            .map(Self::Tokens)
    }
}

/// A strategy and its tokens.
#[derive(Debug)]
pub(super) struct Limiter {
    pub(super) strategy: Strategy,
    tokens: Option<TokenBucket>,
}

impl Limiter {
    pub(super) fn new(strategy: Strategy, now: Instant) -> Self {
        let tokens = match strategy {
            Strategy::Tokens(limit) => Some(TokenBucket::new(limit, now)),
            Strategy::AllowAll | Strategy::DenyAll => None,
        };
        Self { strategy, tokens }
    }

    pub(super) fn take(&self, now: Instant) -> Result<(), Over> {
        match (self.strategy, &self.tokens) {
            (Strategy::AllowAll, _) => Ok(()),
            (Strategy::Tokens(limit), Some(tokens)) => tokens
                .take(now)
                .map_err(|limited| Over { limit: Some(limit.rate()), retry_after: Some(limited.retry_after) }),
            _ => Err(Over { limit: None, retry_after: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn requests_in_a_span_are_tokens_of_it_however_many_they_are() {
        let tokens = |n, interval| Strategy::Tokens(RateLimit::new(n, n, interval).unwrap());
        for (requests, span, expected) in [
            (0, SECOND, Strategy::DenyAll),
            (1, SECOND, tokens(1, SECOND)),
            (u64::from(u32::MAX), SECOND, tokens(u32::MAX, SECOND)),
            (1 << 33, SECOND * 60, tokens(2_863_311_530, SECOND * 20)),
            (1 << 40, SECOND, Strategy::AllowAll),
            (u64::MAX, SECOND, Strategy::AllowAll),
        ] {
            assert_eq!(Strategy::per(requests, span), expected, "{requests}");
        }
    }

    #[test]
    fn a_bucket_that_is_filled_more_often_than_ours_lets_as_many_pass() {
        let start = Instant::now();
        for (max, fill, millis, a_second) in [(1, 1, 1, 1_000), (5, 1, 10, 100), (2, 9, 10, 200), (10, 10, 1_000, 10)] {
            let strategy = Strategy::bucket(max, fill, Duration::from_millis(millis)).unwrap();
            let limiter = Limiter::new(strategy, start);
            let passed = (0..20_000_u32).filter(|n| limiter.take(start + SECOND * *n / 2_000).is_ok()).count() as u64;
            let expected = 10 * a_second;
            assert!((expected..=expected + a_second).contains(&passed), "{passed} of {expected}: {strategy:?}");
        }
        for (max, fill, interval) in [(0, 1, SECOND), (1, 0, SECOND), (1, 1, Duration::ZERO)] {
            assert!(Strategy::bucket(max, fill, interval).is_err());
        }
    }
}
