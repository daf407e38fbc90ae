//! What an operator writes.

pub mod document;
pub mod value;
pub mod diagnostic;
pub mod tree;
pub mod schema;
pub mod check;
