//! What must hold for any answer and any request, against a model that has no cleverness: a list of all answers with
//! the values of all they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::access::AttributesBuf;

/// Every kind of fact.
const FACTS: [&str; 26] = [
    "source.principal",
    "destination.service",
    "destination.listener",
    "request.method",
    "request.path",
    "request.query",
    "request.host",
    "request.scheme",
    "request.protocol",
    "source.ip",
    "header:x-a",
    "header:x-b",
    "header:authorization",
    "lower(header:x-a)",
    "prefix(path, 1)",
    "path_template(path, /a/{id})",
    "cidr(source.ip, 8)",
    "header:cookie",
    "lower(header:cookie)",
    "lower(header:authorization)",
    "header:proxy-authorization",
    "request.auth.principal",
    "claim:sub",
    "claim:n",
    "source.certificate",
    "connection.sni",
];

/// What is part of every key, whatever an answer says.
const ALWAYS: [&str; 4] = ["source.principal", "destination.service", "destination.listener", "header:authorization"];

/// Nobody, two with a name, one whose name reads alike if it is not taken apart, and two without.
fn claims() -> impl Strategy<Value = Option<Arc<crate::access::attributes::Claims>>> {
    const TEXTS: [&str; 6] = [
        "null",
        r#"{"iss": "a", "sub": "b/c"}"#,
        r#"{"iss": "a", "sub": "b/c", "n": 1}"#,
        r#"{"iss": "a/b", "sub": "c", "n": "1"}"#,
        r#"{"iss": "a"}"#,
        r#"{"iss": "a", "n": [1, ""]}"#,
    ];
    select(&TEXTS[..]).prop_map(|text| {
        let claims: serde_json::Value = serde_json::from_str(text).unwrap();
        claims.as_object().cloned().map(Arc::new)
    })
}

/// Few values, so that requests often agree.
fn request() -> impl Strategy<Value = AttributesBuf> {
    let text = |values: &'static [&'static str]| select(values).prop_map(str::to_owned);
    let header = || proptest::option::of(select(&["", "1", "A", "a", "1,A"][..]));
    let query = proptest::option::of(text(&["", "q=1"]));
    let who = (proptest::option::of(text(&["spiffe://td/a", "spiffe://td/b"])), text(&["s", "t"]), text(&["l", "m"]));
    let what = (text(&["GET", "POST"]), text(&["/a", "/a/1", "/a/2", "/b"]), query, text(&["h", "i"]));
    let how = (text(&["http", "https"]), text(&["HTTP/1.1", "HTTP/2"]));
    let from = proptest::option::of(select(&["10.0.0.1:1", "10.0.0.2:1", "11.0.0.1:1"][..]));
    let headers = (std::array::from_fn::<_, 5, _>(|_| header()), proptest::option::of(select(&["1", "A"][..])));
    let optional = || proptest::option::of(text(&["", "x"]));
    let from = (from, optional(), optional());
    (who, what, how, from, headers, claims()).prop_map(|(who, what, how, from, headers, claims)| {
        let (from, certificate, sni) = from;
        let mut request = AttributesBuf {
            principal: who.0,
            service: who.1,
            listener: who.2,
            method: what.0,
            path: what.1,
            query: what.2,
            host: what.3,
            scheme: how.0,
            protocol: how.1,
            source_address: from.map(|address| address.parse().unwrap()),
            certificate: certificate.map(|der| der.as_bytes().into()),
            sni,
            claims,
            ..AttributesBuf::default()
        };
        let (headers, more) = headers;
        let names = ["x-a", "x-b", "authorization", "cookie", "proxy-authorization"];
        for (name, value) in names.into_iter().zip(headers).chain([("x-a", more)]) {
            if let Some(value) = value {
                request.headers.append(name, value.parse().unwrap());
            }
        }
        request
    })
}

/// An answer: what it read, what it said, and whether the one or the configuration says the former.
fn answer() -> impl Strategy<Value = (Vec<&'static str>, u16, bool)> {
    (subsequence(FACTS.to_vec(), 0..6), select(&[200_u16, 403, 404][..]), any::<bool>())
}

