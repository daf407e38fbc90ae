//! Which rule a request takes.
//!
//! Decides: the virtual host of an authority, the first rule that matches, the backend of a weighted
//! split, and how host and path are rewritten for it. Never: talks to an endpoint or retries.
//! Invariant: everything here is compiled once and immutable; a lookup takes `&self` and, in the
//! common case, allocates nothing.

pub mod affinity;
pub mod answer;
pub mod hash_policy;
pub mod header_changes;
pub mod host;
pub mod matcher;
pub mod normalize;
pub mod path;
pub mod path_terms;
pub mod readings;
pub mod rewrite;
pub mod session;
pub mod source;
pub mod specificity;
pub mod split;
pub mod table;
pub mod template;
pub mod value;

#[cfg(test)]
mod tests_support;

pub use host::HostPattern;
pub use matcher::{HeaderMatcher, MethodMatcher, QueryMatcher, RequestHead, RequestMatch};
pub use path::PathMatcher;
pub use rewrite::Rewrite;
pub use specificity::sort_by_specificity;
pub use split::Split;
pub use table::{Matched, Miss, RouteTable, Rule, RuleTrial, VirtualHost};
pub use value::ValueMatcher;
