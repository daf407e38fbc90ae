//! When a token that was not verified says that it ends.
//!
//! Decides: nothing but how long an answer about its bearer may be kept. Never: lengthens a time, or lets anybody in: a
//! token that lies about its end shortens what is kept for the one who sent it.

use std::time::SystemTime;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::location::after_prefix;
use super::token::MAX_BYTES;
use super::user::expires;

/// The earliest end of the bearer tokens in `authorization`. What is no token of this form (JWT, RFC 7519) has none.
pub fn stated_expiry(headers: &HeaderMap) -> Option<SystemTime> {
    let values = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    values.filter_map(|text| stated(after_prefix(text, "bearer ")?)).min()
}

/// Read more freely than a token that is believed: whoever verifies this one may read it so, too.
fn stated(token: &str) -> Option<SystemTime> {
    let payload = token.split('.').nth(1).filter(|payload| payload.len() <= MAX_BYTES)?;
    expires(&serde_json::from_slice(&ANY_PADDING.decode(payload).ok()?).ok()?)
}

/// Base64url, padded or not.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn stated(values: &[String]) -> Option<u64> {
        let headers = values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect();
        let end = stated_expiry(&headers)?;
        Some(end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
    }

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_bearer_token_says_when_it_ends_and_of_several_the_earliest_counts() {
        let exp = |exp: &str| token(&format!(r#"{{"sub": "a", "exp": {exp}}}"#));
        for (values, expected) in [
            (vec![], None),
            (vec![format!("Bearer {}", exp("1800000000"))], Some(1_800_000_000)),
            (vec![format!("BEARER  {}", exp("18.5"))], Some(18)),
            (vec![format!("Bearer {}", exp("-7"))], Some(0)),
            (vec![format!("Bearer {}", exp("9")), format!("Bearer {}", exp("8"))], Some(8)),
            (vec![format!("Bearer e30.{}.", BASE64_URL_SAFE.encode(r#"{"exp":7}"#))], Some(7)),
            (vec![format!("Bearer {}", exp("\"8\""))], None),
            (vec![format!("Bearer {}", token("{}"))], None),
            (vec![format!("Basic {}", exp("8"))], None),
            (vec!["Bearer opaque".to_owned()], None),
            (vec!["Bearer a.%.c".to_owned()], None),
            (vec![format!("Bearer {}", token(&format!(r#"{{"exp":1,"pad":"{}"}}"#, "x".repeat(8192))))], None),
        ] {
            assert_eq!(stated(&values), expected, "{values:?}");
        }
    }
}
