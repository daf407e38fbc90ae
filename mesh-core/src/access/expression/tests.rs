//! Expressions against requests, and those that are refused.

use super::*;
use crate::access::AttributesBuf;

fn request() -> AttributesBuf {
    let mut attributes = AttributesBuf {
        method: "POST".to_owned(),
        path: "/orders/7".to_owned(),
        query: Some("force=1".to_owned()),
        source_address: Some("10.1.2.3:4444".parse().unwrap()),
        destination_address: Some("127.0.0.1:8443".parse().unwrap()),
        sni: Some("orders.test".to_owned()),
        ..AttributesBuf::default()
    };
    attributes.headers.append("x-amount", "120".parse().unwrap());
    attributes.headers.append("x-role", "clerk".parse().unwrap());
    attributes.headers.append("x-role", "admin".parse().unwrap());
    let claims = serde_json::json!({
        "iss": "https://issuer", "sub": "ann", "aud": ["shop"], "level": 3, "groups": ["a", "b"], "org": { "unit": "x" },
    });
    attributes.claims = Some(Arc::new(claims.as_object().unwrap().clone()));
    attributes
}

fn holds(text: &str, of: &AttributesBuf) -> Option<bool> {
    Expression::read(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&of.borrow())
}

#[test]
fn a_condition_says_what_rules_cannot() {
    for (text, expected) in [
        ("true", true),
        ("request.method == 'POST' && request.path.startsWith('/orders/')", true),
        ("int(request.headers['x-amount']) > 100", true),
        ("int(request.headers['x-amount']) > 200", false),
        ("request.headers['x-role'] == 'clerk,admin'", true),
        ("request.headers['x-role'].matches('(^|,)admin($|,)')", true),
        ("'x-none' in request.headers", false),
        ("has(request.headers.host)", false),
        ("request.query.contains('force=')", true),
        ("request.auth.claims.level >= 3", true),
        ("request.auth.claims.groups.exists(group, group == 'b')", true),
        ("request.auth.claims.groups.all(group, group == 'b')", false),
        ("has(request.auth.claims.org) && request.auth.claims.org.unit == 'x'", true),
        ("request.auth.principal == 'https://issuer/ann' && 'shop' in request.auth.audiences", true),
        ("source.principal == 'spiffe://cluster.local/ns/default/sa/caller'", true),
        ("source.ip == '10.1.2.3' && source.address == '10.1.2.3:4444' && source.port == 4444", true),
        ("destination.port == 8443 && destination.listener == 'inbound' && destination.service == 'details'", true),
        ("connection.mtls && connection.sni.endsWith('.test')", true),
        ("source.principal.endsWith('/' + request.headers['x-role'])", false),
        ("request.method in ['GET', 'HEAD'] ? true : size(request.path) < 5", false),
    ] {
        assert_eq!(holds(text, &request()), Some(expected), "{text}");
    }
}

#[test]
fn patterns_are_compiled_when_the_condition_is_read() {
    let expression = Expression::read("request.path.matches('^/orders/[0-9]+$') || 'x'.matches('y')").unwrap();
    let mut patterns: Vec<_> = expression.patterns.keys().map(String::as_str).collect();
    patterns.sort_unstable();
    assert_eq!(patterns, ["^/orders/[0-9]+$", "y"]);
    assert_eq!(holds("['/a', request.path].exists(path, path.matches('/orders/.'))", &request()), Some(true));
    assert_eq!(holds("matches(request.path, '^/orders')", &request()), Some(true));
    assert_eq!(holds("request.path.matches('^orders')", &request()), Some(false));
    // The environment's own would compile its pattern for each request.
    let program = ENV.compile("'a'.matches('a')").unwrap();
    assert!(program.execute(&Context::with_env(Arc::clone(&ENV))).is_err());
}

#[test]
fn what_cannot_be_evaluated_is_no_answer_and_is_counted_once() {
    for text in [
        "request.headers['x-none'] == 'a'",
        "request.auth.claims.none == 'a'",
        "int(request.headers['x-role']) > 1",
        "1 / size(request.auth.claims.groups.filter(group, group == 'c')) > 0",
        "request.auth.claims.groups[7] == 'a'",
        "request.auth.claims.level",
        "request.auth.claims.level == 3 && request.auth.claims.sub",
    ] {
        let expression = Expression::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.holds(&request().borrow()), None, "{text}");
        assert_eq!((expression.take_failures(), expression.take_failures()), (1, 0), "{text}");
    }
}

