//! A condition on headers, as the engine sees it: a question with a yes or a no.
//!
//! Decides: nothing. Matchers belong to routing, which the engine does not know; whoever compiles a policy
//! puts them behind this.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;

/// Whether headers are those that a policy names.
#[derive(Clone)]
pub struct HeaderRule(Arc<Test>);

type Test = dyn Fn(&HeaderMap) -> bool + Send + Sync;

impl HeaderRule {
    /// A rule that asks `test`.
    pub fn new(test: impl Fn(&HeaderMap) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(test))
    }

    /// The answer.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        (self.0)(headers)
    }
}

impl fmt::Debug for HeaderRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderRule")
    }
}
