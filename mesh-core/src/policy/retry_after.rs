//! What a server says about coming back: `Retry-After` and gRPC's `grpc-retry-pushback-ms`.
//!
//! Decides: what the headers ask for, in time from now.
//! Never: whether to follow it; the retry engine knows the deadline and the cap.
//! Invariant: no input panics or wraps; what does not follow the grammar is no `Retry-After` at all,
//! and is "do not retry" as a pushback [gRFC A6].
//!
//! Several `Retry-After` fields: the longest valid one counts (the RFC is silent).

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The gRPC header by which a server delays or forbids a retry [gRFC A6].
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What a gRPC server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Retry after exactly this long.
    After(Duration),
    /// Do not retry.
    Forbidden,
}

/// The longest valid `Retry-After` of a response. `wall` is the calendar time, for the date form.
pub fn retry_after(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    headers.get_all(RETRY_AFTER).iter().filter_map(|value| parse(value.as_bytes(), wall)).max()
}

/// One `Retry-After` value: delta-seconds or an HTTP-date [RFC 9110 10.2.3]. A past date is no wait.
pub fn parse(value: &[u8], wall: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(saturating_digits(text)));
    }
    let now = unix_seconds(wall);
    let date = http_date(text, now)?;
    let wait = u64::try_from(date.saturating_sub(now)).unwrap_or(0);
    Some(Duration::from_secs(wait))
}

/// The pushback of a gRPC response; `None` when the header is absent.
pub fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let mut values = headers.get_all(PUSHBACK).iter();
    let first = values.next()?;
    let millis = match (first.to_str(), values.next()) {
        // Two answers are no answer [grpc-go].
        (Ok(text), None) => positive_i64(text),
        _ => None,
    };
    Some(millis.map_or(Pushback::Forbidden, |ms| Pushback::After(Duration::from_millis(ms))))
}

fn positive_i64(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value: i64 = if digits { text.parse().ok()? } else { return None };
    u64::try_from(value).ok()
}

fn saturating_digits(text: &str) -> u64 {
    text.bytes().fold(0_u64, |sum, b| sum.saturating_mul(10).saturating_add(u64::from(b - b'0')))
}

fn unix_seconds(wall: SystemTime) -> i64 {
    match wall.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs),
    }
}

/// The three forms a recipient must accept [RFC 9110 5.6.7], as seconds since 1970. The weekday's name
/// is not compared with the date, and case does not matter.
fn http_date(text: &str, now: i64) -> Option<i64> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, clock, zone] if weekday.ends_with(',') && is_gmt(zone) => {
            instant(Day { year: fixed(year, 4)?, month: month_of(month)?, day: fixed(day, 2)? }, clock)
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, clock, zone] if weekday.ends_with(',') && is_gmt(zone) => {
            let (day, rest) = date.split_once('-')?;
            let (month, year) = rest.split_once('-')?;
            let (month, day, year) = (month_of(month)?, fixed(day, 2)?, fixed(year, 2)?);
            nearest_century(Day { year, month, day }, clock, now)
        }
        // Sun Nov  6 08:49:37 1994
        [_, month, day, clock, year] => {
            let day = fixed(day, 2).or_else(|| fixed(day, 1))?;
            instant(Day { year: fixed(year, 4)?, month: month_of(month)?, day }, clock)
        }
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Day {
    year: i64,
    month: i64,
    day: i64,
}

/// A two-digit year more than 50 years ahead names the past century [RFC 9110 5.6.7].
fn nearest_century(day: Day, clock: &str, now: i64) -> Option<i64> {
    let this_year = civil_year(now);
    let year = this_year - this_year.rem_euclid(100) + day.year;
    let year = if year > this_year + 50 { year - 100 } else { year };
    instant(Day { year, ..day }, clock)
}

