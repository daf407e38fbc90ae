//! What a rule does to headers on the way.
//!
//! Decides: the order: removed first, then set, then added, so that a header can be replaced whatever it was.
//! Never: touches what frames a message, belongs to one connection or is a word between the ends of the mesh; that is
//! refused when the rule is read.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::rule::unchangeable;

/// Headers that are removed, set and added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Checks names and values.
    pub fn new<'a>(
        remove: impl IntoIterator<Item = &'a str>,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        add: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, String> {
        let pair = |(name, text): (&str, &str)| {
            let value = HeaderValue::from_str(text).map_err(|_| format!("{name}: not a header value"))?;
            Ok::<_, String>((changeable(name)?, value))
        };
        Ok(Self {
            remove: remove.into_iter().map(changeable).collect::<Result<_, _>>()?,
            set: set.into_iter().map(pair).collect::<Result<_, _>>()?,
            add: add.into_iter().map(pair).collect::<Result<_, _>>()?,
        })
    }

    /// Changes `headers`.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

fn changeable(name: &str) -> Result<HeaderName, String> {
    let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header name"))?;
    if let Some(why) = unchangeable(name.as_str()) {
        return Err(format!("`{name}` cannot be changed: {why}"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let changes =
            HeaderChanges::new(["x-a", "x-gone"], [("x-a", "1"), ("x-b", "2")], [("x-a", "3"), ("x-c", "4")]).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "old"), ("x-b", "old"), ("x-b", "older"), ("x-c", "old"), ("x-gone", "old")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        changes.apply(&mut headers);
        let values = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(values("x-a"), ["1", "3"]);
        assert_eq!(values("x-b"), ["2"]);
        assert_eq!(values("x-c"), ["old", "4"]);
        assert!(values("x-gone").is_empty());
    }

    #[test]
    fn what_frames_a_message_or_speaks_for_the_mesh_is_not_changed() {
        for name in ["host", "Content-Length", "transfer-encoding", "connection", "te", "x-mesh-refused", "a b", ""] {
            assert!(HeaderChanges::new([name], [], []).is_err(), "{name}");
            assert!(HeaderChanges::new([], [(name, "1")], []).is_err(), "{name}");
            assert!(HeaderChanges::new([], [], [(name, "1")]).is_err(), "{name}");
        }
        assert!(HeaderChanges::new([], [("x-a", "a\nb")], []).is_err());
    }
}
