//! Rate limits that a server assigns: which bucket a request is in, and what a refusal looks like.
//!
//! Decides: whether a request passes, by what was assigned before. Never: asks the server; what is to be reported and
//! what was assigned is carried by a stream beside the requests.
//! Invariant: a limit whose buckets are described as before keeps them, with their assignments, over a reload.

mod counts;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::{RateLimitQuotaResponse, RateLimitQuotaUsageReports};
use http::Uri;
use tokio::sync::Notify;

use self::counts::Order;
pub use self::counts::{Counts, ORDERS, StreamEnd};
use super::attributes::Attributes;
use super::descriptor::{Descriptor, DescriptorRule, describe};
use super::limit_headers::{HeaderForm, Remainder};
use super::verdict::Verdict;
use crate::policy::quota::{Applied, BucketId, Buckets, Over, Terms};
use crate::route::matcher::RequestMatch;

/// One limit, as it is in force.
pub struct QuotaLimit {
    /// The requests it is about; empty: all.
    pub matches: Vec<RequestMatch>,
    /// What makes a bucket; the first that makes something.
    pub rules: Vec<DescriptorRule>,
    /// The reply to a refused request.
    pub reply: Arc<Verdict>,
    /// What a refusal says of the limit.
    pub headers: HeaderForm,
    /// Share of the refusals that are enforced, 0 to 1.
    pub enforced: f64,
    /// The buckets, which outlive the document.
    pub quota: Arc<Quota>,
}

/// Who assigns, and what holds where he says nothing.
#[derive(Debug)]
pub struct QuotaConfig {
    /// Name in logs and metrics.
    pub name: Arc<str>,
    /// The cluster that assigns.
    pub cluster: Arc<str>,
    /// Scheme and authority the call is addressed to.
    pub origin: Uri,
    /// What the server knows the buckets by.
    pub domain: String,
    /// How often all buckets are reported.
    pub interval: Duration,
    /// What holds where the server says nothing.
    pub terms: Terms,
}

/// The buckets of a limit, and what the stream that carries their reports needs.
#[derive(Debug)]
pub struct Quota {
    config: QuotaConfig,
    buckets: Buckets,
    counts: Counts,
    /// Told when something is to be reported at once.
    news: Arc<Notify>,
    is_followed: AtomicBool,
    /// The number of the latest stream: only that one reports.
    stream: AtomicU64,
}

/// A request is over the limit.
#[derive(Debug, Clone)]
pub struct OverQuota {
    /// When there is a token again, where that is known.
    pub retry_after: Option<Duration>,
    /// What to answer.
    pub reply: Arc<Verdict>,
    /// Whether it is refused; if not, it is only counted.
    pub is_enforced: bool,
}

impl QuotaLimit {
    /// The request's bucket; `None`: the limit is not about it.
    pub fn bucket(&self, attributes: &Attributes<'_>) -> Option<BucketId> {
        self.rules.iter().find_map(|rule| bucket(describe(std::slice::from_ref(rule), attributes).pop()?))
    }

    /// Takes a place of a bucket for a request.
    pub fn take(&self, bucket: &BucketId, (now, rng): (Instant, &mut fastrand::Rng)) -> Result<(), OverQuota> {
        let taken = self.quota.buckets.take(bucket, now);
        if taken.is_news {
            self.quota.news.notify_one();
        }
        let Some(over) = taken.over else { return Ok(()) };
        Err(OverQuota {
            retry_after: over.retry_after,
            reply: self.reply(over),
            is_enforced: rng.f64() < self.enforced,
        })
    }

    fn reply(&self, over: Over) -> Arc<Verdict> {
        let Some((limit, window)) = over.limit.filter(|_| self.headers != HeaderForm::Off) else {
            return Arc::clone(&self.reply);
        };
        let name = &self.quota.config.name;
        let left = Remainder { name, limit, window: Some(window), remaining: 0, reset: over.retry_after };
        let mut reply = Verdict::clone(&self.reply);
        reply.response_headers.extend(self.headers.tell(left));
        Arc::new(reply)
    }
}

impl Quota {
    /// No bucket is known yet.
    pub fn new(config: QuotaConfig) -> Self {
        Self {
            buckets: Buckets::new(config.terms),
            config,
            counts: Counts::default(),
            news: Arc::default(),
            is_followed: AtomicBool::new(false),
            stream: AtomicU64::new(0),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &QuotaConfig {
        &self.config
    }

    /// The buckets.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Told when something is to be reported at once.
    pub fn news(&self) -> &Arc<Notify> {
        &self.news
    }

    /// Whether a stream is to be opened for it: the first who asks gets a yes.
    pub fn claim(&self) -> bool {
        !self.is_followed.load(Ordering::Relaxed) && !self.is_followed.swap(true, Ordering::Relaxed)
    }

    /// The stream could not be begun: the next who asks may.
    pub fn unclaim(&self) {
        self.is_followed.store(false, Ordering::Relaxed);
    }

    /// A further stream takes the place of all before. Returns its number.
    pub fn next_stream(&self) -> u64 {
        self.stream.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether that stream is the latest.
    pub fn is_current(&self, stream: u64) -> bool {
        self.stream.load(Ordering::SeqCst) == stream
    }

    /// What is to be sent at each interval, and first on a stream.
    pub fn report_all(&self, now: Instant) -> Vec<RateLimitQuotaUsageReports> {
        let reports = self.buckets.report_all(now);
        self.counts.reported(reports.len());
        wire::messages(&self.config.domain, reports)
    }

    /// What is to be sent at once.
    pub fn report_news(&self, now: Instant) -> Vec<RateLimitQuotaUsageReports> {
        let reports = self.buckets.report_news(now);
        self.counts.reported(reports.len());
        wire::messages(&self.config.domain, reports)
    }

    /// Follows what the server says, in its order. What cannot be followed is counted, and changes nothing.
    pub fn follow(&self, said: RateLimitQuotaResponse, now: Instant) {
        for action in said.bucket_action {
            let order = match wire::read(action) {
                None => {
                    tracing::warn!(limit = &*self.config.name, "a rate limit assignment that means nothing");
                    Order::Malformed
                }
                Some((id, None)) if self.buckets.abandon(&id) => Order::Abandoned,
                Some((_, None)) => Order::Unknown,
                Some((id, Some(assignment))) => match self.buckets.assign(&id, assignment, now) {
                    Applied::Replaced => Order::Replaced,
                    Applied::Extended => Order::Extended,
                    Applied::Unknown => Order::Unknown,
                },
            };
            self.counts.followed(order);
            if order == Order::Replaced {
                self.news.notify_one();
            }
        }
    }
}

/// Nobody reads what its stream would report.
impl Drop for Quota {
    fn drop(&mut self) {
        self.news.notify_one();
    }
}

impl fmt::Debug for QuotaLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaLimit").field("quota", &self.quota.config).finish_non_exhaustive()
    }
}

/// The protocol has no empty values: such a request is described as little as one without the fact.
fn bucket(entries: Descriptor<'_>) -> Option<BucketId> {
    if entries.iter().any(|(key, value)| key.is_empty() || value.is_empty()) {
        return None;
    }
    Some(BucketId::new(entries.into_iter().map(|(key, value)| (key, value.into_owned()))))
}

#[cfg(test)]
mod tests;
