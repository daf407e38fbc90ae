//! Which rule a request takes.

pub mod table;
pub mod matcher;
pub mod split;
pub mod rewrite;
