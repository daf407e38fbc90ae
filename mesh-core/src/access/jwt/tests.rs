use std::time::Duration;

use serde_json::json;

use self::tokens::hostile::{PARTNER, SHOP, World, claims, with};
use super::*;

#[path = "../../../tests/tokens/mod.rs"]
pub(super) mod tokens;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn issuer(name: &str, (issuer, audience): (&str, Option<&str>), location: Location, keys: &str) -> Issuer {
    let source = KeySource::new(Origin::Inline(String::new()));
    if !keys.is_empty() {
        source.publish(KeySet::read(keys.as_bytes()).unwrap());
    }
    Issuer {
        name: name.into(),
        terms: Terms {
            issuer: issuer.to_owned(),
            audiences: audience.map(str::to_owned).into_iter().collect(),
            clock_skew: Duration::from_secs(60),
            requires_expiry: true,
        },
        locations: vec![location],
        is_required: false,
        forwards_token: false,
        claim_headers: Vec::new(),
        keys: Arc::new(source),
    }
}

fn shop(keys: &str) -> Issuer {
    issuer("shop", (SHOP, Some("shop")), Location::bearer(), keys)
}

fn end_users(world: &World) -> EndUsers {
    let place = Location::Header { name: HeaderName::from_static("x-partner-token"), prefix: String::new() };
    let mut partner = issuer("partner", (PARTNER, None), place, &world.partner_keys());
    partner.locations.push(Location::Cookie("partner".to_owned()));
    EndUsers::new(vec![Arc::new(shop(&world.shop_keys())), Arc::new(partner)])
}

