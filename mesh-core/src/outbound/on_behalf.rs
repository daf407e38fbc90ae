//! For whom a request is sent that somebody else sent to us.
//!
//! Decides: nothing. Never: made of anything that a request says; only a forwarding listener makes one.

use std::sync::Arc;

/// The caller of a forwarded request; a request extension.
#[derive(Debug, Clone)]
pub(crate) struct OnBehalf {
    /// Its proven SPIFFE ID.
    pub(crate) principal: Option<Arc<str>>,
    /// Whether it came over TLS.
    pub(crate) is_secure: bool,
}
