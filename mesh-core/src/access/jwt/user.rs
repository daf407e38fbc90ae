//! Who the end user is, once a token proves it.
//!
//! Decides: whether verified claims are meant for us, and hold now. Never: looks at a signature.
//! Invariant: there is a value of [`EndUser`] only for a token that was verified.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Refusal;
use crate::access::attributes::Claims;

/// The end user of a request, as a verified token says it; a request extension. Cheap to clone.
///
/// ```
/// use mesh_core::EndUser;
///
/// fn greet(request: &http::Request<mesh_core::Body>) -> String {
///     match request.extensions().get::<EndUser>() {
///         Some(user) => format!("hello {}", user.claims()["sub"]),
///         None => "hello stranger".to_owned(),
///     }
/// }
/// # assert_eq!(greet(&http::Request::new(mesh_core::Body::empty())), "hello stranger");
/// ```
#[derive(Clone, PartialEq)]
pub struct EndUser {
    issuer: Arc<str>,
    proven: Arc<Proven>,
}

/// What a signature was verified for; whom it may serve, and when, is decided for each request.
#[derive(Debug, PartialEq)]
pub(super) struct Proven {
    claims: Arc<Claims>,
    text: Arc<str>,
}

/// What is demanded of claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The only `iss`.
    pub issuer: String,
    /// One of them has to be an `aud`; empty: any will do.
    pub audiences: Vec<String>,
    /// How far the issuer's clock may be off ours.
    pub clock_skew: Duration,
    /// Whether a token without `exp` is refused.
    pub requires_expiry: bool,
}

impl EndUser {
    /// The name of the issuer's entry in the configuration.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// All claims.
    pub fn claims(&self) -> &Arc<Claims> {
        &self.proven.claims
    }

    /// All claims, as the issuer wrote them: a JSON object.
    pub fn claims_json(&self) -> &str {
        &self.proven.text
    }

    /// Issuer and subject, as Istio's `request.auth.principal`; `None` without a subject.
    pub fn principal(&self) -> Option<String> {
        principal(&self.proven.claims)
    }

    /// When the token ends; `None` if it never does.
    pub fn expires(&self) -> Option<SystemTime> {
        expires(&self.proven.claims)
    }
}

/// Issuer and subject, as `iss/sub`.
pub fn principal(claims: &Claims) -> Option<String> {
    let text = |name| claims.get(name)?.as_str();
    Some(format!("{}/{}", text("iss")?, text("sub")?))
}

