//! The cache as an engine: contention, collisions, epochs.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::access::AttributesBuf;

fn facts(names: &[&str]) -> Vec<Fact> {
    names.iter().map(|name| Fact::parse(name).unwrap()).collect()
}

fn answer(allow: bool, exact: &[&str]) -> Answer {
    let references = Some(References::new(facts(exact), Vec::new()));
    let hints = Hints { references, valid_for: Some(Duration::from_secs(60)), ..Hints::default() };
    let verdict = if allow { Verdict::allow() } else { Verdict::deny(403) };
    Answer { verdict: Arc::new(verdict), reuse: Reuse::Hinted(hints), epoch: None }
}

fn with_uses(mut answer: Answer, uses: u64) -> Answer {
    if let Reuse::Hinted(hints) = &mut answer.reuse {
        hints.uses = Some(uses);
    }
    answer
}

fn path(path: &str) -> AttributesBuf {
    AttributesBuf { path: path.to_owned(), ..AttributesBuf::default() }
}

fn lead<S: BuildHasher + Clone>(cache: &Arc<CheckCache<S>>, request: &AttributesBuf, now: Instant) -> FlightLeader<S> {
    match cache.lookup(&request.borrow(), now) {
        Lookup::Lead(leader) => leader,
        _ => panic!("expected to lead"),
    }
}

fn hit<S: BuildHasher + Clone>(cache: &Arc<CheckCache<S>>, request: &AttributesBuf, now: Instant) -> Option<bool> {
    match cache.lookup(&request.borrow(), now) {
        Lookup::Hit(verdict) => Some(verdict.allow),
        _ => None,
    }
}

#[test]
fn a_grant_of_uses_is_exact_under_contention() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    let granted = with_uses(answer(true, &["request.path"]), 100);
    lead(&cache, &request, now).complete(&request.borrow(), granted, None).unwrap();
    let (hits, leaders, waiters) = (AtomicU64::new(0), std::sync::Mutex::new(Vec::new()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..41 {
                    match cache.lookup(&request.borrow(), now) {
                        Lookup::Hit(_) => drop(hits.fetch_add(1, Ordering::Relaxed)),
                        Lookup::Lead(leader) => leaders.lock().unwrap().push(leader),
                        Lookup::Wait(_) => drop(waiters.fetch_add(1, Ordering::Relaxed)),
                        Lookup::Refresh(..) => panic!("no refresh was configured"),
                    }
                }
            });
        }
    });
    assert_eq!(hits.into_inner(), 100);
    assert_eq!((leaders.into_inner().unwrap().len(), waiters.into_inner()), (1, 63));
}

/// The poorest hash there is.
#[derive(Clone, Default)]
struct Constant;

impl BuildHasher for Constant {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self
    }
}

impl Hasher for Constant {
    fn finish(&self) -> u64 {
        7
    }

    fn write(&mut self, _: &[u8]) {}
}

#[test]
fn colliding_hashes_never_mix_verdicts() {
    let (cache, now) = (Arc::new(CheckCache::with_hasher(CacheConfig::default(), Constant)), Instant::now());
    for (request, allow) in [(path("/a"), true), (path("/other"), false)] {
        let exact = ["source.principal", "request.path"];
        lead(&cache, &request, now).complete(&request.borrow(), answer(allow, &exact), None).unwrap();
    }
    assert_eq!(hit(&cache, &path("/a"), now), Some(true));
    assert_eq!(hit(&cache, &path("/other"), now), Some(false));
    assert_eq!(cache.stats().negative_hits, 1);
}

#[test]
fn the_border_between_two_values_is_part_of_the_key() {
    let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
    let request = |method: &str, path: &str| AttributesBuf {
        method: method.to_owned(),
        path: path.to_owned(),
        ..AttributesBuf::default()
    };
    let stored = request("GET", "/x\0/y");
    lead(&cache, &stored, now).complete(&stored.borrow(), answer(true, &["method", "path"]), None).unwrap();
    assert_eq!(hit(&cache, &stored, now), Some(true));
    for other in [request("GET/", "x\0/y"), request("GE", "T/x\0/y"), request("", "GET/x\0/y")] {
        assert_eq!(hit(&cache, &other, now), None, "{other:?}");
    }
}