type Values = Vec<(&'static str, Option<Vec<u8>>)>;

fn values(names: &[&'static str], request: &AttributesBuf) -> Values {
    let attributes = request.borrow();
    let value = |name: &str| Fact::parse(name).unwrap().value(&attributes).map(std::borrow::Cow::into_owned);
    let claims = attributes.claims.map(|claims| serde_json::Value::Object((**claims).clone()));
    let user = claims.map(|claims| match (claims["iss"].as_str(), claims["sub"].as_str()) {
        (Some(issuer), Some(subject)) => format!("{issuer:?} {subject:?}").into_bytes(),
        _ => claims.to_string().into_bytes(),
    });
    names.iter().chain(&ALWAYS).map(|name| (*name, value(name))).chain([("the end user", user)]).collect()
}

fn references(read: &[&'static str], request: &AttributesBuf, is_configured: bool) -> References {
    let facts: Vec<Fact> = read.iter().map(|name| Fact::parse(name).unwrap()).collect();
    if is_configured {
        return References::of_key(&facts);
    }
    let (exact, absent) = facts.into_iter().partition(|fact| fact.is_in(&request.borrow()));
    References::new(exact, absent)
}

fn kept(read: &[&'static str], request: &AttributesBuf, (status, is_configured): (u16, bool)) -> Answer {
    let references = Some(references(read, request, is_configured));
    let hints = Hints { references, valid_for: Some(Duration::from_secs(60)), ..Hints::default() };
    let verdict = if status == 200 { Verdict::allow() } else { Verdict::deny(status) };
    Answer { verdict: Arc::new(verdict), reuse: Reuse::Hinted(hints), epoch: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A hit is an answer all of whose read values are the request's, absence included.
    #[test]
    fn no_verdict_is_used_after_anything_it_read_has_changed(
        asked in proptest::collection::vec((request(), answer()), 1..8),
        later in proptest::collection::vec(request(), 1..8),
    ) {
        let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
        let mut model: Vec<(Vec<&'static str>, Values, u16)> = Vec::new();
        for (request, (read, status, is_configured)) in &asked {
            let answer = kept(read, request, (*status, *is_configured));
            cache.lead_alone(now).complete(&request.borrow(), answer, None).unwrap();
            model.push((read.clone(), values(read, request), *status));
        }
        for request in asked.iter().map(|(request, _)| request).chain(&later) {
            let fits = |(read, seen, _): &&(Vec<&'static str>, Values, u16)| values(read, request) == *seen;
            let allowed: Vec<u16> = model.iter().filter(fits).map(|(.., status)| *status).collect();
            if let Lookup::Hit(verdict) = cache.lookup(&request.borrow(), now) {
                prop_assert!(allowed.contains(&verdict.status), "{request:?}: {} of {allowed:?}", verdict.status);
            }
        }
    }

    /// A lookup compares what a store has written, without writing it.
    #[test]
    fn a_key_is_found_exactly_if_it_would_be_written_alike(
        one in request(),
        other in request(),
        (read, _, is_configured) in answer(),
    ) {
        let facts: Vec<Fact> = read.iter().map(|name| Fact::parse(name).unwrap()).collect();
        let read = if is_configured { References::of_key(&facts) } else { References::new(facts, Vec::new()) };
        let set = ReferenceSets::new(1, vec![Fact::Sni]).intern(read);
        let keys = Keys::new(foldhash::quality::FixedState::default());
        let [one, other] = [one.borrow(), other.borrow()];
        let identities = [keys.identity(&one), keys.identity(&other)];
        let [one, other] = identities.each_ref().map(|identity| keys.sought(&set, identity, keys.hash_of(identity)));
        if let (Some(one), Some(other)) = (one, other) {
            let [first, second] = [one.write().unwrap(), other.write().unwrap()];
            prop_assert!(one.is(&first) && other.is(&second));
            prop_assert_eq!(one.is(&second), first == second);
            prop_assert_eq!(other.is(&first), first == second);
            // The hash covers all of it, or callers would meet in one place of the table.
            prop_assert_eq!(first.hash == second.hash, first == second);
        }
    }

    /// The change of one thing that was read is enough; of anything else it is not.
    #[test]
    fn a_change_matters_exactly_if_it_was_read(before in request(), after in request(), answer in answer()) {
        let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
        let (read, status, is_configured) = answer;
        let answer = kept(&read, &before, (status, is_configured));
        cache.lead_alone(now).complete(&before.borrow(), answer, None).unwrap();
        let is_hit = matches!(cache.lookup(&after.borrow(), now), Lookup::Hit(_));
        prop_assert_eq!(is_hit, values(&read, &before) == values(&read, &after));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_threads_share_a_grant_of_uses_exactly(uses in 1_u64..200, tries in 1_u64..200) {
        let (cache, now, request) =
            (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), AttributesBuf::default());
        let mut granted = kept(&["request.path"], &request, (200, false));
        if let Reuse::Hinted(hints) = &mut granted.reuse {
            hints.uses = Some(uses);
        }
        cache.lead_alone(now).complete(&request.borrow(), granted, None).unwrap();
        let hits = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..tries {
                        let is_hit = matches!(cache.lookup(&request.borrow(), now), Lookup::Hit(_));
                        hits.fetch_add(u64::from(is_hit), Ordering::Relaxed);
                    }
                });
            }
        });
        prop_assert_eq!(hits.into_inner(), uses.min(2 * tries));
    }
}
