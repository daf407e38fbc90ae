//! Reads `tests/vectors/route_match.json` into this module's types, for its tests.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{HeaderMatcher, MethodMatcher, PathMatcher, QueryMatcher, RequestMatch, ValueMatcher};

pub(super) fn vectors() -> Value {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/route_match.json"));
    serde_json::from_str(text).unwrap()
}

/// The cases of one kind.
pub(super) fn cases(kind: &str) -> Vec<Value> {
    let mut cases = vectors()["cases"].take();
    let list = cases.as_array_mut().unwrap();
    list.retain(|case| case["kind"] == kind);
    std::mem::take(list)
}

pub(super) fn header_map(pairs: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for pair in pairs.as_array().unwrap() {
        let name = HeaderName::from_bytes(pair[0].as_str().unwrap().as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(pair[1].as_str().unwrap()).unwrap());
    }
    map
}

pub(super) fn header_matcher(spec: &Value) -> HeaderMatcher {
    check_keys(spec, &["name", "invert", "treat_missing_as_empty", "ignore_case"]);
    let flag = |name: &str| spec[name].as_bool().unwrap_or(false);
    let value = if flag("ignore_case") { value_matcher(spec).ignore_case() } else { value_matcher(spec) };
    let matcher = HeaderMatcher::new(spec["name"].as_str().unwrap(), value).unwrap();
    matcher.inverted(flag("invert")).missing_as_empty(flag("treat_missing_as_empty"))
}

pub(super) fn request_match(spec: &Value) -> RequestMatch {
    let list = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
    let query = |one: &Value| {
        check_keys(one, &["name"]);
        QueryMatcher::new(one["name"].as_str().unwrap(), value_matcher(one)).unwrap()
    };
    let methods: Vec<&str> = spec["method"].as_str().into_iter().collect();
    RequestMatch {
        path: spec.get("path").map(path_matcher),
        methods: MethodMatcher::new(&methods).unwrap(),
        headers: list("headers").iter().map(header_matcher).collect(),
        query: list("query").iter().map(query).collect(),
        source: None,
    }
}

fn path_matcher(spec: &Value) -> PathMatcher {
    let text = |name: &str| spec[name].as_str();
    let matcher = match (text("exact"), text("segment_prefix"), text("prefix"), text("regex")) {
        (Some(path), ..) => PathMatcher::exact(path),
        (_, Some(path), ..) => PathMatcher::prefix(path),
        (_, _, Some(path), _) => PathMatcher::raw_prefix(path),
        (_, _, _, Some(pattern)) => PathMatcher::regex(pattern),
        _ => panic!("unknown path matcher {spec}"),
    };
    let matcher = matcher.unwrap();
    if spec["case_sensitive"] == false { matcher.ignore_case() } else { matcher }
}

fn value_matcher(spec: &Value) -> ValueMatcher {
    let text = |name: &str| spec[name].as_str();
    if let Some(wanted) = spec["present"].as_bool() {
        return ValueMatcher::Present(wanted);
    }
    if let Some(range) = spec["range"].as_array() {
        return ValueMatcher::Range { from: range[0].as_i64().unwrap(), to: range[1].as_i64().unwrap() };
    }
    if let Some(pattern) = text("regex") {
        return ValueMatcher::regex(pattern).unwrap();
    }
    type Build = fn(&str) -> ValueMatcher;
    let plain: [(&str, Build); 4] = [
        ("exact", ValueMatcher::exact),
        ("prefix", ValueMatcher::prefix),
        ("suffix", ValueMatcher::suffix),
        ("contains", ValueMatcher::contains),
    ];
    let found = plain.iter().find_map(|(name, build)| text(name).map(build));
    found.unwrap_or_else(|| panic!("unknown value matcher {spec}"))
}

/// A key nobody reads would make a vector pass for the wrong reason.
fn check_keys(spec: &Value, more: &[&str]) {
    const VALUE: [&str; 7] = ["exact", "prefix", "suffix", "contains", "regex", "present", "range"];
    for key in spec.as_object().unwrap().keys() {
        assert!(VALUE.contains(&key.as_str()) || more.contains(&key.as_str()), "unknown key {key} in {spec}");
    }
}