fn bearer(token: &str) -> HeaderMap {
    [(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
}

fn reason(users: &EndUsers, headers: &HeaderMap, seconds: u64) -> Option<&'static str> {
    users.authenticate(headers, None, at(seconds)).err().map(|refused| refused.reason.as_str())
}

#[test]
fn every_hostile_token_is_refused_for_its_reason_and_every_good_one_proves_its_claims() {
    let world = World::new();
    let users = end_users(&world);
    let cases = world.cases(NOW);
    assert!(cases.len() > 80, "{}", cases.len());
    // Twice: what is remembered changes no verdict.
    for case in cases.iter().chain(&cases) {
        let headers: HeaderMap =
            case.headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let found = users.authenticate(&headers, None, at(NOW));
        let found = found.map(|verified| verified.map(|verified| verified.user.claims_json().to_owned()));
        assert_eq!(found.map_err(|refused| refused.reason.as_str()), case.expected, "{}", case.name);
    }
}

#[test]
fn no_character_of_a_token_may_change() {
    let world = World::new();
    let users = end_users(&world);
    for (algorithm, signer) in [("RS256", &world.rsa), ("ES256", &world.p256), ("EdDSA", &world.ed)] {
        let token = signer.token(algorithm, &claims(NOW));
        for at in 0..token.len() {
            for other in ["A", "z", "_", "."] {
                let mut changed = token.clone();
                changed.replace_range(at..=at, other);
                let expected = changed == token;
                assert_eq!(reason(&users, &bearer(&changed), NOW).is_none(), expected, "{algorithm}: {changed}");
            }
            assert!(reason(&users, &bearer(&token[..at]), NOW).is_some(), "{algorithm}: cut at {at}");
        }
        assert_eq!(reason(&users, &bearer(&token), NOW), None, "{algorithm}");
    }
}

#[test]
fn a_token_that_is_remembered_still_ends() {
    let world = World::new();
    let users = end_users(&world);
    let headers = bearer(&world.ed.token("EdDSA", &claims(NOW)));
    for (seconds, expected) in [
        (NOW - 61, Some("not_yet_valid")),
        (NOW, None),
        (NOW - 61, Some("not_yet_valid")),
        (NOW + 659, None),
        (NOW + 660, Some("expired")),
        (NOW, None),
    ] {
        assert_eq!(reason(&users, &headers, seconds), expected, "{seconds}");
    }
    let user = users.authenticate(&headers, None, at(NOW)).unwrap().unwrap().user;
    assert_eq!(user.expires(), Some(at(NOW + 600)));
    assert_eq!(user.principal().as_deref(), Some("https://login.shop.example/alice"));
    assert!(!format!("{user:?}").contains("alice"));
}

#[test]
fn tokens_are_forgotten_with_the_key_that_verified_them_and_other_terms_hold_at_once() {
    let world = World::new();
    let first = shop(&world.shop_keys());
    let keys = Arc::clone(&first.keys);
    let users = EndUsers::new(vec![Arc::new(first)]);
    let token = world.p256.token("ES256", &claims(NOW));
    let headers = bearer(&token);
    let is_remembered = |token: &str| keys.keys().unwrap().remembered.find(Digest::of(token.as_bytes())).is_some();
    assert!(!is_remembered(&token));
    assert_eq!(reason(&users, &headers, NOW), None);
    assert!(is_remembered(&token), "its signature is verified once");
    let forged = world.attacker.token("ES256", &claims(NOW));
    assert_eq!(reason(&users, &bearer(&forged), NOW), Some("signature"));
    assert!(!is_remembered(&forged));
    let mut stricter = shop("");
    (stricter.keys, stricter.terms.audiences) = (Arc::clone(&keys), vec!["other".to_owned()]);
    assert_eq!(reason(&EndUsers::new(vec![Arc::new(stricter)]), &headers, NOW), Some("audience"));
    keys.publish(KeySet::read(tokens::set(&[&world.ed]).as_bytes()).unwrap());
    assert_eq!(reason(&users, &headers, NOW), Some("unknown_key"));
    assert!(!is_remembered(&token));
    assert!(keys.take_doubt() && !keys.take_doubt());
}

#[test]
fn without_keys_nobody_is_let_in_and_a_token_may_be_required() {
    let world = World::new();
    let headers = bearer(&world.ed.token("EdDSA", &claims(NOW)));
    let users = EndUsers::new(vec![Arc::new(shop(""))]);
    assert_eq!(reason(&users, &headers, NOW), Some("no_keys"));
    assert_eq!(reason(&users, &HeaderMap::new(), NOW), None);
    let required = EndUsers::new(vec![Arc::new(Issuer { is_required: true, ..shop(&world.shop_keys()) })]);
    assert_eq!(reason(&required, &HeaderMap::new(), NOW), Some("missing"));
    assert_eq!(reason(&required, &headers, NOW), None);
}

#[test]
fn the_application_sees_claims_where_the_configuration_says_and_the_token_only_if_it_says_so() {
    let world = World::new();
    let claim = |path: &[&str], header: &'static str| ClaimHeader {
        claim: path.iter().map(|name| (*name).to_owned()).collect(),
        header: HeaderName::from_static(header),
    };
    let claim_headers = vec![
        claim(&["sub"], "x-user"),
        claim(&["org", "groups"], "x-groups"),
        claim(&["org"], "x-org"),
        claim(&["n"], "x-n"),
        claim(&["absent"], "x-absent"),
        claim(&["line"], "x-line"),
    ];
    let mut claims = with(&claims(NOW), "org", json!({"groups": ["a", "b"]}));
    (claims["n"], claims["line"]) = (json!(7), json!("a\r\nx-user: root"));
    for forwards_token in [false, true] {
        let issuer = Issuer { forwards_token, claim_headers: claim_headers.clone(), ..shop(&world.shop_keys()) };
        let users = EndUsers::new(vec![Arc::new(issuer)]);
        let mut headers = bearer(&world.ed.token("EdDSA", &claims));
        for name in ["x-user", "x-groups", "x-org", "x-absent", "x-line"] {
            headers.insert(HeaderName::from_static(name), "root".parse().unwrap());
        }
        let mut strangers = headers.clone();
        strangers.remove("authorization");
        users.strip_claims(&mut strangers);
        assert!(strangers.is_empty(), "{strangers:?}");
        users.strip_claims(&mut headers);
        let verified = users.authenticate(&headers, None, at(NOW)).unwrap().unwrap();
        assert_eq!(verified.apply(&mut headers, None), None);
        assert_eq!(headers.remove("authorization").is_some(), forwards_token);
        let mut seen: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        seen.sort_unstable();
        assert_eq!(seen, [("x-groups", "a,b"), ("x-n", "7"), ("x-user", "alice")]);
    }
}

