//! Local rate limits: who shares a bucket, and what a refusal looks like.
//!
//! Decides: whether a request finds a token in every limit that counts it. Never: lets one limit stand for
//! another; each is asked, and the first refusal is the answer.
//! Invariant: a limit that did not change keeps its buckets over a reload.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributes::Attributes;
use super::fact::Fact;
use super::verdict::Verdict;
use crate::policy::rate_limit::KeyedBuckets;
use crate::route::matcher::{RequestHead, RequestMatch, first_match};

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
    /// Share of the refusals that are enforced, 0 to 1.
    pub enforced: f64,
    /// The tokens, which outlive the document.
    pub buckets: Arc<KeyedBuckets>,
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
    /// Takes a token, if this limit counts the request.
    pub fn take(
        &self,
        attributes: &Attributes<'_>,
        head: RequestHead<'_>,
        at: (Instant, &mut fastrand::Rng),
    ) -> Result<(), OverLimit> {
        if !self.matches.is_empty() && first_match(&self.matches, head).is_none() {
            return Ok(());
        }
        let (now, rng) = at;
        self.buckets.take(&self.key(attributes), now).map_err(|limited| OverLimit {
            name: Arc::clone(&self.name),
            retry_after: limited.retry_after,
            reply: Arc::clone(&self.reply),
            is_enforced: rng.f64() < self.enforced,
        })
    }

    /// Lengths keep values apart; an absent one differs from an empty one.
    fn key(&self, attributes: &Attributes<'_>) -> Vec<u8> {
        let mut key = Vec::new();
        for fact in &self.by {
            let value = fact.value(attributes);
            let length = value.as_ref().map_or(u32::MAX, |value| value.len() as u32);
            key.extend_from_slice(&length.to_le_bytes());
            key.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        key
    }
}
