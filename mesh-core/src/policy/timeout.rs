//! Deadlines: how much time a request has, and how that is said on the wire.
//!
//! Decides: the instant by which a request must be answered, from every limit that applies to it.
//! Never: sleeps or cancels. Invariant: limits are only ever combined to the earliest; a deadline is
//! never lengthened. Time is relative on the wire and monotonic inside, so clocks need not agree.

use std::time::{Duration, Instant};

use crate::time::after;

/// The relative deadline of a gRPC request [gRPC over HTTP/2, "Timeout"].
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// The relative deadline Envoy tells an upstream, in milliseconds.
pub const ENVOY_EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";

/// Every limit on one request, each counted from the moment the request started. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// What the application asked for.
    pub application: Option<Duration>,
    /// What the caller said on the wire.
    pub incoming: Option<Duration>,
    /// The most that is believed of `incoming`; zero believes all [gRFC A31 `grpc_timeout_header_max`].
    pub incoming_max: Option<Duration>,
    /// The timeout of the route.
    pub route: Option<Duration>,
}

impl Limits {
    /// The instant by which a request that started at `start` must be answered.
    pub fn deadline(&self, start: Instant) -> Option<Instant> {
        let cap = self.incoming_max.filter(|cap| !cap.is_zero());
        let incoming = self.incoming.map(|asked| cap.map_or(asked, |cap| asked.min(cap)));
        [self.application, incoming, self.route].into_iter().flatten().min().map(|limit| after(start, limit))
    }
}

/// An inherited limit, for the calls that are made under it: shortened by `margin`, so that their end leaves
/// time to answer the caller, whose clock started earlier than ours. At most a tenth is taken.
pub fn with_margin(limit: Duration, margin: Duration) -> Duration {
    limit - margin.min(limit / 10)
}

/// The earlier of two deadlines, where `None` is no deadline.
pub fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// Time left at `now`; zero when it has passed, `None` without a deadline.
pub fn time_left(deadline: Option<Instant>, now: Instant) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(now))
}

/// How long one attempt may take: its own limit, but not longer than what is left of the request.
/// Also what the attempt tells the upstream, so that it shrinks from attempt to attempt.
pub fn attempt_limit(per_attempt: Option<Duration>, left: Option<Duration>) -> Option<Duration> {
    match (per_attempt, left) {
        (Some(own), Some(left)) => Some(own.min(left)),
        (one, other) => one.or(other),
    }
}

