use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::route::tests_support::{cases, header_map, request_match, vectors};
use crate::route::{HeaderMatcher, MethodMatcher, PathMatcher, ValueMatcher, sort_by_specificity};

fn table(rules: Vec<Rule<()>>) -> RouteTable<()> {
    let hosts = vec![HostPattern::parse("*").unwrap()];
    RouteTable::new(vec![VirtualHost { name: "all".to_owned(), hosts, rules }]).unwrap()
}

fn rule(name: &str, matches: Vec<RequestMatch>) -> Rule<()> {
    Rule { name: name.to_owned(), matches, action: () }
}

fn rule_set(spec: &Value) -> RouteTable<()> {
    let rules = spec["routes"].as_array().unwrap().iter().map(|route| {
        let matches = route["matches"].as_array().unwrap().iter().map(request_match).collect();
        rule(route["name"].as_str().unwrap(), matches)
    });
    match spec["order"].as_str().unwrap() {
        "gateway_api_specificity" => table(sort_by_specificity(rules.collect())),
        "list_order" => table(rules.collect()),
        other => panic!("unknown order {other}"),
    }
}

fn head<'a>(method: &'a Method, target: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestHead { method, path, query, headers, principal: None }
}

#[test]
fn a_connection_takes_the_first_rule_that_asks_for_nothing() {
    let of = |method: &str| RequestMatch { methods: MethodMatcher::new(&[method]).unwrap(), ..RequestMatch::default() };
    let at = |path: &str| RequestMatch { path: Some(PathMatcher::prefix(path).unwrap()), ..RequestMatch::default() };
    for (rules, expected) in [
        (vec![rule("get", vec![of("GET")]), rule("all", vec![])], Ok("all")),
        (vec![rule("either", vec![of("GET"), RequestMatch::default()]), rule("all", vec![])], Ok("either")),
        (vec![rule("get", vec![of("GET")]), rule("a", vec![at("/a")])], Err(Miss::NoRule)),
    ] {
        assert_eq!(table(rules).lookup_connection("any:1").map(|rule| &*rule.name), expected);
    }
    assert_eq!(RouteTable::<()>::new(Vec::new()).unwrap().lookup_connection("any").err(), Some(Miss::NoHost));
}

#[test]
fn rules_are_chosen_as_the_vectors_say() {
    let sets = vectors()["rule_sets"].take();
    let cases = cases("route");
    for case in &cases {
        let table = rule_set(&sets[case["rule_set"].as_str().unwrap()]);
        let request = &case["request"];
        let method = Method::from_bytes(request["method"].as_str().unwrap().as_bytes()).unwrap();
        let headers = header_map(&request["headers"]);
        let head = head(&method, request["path"].as_str().unwrap(), &headers);
        let found = table.lookup("any", head).map(|matched| matched.rule.name.clone());
        assert_eq!(found.ok().map_or(Value::Null, Value::from), case["expected"]["route"], "{}", case["id"]);
        let trials = table.explain("any", head);
        assert_eq!(trials.iter().any(|trial| trial.matched), !case["expected"]["route"].is_null(), "{}", case["id"]);
    }
    assert_eq!(cases.len(), 97);
}

fn domain_table<'a>(hosts: impl Iterator<Item = (&'a str, &'a Value)>) -> Result<RouteTable<()>, String> {
    let hosts = hosts.map(|(name, patterns)| VirtualHost {
        name: name.to_owned(),
        hosts: patterns.as_array().unwrap().iter().map(|p| HostPattern::parse(p.as_str().unwrap()).unwrap()).collect(),
        rules: vec![rule("all", vec![])],
    });
    RouteTable::new(hosts.collect())
}

#[test]
fn virtual_hosts_are_chosen_as_the_vectors_say() {
    let sets = vectors()["domain_sets"].take();
    let cases = cases("domain");
    for case in &cases {
        let set = sets[case["domain_set"].as_str().unwrap()].as_object().unwrap();
        let table = domain_table(set.iter().map(|(name, patterns)| (name.as_str(), patterns))).unwrap();
        let found = table.virtual_host(case["authority"].as_str().unwrap()).map(|host| host.name.as_str());
        // Where Envoy's default keeps the port, the file states the outcome of stripping it apart.
        let expected = case.get("our_choice").unwrap_or(&case["expected"]);
        assert_eq!(found.map_or(Value::Null, Value::from), expected["virtual_host"], "{}", case["id"]);
    }
    assert_eq!(cases.len(), 30);
}

