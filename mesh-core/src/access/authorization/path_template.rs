//! Path templates: `{*}` stands for one segment, `{**}` for any number of them.

/// A path with operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    One,
    Any,
}

impl PathTemplate {
    /// Whether a text has to be read as a template.
    pub(super) fn is_template(text: &str) -> bool {
        text.contains('{') || text.contains('}')
    }

    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let path = text.strip_prefix('/').ok_or("a path template begins with `/`")?;
        for segment in path.split('/') {
            let part = match segment {
                "{*}" => Part::One,
                "{**}" => Part::Any,
                literal if literal.contains(['{', '}']) => return Err("an operator has to be a whole segment"),
                literal if literal.contains('*') => return Err("a template has no wildcards besides {*} and {**}"),
                literal => Part::Literal(literal.to_owned()),
            };
            let follows_any = parts.contains(&Part::Any);
            if follows_any && matches!(part, Part::One | Part::Any) {
                return Err("no operator may follow {**}");
            }
            parts.push(part);
        }
        Ok(Self(parts))
    }

    /// Whether a path fits. At most one `{**}` is in a template, so there is nothing to search for.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = path.split('/').collect();
        let Some(at) = self.0.iter().position(|part| *part == Part::Any) else {
            return self.0.len() == segments.len() && fits(&self.0, &segments);
        };
        let (before, after) = (&self.0[..at], &self.0[at + 1..]);
        segments.len() >= before.len() + after.len()
            // `/a/{**}` takes `/a/`, not `/a`: the operator's own slash has to be there.
            && segments.len() > before.len()
            && fits(before, &segments[..before.len()])
            && fits(after, &segments[segments.len() - after.len()..])
    }
}

fn fits(parts: &[Part], segments: &[&str]) -> bool {
    parts.iter().zip(segments).all(|(part, segment)| match part {
        Part::Literal(text) => text == segment,
        Part::One => !segment.is_empty(),
        Part::Any => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_stands_for_whole_segments() {
        for (template, path, expected) in [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a", false),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}/z", "/a/z", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/b/zz", false),
            ("/a/{**}/y/z", "/a/y/z", true),
            ("/a/{**}/y/z", "/a/z", false),
            ("/{*}/x", "/a/x", true),
        ] {
            assert_eq!(PathTemplate::parse(template).unwrap().matches(path), expected, "{template} {path}");
        }
    }

    #[test]
    fn a_template_that_would_be_ambiguous_is_refused() {
        for text in ["/{**}/a/{*}", "/{**}/{**}", "/a{*}b", "/{*}/a*", "{*}", "/{x}", "/{*"] {
            assert!(PathTemplate::parse(text).is_err(), "{text}");
        }
    }
}
