//! W3C baggage: facts that travel with a request.
//!
//! Decides: how much is carried on (64 members, 8192 bytes; whole members only). Never: changes a member
//! it carries, adds one, or lets one decide anything.
//! Invariant: what goes out is what came in, byte for byte within a member.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use super::names::header;

/// Baggage as it stands on the wire. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage(Option<Arc<str>>);

/// One member, decoded for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// Case-sensitive key.
    pub key: &'a str,
    /// Percent-decoded; bad UTF-8 reads as U+FFFD.
    pub value: Cow<'a, str>,
    /// Properties as written, without the white space around them.
    pub properties: Vec<&'a str>,
}

impl Baggage {
    /// The baggage of a request. Several headers combine; members that are no members, or do not fit, are
    /// left behind whole.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut kept = String::new();
        let mut count = 0;
        for member in members_of(headers) {
            let comma = usize::from(count > 0);
            if count == MAX_MEMBERS || kept.len() + comma + member.len() > MAX_BYTES {
                continue;
            }
            if count > 0 {
                kept.push(',');
            }
            kept.push_str(member);
            count += 1;
        }
        Self((count > 0).then(|| Arc::from(kept)))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The members in order.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.0.iter().flat_map(|text| text.split(',')).filter_map(parsed)
    }

    /// The value of the first member with this key.
    pub fn value(&self, key: &str) -> Option<Cow<'_, str>> {
        self.members().find(|member| member.key == key).map(|member| member.value)
    }

    /// Puts the baggage into a request, in place of any that is there.
    pub fn inject(&self, headers: &mut HeaderMap) {
        headers.remove(header::BAGGAGE);
        if let Some(value) = self.0.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(header::BAGGAGE, value);
        }
    }
}

fn members_of(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::BAGGAGE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|member| parsed(member).is_some())
}

fn parsed(member: &str) -> Option<Member<'_>> {
    let mut parts = member.split(';').map(str::trim);
    let (key, value) = parts.next()?.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || !key.bytes().all(is_token) {
        return None;
    }
    let value = percent_decode_str(value.trim()).decode_utf8_lossy();
    Some(Member { key, value, properties: parts.filter(|property| !property.is_empty()).collect() })
}

/// RFC 9110 `tchar`.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Both from the W3C baggage limits.
const MAX_MEMBERS: usize = 64;
const MAX_BYTES: usize = 8192;