#[test]
fn a_host_in_two_virtual_hosts_is_refused() {
    let cases = cases("domain_syntax_set");
    for case in &cases {
        let sets = case["domains_per_virtual_host"].as_array().unwrap();
        let valid = domain_table(sets.iter().map(|patterns| ("host", patterns))).is_ok();
        assert_eq!(Value::from(valid), case["expected"]["valid"], "{}", case["id"]);
    }
    assert_eq!(cases.len(), 4);
}

#[test]
fn no_kind_of_vector_is_left_out() {
    let all = vectors()["cases"].as_array().unwrap().len();
    // 78 header_matcher, rule and config: matcher.rs; domain_syntax: host.rs; weights: split.rs.
    let kinds = ["route", "header_matcher", "domain", "domain_syntax", "weights", "domain_syntax_set"];
    let more = ["weights_config", "config", "rule"];
    assert_eq!(kinds.iter().chain(&more).map(|kind| cases(kind).len()).sum::<usize>(), all);
    assert_eq!(all, 230);
}

fn prefix(path: &str) -> RequestMatch {
    RequestMatch { path: PathMatcher::prefix(path).ok(), ..RequestMatch::default() }
}

#[test]
fn an_explanation_names_the_condition_that_failed() {
    let header = HeaderMatcher::new("end-user", ValueMatcher::exact("jason")).unwrap();
    let table = table(vec![
        rule("beta", vec![RequestMatch { headers: vec![header], ..prefix("/") }, prefix("/beta")]),
        rule("post", vec![RequestMatch { methods: MethodMatcher::new(&["POST", "PUT"]).unwrap(), ..prefix("/") }]),
        rule("rest", vec![]),
        rule("never", vec![]),
    ]);
    let headers = HeaderMap::new();
    let trials = table.explain("host", head(&Method::GET, "/x", &headers));
    let told: Vec<_> = trials.iter().map(|trial| (trial.rule, trial.matched, trial.failed.as_deref())).collect();
    let beta = "header end-user: exact `jason`; or path: prefix `/beta`";
    assert_eq!(told, [("beta", false, Some(beta)), ("post", false, Some("method: POST, PUT")), ("rest", true, None)]);
}

#[test]
fn a_match_says_how_much_of_the_path_it_took() {
    let exact = RequestMatch { path: PathMatcher::exact("/e").ok(), ..RequestMatch::default() };
    let table = table(vec![rule("e", vec![exact]), rule("p", vec![prefix("/p/")]), rule("rest", vec![])]);
    let headers = HeaderMap::new();
    for (path, index, len) in [("/e", 0, None), ("/p/x", 1, Some(2)), ("/x", 2, Some(0))] {
        let matched = table.lookup("host:80", head(&Method::GET, path, &headers)).unwrap();
        assert_eq!((matched.rule_index, matched.prefix_len, matched.host), (index, len, "all"), "{path}");
    }
}

#[test]
fn a_miss_says_whether_the_host_is_known() {
    let hosts = vec![HostPattern::parse("a").unwrap()];
    let rules = vec![rule("x", vec![prefix("/x")])];
    let table = RouteTable::new(vec![VirtualHost { name: "a".to_owned(), hosts, rules }]).unwrap();
    let headers = HeaderMap::new();
    assert_eq!(table.lookup("b", head(&Method::GET, "/x", &headers)).err(), Some(Miss::NoHost));
    assert_eq!(table.lookup("a", head(&Method::GET, "/y", &headers)).err(), Some(Miss::NoRule));
    assert!(table.explain("b", head(&Method::GET, "/x", &headers)).is_empty());
}

#[test]
fn a_rule_behind_one_that_takes_everything_is_reported() {
    let table = table(vec![
        rule("a", vec![prefix("/a")]),
        rule("a-or-b", vec![prefix("/a/x"), prefix("/b")]),
        rule("hidden", vec![prefix("/b/x"), prefix("/a/y")]),
        rule("all", vec![]),
        rule("late", vec![prefix("/z")]),
    ]);
    let names: Vec<_> = table.shadowed().iter().map(|one| (one.rule, one.by)).collect();
    assert_eq!(names, [("hidden", "a-or-b"), ("late", "all")]);
}

// The naive model: reads the patterns as text, tries every one, keeps the best.

