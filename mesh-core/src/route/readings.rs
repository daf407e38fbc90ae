//! The other ways in which whoever gets a path may read it.
//!
//! Decides: which paths a kept spelling may turn into further on: a framework may merge slashes, decode `%2F`, decode
//! everything, or drop `;parameters`. Never: changes what is handed on. Invariant: a path that can be read in one way
//! only, as nearly all can, has no other reading and costs one scan.

use percent_encoding::percent_decode_str;

use super::normalize::{EscapedSlashes, Normalized, PathNormalization, merge_slashes, without_dot_segments};

/// What a path may be read as, besides what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    structural: Vec<String>,
    decoded: Vec<String>,
    counted: Option<String>,
}

impl Readings {
    /// The other readings of a path that is handed on as it is.
    pub fn of(path: &str) -> Self {
        let mut readings = Self::default();
        if !is_ambiguous(path) {
            return readings;
        }
        readings.counted = Some(counted(path)).filter(|counted| counted != path);
        for escaped_slashes in [EscapedSlashes::Keep, EscapedSlashes::Unescape] {
            readings.add(path, read(path, escaped_slashes));
            // Whoever merges first finds other segments before a `..`.
            readings.add(path, merged(path, escaped_slashes));
        }
        for reading in decodings(path) {
            let is_known = reading == path || readings.structural.contains(&reading);
            if !is_known && !readings.decoded.contains(&reading) {
                readings.decoded.push(reading);
            }
        }
        readings
    }

    /// Readings with other segments. Every rule has to let them pass.
    pub fn structural(&self) -> impl Iterator<Item = &str> {
        self.structural.iter().map(String::as_str)
    }

    /// Readings that are decoded in full, or lack the parameters of segments. No deny rule may name them; an allow rule may
    /// name the path as it is written.
    pub fn decoded(&self) -> impl Iterator<Item = &str> {
        self.decoded.iter().map(String::as_str)
    }

    /// The one reading that stands for all where requests are counted by their path; `None`: the path itself.
    pub fn counted(&self) -> Option<&str> {
        self.counted.as_deref()
    }

    fn add(&mut self, path: &str, reading: Option<String>) {
        self.structural.extend(reading.filter(|reading| *reading != path && !self.structural.contains(reading)));
    }
}

fn is_ambiguous(path: &str) -> bool {
    path.contains(['%', '\\', ';']) || path.contains("//") || path.contains("/.")
}

fn read(path: &str, escaped_slashes: EscapedSlashes) -> Option<String> {
    normalised(path, PathNormalization { normalize: true, merge_slashes: true, escaped_slashes })
}

fn merged(path: &str, escaped_slashes: EscapedSlashes) -> Option<String> {
    let merge = PathNormalization { normalize: false, merge_slashes: true, escaped_slashes };
    read(&normalised(&path.replace('\\', "/"), merge)?, escaped_slashes)
}

fn normalised(path: &str, how: PathNormalization) -> Option<String> {
    match how.apply(path) {
        Ok(Normalized::Target(target)) => Some(target.into_owned()),
        _ => None,
    }
}

/// Decoded once; with the parameters of segments (RFC 3986, 3.3) or without, dropped before or after; with dot segments
/// and double slashes resolved in either order.
fn decodings(path: &str) -> Vec<String> {
    let decoded = decoded(path);
    let bare = [bare(&decoded), self::decoded(&bare(path))];
    let resolved = |text: String| {
        let merged = merge_slashes(&text);
        let dots = without_dot_segments(&text);
        [merge_slashes(&dots), without_dot_segments(&merged), dots, merged, text]
    };
    std::iter::once(decoded).chain(bare).flat_map(resolved).collect()
}

/// Decoded in full, without parameters, slashes merged and dot segments resolved: spellings that somebody may read alike
/// are counted together, and so are a few that nobody does.
fn counted(path: &str) -> String {
    without_dot_segments(&merge_slashes(&bare(&decoded(&bare(path)))))
}

fn decoded(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().replace('\\', "/")
}

fn bare(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_has_no_other_reading() {
        for path in ["/", "/a/b.txt", "*", "", "/a-b_c~d/e.f"] {
            assert_eq!(Readings::of(path), Readings::default(), "{path}");
        }
    }

    #[test]
    fn every_spelling_is_counted_as_one_path() {
        for path in [
            "//login",
            "/login;v=1",
            "/login%3Bv=1",
            "/;x/login",
            "/x/..%2flogin",
            "/x//..%2flogin",
            "/..;/login",
            "/%6Cogin",
            "/%5Clogin",
            "/x/%2e%2e/login",
            "/login/.%2F..%2f%2flogin",
        ] {
            assert_eq!(Readings::of(path).counted(), Some("/login"), "{path}");
        }
        for path in ["/login", "/", "*", "/a.b"] {
            assert_eq!(Readings::of(path).counted(), None, "{path}");
        }
        assert_eq!(Readings::of("/%252e/x").counted(), Some("/%2e/x"), "nobody decodes twice");
        // What is counted is counted as itself.
        for path in ["//a%20b/../c;d", "/%ff/"] {
            let counted = Readings::of(path).counted().map(str::to_owned).unwrap();
            assert_eq!(Readings::of(&counted).counted().unwrap_or(&counted), counted, "{path}");
        }
    }

    #[test]
    fn a_kept_spelling_is_read_in_every_way() {
        for (path, structural, decoded) in [
            ("//admin", &["/admin"][..], &[][..]),
            ("/projects/a%2Fb", &["/projects/a/b"], &[]),
            ("/x/..%2fadmin", &["/admin"], &["/x/../admin"]),
            ("/a//..%2fadmin", &["/a/..%2fadmin", "/a/admin", "/admin"], &["/a/../admin", "/a//../admin"]),
            ("//admin%2fx", &["/admin%2fx", "/admin/x"], &["//admin/x"]),
            ("/admin;x/y;z", &[], &["/admin/y"]),
            ("/;p%2fx/admin", &["/;p/x/admin"], &["/x/admin", "//x/admin", "/admin", "//admin"]),
            ("/..;/admin", &[], &["/admin", "/../admin"]),
            ("/a%20b", &[], &["/a b"]),
            ("/a%5C..%5Cadmin", &["/admin"], &["/a/../admin"]),
            ("/a%3B../b", &[], &["/a;../b", "/a/b"]),
        ] {
            let readings = Readings::of(path);
            assert_eq!(readings.structural().collect::<Vec<_>>(), structural, "{path}");
            assert_eq!(readings.decoded().collect::<Vec<_>>(), decoded, "{path}");
        }
    }
}
