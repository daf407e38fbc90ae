use http::Uri;
use serde_json::Value;

use super::*;

fn header(name: &str, is_terminal: bool) -> HashPolicy {
    HashPolicy { part: Part::Header(name.parse().unwrap()), is_terminal }
}

fn part(part: Part) -> HashPolicy {
    HashPolicy { part, is_terminal: false }
}

fn cookie(ttl: Option<u64>, path: &str) -> Cookie {
    Cookie { name: "shop".to_owned(), ttl: ttl.map(Duration::from_secs), path: path.to_owned() }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

fn apply(policies: &[HashPolicy], uri: &str, headers: &HeaderMap, source: Source<'_>) -> Hashed {
    let uri: Uri = uri.parse().unwrap();
    let head = RequestHead::new(&http::Method::GET, &uri, headers);
    HashPolicy::apply(policies, head, source, &mut fastrand::Rng::with_seed(1))
}

#[test]
fn policies_combine_as_envoy_combines_them() {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/vectors/ring_hash.json")).unwrap();
    let all = vectors["cases"].as_array().unwrap().iter();
    let cases: Vec<_> = all.filter(|case| case["kind"] == "combine_policies").collect();
    for case in &cases {
        let policies = case["hash_policies"].as_array().unwrap();
        let policies: Vec<_> = policies
            .iter()
            .map(|policy| header(policy["header"].as_str().unwrap(), policy["terminal"] == true))
            .collect();
        let pairs = case["request_headers"].as_object().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let hash = apply(&policies, "/", &headers(&pairs), Source::default()).hash;
        let expected = &case["expected"]["request_hash"];
        assert_eq!(hash.map_or(Value::Null, |hash| hash.to_string().into()), *expected, "{}", case["id"]);
    }
    assert_eq!(cases.len(), 8);
}

#[test]
fn a_part_hashes_to_xxh64_of_its_text() {
    let of = |text: &str| Some(xxh64(text.as_bytes(), 0));
    let headers = headers(&[("x-user", "b"), ("x-user", "a"), ("cookie", "other=1; shop=\"42\""), ("x-empty", "")]);
    let source = Source { principal: Some("spiffe://a/b"), address: Some("10.1.2.3".parse().unwrap()) };
    for (policy, expected) in [
        (Part::Header("x-user".parse().unwrap()), Some(xxh64(b"b", xxh64(b"a", 0)))),
        (Part::Header("x-empty".parse().unwrap()), of("")),
        (Part::Header("x-absent".parse().unwrap()), None),
        (Part::Cookie(cookie(None, "")), of("42")),
        (Part::QueryParameter("id".to_owned()), of("7%41")),
        (Part::QueryParameter("flag".to_owned()), of("")),
        (Part::QueryParameter("ID".to_owned()), None),
        (Part::Principal, of("spiffe://a/b")),
        (Part::Address, of("10.1.2.3")),
    ] {
        let hashed = apply(&[part(policy.clone())], "/cart?flag&id=7%41&id=8", &headers, source);
        assert_eq!((hashed.hash, hashed.cookies.len()), (expected, 0), "{policy:?}");
    }
    for policy in [Part::Principal, Part::Address, Part::Cookie(cookie(None, ""))] {
        assert_eq!(apply(&[part(policy)], "/", &HeaderMap::new(), Source::default()), Hashed::default());
    }
}

#[test]
fn a_cookie_with_a_lifetime_is_made_once_and_then_obeyed() {
    for (ttl, path, attributes) in [
        (3600, "/cart", "; Max-Age=3600; Path=/cart; HttpOnly"),
        (0, "/", "; Path=/; HttpOnly"),
        (60, "", "; Max-Age=60; HttpOnly"),
    ] {
        let policies = [part(Part::Cookie(cookie(Some(ttl), path)))];
        let made = apply(&policies, "/", &HeaderMap::new(), Source::default());
        let [set] = &made.cookies[..] else { panic!("{made:?}") };
        let (pair, rest) = set.to_str().unwrap().split_at("shop=\"0123456789abcdef\"".len());
        assert_eq!(rest, attributes);
        let again = apply(&policies, "/", &headers(&[("cookie", pair)]), Source::default());
        assert_eq!(again, Hashed { hash: made.hash, cookies: Vec::new() });
    }
}

#[test]
fn a_cookie_is_not_made_for_a_policy_that_is_not_asked() {
    let policies = [header("x-user", true), part(Part::Cookie(cookie(Some(60), "/")))];
    let hashed = apply(&policies, "/", &headers(&[("x-user", "a")]), Source::default());
    assert_eq!(hashed, Hashed { hash: Some(xxh64(b"a", 0)), cookies: Vec::new() });
}

#[test]
fn a_cookie_is_found_in_any_line_and_by_its_whole_name() {
    let lines = headers(&[("cookie", "workshop=1; Shop=2"), ("cookie", "a=b;shop=c=d"), ("cookie", "shop=late")]);
    assert_eq!(value_of(&lines, "shop"), Some("c=d"));
    for empty in ["shop=", "shop=\"\"", "shop", "ashop=1"] {
        assert_eq!(value_of(&headers(&[("cookie", empty)]), "shop"), None, "{empty}");
    }
}