#[test]
fn a_server_that_varies_its_references_costs_a_bounded_number_of_sets() {
    let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
    for index in 0..10_000 {
        let mut request = path("/a");
        let name = format!("x-{index}");
        request.headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "1".parse().unwrap());
        let answer = answer(true, &[&format!("header:{name}")]);
        cache.lead_alone(now).complete(&request.borrow(), answer, None).unwrap();
    }
    let stats = cache.stats();
    assert_eq!(stats.reference_sets, 64);
    assert!(stats.entries <= 10_000);
}

#[test]
fn an_answer_from_before_a_policy_change_is_not_kept() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    let leader = lead(&cache, &request, now);
    cache.void_all();
    let second = lead(&cache, &request, now); // nobody joins a question that was asked under the old policy
    let refusal = leader.complete(&request.borrow(), answer(true, &["path"]), None).unwrap_err();
    assert_eq!(refusal, Refusal::Voided);
    assert_eq!(cache.stats().entries, 0);
    second.complete(&request.borrow(), answer(false, &["path"]), None).unwrap();
    assert_eq!(hit(&cache, &request, now), Some(false));
}

#[test]
fn an_answer_to_a_question_with_a_body_is_not_kept() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    for _ in 0..2 {
        let answer = Answer { reuse: Reuse::Never(Refusal::BodySent), ..answer(true, &["path"]) };
        let refusal = lead(&cache, &request, now).complete(&request.borrow(), answer, None).unwrap_err();
        assert_eq!(refusal, Refusal::BodySent);
    }
    assert_eq!((cache.stats().entries, cache.stats().uncacheable), (0, 2));
}

#[test]
fn a_life_without_references_never_means_that_the_answer_depends_on_nothing() {
    let lifetime = Hints { valid_for: Some(Duration::from_secs(60)), ..Hints::default() };
    let answer = Answer { verdict: Arc::new(Verdict::allow()), reuse: Reuse::Hinted(lifetime), epoch: None };
    let now = Instant::now();
    let cache = Arc::new(CheckCache::new(CacheConfig::default()));
    let request = path("/a");
    let refusal = lead(&cache, &request, now).complete(&request.borrow(), answer.clone(), None).unwrap_err();
    assert_eq!(refusal, Refusal::NoKey);
    let cache = Arc::new(CheckCache::new(CacheConfig { key: Some(facts(&["path"])), ..CacheConfig::default() }));
    lead(&cache, &request, now).complete(&request.borrow(), answer, None).unwrap();
    assert_eq!((hit(&cache, &request, now), hit(&cache, &path("/b"), now)), (Some(true), None));
}

#[test]
fn a_configured_key_tells_a_request_without_a_header_from_one_with_it() {
    let key = Some(facts(&["path", "header:end-user"]));
    let cache = Arc::new(CheckCache::new(CacheConfig { key, ..CacheConfig::default() }));
    let (now, anonymous, mut jason) = (Instant::now(), path("/a"), path("/a"));
    jason.headers.insert("end-user", "jason".parse().unwrap());
    for (request, verdict) in [(&anonymous, Verdict::deny(403)), (&jason, Verdict::allow())] {
        let answer = Answer { verdict: Arc::new(verdict), reuse: Reuse::Configured, epoch: None };
        lead(&cache, request, now).complete(&request.borrow(), answer, None).unwrap();
    }
    assert_eq!((hit(&cache, &anonymous, now), hit(&cache, &jason, now)), (Some(false), Some(true)));
    let negative_end = now + Duration::from_secs(5);
    assert_eq!((hit(&cache, &anonymous, negative_end), hit(&cache, &jason, negative_end)), (None, Some(true)));
}

#[test]
fn another_caller_listener_service_or_token_never_shares_an_entry() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    lead(&cache, &request, now).complete(&request.borrow(), answer(true, &["path"]), None).unwrap();
    let mut with_token = request.clone();
    with_token.headers.insert("authorization", "Bearer t".parse().unwrap());
    let others = [
        AttributesBuf { principal: Some("spiffe://other/a".into()), ..request.clone() },
        AttributesBuf { principal: None, ..request.clone() },
        AttributesBuf { listener: "admin".into(), ..request.clone() },
        AttributesBuf { service: "ratings".into(), ..request.clone() },
        with_token,
    ];
    for other in others {
        assert_eq!(hit(&cache, &other, now), None, "{other:?}");
    }
    assert_eq!(hit(&cache, &request, now), Some(true));
}

