//! Conditions in CEL, in a build without them.
//!
//! Decides: nothing. Never: takes a condition it could not ask: a document with one is refused.

use super::attributes::Attributes;

/// There is none.
#[derive(Debug)]
pub enum Expression {}

impl Expression {
    /// Refuses.
    pub fn read(_: &str) -> Result<Self, String> {
        Err("this build has no CEL: build it with the feature `cel`".to_owned())
    }

    /// Whether it asks for what only requests have.
    pub fn is_about_requests(&self) -> bool {
        match *self {}
    }

    /// Whether it holds.
    pub fn holds(&self, _: &Attributes<'_>) -> Option<bool> {
        match *self {}
    }

    /// How often it could not be evaluated.
    pub fn take_failures(&self) -> u64 {
        match *self {}
    }
}
