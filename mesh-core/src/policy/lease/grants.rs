//! What was granted and not spent, each part until its own end.
//!
//! Decides: which part is spent first: the one that ends first. Never: holds more than a few parts; two that are too
//! many become one that ends with the earlier.

use std::time::Instant;

/// Grants, the one that ends first at the front.
#[derive(Debug, Default)]
pub(super) struct Grants(Vec<Part>);

#[derive(Debug, Clone, Copy)]
struct Part {
    until: Instant,
    left: u32,
}

impl Grants {
    pub(super) fn add(&mut self, left: u32, until: Instant, now: Instant) {
        if left == 0 || until <= now {
            return;
        }
        let at = self.0.partition_point(|part| part.until <= until);
        self.0.insert(at, Part { until, left });
        if self.0.len() > MOST {
            let last = self.0.pop().map_or(0, |part| part.left);
            if let Some(part) = self.0.last_mut() {
                part.left = part.left.saturating_add(last);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|part| part.left > 0 && part.until > now);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, part| sum.saturating_add(part.left))
    }

    pub(super) fn spend(&mut self) -> bool {
        match self.0.iter_mut().find(|part| part.left > 0) {
            Some(part) => {
                part.left -= 1;
                true
            }
            None => false,
        }
    }
}

/// Grants of one lease overlap rarely: the next is asked for when half is spent.
const MOST: usize = 8;
