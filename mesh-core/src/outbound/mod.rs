//! The client side.

pub mod call;
pub mod attempt;
pub mod replay;
