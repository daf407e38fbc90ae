//! When a copy of a request is due, as it is written.
//!
//! Decides: the syntax: a time span, or a percentile like `p95`. Invariant: a percentile is above 0 and below 100.

use std::fmt;

use super::duration::TimeSpan;
use super::value::{TextValue, ValueError, text_serde};

/// A time span, or a percentile of recent response times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeDelay {
    /// Always this long.
    Fixed(TimeSpan),
    /// As long as this share of the responses took, in percent.
    Percentile(f64),
}

impl TextValue for HedgeDelay {
    const FORMAT: &'static str = "hedge-delay";
    const EXPECTED: &'static str = "a time span like 50ms, or a percentile like p95 or p99.9";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let Some(percent) = text.strip_prefix('p') else { return TimeSpan::parse(text).map(Self::Fixed) };
        let is_plain = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match percent.parse::<f64>() {
            Ok(share) if is_plain && share > 0.0 && share < 100.0 => Ok(Self::Percentile(share)),
            _ => Err(ValueError::new(format!("`{text}` is not a percentile")).with_hint("write p50 to p99.9")),
        }
    }
}

impl fmt::Display for HedgeDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(span) => span.fmt(f),
            Self::Percentile(percent) => write!(f, "p{percent}"),
        }
    }
}

text_serde!(HedgeDelay);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_time_span_or_a_percentile_and_reads_back_as_itself() {
        for text in ["50ms", "0s", "p95", "p99.9", "p50"] {
            assert_eq!(HedgeDelay::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "p", "p0", "p100", "p-1", "p1e1", "95", "pinf", "p95%"] {
            assert!(HedgeDelay::parse(text).is_err(), "{text}");
        }
    }
}
