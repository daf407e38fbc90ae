//! Names of query parameters, as whoever reads them after us will.
//!
//! Decides: whether a written key is the parameter of a name. Never: decodes a value.
//! Invariant: what an application takes for the parameter is taken for it here: `%75ser` is `user`, `a+b` is `a b`.

use percent_encoding::percent_decode_str;

/// Whether a key, however it is written, names the parameter.
pub(super) fn is_named(key: &str, name: &str) -> bool {
    // Applications read `+` before they decode: `%2B` is a plus.
    let pieces = key.split('+').map(percent_decode_str);
    let bytes = pieces.enumerate().flat_map(|(nth, piece)| (nth > 0).then_some(b' ').into_iter().chain(piece));
    bytes.eq(name.bytes())
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_key_is_the_parameter_that_an_application_will_read() {
        for (key, name, expected) in [
            ("user", "user", true),
            ("%75ser", "user", true),
            ("%75%73%65%72", "user", true),
            ("a+b", "a b", true),
            ("a%20b", "a b", true),
            ("a%2Bb", "a+b", true),
            ("a+b", "a+b", false),
            ("%2575ser", "user", false),
            ("User", "user", false),
            ("user%", "user", false),
            ("user%", "user%", true),
            ("", "", true),
            ("+", " ", true),
        ] {
            assert_eq!(is_named(key, name), expected, "{key}");
        }
    }
}
