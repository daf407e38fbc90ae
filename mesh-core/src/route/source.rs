//! Who asks, against one rule's condition.
//!
//! Decides: whether a proven SPIFFE ID is one of those named. Never: believes a header.
//! Invariant: who proved no identity never matches.

use super::value::ValueMatcher;

/// Callers by SPIFFE ID, by the namespace in it, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMatcher {
    principals: Vec<ValueMatcher>,
    namespaces: Vec<Box<str>>,
}

impl SourceMatcher {
    /// One of these principals and one of these namespaces; an empty list takes any proven caller.
    pub fn new(principals: Vec<ValueMatcher>, namespaces: Vec<Box<str>>) -> Self {
        Self { principals, namespaces }
    }

    /// Whether the caller is one of them.
    pub fn matches(&self, principal: Option<&str>) -> bool {
        let Some(principal) = principal else { return false };
        let fits = |pattern: &ValueMatcher| pattern.matches(Some(principal.as_bytes()));
        let is_here = |namespace: &str| self.namespaces.iter().any(|known| **known == *namespace);
        (self.principals.is_empty() || self.principals.iter().any(fits))
            && (self.namespaces.is_empty() || namespace(principal).is_some_and(is_here))
    }
}

/// Istio's form: `spiffe://domain/ns/<namespace>/sa/<account>`.
fn namespace(principal: &str) -> Option<&str> {
    let mut parts = principal.strip_prefix("spiffe://")?.split('/').skip(1);
    let (Some("ns"), Some(namespace), Some("sa"), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_by_what_it_proved() {
        let web = "spiffe://test/ns/web/sa/page";
        let of = |principals: &[&str], namespaces: &[&str]| {
            let principals = principals.iter().map(|text| ValueMatcher::pattern(text).unwrap()).collect();
            SourceMatcher::new(principals, namespaces.iter().map(|text| Box::from(*text)).collect())
        };
        for (matcher, principal, expected) in [
            (of(&["*"], &[]), Some(web), true),
            (of(&["*"], &[]), None, false),
            (of(&[web], &[]), Some(web), true),
            (of(&["spiffe://test/ns/shop/*"], &[]), Some(web), false),
            (of(&["*/sa/page"], &["web"]), Some(web), true),
            (of(&["*/sa/page"], &["shop"]), Some(web), false),
            (of(&[], &["web"]), Some("spiffe://test/ns/web"), false),
            (of(&[], &["web"]), Some("spiffe://test/x/ns/web/sa/page"), false),
            (of(&[], &["web"]), Some("spiffe://test/ns/web/sa/page/more"), false),
        ] {
            assert_eq!(matcher.matches(principal), expected, "{matcher:?} {principal:?}");
        }
    }
}
