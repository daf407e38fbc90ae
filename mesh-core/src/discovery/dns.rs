//! Endpoints that are the answer of a name server.
//!
//! Decides: which endpoints a set of DNS answers amounts to, and what an empty one means. Never: asks
//! because a request wants to know; the answers are here before it.
//! Invariant: a name server that fails takes no endpoint away before `max_stale`.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::inquiry::{Inquiry, Means};
use super::refresh::{Outcome, Terms};
use super::resolver::{Question, Record, Records};
use super::source::{EndpointSet, EndpointSource, Sink};
use crate::config::cluster::Endpoint as Written;
use crate::config::dns::{Dns, DnsFamily, DnsMode, OnEmpty};
use crate::config::value::Weight;
use crate::time::after;

/// Follows one name.
#[derive(Clone)]
pub struct DnsSource {
    /// What the operator wrote.
    pub dns: Arc<Dns>,
    /// How to ask.
    pub means: Means,
    /// Told how old the data is.
    pub age: Arc<DataAge>,
}

/// When the oldest data in use was confirmed.
#[derive(Debug, Default)]
pub struct DataAge(std::sync::Mutex<Option<Instant>>);

impl DataAge {
    /// `None`: there is no data.
    pub fn set(&self, confirmed: Option<Instant>) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = confirmed;
    }

    /// When it was confirmed.
    pub fn confirmed(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl EndpointSource for DnsSource {
    fn follow(&self, cluster: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (cluster, source) = (cluster.to_owned(), self.clone());
        Box::pin(async move {
            let mut name = Name::new(Arc::clone(&source.dns));
            let mut inquiry = Inquiry::new(source.means.clone());
            loop {
                inquiry.want(name.questions(&inquiry));
                tokio::select! {
                    ended = inquiry.step() => {
                        for (_, outcome) in ended {
                            source.means.meter.resolved(&cluster, outcome);
                        }
                    }
                    () = sink.doubted() => {
                        inquiry.doubt(|_| true);
                        name.moves_on = true;
                    }
                }
                inquiry.want(name.questions(&inquiry));
                let now = source.means.clock.now();
                match name.say(&inquiry, now) {
                    Some(Ok(endpoints)) => sink.publish(EndpointSet::new(endpoints)),
                    Some(Err(reason)) => sink.refuse(&reason),
                    None => {}
                }
                source.age.set(inquiry.oldest());
            }
        })
    }
}

/// One name, its questions, and what was made of the answers.
struct Name {
    dns: Arc<Dns>,
    servers: Arc<[SocketAddr]>,
    /// What was said last.
    said: Option<Vec<Arc<Written>>>,
    /// When an address was last confirmed.
    confirmed: Option<Instant>,
    has_refused: bool,
    /// Of a logical name: the address in use does not take connections.
    moves_on: bool,
}

impl Name {
    fn new(dns: Arc<Dns>) -> Self {
        let servers = dns.servers.iter().filter_map(|server| server.socket_addr()).collect();
        Self { dns, servers, said: None, confirmed: None, has_refused: false, moves_on: false }
    }

    /// The name's own questions, and those about the hosts its services run on.
    fn questions(&self, inquiry: &Inquiry) -> Vec<(Question, Terms)> {
        let name: Arc<str> = self.dns.name.as_str().into();
        let mut questions = BTreeSet::new();
        if self.dns.is_srv() {
            let services = self.question(name, Records::Service);
            let targets = inquiry.records(&services).iter().filter_map(|record| match record {
                Record::Service { target, .. } => Some(Arc::clone(target)),
                Record::Address(_) => None,
            });
            targets.for_each(|target| questions.extend(self.addresses_of(target)));
            questions.insert(services);
        } else {
            questions.extend(self.addresses_of(name));
        }
        let terms = Terms {
            every: self.dns.refresh.map(|refresh| refresh.0),
            min: self.dns.min_refresh.0,
            max_stale: self.dns.max_stale.0,
            // That a name has no AAAA records takes its IPv6 endpoints away; only no address at all is "empty".
            keeps_when_none: false,
        };
        questions.into_iter().map(|question| (question, terms)).collect()
    }

    fn addresses_of(&self, host: Arc<str>) -> impl Iterator<Item = Question> {
        let kinds: &[Records] = match self.dns.family {
            DnsFamily::Both => &[Records::V4, Records::V6],
            DnsFamily::V4 => &[Records::V4],
            DnsFamily::V6 => &[Records::V6],
        };
        kinds.iter().map(move |kind| self.question(Arc::clone(&host), *kind))
    }

    fn question(&self, name: Arc<str>, records: Records) -> Question {
        Question { name, records, servers: Arc::clone(&self.servers), timeout: self.dns.timeout.0 }
    }

    /// What there is to tell, if it is new.
    fn say(&mut self, inquiry: &Inquiry, now: Instant) -> Option<Result<Vec<Arc<Written>>, String>> {
        // A first answer is told whole: with half of the records, all traffic would go to that half.
        if inquiry.states().any(|(_, state)| state.outcome().is_none()) {
            return None;
        }
        let mut found = self.endpoints(inquiry);
        if self.dns.mode == DnsMode::Logical {
            found = self.one_of(found);
        }
        if found.is_empty() {
            return self.say_nothing(inquiry, now);
        }
        self.has_refused = false;
        self.confirmed = inquiry.states().filter_map(|(_, state)| state.confirmed()).max();
        self.tell(found)
    }

    /// No address: because nobody could say, or because there is none.
    fn say_nothing(&mut self, inquiry: &Inquiry, now: Instant) -> Option<Result<Vec<Arc<Written>>, String>> {
        let failed = inquiry.states().find_map(|(question, state)| match state.outcome() {
            Some(Outcome::Failed(reason)) => Some(format!("{}: {reason}", question.name)),
            _ => None,
        });
        let keeps = failed.is_some() || self.dns.on_empty == OnEmpty::Keep;
        let is_stale = self.confirmed.is_none_or(|confirmed| now >= after(confirmed, self.dns.max_stale.0));
        let gives_up = !keeps || is_stale;
        match &self.said {
            Some(said) if gives_up && !said.is_empty() => self.tell(Vec::new()),
            Some(_) => None,
            None if std::mem::replace(&mut self.has_refused, true) => None,
            None => Some(Err(failed.unwrap_or_else(|| format!("{}: no such name or record", self.dns.name)))),
        }
    }

    fn tell(&mut self, endpoints: Vec<Written>) -> Option<Result<Vec<Arc<Written>>, String>> {
        let before = self.said.as_deref().unwrap_or_default();
        if self.said.is_some() && before.iter().map(|endpoint| &**endpoint).eq(&endpoints) {
            return None;
        }
        // The same endpoint is the same value again: the cluster then sees at once what did not change.
        let again = |endpoint: Written| {
            let same = before.iter().find(|before| ***before == endpoint);
            same.map_or_else(|| Arc::new(endpoint), Arc::clone)
        };
        let endpoints: Vec<_> = endpoints.into_iter().map(again).collect();
        self.said = Some(endpoints.clone());
        Some(Ok(endpoints))
    }

    /// The one in use while it is answered, else, or if it takes no connections, the next.
    fn one_of(&mut self, found: Vec<Written>) -> Vec<Written> {
        let current = self.said.as_ref().and_then(|said| said.first());
        let place = current.and_then(|current| found.iter().position(|endpoint| endpoint == &**current));
        let place = match (place, std::mem::take(&mut self.moves_on)) {
            (Some(place), true) => (place + 1) % found.len(),
            (place, _) => place.unwrap_or(0),
        };
        found.into_iter().skip(place).take(1).collect()
    }

    /// The endpoints that the answers amount to, in a fixed order.
    fn endpoints(&self, inquiry: &Inquiry) -> Vec<Written> {
        let name: Arc<str> = self.dns.name.as_str().into();
        let addresses = |host: &Arc<str>, port: u16| {
            let questions = self.addresses_of(Arc::clone(host));
            let found = questions.flat_map(|question| inquiry.records(&question).to_vec());
            found
                .filter_map(|record| match record {
                    Record::Address(ip) => Some(SocketAddr::new(ip, port)),
                    Record::Service { .. } => None,
                })
                .collect::<Vec<_>>()
        };
        if !self.dns.is_srv() {
            let found = addresses(&name, self.dns.port.unwrap_or_default());
            return found.into_iter().filter_map(|address| endpoint(address, 1)).collect();
        }
        let services = inquiry.records(&self.question(name, Records::Service));
        let mut services: Vec<_> = services.iter().filter_map(Service::of).collect();
        services.retain_mut(|service| {
            service.addresses = addresses(&service.target, service.port);
            !service.addresses.is_empty()
        });
        weigh(services)
    }
}

/// A service of an SRV answer, and where it runs.
struct Service {
    priority: u16,
    weight: u16,
    port: u16,
    target: Arc<str>,
    addresses: Vec<SocketAddr>,
}

impl Service {
    fn of(record: &Record) -> Option<Self> {
        let Record::Service { priority, weight, port, target } = record else { return None };
        let (priority, weight, port, target) = (*priority, *weight, *port, Arc::clone(target));
        Some(Self { priority, weight, port, target, addresses: Vec::new() })
    }
}

/// Only the services of the lowest priority that has addresses are used; SRV's weight is a host's, ours an
/// address's, so that a host with three addresses gives each a third.
fn weigh(mut services: Vec<Service>) -> Vec<Written> {
    let first = services.iter().map(|service| service.priority).min();
    services.retain(|service| Some(service.priority) == first);
    let most = services.iter().map(|service| service.addresses.len()).max().unwrap_or(1);
    // As large as weights may be, so that a share of a share is still a whole number.
    let heaviest = services.iter().map(|service| u64::from(service.weight)).max().unwrap_or(1).max(1);
    let scale = if most == 1 { 1 } else { (HEAVIEST / heaviest).max(1) };
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::new();
    for service in &services {
        let share = u64::from(service.weight) * scale / service.addresses.len() as u64;
        // Weight 0 is "hardly ever" in SRV and "never" with us.
        let share = u32::try_from(share).unwrap_or(u32::MAX).max(1);
        let fresh = service.addresses.iter().filter(|address| seen.insert(**address));
        endpoints.extend(fresh.filter_map(|address| endpoint(*address, share)));
    }
    endpoints
}

fn endpoint(address: SocketAddr, weight: u32) -> Option<Written> {
    let address = address.to_string().parse().ok()?;
    Some(Written { weight: Weight(weight), ..Written::at(address) })
}

/// The largest weight of an endpoint.
const HEAVIEST: u64 = 65_535;

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
