//! One address: how it is reached, how loaded it is, which connections to it are open.

pub mod ask;
pub mod connect;
pub mod load;
pub mod pool;
