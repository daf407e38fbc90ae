//! Local rate limits: who shares a bucket, and what a refusal looks like.
//!
//! Decides: whether a request finds a token in every limit that counts it. Never: lets one limit stand for
//! another; each is asked, and the first refusal is the answer.
//! Invariant: a limit that did not change keeps its buckets over a reload.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributes::Attributes;
use super::fact::Fact;
use super::limit_headers::{HeaderForm, Remainder};
use super::shared_buckets::SharedBuckets;
use super::verdict::Verdict;
use crate::policy::rate_limit::{KeyedBuckets, Limited};
use crate::route::matcher::RequestMatch;

/// One limit.
pub struct LocalLimit {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// The requests it counts; empty: all.
    pub matches: Vec<RequestMatch>,
    /// What has a bucket of its own.
    pub by: Vec<Fact>,
    /// The reply to a refused request.
    pub reply: Arc<Verdict>,
    /// What a refusal says of the limit.
    pub headers: HeaderForm,
    /// Share of the refusals that are enforced, 0 to 1.
    pub enforced: f64,
    /// The tokens, which outlive the document.
    pub buckets: Arc<KeyedBuckets>,
    /// The tokens instead, where other processes of this host take of them, too.
    pub shared: Option<Arc<SharedBuckets>>,
}

/// A request found no token.
#[derive(Debug, Clone)]
pub struct OverLimit {
    /// Which limit.
    pub name: Arc<str>,
    /// When there is a token again, at the earliest.
    pub retry_after: Duration,
    /// What to answer.
    pub reply: Arc<Verdict>,
    /// Whether it is refused; if not, it is only counted.
    pub is_enforced: bool,
}

impl LocalLimit {
    /// Takes a token for a request that this limit counts.
    pub async fn take(&self, attributes: &Attributes<'_>, at: (Instant, &mut fastrand::Rng)) -> Result<(), OverLimit> {
        let (now, rng) = at;
        let key = self.key(attributes);
        let taken = match &self.shared {
            // While the file cannot be used, this process counts for itself.
            Some(shared) => {
                shared.take(&key).await.unwrap_or_else(|| self.buckets.take(&self.buckets.digest(&key), now))
            }
            None => self.buckets.take(&key, now),
        };
        taken.map_err(|limited| OverLimit {
            name: Arc::clone(&self.name),
            retry_after: limited.retry_after,
            reply: self.reply(limited),
            is_enforced: rng.f64() < self.enforced,
        })
    }

    fn reply(&self, limited: Limited) -> Arc<Verdict> {
        if self.headers == HeaderForm::Off {
            return Arc::clone(&self.reply);
        }
        let (limit, window) = self.buckets.limit();
        let left =
            Remainder { name: &self.name, limit, window: Some(window), remaining: 0, reset: Some(limited.retry_after) };
        let mut reply = Verdict::clone(&self.reply);
        reply.response_headers.extend(self.headers.tell(left));
        Arc::new(reply)
    }

    /// Lengths keep values apart; an absent one differs from an empty one. Credentials are only there as digests, and
    /// long values too, so that nobody fills the memory by what he sends.
    fn key(&self, attributes: &Attributes<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        for fact in &self.by {
            let Some(value) = fact.value(attributes) else {
                key.extend_from_slice(&ABSENT.to_le_bytes());
                continue;
            };
            // A digest is this process's own; what is shared is digested as a whole, by the file's secret.
            if self.shared.is_none() && (fact.is_secret() || value.len() > LONGEST_PLAIN) {
                key.extend_from_slice(&DIGEST.to_le_bytes());
                key.extend_from_slice(&self.buckets.digest(&value));
            } else {
                key.extend_from_slice(&(value.len() as u32).to_le_bytes());
                key.extend_from_slice(&value);
            }
        }
        key
    }
}

/// Instead of a length: no value.
const ABSENT: u32 = u32::MAX;
/// Instead of a length: 16 bytes of digest.
const DIGEST: u32 = u32::MAX - 1;
/// Longer than an address, an identity of usual names or a user's number.
const LONGEST_PLAIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AttributesBuf;
    use crate::policy::rate_limit::RateLimit;

    fn limit(by: &str) -> LocalLimit {
        let limit = RateLimit::new(1, 1, Duration::from_secs(1)).unwrap();
        LocalLimit {
            name: "l".into(),
            matches: Vec::new(),
            by: vec![Fact::parse(by).unwrap()],
            reply: Arc::new(Verdict::deny(429)),
            headers: HeaderForm::Off,
            enforced: 1.0,
            buckets: Arc::new(KeyedBuckets::new(limit, 10)),
            shared: None,
        }
    }

    #[test]
    fn a_key_holds_no_credential_and_no_long_value_and_still_tells_values_apart() {
        for (by, header, value, other) in [
            ("header:authorization", "authorization", "Bearer sesame".to_owned(), "Bearer barley".to_owned()),
            ("lower(header:cookie)", "cookie", "id=sesame".to_owned(), "id=barley".to_owned()),
            ("header:x-user", "x-user", "sesame".repeat(500), "sesame".repeat(499)),
        ] {
            let limit = limit(by);
            let key = |value: &str| {
                let mut attributes = AttributesBuf::default();
                attributes.headers.insert(http::HeaderName::from_static(header), value.parse().unwrap());
                limit.key(&attributes.borrow())
            };
            assert!(!key(&value).windows(6).any(|bytes| bytes == b"sesame"), "{by}");
            assert_eq!(key(&value).len(), 20, "{by}");
            assert_eq!(key(&value), key(&value), "{by}");
            assert_ne!(key(&value), key(&other), "{by}");
            assert_ne!(key(&value), limit.key(&AttributesBuf::default().borrow()), "{by}");
        }
    }
}