fn instant(day: Day, clock: &str) -> Option<i64> {
    if !(1..=days_in(day.month, day.year)).contains(&day.day) {
        return None;
    }
    let mut parts = clock.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    let (hour, minute, second) = (fixed(hour, 2)?, fixed(minute, 2)?, fixed(second, 2)?);
    // 60 is a leap second: read as the first second of the next minute.
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_since_epoch(day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

fn is_gmt(zone: &str) -> bool {
    zone.eq_ignore_ascii_case("GMT")
}

fn month_of(name: &str) -> Option<i64> {
    let index = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
    i64::try_from(index + 1).ok()
}

fn fixed(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar [Hinnant, "days_from_civil"]: years start
/// in March, so that the leap day is the last one.
fn days_since_epoch(day: Day) -> i64 {
    let year = if day.month <= 2 { day.year - 1 } else { day.year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((day.month + 9) % 12) + 2) / 5 + day.day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The calendar year of an instant [Hinnant, "civil_from_days"].
fn civil_year(unix: i64) -> i64 {
    let days = unix.div_euclid(SECONDS_PER_DAY) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From day 306 of a March year on it is January or February of the next one.
    era * 400 + year_of_era + i64::from(day_of_year >= 306)
}

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::policy::vectors::{cases, text};

    const VECTORS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/retry_after.json"));
    /// 15 January 2026, 12:00 UTC: the clock of most parse cases.
    const NOON: u64 = 1_768_478_400;

    fn at(unix: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
    }

    fn longest(case: &serde_json::Value, wall: SystemTime) -> Option<Duration> {
        let values = case["header_values"].as_array().expect("values");
        values.iter().filter_map(|value| parse(value.as_str().expect("text").as_bytes(), wall)).max()
    }

    #[test]
    fn every_retry_after_value_reads_as_its_vector_says() {
        let mut asserted = 0;
        for case in cases(VECTORS).iter().filter(|case| case["kind"] == "parse") {
            let id = text(case, "id");
            let wall = http_date(text(case, "now"), 0).expect("now");
            let read = longest(case, at(wall as u64));
            let expected = &case["expected"];
            if expected["valid"] == false {
                assert_eq!(read, None, "{id}");
            } else if let Some(least) = expected["wait_seconds_at_least"].as_u64() {
                assert!(read.expect(id).as_secs() >= least, "{id}");
            } else {
                assert_eq!(read.expect(id).as_secs(), expected["wait_seconds"].as_u64().expect("wait"), "{id}");
            }
            if let Some(unix) = expected["unix_time"].as_i64() {
                let value = case["header_values"][0].as_str().expect("value");
                assert_eq!(http_date(value, wall), Some(unix), "{id}");
            }
            asserted += 1;
        }
        assert_eq!(asserted, 58);
    }

    #[test]
    fn every_pushback_reads_as_its_vector_says() {
        let mut asserted = 0;
        for case in cases(VECTORS).iter().filter(|case| case["kind"] == "grpc_pushback") {
            let id = text(case, "id");
            let mut headers = HeaderMap::new();
            if let Some(value) = case["value"].as_str() {
                headers.insert(PUSHBACK, HeaderValue::from_str(value).expect("value"));
            }
            let expected = match (&case["expected"]["retry"], case["expected"]["wait_ms"].as_u64()) {
                (retry, Some(ms)) if retry == true => Some(Pushback::After(Duration::from_millis(ms))),
                (retry, None) if retry == true => None,
                _ => Some(Pushback::Forbidden),
            };
            assert_eq!(pushback(&headers), expected, "{id}");
            asserted += 1;
        }
        assert_eq!(asserted, 9);
    }

    #[test]
    fn o19_a_value_that_is_no_time_is_ignored() {
        for value in ["1m0s", "", "soon", "1.5", "120 s"] {
            assert_eq!(parse(value.as_bytes(), at(NOON)), None, "{value}");
        }
    }

    #[test]
    fn o20_a_date_is_honoured_and_a_negative_number_is_none() {
        let date = b"Thu, 15 Jan 2026 12:00:30 GMT";
        assert_eq!(parse(date, at(NOON)), Some(Duration::from_secs(30)));
        assert_eq!(parse(date, at(NOON + 31)), Some(Duration::ZERO));
        assert_eq!(parse(b"-5", at(NOON)), None);
    }

    #[test]
    fn two_pushbacks_forbid_the_retry() {
        let mut headers = HeaderMap::new();
        headers.append(PUSHBACK, HeaderValue::from_static("5"));
        headers.append(PUSHBACK, HeaderValue::from_static("5"));
        assert_eq!(pushback(&headers), Some(Pushback::Forbidden));
    }

    #[test]
    fn the_longest_of_several_fields_counts() {
        let mut headers = HeaderMap::new();
        for value in ["5", "soon", "30"] {
            headers.append(RETRY_AFTER, HeaderValue::from_static(value));
        }
        assert_eq!(retry_after(&headers, at(NOON)), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&HeaderMap::new(), at(NOON)), None);
    }

    #[test]
    fn the_year_of_an_instant_is_right_at_both_ends_of_every_year() {
        for year in 1900..2400 {
            let first = days_since_epoch(Day { year, month: 1, day: 1 }) * SECONDS_PER_DAY;
            assert_eq!(civil_year(first), year);
            assert_eq!(civil_year(first - 1), year - 1);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(0_u8..=255, 0..40), unix in 0_u64..u64::MAX / 4) {
            let wall = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(unix)).unwrap_or(at(NOON));
            parse(&bytes, wall);
        }

        #[test]
        fn a_date_written_is_the_date_read(ahead in 0_u64..3_000_000_000) {
            let date = time::OffsetDateTime::from_unix_timestamp((NOON + ahead) as i64).expect("date");
            let month = MONTHS[u8::from(date.month()) as usize - 1];
            let (h, m, s) = date.to_hms();
            let text = format!("Thu, {:02} {month} {:04} {h:02}:{m:02}:{s:02} GMT", date.day(), date.year());
            proptest::prop_assert_eq!(parse(text.as_bytes(), at(NOON)), Some(Duration::from_secs(ahead)));
        }
    }
}
