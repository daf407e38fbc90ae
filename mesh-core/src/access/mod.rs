//! Who may do what.

pub mod rbac;
pub mod check;
pub mod cache;
