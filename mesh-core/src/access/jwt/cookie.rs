//! A token in a cookie.
//!
//! Decides: which part of a request's `cookie` lines is a named cookie. Never: takes the first of several, as Envoy does:
//! the application may read the last. Invariant: what is taken out for the application is what was found, and every
//! other cookie stays byte by byte.

use http::header::{COOKIE, Entry};
use http::{HeaderMap, HeaderValue};

use super::Refusal;

/// The value of this cookie, if the request has it. HTTP/2 may spread cookies over several lines (RFC 9113 8.2.3).
pub(super) fn value<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r str>, Refusal> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| pairs(line.as_bytes()));
    let mut found = pairs.filter(|pair| is_named(pair, name));
    let Some(pair) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Refusal::SeveralTokens);
    }
    let value = pair.iter().position(|byte| *byte == b'=').map_or(&b""[..], |at| &pair[at + 1..]);
    std::str::from_utf8(unquoted(value.trim_ascii())).map(Some).map_err(|_| Refusal::Malformed)
}

/// Takes the cookie out of every line.
pub(super) fn remove(headers: &mut HeaderMap, name: &str) {
    let Entry::Occupied(lines) = headers.entry(COOKIE) else { return };
    let (_, lines) = lines.remove_entry_mult();
    let kept: Vec<HeaderValue> = lines.filter_map(|line| without(line, name)).collect();
    for line in kept {
        headers.append(COOKIE, line);
    }
}

/// `None`: nothing is left of the line, or nothing that may stand in one.
fn without(line: HeaderValue, name: &str) -> Option<HeaderValue> {
    if !pairs(line.as_bytes()).any(|pair| is_named(pair, name)) {
        return Some(line);
    }
    let kept: Vec<&[u8]> = pairs(line.as_bytes()).filter(|pair| !is_named(pair, name)).collect();
    let rest = kept.join(&b';');
    let mut rest = HeaderValue::from_bytes(rest.trim_ascii()).ok().filter(|rest| !rest.is_empty())?;
    rest.set_sensitive(line.is_sensitive());
    Some(rest)
}

/// Quotes hold no `;` together (RFC 6265 5.4 gives none back in them; Envoy reads them so, too).
fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';')
}

/// Without a `=`, too: some readers take that for the name, and some for the value.
fn is_named(pair: &[u8], name: &str) -> bool {
    let key = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
    key.trim_ascii() == name.as_bytes()
}

/// RFC 6265 4.1.1: a value may stand in quotes. Half of a pair is a part of it, and makes no token.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_bytes(line).unwrap())).collect()
    }

    fn lines(headers: &HeaderMap) -> Vec<&[u8]> {
        headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect()
    }

    #[test]
    fn a_cookie_is_found_once_or_not_at_all_and_leaves_no_trace() {
        type Case<'a> = (&'a [&'a [u8]], Result<Option<&'a str>, Refusal>, &'a [&'a [u8]]);
        let cases: [Case<'_>; 20] = [
            (&[], Ok(None), &[]),
            (&[b"t=a.b.c"], Ok(Some("a.b.c")), &[]),
            (&[b"t=\"a.b.c\""], Ok(Some("a.b.c")), &[]),
            (&[b"t = a.b.c "], Ok(Some("a.b.c")), &[]),
            (&[b"t=a=="], Ok(Some("a==")), &[]),
            (&[b"x=1; t=a.b.c; y=\"2\""], Ok(Some("a.b.c")), &[b"x=1; y=\"2\""]),
            (&[b"t=a.b.c;y=2;z"], Ok(Some("a.b.c")), &[b"y=2;z"]),
            (&[b"x=1;\tt=a.b.c"], Ok(Some("a.b.c")), &[b"x=1"]),
            // Over several lines, as in HTTP/2; the others stay what they are, whatever they hold.
            (&[b"x=\xff", b"t=a.b.c", b"y=2"], Ok(Some("a.b.c")), &[b"x=\xff", b"y=2"]),
            // Another's name.
            (&[b"T=1; tt=2; xt=t=3; =t"], Ok(None), &[b"T=1; tt=2; xt=t=3; =t"]),
            (&[b"x=\"t\""], Ok(None), &[b"x=\"t\""]),
            // There, and no token: that it cannot be one is for the reader to find.
            (&[b"t="], Ok(Some("")), &[]),
            (&[b"t"], Ok(Some("")), &[]),
            (&[b"x=1; t=\"a.b.c"], Ok(Some("\"a.b.c")), &[b"x=1"]),
            (&[b"t=\""], Ok(Some("\"")), &[]),
            (&[b"x=\"1; t=a.b.c; y=2\""], Ok(Some("a.b.c")), &[b"x=\"1; y=2\""]),
            (&[b"t=\xff"], Err(Refusal::Malformed), &[]),
            // Two, in one line or in two, even if they say the same.
            (&[b"t=a; t=b"], Err(Refusal::SeveralTokens), &[]),
            (&[b"t=a", b"x=1; t=a"], Err(Refusal::SeveralTokens), &[b"x=1"]),
            (&[b"t=a; t"], Err(Refusal::SeveralTokens), &[]),
        ];
        for (given, expected, rest) in cases {
            let mut headers = headers(given);
            assert_eq!(value(&headers, "t"), expected, "{given:?}");
            remove(&mut headers, "t");
            assert_eq!(lines(&headers), rest, "{given:?}");
        }
    }

    #[test]
    fn a_line_that_no_log_may_show_stays_one() {
        let mut line = HeaderValue::from_static("t=a; x=1");
        line.set_sensitive(true);
        let mut headers = HeaderMap::from_iter([(COOKIE, line)]);
        remove(&mut headers, "t");
        assert!(headers[COOKIE].is_sensitive() && headers[COOKIE] == "x=1");
    }
}
