//! A span of time as an operator writes it: `25ms`, `1.5s`, `2m`, `1h`, `1m30s`.
//!
//! Decides: which texts are a span, and the one text a span is written back as.
//! Never: reads a clock. Invariant: `parse(span.to_string()) == span` for every span.

use std::fmt;
use std::time::Duration;

use super::value::{TextValue, ValueError, text_serde};

/// A span of time; zero where the field says that zero means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimeSpan(pub Duration);

impl TimeSpan {
    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// A span of whole milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    /// A span of whole seconds.
    pub const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The span for the clock.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether the span is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// The span, or none for zero: the reading of every field where zero switches off.
    pub fn nonzero(self) -> Option<Duration> {
        (!self.is_zero()).then_some(self.0)
    }
}

impl TextValue for TimeSpan {
    const FORMAT: &'static str = "time-span";
    const EXPECTED: &'static str = "a time span like 25ms, 1.5s, 2m or 1h";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let (term, after) = parse_term(rest)?;
            total = total.checked_add(term).filter(|sum| *sum <= LONGEST).ok_or_else(too_long)?;
            rest = after;
        }
        if text.is_empty() { Err(ValueError::new("the time span is empty")) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let (unit, size) = UNITS.iter().find(|(_, size)| nanos.is_multiple_of(*size)).copied().unwrap_or(("ns", 1));
        write!(f, "{}{unit}", nanos / size)
    }
}

text_serde!(TimeSpan);

/// Reads one `number unit` and says what is left.
fn parse_term(text: &str) -> Result<(Duration, &str), ValueError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    if number.is_empty() {
        return Err(ValueError::new("a time span starts with a number"));
    }
    if unit.is_empty() {
        return Err(ValueError::new("the time span has no unit").with_hint(format!("write `{text}s` or `{text}ms`")));
    }
    let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let size = size.ok_or_else(|| ValueError::new(format!("`{unit}` is not a unit of time")).with_hint(UNIT_HINT))?;
    Ok((scale(number, size)?, after))
}

/// `number` times `size` nanoseconds, exactly: no floating point between the text and the clock.
fn scale(number: &str, size: u128) -> Result<Duration, ValueError> {
    let malformed = || ValueError::new(format!("`{number}` is not a number"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(malformed());
    }
    if whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
        return Err(too_long());
    }
    let whole: u128 = whole.parse().map_err(|_| malformed())?;
    let parts: u128 = fraction.parse().map_err(|_| malformed())?;
    let nanos = whole * size + parts * size / 10u128.pow(fraction.len() as u32);
    let nanos = u64::try_from(nanos).map_err(|_| too_long())?;
    Ok(Duration::from_nanos(nanos))
}

fn too_long() -> ValueError {
    ValueError::new("the time span is longer than a year")
}

/// Largest first, in nanoseconds: the order in which a unit is chosen for display.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const UNIT_HINT: &str = "the units are ns, us, ms, s, m, h";
/// A year: longer than any timeout that is meant, short enough to add to an instant without overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// Digits before or after the point; keeps the arithmetic inside 128 bits.
const MAX_DIGITS: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_exactly() {
        for (text, expected) in [
            ("25ms", Duration::from_millis(25)),
            ("1.5s", Duration::from_millis(1500)),
            ("2m", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3600)),
            ("1m30s", Duration::from_secs(90)),
            ("0s", Duration::ZERO),
            ("250us", Duration::from_micros(250)),
            ("0.1ms", Duration::from_micros(100)),
        ] {
            assert_eq!(TimeSpan::parse(text).unwrap().0, expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_span_is_refused() {
        for text in
            ["", "5", "s", "1x", "-1s", "1.s", ".5s", "1.2.3s", "1 s", "1e3s", "999999h", "99999999999999999999h"]
        {
            assert!(TimeSpan::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_reads_back_as_itself() {
        for nanos in [0, 1, 999, 1_000, 25_000_000, 1_500_000_000, 90_000_000_000, 3_600_000_000_000] {
            let span = TimeSpan(Duration::from_nanos(nanos));
            assert_eq!(TimeSpan::parse(&span.to_string()).unwrap(), span);
        }
    }
}
