//! Which endpoint an attempt goes to.

pub mod picker;
pub mod peak_ewma;
pub mod least_request;
pub mod round_robin;
pub mod locality;
pub mod outlier;
