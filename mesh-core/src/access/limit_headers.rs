//! What a response says of a rate limit.
//!
//! Decides: the spelling, in either of the field's forms. Never: says more than one limit of a request.

use std::time::Duration;

use super::verdict::HeaderChange;

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderForm {
    /// Not at all.
    #[default]
    Off,
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    RateLimit,
    /// `x-ratelimit-*` (the draft's version 03, as Envoy).
    XRateLimit,
}

/// A limit, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remainder<'a> {
    /// Its name.
    pub name: &'a str,
    /// Requests in each window.
    pub limit: u32,
    /// The window, where it is known.
    pub window: Option<Duration>,
    /// Requests left in this one.
    pub remaining: u32,
    /// Time left of it.
    pub reset: Option<Duration>,
}

impl HeaderForm {
    /// The header changes that say it. A name that no header can carry is left out.
    pub fn tell(self, left: Remainder<'_>) -> Vec<HeaderChange> {
        let reset = left.reset.map(whole_seconds);
        let window = left.window.map(|window| format!(";w={}", whole_seconds(window))).unwrap_or_default();
        let pairs = match self {
            Self::Off => return Vec::new(),
            Self::RateLimit => {
                let name = left.name.replace('\\', "\\\\").replace('"', "\\\"");
                let reset = reset.map(|seconds| format!(";t={seconds}")).unwrap_or_default();
                vec![
                    ("ratelimit-policy", format!("\"{name}\";q={}{window}", left.limit)),
                    ("ratelimit", format!("\"{name}\";r={}{reset}", left.remaining)),
                ]
            }
            Self::XRateLimit => {
                let mut pairs = vec![
                    ("x-ratelimit-limit", format!("{0}, {0}{window}", left.limit)),
                    ("x-ratelimit-remaining", left.remaining.to_string()),
                ];
                pairs.extend(reset.map(|seconds| ("x-ratelimit-reset", seconds.to_string())));
                pairs
            }
        };
        pairs.into_iter().filter_map(|(name, value)| HeaderChange::set(name, &value)).collect()
    }
}

/// Rounded up: who comes back earlier is refused again.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let left = Remainder {
            name: "a\"b",
            limit: 10,
            window: Some(Duration::from_secs(60)),
            remaining: 3,
            reset: Some(Duration::from_millis(6_500)),
        };
        let said = |form: HeaderForm, left| {
            let changes = form.tell(left).into_iter();
            changes.map(|change| format!("{}: {}", change.name, change.value.to_str().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(
            said(HeaderForm::RateLimit, left),
            [r#"ratelimit-policy: "a\"b";q=10;w=60"#, r#"ratelimit: "a\"b";r=3;t=7"#]
        );
        let three = ["x-ratelimit-limit: 10, 10;w=60", "x-ratelimit-remaining: 3", "x-ratelimit-reset: 7"];
        assert_eq!(said(HeaderForm::XRateLimit, left), three);
        let unknown = Remainder { window: None, reset: None, ..left };
        assert_eq!(
            said(HeaderForm::RateLimit, unknown),
            [r#"ratelimit-policy: "a\"b";q=10"#, r#"ratelimit: "a\"b";r=3"#]
        );
        assert!(said(HeaderForm::Off, left).is_empty());
    }
}
