//! Where an endpoint is.
//!
//! Decides: nothing. Invariant: an address with alternatives has at least one.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Where an endpoint is: a socket, one host that has several, or a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// One socket address.
    Socket(SocketAddr),
    /// One host with several addresses, any of which will do, in the order the resolver gave.
    AnyOf(Arc<[SocketAddr]>),
    /// A Unix stream socket.
    Unix(Arc<Path>),
}

impl Address {
    /// Its socket address, or the first of several; a Unix socket has none.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            Self::AnyOf(addresses) => addresses.first().copied(),
            Self::Unix(_) => None,
        }
    }

    /// One host that has all of these addresses; `None` without any.
    pub fn any_of(addresses: &[SocketAddr]) -> Option<Self> {
        match addresses {
            [] => None,
            [only] => Some(Self::Socket(*only)),
            several => Some(Self::AnyOf(several.into())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::AnyOf(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    write!(f, "{}{address}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
