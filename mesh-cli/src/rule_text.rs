//! What a rule asks for, in words.

use mesh_core::config::{HeaderMatch, Matches, QueryMatch, RequestMatch, SourceMatch, Test};

/// All alternatives of a rule, joined with `or`.
pub fn conditions(matches: &Matches) -> String {
    if matches.is_any() {
        return "every request".to_owned();
    }
    matches.0.iter().map(alternative).collect::<Vec<_>>().join(" or ")
}

fn alternative(one: &RequestMatch) -> String {
    let path = one.path.as_ref().and_then(|path| path.test()).map(|test| format!("path {}", wanted(test)));
    let methods = (!one.methods.is_empty()).then(|| {
        let names: Vec<&str> = one.methods.iter().map(|method| method.as_str()).collect();
        format!("method {}", names.join("|"))
    });
    let headers = one.headers.iter().filter_map(header);
    let query = one.query.iter().filter_map(query);
    let source = one.source.as_ref().map(source);
    let parts: Vec<String> = path.into_iter().chain(methods).chain(headers).chain(query).chain(source).collect();
    if parts.is_empty() { "every request".to_owned() } else { parts.join(", ") }
}

fn header(one: &HeaderMatch) -> Option<String> {
    let not = if one.invert { "not " } else { "" };
    one.test().map(|test| format!("header {} {not}{}", one.name.as_str(), wanted(test)))
}

fn source(one: &SourceMatch) -> String {
    let principals = one.principals.iter().map(|pattern| pattern.as_str().to_owned());
    let namespaces = one.namespaces.iter().map(|namespace| format!("namespace {}", namespace.as_str()));
    format!("source {}", principals.chain(namespaces).collect::<Vec<_>>().join("|"))
}

fn query(one: &QueryMatch) -> Option<String> {
    one.test().map(|test| format!("query {} {}", one.name, wanted(test)))
}

fn wanted(test: Test<'_>) -> String {
    match test {
        Test::Exact(text) => format!("= {text}"),
        Test::SegmentPrefix(text) => format!("under {text}"),
        Test::Prefix(text) => format!("starts with {text}"),
        Test::Suffix(text) => format!("ends with {text}"),
        Test::Contains(text) => format!("contains {text}"),
        Test::Regex(text) => format!("matches {text}"),
        Test::Template(text) => format!("fits {text}"),
        Test::Present(true) => "is present".to_owned(),
        Test::Present(false) => "is absent".to_owned(),
    }
}