/// When they cease to hold.
pub fn expires(claims: &Claims) -> Option<SystemTime> {
    let seconds = claims.get("exp")?.as_f64()?.max(0.0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// Claims are about a person: they are not for logs.
impl fmt::Debug for EndUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndUser").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Proven {
    pub(super) fn new(claims: Claims, text: String) -> Self {
        Self { claims: Arc::new(claims), text: text.into() }
    }

    /// The end user, if these claims are for us and hold at `now`.
    pub(super) fn admit(self: &Arc<Self>, name: &Arc<str>, terms: &Terms, now: SystemTime) -> Result<EndUser, Refusal> {
        let claims = &*self.claims;
        if claims.get("iss").and_then(Value::as_str) != Some(&terms.issuer) {
            return Err(Refusal::UnknownIssuer);
        }
        if claims.get("sub").is_some_and(|subject| !subject.is_string()) {
            return Err(Refusal::Malformed);
        }
        is_for(claims.get("aud"), &terms.audiences)?;
        holds(claims, terms, now)?;
        Ok(EndUser { issuer: Arc::clone(name), proven: Arc::clone(self) })
    }
}

/// RFC 7519 4.1.3: a text or a list of texts.
fn is_for(audience: Option<&Value>, accepted: &[String]) -> Result<(), Refusal> {
    let named: Vec<&str> = match audience {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or(Refusal::Malformed)?,
        Some(_) => return Err(Refusal::Malformed),
    };
    let is_ours = accepted.is_empty() || named.iter().any(|name| accepted.iter().any(|ours| ours == name));
    if is_ours { Ok(()) } else { Err(Refusal::Audience) }
}

/// RFC 7519 4.1.4 to 4.1.6. Seconds, with fractions or without.
fn holds(claims: &Claims, terms: &Terms, now: SystemTime) -> Result<(), Refusal> {
    let instant = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Refusal::Malformed),
    };
    let (now, skew) = (unix_seconds(now), terms.clock_skew.as_secs_f64());
    match instant("exp")? {
        None if terms.requires_expiry => return Err(Refusal::NoExpiry),
        Some(end) if now >= end + skew => return Err(Refusal::Expired),
        _ => {}
    }
    for name in ["nbf", "iat"] {
        if instant(name)?.is_some_and(|start| now + skew < start) {
            return Err(Refusal::NotYetValid);
        }
    }
    Ok(())
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn verdict(claims: Value, audiences: &[&str], requires_expiry: bool) -> Option<Refusal> {
        let terms = Terms {
            issuer: "https://login".to_owned(),
            audiences: audiences.iter().map(|name| (*name).to_owned()).collect(),
            clock_skew: Duration::from_secs(60),
            requires_expiry,
        };
        let text = claims.to_string();
        let proven = Arc::new(Proven::new(claims.as_object().unwrap().clone(), text));
        proven.admit(&"login".into(), &terms, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)).err()
    }

    #[test]
    fn claims_are_for_us_and_hold_now_or_are_refused() {
        let end = NOW + 10;
        for (claims, audiences, expected) in [
            (json!({"iss": "https://login", "exp": end}), &[][..], None),
            (json!({"iss": "https://login", "exp": end, "aud": "any"}), &[], None),
            (json!({"iss": "https://login", "exp": end, "aud": "shop"}), &["shop"], None),
            (json!({"iss": "https://login", "exp": end, "aud": ["x", "shop"]}), &["y", "shop"], None),
            (json!({"iss": "https://login", "exp": end}), &["shop"], Some(Refusal::Audience)),
            (json!({"iss": "https://login", "exp": end, "aud": []}), &["shop"], Some(Refusal::Audience)),
            (json!({"iss": "https://login", "exp": end, "aud": "Shop"}), &["shop"], Some(Refusal::Audience)),
            (json!({"iss": "https://login", "exp": end, "aud": "shop2"}), &["shop"], Some(Refusal::Audience)),
            (json!({"iss": "https://login", "exp": end, "aud": 7}), &[], Some(Refusal::Malformed)),
            (json!({"iss": "https://login", "exp": end, "aud": ["shop", 7]}), &["shop"], Some(Refusal::Malformed)),
            (json!({"iss": "https://login", "exp": end, "aud": null}), &[], Some(Refusal::Malformed)),
            (json!({"iss": "https://login", "exp": end, "sub": 7}), &[], Some(Refusal::Malformed)),
            (json!({"iss": "https://login/", "exp": end}), &[], Some(Refusal::UnknownIssuer)),
            (json!({"iss": ["https://login"], "exp": end}), &[], Some(Refusal::UnknownIssuer)),
            (json!({"exp": end}), &[], Some(Refusal::UnknownIssuer)),
        ] {
            assert_eq!(verdict(claims.clone(), audiences, true), expected, "{claims}");
        }
    }

    #[test]
    fn time_has_a_minute_of_slack_on_either_side_and_no_other_form_than_a_number() {
        for (name, value, expected) in [
            ("exp", json!(NOW - 59), None),
            ("exp", json!((NOW - 60) as f64 + 0.5), None),
            ("exp", json!(NOW - 60), Some(Refusal::Expired)),
            ("exp", json!(-1), Some(Refusal::Expired)),
            ("exp", json!(0), Some(Refusal::Expired)),
            ("exp", json!(1e300), None),
            ("exp", json!(u64::MAX), None),
            ("exp", json!((NOW + 10).to_string()), Some(Refusal::Malformed)),
            ("exp", json!(null), Some(Refusal::Malformed)),
            ("exp", json!([NOW + 10]), Some(Refusal::Malformed)),
            ("nbf", json!(NOW + 60), None),
            ("nbf", json!(NOW + 61), Some(Refusal::NotYetValid)),
            ("nbf", json!(1e300), Some(Refusal::NotYetValid)),
            ("nbf", json!("soon"), Some(Refusal::Malformed)),
            ("iat", json!(NOW + 60), None),
            ("iat", json!(NOW + 61), Some(Refusal::NotYetValid)),
            ("iat", json!(true), Some(Refusal::Malformed)),
        ] {
            let mut claims = json!({"iss": "https://login", "exp": NOW + 10});
            claims[name] = value;
            assert_eq!(verdict(claims.clone(), &[], true), expected, "{claims}");
        }
        let endless = json!({"iss": "https://login"});
        assert_eq!(verdict(endless.clone(), &[], true), Some(Refusal::NoExpiry));
        assert_eq!(verdict(endless, &[], false), None);
    }
}