#[test]
fn an_absent_fact_is_told_by_has() {
    let nobody = AttributesBuf { principal: None, ..AttributesBuf::default() };
    for (text, expected) in [
        ("has(source.principal)", Some(false)),
        ("source.principal == 'x'", None),
        ("has(source.principal) && source.principal == 'x'", Some(false)),
        ("connection.mtls", Some(false)),
        ("has(request.auth.claims.sub)", Some(false)),
        ("size(request.auth.claims) == 0", Some(true)),
        ("has(request.auth.principal)", Some(false)),
        ("has(connection.sni)", Some(false)),
    ] {
        assert_eq!(holds(text, &nobody), expected, "{text}");
    }
}

#[test]
fn a_mistake_is_refused_when_it_is_read_and_says_what_to_write() {
    let long = format!("'{}' == request.path", "a".repeat(2048));
    let deep = format!("{}true{}", "(".repeat(200), ")".repeat(200));
    let nested = format!("{}'a'{}", "[".repeat(60), "]".repeat(60));
    for (text, message) in [
        ("request.method ==", "no CEL"),
        ("", "no CEL"),
        ("request.pth == '/a'", "`request.pth` is not known: there are request.method"),
        ("user == 'a'", "`user` is not known"),
        ("request == 1", "`request` is no value by itself"),
        ("request.auth.claim.x == 1", "`request.auth.claim.x` is not known"),
        ("request.method.length == 1", "`request.method.length` is not known"),
        ("lowercase(request.method) == 'a'", "unknown function `lowercase`"),
        ("request.path.matches(request.headers['x'])", "pattern that is written out"),
        ("request.path.matches('(')", "`matches`"),
        ("request.path.matches('(a{500}){500}')", "`matches`"),
        ("request.auth.claims.a.all(x, request.auth.claims.b.all(y, x == y))", "a loop stands inside another"),
        ("request.auth.claims.a.map(x, [x].map(y, y)) == []", "a loop stands inside another"),
        ("'a'", "it is a string, and a condition is true or false"),
        ("request.method", "it is a string"),
        ("size(request.headers)", "it is a int"),
        (&long, "at most 2048 bytes"),
        (&deep, "brackets are nested deeper than 24"),
        (&nested, "brackets are nested deeper than 24"),
    ] {
        let refused = Expression::read(text).expect_err(text);
        assert!(refused.contains(message), "{text}: {refused}");
        assert!(!refused.contains('\n'), "{text}: {refused}");
    }
}

#[test]
fn which_expressions_are_about_requests_is_known() {
    for (text, expected) in [
        ("source.ip == '10.1.2.3' && connection.mtls", false),
        ("source.ip == '10.1.2.3' && request.method == 'GET'", true),
        ("destination.port == 1 || has(request.headers.x)", true),
    ] {
        assert_eq!(Expression::read(text).unwrap().is_about_requests(), expected, "{text}");
    }
}

#[test]
fn no_text_of_the_longest_kind_ends_the_process() {
    for (begin, piece, end) in [
        ("", "!", "true"),
        ("", "-", "1 == 1"),
        ("", "true?", "true:true"),
        ("", "true?true:", "true"),
        ("true", "&&true", ""),
        ("true", "==true", ""),
        ("1", "+1", "==1"),
        ("request.headers", ".a", " == 1"),
        ("request.headers", "[0]", " == 1"),
        ("", "has(", ""),
        ("", ")", ""),
        ("'a'", "+'a'", "== 'b'"),
        ("request.path", ".startsWith('a')", ""),
        ("'", "(", "' == request.path"),
    ] {
        let pieces = (2048 - begin.len() - end.len()) / piece.len();
        let text = format!("{begin}{}{end}", piece.repeat(pieces));
        if let Ok(expression) = Expression::read(&text) {
            let _ = expression.holds(&request().borrow());
        }
    }
}