/// Reads `grpc-timeout`: 1 to 8 digits and a unit of `H M S m u n`. Zero is a deadline that has passed,
/// not "no deadline".
pub fn decode_grpc_timeout(value: &str) -> Option<Duration> {
    let text = value.trim_matches([' ', '\t']);
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > GRPC_DIGITS {
        return None;
    }
    let amount = decimal(digits)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Writes `grpc-timeout` in the finest unit that fits eight digits, rounded up so that the peer does not
/// give up first. More than 99,999,999 hours is that much.
pub fn encode_grpc_timeout(left: Duration) -> String {
    let nanos = left.as_nanos();
    let fitting = GRPC_UNITS.iter().map(|(unit, size)| (unit, nanos.div_ceil(*size))).find(|(_, n)| *n <= GRPC_MAX);
    match fitting {
        Some((unit, amount)) => format!("{amount}{unit}"),
        None => format!("{GRPC_MAX}H"),
    }
}

/// Reads `x-envoy-expected-rq-timeout-ms`: decimal milliseconds, refused when they do not fit.
pub fn decode_envoy_timeout(value: &str) -> Option<Duration> {
    decimal(value.trim_matches([' ', '\t'])).map(Duration::from_millis)
}

/// Writes `x-envoy-expected-rq-timeout-ms`, rounded up.
pub fn encode_envoy_timeout(left: Duration) -> u64 {
    u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Digits only: no sign, no space, no separator.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// "TimeoutValue: positive integer as ASCII string of at most 8 digits".
const GRPC_DIGITS: usize = 8;
const GRPC_MAX: u128 = 99_999_999;
/// Units and their size in nanoseconds, finest first.
const GRPC_UNITS: [(char, u128); 6] =
    [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000), ('H', 3_600_000_000_000)];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::policy::vectors::{cases, millis, text, whole};

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/grpc_timeout.json"));

    fn optional_millis(case: &Value, field: &str) -> Option<Duration> {
        case[field].as_u64().map(Duration::from_millis)
    }

    fn check_decode(case: &Value) {
        let (id, value, expected) = (text(case, "id"), text(case, "value"), &case["expected"]);
        let read = match text(case, "header") {
            GRPC_TIMEOUT => decode_grpc_timeout(value),
            ENVOY_EXPECTED_TIMEOUT => decode_envoy_timeout(value),
            other => panic!("unknown header {other}"),
        };
        if expected["valid"] == false {
            assert_eq!(read, None, "{id}");
        } else if let Some(nanos) = expected["nanoseconds"].as_str() {
            assert_eq!(read.expect(id).as_nanos().to_string(), nanos, "{id}");
        } else {
            assert_eq!(read.expect(id).as_millis(), u128::from(whole(expected, "milliseconds")), "{id}");
        }
    }

    /// A time already past (negative) is zero here: [`Duration`] has no other.
    fn check_encode(case: &Value) {
        let (id, expected) = (text(case, "id"), &case["expected"]);
        let nanos: i128 = text(case, "nanoseconds").parse().expect("number");
        let nanos = u128::try_from(nanos).unwrap_or(0);
        let input = Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32);
        let written = encode_grpc_timeout(input);
        let back = decode_grpc_timeout(&written).expect(id);
        assert_eq!(written, text(expected, "value"), "{id}");
        assert_eq!(back.as_nanos().to_string(), text(expected, "decoded_nanoseconds"), "{id}");
        assert_eq!(back >= input, expected["decoded_not_less_than_input"] == true, "{id}");
    }

    fn check_effective(case: &Value) {
        let limits = Limits {
            application: optional_millis(case, "application_timeout_ms"),
            incoming: case["incoming_grpc_timeout"].as_str().map(|value| decode_grpc_timeout(value).expect("valid")),
            incoming_max: optional_millis(case, "grpc_timeout_header_max_ms"),
            route: optional_millis(case, "route_timeout_ms"),
        };
        let start = Instant::now();
        let left = time_left(limits.deadline(start), start + millis(case, "already_elapsed_ms"));
        assert_eq!(left, optional_millis(&case["expected"], "effective_ms"), "{}", text(case, "id"));
    }

    fn check_per_try(case: &Value) {
        let limit = attempt_limit(Some(millis(case, "per_try_timeout_ms")), Some(millis(case, "time_left_ms")));
        assert_eq!(limit.map(encode_envoy_timeout), case["expected"]["header_ms"].as_u64(), "{}", text(case, "id"));
    }

    #[test]
    fn every_deadline_vector_holds() {
        let mut count = std::collections::BTreeMap::new();
        for case in cases(VECTORS) {
            let kind = text(&case, "kind").to_owned();
            match kind.as_str() {
                "decode" => check_decode(&case),
                "encode" => check_encode(&case),
                "effective_deadline" => check_effective(&case),
                "per_try_header" => check_per_try(&case),
                other => panic!("unknown kind {other}"),
            }
            *count.entry(kind).or_insert(0) += 1;
        }
        let expected = [("decode", 51), ("effective_deadline", 10), ("encode", 16), ("per_try_header", 3)];
        assert_eq!(count, expected.map(|(kind, n)| (kind.to_owned(), n)).into());
    }

    #[test]
    fn combining_never_lengthens() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for (a, b, expected) in [
            (None, None, None),
            (Some(now), None, Some(now)),
            (None, Some(now), Some(now)),
            (Some(later), Some(now), Some(now)),
        ] {
            assert_eq!(earlier(a, b), expected);
        }
        assert_eq!(attempt_limit(None, None), None);
        assert_eq!(attempt_limit(Some(Duration::MAX), None), Some(Duration::MAX));
    }

    proptest::proptest! {
        #[test]
        fn a_written_timeout_reads_back_within_one_percent(nanos in 0_u64..u64::MAX) {
            let back = decode_grpc_timeout(&encode_grpc_timeout(Duration::from_nanos(nanos))).expect("valid");
            let (low, high) = (u128::from(nanos), u128::from(nanos) + u128::from(nanos) / 100 + 1_000);
            proptest::prop_assert!((low..=high).contains(&back.as_nanos()));
        }
    }
}
