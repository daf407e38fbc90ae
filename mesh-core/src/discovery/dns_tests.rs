use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::config::dns::DnsRecords;
use crate::discovery::inquiry::Meter;
use crate::discovery::resolver::{Answer, Looking, Resolver, Unanswered};
use crate::discovery::source::Said;
use crate::time::{Clock, ManualClock, Randomness};

type Zone = HashMap<(String, Records), Result<Answer, Unanswered>>;

/// Answers at once from a zone; what is not in it does not exist.
#[derive(Clone, Default)]
struct Fake {
    zone: Arc<Mutex<Zone>>,
    outcomes: Arc<Mutex<Vec<&'static str>>>,
}

impl Resolver for Fake {
    fn look_up(&self, question: &Question) -> Looking {
        let zone = self.zone.lock().unwrap();
        let found = zone.get(&(question.name.to_string(), question.records)).cloned();
        Box::pin(std::future::ready(found.unwrap_or(Err(Unanswered::None(None)))))
    }
}

impl Meter for Fake {
    fn resolved(&self, cluster: &str, outcome: &'static str) {
        assert_eq!(cluster, "a");
        self.outcomes.lock().unwrap().push(outcome);
    }
}

impl Fake {
    fn set(&self, name: &str, records: Records, found: Result<Vec<Record>, Unanswered>) {
        let answer = found.map(|records| Answer { records, ttl: Some(Duration::from_secs(5)) });
        self.zone.lock().unwrap().insert((name.to_owned(), records), answer);
    }

    fn count(&self, outcome: &str) -> usize {
        self.outcomes.lock().unwrap().iter().filter(|seen| **seen == outcome).count()
    }
}

/// A source at work, under a clock of its own.
struct Bench {
    fake: Fake,
    clock: ManualClock,
    sink: Sink,
    age: Arc<DataAge>,
}

impl Bench {
    fn start(dns: Dns, fake: Fake) -> Self {
        let clock = ManualClock::new();
        let means = Means {
            resolver: Arc::new(fake.clone()),
            clock: Arc::new(clock.clone()),
            randomness: Arc::new(Randomness::seeded(1)),
            meter: Arc::new(fake.clone()),
        };
        let (sink, age) = (Sink::new(), Arc::new(DataAge::default()));
        let source = DnsSource { dns: Arc::new(dns), means, age: Arc::clone(&age) };
        tokio::spawn(source.follow("a", sink.clone()));
        Self { fake, clock, sink, age }
    }

    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.clock.advance(Duration::from_millis(500));
            settle().await;
        }
    }

    /// What was said since the last look: addresses and weights, or nothing.
    async fn said(&self) -> Option<Result<Vec<(String, u32)>, String>> {
        settle().await;
        let said = futures_util::FutureExt::now_or_never(self.sink.take())?;
        Some(match said {
            Said::Set(set) => Ok(set.endpoints.iter().map(|one| (one.address.to_string(), one.weight.0)).collect()),
            Said::Refused(reason) => Err(reason.to_string()),
        })
    }
}

/// Everything that can run without time passing has run: one thread, and nothing waits for a socket.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn dns(name: &str) -> Dns {
    Dns {
        name: name.parse().unwrap(),
        port: Some(80),
        records: DnsRecords::Auto,
        mode: DnsMode::Strict,
        family: DnsFamily::Both,
        refresh: None,
        min_refresh: crate::config::TimeSpan::secs(1),
        max_stale: crate::config::TimeSpan::secs(120),
        on_empty: OnEmpty::Keep,
        servers: Vec::new(),
        timeout: crate::config::TimeSpan::secs(5),
    }
}

fn ips(addresses: &[&str]) -> Result<Vec<Record>, Unanswered> {
    Ok(addresses.iter().map(|ip| Record::Address(ip.parse::<IpAddr>().unwrap())).collect())
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record::Service { priority, weight, port, target: target.into() }
}

fn servfail() -> Result<Vec<Record>, Unanswered> {
    Err(Unanswered::Failed("SERVFAIL".to_owned()))
}

fn each(addresses: &[&str], weight: u32) -> Option<Result<Vec<(String, u32)>, String>> {
    Some(Ok(addresses.iter().map(|address| ((*address).to_owned(), weight)).collect()))
}