#[tokio::test]
async fn a_leader_that_is_dropped_frees_its_waiters() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    let leader = lead(&cache, &request, now);
    let Lookup::Wait(flight) = cache.lookup(&request.borrow(), now) else { panic!("expected to wait") };
    drop(leader);
    assert!(matches!(flight.landing().await, Landing::Abandoned));
    lead(&cache, &request, now);
}

#[test]
fn a_key_that_is_too_long_is_not_kept_and_finds_nothing() {
    let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
    let (mut one, mut two) = (path(&"/a".repeat(3000)), path(&"/a".repeat(1500)));
    one.headers.insert("x-a", "1".parse().unwrap());
    two.headers.insert("x-a", "a".repeat(3000).parse().unwrap());
    for request in [one, two] {
        let answer = answer(true, &["path", "header:x-a"]);
        let refusal = cache.lead_alone(now).complete(&request.borrow(), answer, None).unwrap_err();
        assert_eq!(refusal, Refusal::TooLarge);
        assert_eq!(hit(&cache, &request, now), None);
    }
    assert_eq!(cache.stats().entries, 0);
}

fn configured(key: &[&str]) -> Arc<CheckCache> {
    Arc::new(CheckCache::new(CacheConfig { key: Some(facts(key)), ..CacheConfig::default() }))
}

fn unhinted(verdict: Verdict) -> Answer {
    Answer { verdict: Arc::new(verdict), reuse: Reuse::Configured, epoch: None }
}

#[test]
fn a_refresh_that_a_neighbours_call_kept_from_asking_is_asked_for_by_a_later_hit() {
    let config = CacheConfig { refresh_ahead: Some(0.5), ..CacheConfig::default() };
    let (cache, now) = (Arc::new(CheckCache::new(config)), Instant::now());
    let [jason, anna] = ["jason", "anna"].map(|user| {
        let mut request = path("/a");
        request.headers.insert("end-user", user.parse().unwrap());
        request
    });
    let answered = answer(true, &["path", "header:end-user"]);
    lead(&cache, &jason, now).complete(&jason.borrow(), answered, None).unwrap();
    let late = now + Duration::from_secs(31);
    let call = lead(&cache, &anna, late);
    assert_eq!(hit(&cache, &jason, late), Some(true), "whose answer is under way shows when it is there");
    drop(call);
    let Lookup::Refresh(_, refresh) = cache.lookup(&jason.borrow(), late) else { panic!("nobody has asked yet") };
    assert_eq!(hit(&cache, &jason, late), Some(true), "one asks");
    drop(refresh);
}

#[test]
fn a_caller_who_leaves_out_headers_in_all_ways_adds_no_set() {
    let names = ["x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g", "x-h"];
    let key: Vec<String> = names.iter().map(|name| format!("header:{name}")).collect();
    let cache = configured(&key.iter().map(String::as_str).collect::<Vec<_>>());
    let now = Instant::now();
    let request = |combination: usize| {
        let mut request = path("/a");
        for (nth, name) in names.into_iter().enumerate().filter(|(nth, _)| combination >> nth & 1 == 1) {
            request.headers.insert(name, nth.to_string().parse().unwrap());
        }
        request
    };
    for combination in 0..256 {
        let (request, allow) = (request(combination), combination % 2 == 0);
        let answer = unhinted(if allow { Verdict::allow() } else { Verdict::deny(403) });
        lead(&cache, &request, now).complete(&request.borrow(), answer, None).unwrap();
    }
    for combination in 0..256 {
        assert_eq!(hit(&cache, &request(combination), now), Some(combination % 2 == 0), "{combination:b}");
    }
    assert_eq!((cache.stats().reference_sets, cache.stats().entries), (1, 256));
}

#[test]
fn what_the_server_is_told_is_part_of_every_key_also_where_it_is_absent() {
    let told = facts(&["source.certificate", "connection.sni"]);
    let cache = Arc::new(CheckCache::new(CacheConfig { told, key: Some(facts(&["path"])), ..CacheConfig::default() }));
    let now = Instant::now();
    let request = |der: Option<&[u8]>, sni: Option<&str>| AttributesBuf {
        certificate: der.map(Into::into),
        sni: sni.map(str::to_owned),
        ..path("/a")
    };
    let all = [
        request(None, None),
        request(Some(b"one"), None),
        request(Some(b"two"), None),
        request(Some(b"one"), Some("shop.test")),
        request(Some(b"one"), Some("bank.test")),
    ];
    for hinted in [true, false] {
        cache.void_all();
        for (nth, request) in all.iter().enumerate() {
            let verdict = if nth % 2 == 0 { Verdict::allow() } else { Verdict::deny(403) };
            let answer = if hinted { answer(verdict.allow, &["path"]) } else { unhinted(verdict) };
            lead(&cache, request, now).complete(&request.borrow(), answer, None).unwrap();
        }
        for (nth, request) in all.iter().enumerate() {
            assert_eq!(hit(&cache, request, now), Some(nth % 2 == 0), "{nth}");
        }
    }
}