#[test]
fn a_token_in_the_query_is_taken_out_of_it() {
    let world = World::new();
    let issuer = Issuer { locations: vec![Location::Query("token".to_owned())], ..shop(&world.shop_keys()) };
    let users = EndUsers::new(vec![Arc::new(issuer)]);
    let token = world.ed.token("EdDSA", &claims(NOW));
    for (query, rest) in [(format!("token={token}"), None), (format!("a=1&token={token}&b"), Some("a=1&b".to_owned()))]
    {
        let verified = users.authenticate(&HeaderMap::new(), Some(&query), at(NOW)).unwrap().unwrap();
        assert_eq!(verified.apply(&mut HeaderMap::new(), Some(&query)), Some(rest));
    }
    assert_eq!(reason(&users, &bearer(&token), NOW), None, "not a place for tokens: nobody's");
}

#[test]
fn a_token_in_a_cookie_is_taken_out_unless_it_is_forwarded_and_two_are_refused() {
    let world = World::new();
    let token = world.ed.token("EdDSA", &claims(NOW));
    let cookies = |lines: &[String]| -> HeaderMap {
        lines.iter().map(|line| (http::header::COOKIE, line.parse().unwrap())).collect()
    };
    for (forwards_token, rest) in [(false, "x=1; y=2".to_owned()), (true, format!("x=1; at={token}; y=2"))] {
        let locations = vec![Location::bearer(), Location::Cookie("at".to_owned()), Location::Cookie("bt".to_owned())];
        let users = EndUsers::new(vec![Arc::new(Issuer { locations, forwards_token, ..shop(&world.shop_keys()) })]);
        let mut headers = cookies(&[format!("x=1; at={token}; y=2")]);
        let verified = users.authenticate(&headers, None, at(NOW)).unwrap().unwrap();
        assert_eq!(verified.user.claims()["sub"], "alice");
        assert_eq!(verified.apply(&mut headers, Some("q")), None);
        assert_eq!(headers["cookie"], rest);

        for (lines, expected) in [
            (vec![format!("bt=\"{token}\"")], None),
            (vec![format!("at={token}; at={token}")], Some("several_tokens")),
            (vec![format!("at={token}"), "at=old".to_owned()], Some("several_tokens")),
            (vec![format!("at={token}; bt={token}")], Some("several_tokens")),
            (vec!["at=".to_owned()], Some("malformed")),
            (vec![format!("at=\"{token}")], Some("malformed")),
            (vec![format!("at=Bearer {token}")], Some("malformed")),
        ] {
            assert_eq!(reason(&users, &cookies(&lines), NOW), expected, "{lines:?}");
        }
        let mut both = bearer(&token);
        both.insert("cookie", format!("at={token}").parse().unwrap());
        assert_eq!(reason(&users, &both, NOW), Some("several_tokens"));
    }
    // Another's cookie, in another's case, is nobody's token.
    let elsewhere = EndUsers::new(vec![Arc::new(Issuer {
        locations: vec![Location::Cookie("At".to_owned())],
        is_required: true,
        ..shop(&world.shop_keys())
    })]);
    assert_eq!(reason(&elsewhere, &cookies(&[format!("at={token}")]), NOW), Some("missing"));
}
