//! One address: how it is reached, how loaded it is, which connections to it are open.

pub mod address;
pub mod ask;
pub mod connect;
pub mod connection;
pub(crate) mod eyeballs;
mod frames;
mod gate;
pub mod load;
pub mod pool;
mod pulse;
pub mod raw;
mod stock;
pub mod tls;