#[tokio::test]
async fn every_address_is_an_endpoint_and_a_changed_answer_replaces_them() {
    let fake = Fake::default();
    fake.set("a.example", Records::V4, ips(&["10.0.0.1", "10.0.0.2"]));
    fake.set("a.example", Records::V6, ips(&["::1"]));
    let bench = Bench::start(dns("a.example"), fake);
    assert_eq!(bench.said().await, each(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"], 1));
    bench.pass(4).await;
    assert_eq!(bench.said().await, None, "an answer that did not change says nothing");
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.3"]));
    bench.fake.set("a.example", Records::V6, Err(Unanswered::None(None)));
    bench.pass(8).await;
    assert_eq!(bench.said().await, each(&["10.0.0.3:80"], 1), "a name without AAAA has no IPv6 endpoint");
}

#[tokio::test]
async fn an_endpoint_that_stays_is_the_same_value() {
    let fake = Fake::default();
    fake.set("a.example", Records::V4, ips(&["10.0.0.1", "10.0.0.2"]));
    let bench = Bench::start(dns("a.example"), fake);
    settle().await;
    let Said::Set(first) = bench.sink.take().await else { panic!("refused") };
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.2", "10.0.0.3"]));
    bench.pass(6).await;
    let Said::Set(second) = bench.sink.take().await else { panic!("refused") };
    assert!(Arc::ptr_eq(&first.endpoints[1], &second.endpoints[0]));
}

#[tokio::test]
async fn o64_a_server_that_fails_for_a_minute_takes_nothing_away_and_is_counted() {
    let fake = Fake::default();
    fake.set("a.example", Records::V4, ips(&["10.0.0.1"]));
    let bench = Bench::start(dns("a.example"), fake);
    assert!(bench.said().await.is_some());
    for records in [Records::V4, Records::V6] {
        bench.fake.set("a.example", records, servfail());
    }
    bench.pass(60).await;
    assert_eq!(bench.said().await, None);
    assert!(bench.fake.count("error") >= 5, "{}", bench.fake.count("error"));
    let age = bench.clock.now() - bench.age.confirmed().unwrap();
    assert!(age >= Duration::from_secs(59), "{age:?}");
    bench.pass(80).await;
    assert_eq!(bench.said().await, each(&[], 1), "beyond max_stale they are gone");
    assert_eq!(bench.age.confirmed(), None);
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.9"]));
    bench.pass(40).await;
    assert_eq!(bench.said().await, each(&["10.0.0.9:80"], 1));
}

#[tokio::test]
async fn an_empty_answer_keeps_or_removes_as_the_operator_says() {
    for (on_empty, expected) in [(OnEmpty::Keep, None), (OnEmpty::Remove, each(&[], 1))] {
        let fake = Fake::default();
        fake.set("a.example", Records::V4, ips(&["10.0.0.1"]));
        let bench = Bench::start(Dns { on_empty, ..dns("a.example") }, fake);
        assert!(bench.said().await.is_some());
        bench.fake.zone.lock().unwrap().clear();
        bench.pass(20).await;
        assert_eq!(bench.said().await, expected, "{on_empty:?}");
        bench.pass(180).await;
        let later = if on_empty == OnEmpty::Keep { each(&[], 1) } else { None };
        assert_eq!(bench.said().await, later, "{on_empty:?}: nothing is kept beyond max_stale");
    }
}

#[tokio::test]
async fn a_failure_after_an_empty_answer_takes_nothing_away_either() {
    let fake = Fake::default();
    fake.set("a.example", Records::V4, ips(&["10.0.0.1"]));
    let bench = Bench::start(dns("a.example"), fake);
    assert!(bench.said().await.is_some());
    bench.fake.zone.lock().unwrap().clear();
    bench.pass(10).await;
    for records in [Records::V4, Records::V6] {
        bench.fake.set("a.example", records, servfail());
    }
    bench.pass(60).await;
    assert_eq!(bench.said().await, None);
    assert!(bench.fake.count("error") >= 2 && bench.fake.count("empty") >= 2);
    // Looked at again with the next question, at most 30 s later.
    bench.pass(90).await;
    assert_eq!(bench.said().await, each(&[], 1));
}

#[tokio::test]
async fn a_name_that_never_resolved_is_refused_once_and_found_when_it_appears() {
    let bench = Bench::start(dns("a.example"), Fake::default());
    assert_eq!(bench.said().await, Some(Err("a.example: no such name or record".to_owned())));
    bench.pass(5).await;
    assert_eq!(bench.said().await, None);
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.1"]));
    bench.pass(31).await;
    assert_eq!(bench.said().await, each(&["10.0.0.1:80"], 1));
}

#[tokio::test]
async fn failing_connections_ask_again_long_before_the_answer_ends() {
    let fake = Fake::default();
    let answer = |ip: &str| {
        let records = ips(&[ip]).unwrap();
        Ok(Answer { records, ttl: Some(Duration::from_secs(3600)) })
    };
    fake.zone.lock().unwrap().insert(("a.example".to_owned(), Records::V4), answer("10.0.0.1"));
    let bench = Bench::start(Dns { family: DnsFamily::V4, ..dns("a.example") }, fake);
    assert!(bench.said().await.is_some());
    bench.fake.zone.lock().unwrap().insert(("a.example".to_owned(), Records::V4), answer("10.0.0.2"));
    bench.pass(10).await;
    assert_eq!(bench.said().await, None);
    bench.sink.doubt();
    assert_eq!(bench.said().await, each(&["10.0.0.2:80"], 1));
}

#[tokio::test]
async fn services_give_ports_and_weights_and_the_lowest_priority_that_has_addresses() {
    let fake = Fake::default();
    let services = vec![
        service(10, 3, 8080, "x.example."),
        service(10, 1, 8081, "y.example."),
        service(20, 5, 9000, "z.example."),
    ];
    fake.set("_http._tcp.a.example", Records::Service, Ok(services));
    fake.set("x.example.", Records::V4, ips(&["10.0.0.1"]));
    fake.set("y.example.", Records::V4, ips(&["10.0.0.2"]));
    fake.set("z.example.", Records::V4, ips(&["10.0.0.3"]));
    let bench = Bench::start(Dns { port: None, ..dns("_http._tcp.a.example") }, fake);
    let weighted = |all: &[(&str, u32)]| Some(Ok(all.iter().map(|(at, weight)| ((*at).to_owned(), *weight)).collect()));
    assert_eq!(bench.said().await, weighted(&[("10.0.0.1:8080", 3), ("10.0.0.2:8081", 1)]));
    // A host with two addresses shares its weight between them.
    bench.fake.set("x.example.", Records::V4, ips(&["10.0.0.1", "10.0.0.4"]));
    bench.pass(31).await;
    let shares = weighted(&[("10.0.0.1:8080", 32_767), ("10.0.0.4:8080", 32_767), ("10.0.0.2:8081", 21_845)]);
    assert_eq!(bench.said().await, shares);
    for gone in ["x.example.", "y.example."] {
        bench.fake.set(gone, Records::V4, Err(Unanswered::None(None)));
    }
    bench.pass(31).await;
    assert_eq!(bench.said().await, weighted(&[("10.0.0.3:9000", 5)]));
}

#[test]
fn a_service_of_weight_zero_is_hardly_ever_used_rather_than_never() {
    let at = |weight| {
        let mut service = Service::of(&service(0, weight, 80, "x")).unwrap();
        service.addresses = vec![SocketAddr::from(([10, 0, 0, weight as u8], 80))];
        service
    };
    let weights = |services| weigh(services).iter().map(|endpoint| endpoint.weight.0).collect::<Vec<_>>();
    assert_eq!(weights(vec![at(0), at(10)]), [1, 10]);
    assert_eq!(weights(vec![at(0)]), [1]);
    assert!(weights(Vec::new()).is_empty());
}

#[tokio::test]
async fn a_logical_name_is_one_address_until_that_is_gone_or_takes_no_connections() {
    let fake = Fake::default();
    fake.set("a.example", Records::V4, ips(&["10.0.0.2", "10.0.0.3"]));
    let bench = Bench::start(Dns { mode: DnsMode::Logical, ..dns("a.example") }, fake);
    assert_eq!(bench.said().await, each(&["10.0.0.2:80"], 1));
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    bench.pass(6).await;
    assert_eq!(bench.said().await, None, "the order of an answer moves nobody");
    bench.sink.doubt();
    assert_eq!(bench.said().await, each(&["10.0.0.3:80"], 1));
    bench.fake.set("a.example", Records::V4, ips(&["10.0.0.1", "10.0.0.2"]));
    bench.pass(6).await;
    assert_eq!(bench.said().await, each(&["10.0.0.1:80"], 1));
}