fn naive_host(patterns: &[String], authority: &str) -> Option<usize> {
    let host = authority.to_lowercase();
    let host = host.split(':').next().unwrap();
    let host = if host.len() > 1 { host.strip_suffix('.').unwrap_or(host) } else { host };
    let rank = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => Some((1, 0)),
        (Some(end), _) => (host.len() > end.len() && host.ends_with(end)).then_some((3, end.len())),
        (_, Some(start)) => (host.len() > start.len() && host.starts_with(start)).then_some((2, start.len())),
        _ => (host == pattern).then_some((4, 0)),
    };
    let ranked = patterns.iter().enumerate().filter_map(|(number, pattern)| Some((rank(pattern)?, number)));
    ranked.max().map(|(_, number)| number)
}

/// Path kind and text, a method, a header value: what the naive rule is made of.
type NaiveRule = (u8, String, Option<bool>, Option<String>);

fn naive_rule_matches((kind, path, post, user): &NaiveRule, request: (&str, bool, Option<&str>)) -> bool {
    let segments = |text: &str| text.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let path_fits = match kind {
        0 => request.0 == path,
        1 => segments(request.0).starts_with(&segments(path)),
        _ => request.0.starts_with(path.as_str()),
    };
    path_fits && post.is_none_or(|post| post == request.1) && user.as_deref().is_none_or(|user| request.2 == Some(user))
}

fn compiled((kind, path, post, user): &NaiveRule) -> RequestMatch {
    let path = match kind {
        0 => PathMatcher::exact(path),
        1 => PathMatcher::prefix(path),
        _ => PathMatcher::raw_prefix(path),
    };
    let methods: Vec<_> = post.iter().map(|post| if *post { "POST" } else { "GET" }).collect();
    let header = |user: &String| HeaderMatcher::new("user", ValueMatcher::exact(user)).unwrap();
    RequestMatch {
        path: Some(path.unwrap()),
        methods: MethodMatcher::new(&methods).unwrap(),
        headers: user.iter().map(header).collect(),
        query: vec![],
        source: None,
    }
}

fn any_rule() -> impl Strategy<Value = NaiveRule> {
    (0..3_u8, "(/[ab]{1,2}){1,3}", any::<Option<bool>>(), proptest::option::of("[xy]"))
}

proptest! {
    #[test]
    fn a_host_lookup_equals_trying_every_pattern(
        patterns in proptest::collection::btree_set(r"\*|[ab]([ab.]{0,3}[ab])?|\*[ab.]{0,2}[ab]|[ab][ab.]{0,2}\*", 0..12),
        authority in r"[abAB][abAB.]{0,4}[abAB]\.?(:80)?",
    ) {
        let patterns: Vec<String> = patterns.into_iter().collect();
        let hosts = patterns.iter().map(|pattern| VirtualHost {
            name: pattern.clone(),
            hosts: vec![HostPattern::parse(pattern).unwrap()],
            rules: vec![rule("all", vec![])],
        });
        let table = RouteTable::new(hosts.collect()).unwrap();
        let found = table.virtual_host(&authority).map(|host| host.name.clone());
        prop_assert_eq!(found, naive_host(&patterns, &authority).map(|number| patterns[number].clone()));
    }

    #[test]
    fn a_rule_lookup_equals_a_scan_and_no_shadowed_rule_is_ever_taken(
        rules in proptest::collection::vec(proptest::collection::vec(any_rule(), 1..3), 0..6),
        path in "(/[ab]{1,2}){1,3}/?",
        post in any::<bool>(),
        user in proptest::option::of("[xy]"),
    ) {
        let expected = rules.iter().position(|any| any.iter().any(|one| naive_rule_matches(one, (&path, post, user.as_deref()))));
        let named = rules.iter().enumerate().map(|(n, any)| rule(&n.to_string(), any.iter().map(compiled).collect()));
        let table = table(named.collect());
        let mut headers = HeaderMap::new();
        if let Some(user) = &user {
            headers.insert("user", HeaderValue::from_str(user).unwrap());
        }
        let method = if post { Method::POST } else { Method::GET };
        let found = table.lookup("x", head(&method, &path, &headers)).ok().map(|matched| matched.rule_index);
        prop_assert_eq!(found, expected);
        let shadowed = table.shadowed();
        prop_assert!(found.is_none_or(|index| shadowed.iter().all(|one| one.rule != index.to_string())));
    }
}