#[test]
fn a_change_of_the_query_or_a_personal_header_is_not_kept_unless_somebody_says_so() {
    use crate::access::verdict::HeaderChange;
    let with = |name: &str, verdict: Verdict| Verdict {
        response_headers: vec![HeaderChange::set(name, "1").unwrap()],
        ..verdict
    };
    let set = Verdict { query_to_set: vec![("user".into(), "alice".into())], ..Verdict::allow() };
    let removed = Verdict { query_to_remove: vec!["user".into()], ..Verdict::allow() };
    for (verdict, is_kept) in [
        (set, false),
        (removed, false),
        (with("content-type", Verdict::allow()), false),
        (with("location", Verdict::deny(302)), false),
        (with("www-authenticate", Verdict::deny(401)), false),
        (with("content-type", Verdict::deny(403)), true),
        (with("date", Verdict::deny(403)), true),
        (Verdict::deny(403), true),
    ] {
        let (now, request) = (Instant::now(), path("/a"));
        let cache = configured(&["path"]);
        let kept = lead(&cache, &request, now).complete(&request.borrow(), unhinted(verdict.clone()), None);
        assert_eq!(kept, if is_kept { Ok(()) } else { Err(Refusal::ChangesHeaders) }, "{verdict:?}");
        let said = CacheConfig { key: Some(facts(&["path"])), cache_header_changes: true, ..CacheConfig::default() };
        let cache = Arc::new(CheckCache::new(said));
        lead(&cache, &request, now).complete(&request.borrow(), unhinted(verdict.clone()), None).unwrap();
        let cache = Arc::new(CheckCache::new(CacheConfig::default()));
        let hinted = Answer { verdict: Arc::new(verdict), ..answer(true, &["path"]) };
        lead(&cache, &request, now).complete(&request.borrow(), hinted, None).unwrap();
    }
}

fn of_epoch(epoch: u64, answer: Answer) -> Answer {
    Answer { epoch: Some(Epoch::Number(epoch)), ..answer }
}

#[test]
fn a_new_epoch_voids_what_was_kept_and_what_is_in_flight() {
    let (cache, now) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now());
    let [old, late, new] = ["/old", "/late", "/new"].map(path);
    let complete = |leader: FlightLeader, request: &AttributesBuf, answer: Answer| {
        leader.complete(&request.borrow(), answer, None)
    };
    complete(lead(&cache, &old, now), &old, of_epoch(1, answer(true, &["path"]))).unwrap();
    assert_eq!(hit(&cache, &old, now), Some(true));
    let under_way = lead(&cache, &late, now);
    complete(lead(&cache, &new, now), &new, of_epoch(2, answer(false, &["path"]))).unwrap();
    assert_eq!((hit(&cache, &old, now), hit(&cache, &new, now)), (None, Some(false)), "the one that said so is kept");
    assert_eq!(complete(under_way, &late, answer(true, &["path"])), Err(Refusal::Voided));
    let behind = of_epoch(1, answer(true, &["path"]));
    assert_eq!(complete(lead(&cache, &old, now), &old, behind), Err(Refusal::Voided));
    assert_eq!((hit(&cache, &new, now), cache.stats().voided), (Some(false), 1), "who lags voids nothing");
}

#[test]
fn an_answer_that_is_not_kept_still_says_that_the_policy_changed() {
    let (cache, now, request) = (Arc::new(CheckCache::new(CacheConfig::default())), Instant::now(), path("/a"));
    for (epoch, refusal) in [(1, None), (2, Some(Refusal::SetCookie))] {
        let mut answer = of_epoch(epoch, answer(true, &["path"]));
        if let Some(refusal) = refusal {
            answer.reuse = Reuse::Never(refusal);
        }
        let kept = cache.lead_alone(now).complete(&request.borrow(), answer, None);
        assert_eq!(kept.err(), refusal);
    }
    assert_eq!((hit(&cache, &request, now), cache.stats().entries), (None, 0));
}
