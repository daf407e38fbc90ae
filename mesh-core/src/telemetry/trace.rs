//! W3C trace context.
//!
//! Decides: which trace a request belongs to, and what is told to the next process. Never: trusts a
//! malformed header (it starts a new trace instead), keeps time, exports.
//! Invariant: every span id that leaves this process was made here; a trace id is kept or made, never mixed.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::baggage::Baggage;
use super::names::header;

/// Where a request stands in its trace. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span this context stands for.
    pub span_id: SpanId,
    /// The span it belongs to; `None` for the root of a trace.
    pub parent: Option<SpanId>,
    /// Sampled, random.
    pub flags: TraceFlags,
    /// Vendors' part, passed on unchanged.
    pub tracestate: Option<Arc<str>>,
    /// Baggage beside it.
    pub baggage: Baggage,
}

/// 16 bytes, not all zero. Displays as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// 8 bytes, not all zero. Displays as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

/// The flags that are defined; others are not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceFlags(u8);

impl TraceContext {
    /// The start of a trace. `sample_percent` of 100 samples all, 0 none.
    pub fn root(rng: &mut fastrand::Rng, sample_percent: f64) -> Self {
        let sampled = rng.f64() * PERCENT < sample_percent;
        Self {
            trace_id: TraceId(rng.u128(1..)),
            span_id: SpanId::draw(rng),
            parent: None,
            flags: TraceFlags(TraceFlags::RANDOM | if sampled { TraceFlags::SAMPLED } else { 0 }),
            tracestate: None,
            baggage: Baggage::default(),
        }
    }

    /// The caller's context, exactly as it was told: `span_id` is the caller's span.
    /// `None`: the request carries no valid `traceparent`.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(header::TRACEPARENT).into_iter();
        let (line, more) = (lines.next()?, lines.next());
        if more.is_some() {
            return None;
        }
        let (trace_id, span_id, flags) = parse_traceparent(line.as_bytes().trim_ascii())?;
        let tracestate = parse_tracestate(headers);
        Some(Self { trace_id, span_id, parent: None, flags, tracestate, baggage: Baggage::from_headers(headers) })
    }

    /// The server's span of a request: a child of the caller's, or a new trace. Baggage comes along
    /// either way.
    pub fn join(headers: &HeaderMap, rng: &mut fastrand::Rng, sample_percent: f64) -> Self {
        match Self::from_headers(headers) {
            Some(caller) => caller.child(rng),
            None => Self { baggage: Baggage::from_headers(headers), ..Self::root(rng, sample_percent) },
        }
    }

    /// A new span below this one. Each attempt of a request is a child of its own.
    #[must_use]
    pub fn child(&self, rng: &mut fastrand::Rng) -> Self {
        Self { span_id: SpanId::draw(rng), parent: Some(self.span_id), ..self.clone() }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags.is_sampled()
    }

    /// The `traceparent` that names this span as the parent.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags.0)
    }

    /// Puts the context into a request, in place of any that is there.
    pub fn inject(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.traceparent()) {
            headers.insert(header::TRACEPARENT, value);
        }
        headers.remove(header::TRACESTATE);
        if let Some(value) = self.tracestate.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert(header::TRACESTATE, value);
        }
        self.baggage.inject(headers);
    }
}

/// `http.request.resend_count` of an attempt, counted from 1: the first has none.
pub const fn resend_count(attempt: u32) -> Option<u32> {
    match attempt {
        0 | 1 => None,
        later => Some(later - 1),
    }
}

impl SpanId {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u64(1..))
    }
}

impl TraceFlags {
    const SAMPLED: u8 = 1;
    /// Level 2: the right-most 7 bytes of the trace id are random.
    const RANDOM: u8 = 2;

    /// Whether the trace is recorded.
    pub const fn is_sampled(self) -> bool {
        self.0 & Self::SAMPLED != 0
    }

    /// The byte on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `version-traceid-spanid-flags`. A later version may go on after a further dash.
fn parse_traceparent(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    /// Length of version 00.
    const LENGTH: usize = 55;
    let (known, rest) = text.split_at_checked(LENGTH)?;
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let version = hex(&known[..2])?;
    let may_go_on = version != 0 && rest.first() == Some(&b'-');
    if version == 0xff || !(rest.is_empty() || may_go_on) {
        return None;
    }
    let (trace, span) = (hex(&known[3..35])?, hex(&known[36..52])?);
    let flags = hex(&known[53..])? as u8 & (TraceFlags::SAMPLED | TraceFlags::RANDOM);
    (trace != 0 && span != 0).then_some((TraceId(trace), SpanId(span as u64), TraceFlags(flags)))
}

/// Lower-case hex only, at most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// All members in order, or nothing: one that is malformed spoils the list.
fn parse_tracestate(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut kept = String::new();
    let mut count = 0;
    for line in headers.get_all(header::TRACESTATE) {
        let members = line.to_str().ok()?.split(',').map(|member| member.trim_matches([' ', '\t']));
        for member in members.filter(|member| !member.is_empty()) {
            count += 1;
            if count > MAX_MEMBERS || !is_member(member) {
                return None;
            }
            if count > 1 {
                kept.push(',');
            }
            kept.push_str(member);
        }
    }
    (count > 0).then(|| Arc::from(kept))
}

/// The grammar of level 2: `@` stands anywhere but first.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let first = key.bytes().next().is_some_and(lower);
    let rest = key.bytes().all(|byte| lower(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@'));
    let value_ok = value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=');
    first && rest && value_ok && key.len() <= MAX_PART && (1..=MAX_PART).contains(&value.len())
}

/// Members of a `tracestate` [W3C].
const MAX_MEMBERS: usize = 32;
/// Bytes of a key, and of a value [W3C].
const MAX_PART: usize = 256;
const PERCENT: f64 = 100.0;

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
