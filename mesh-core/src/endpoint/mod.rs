//! One address: its load, its health, its connections.

pub mod load;
pub mod status;
pub mod connect;
pub mod pool;
