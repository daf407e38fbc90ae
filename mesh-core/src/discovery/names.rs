//! Host names among endpoints.
//!
//! Decides: which names are asked for, and who is told. Never: asks twice because two clusters name one host.
//! Invariant: a name that cannot be resolved keeps the addresses it had, for a day.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::inquiry::{Inquiry, Means};
use super::refresh::{Outcome, Refresh, Terms};
use super::resolver::{Question, Record, Records};
use crate::cluster::group::Cluster;
use crate::cluster::membership::Resolved;

/// Every host name of every cluster.
pub struct Names {
    means: Means,
    inquiry: Inquiry,
    users: BTreeMap<Question, Vec<User>>,
    told: HashMap<User, Resolved>,
}

/// What a cluster has to be told: each host, as written with its port, and its addresses.
pub type News = BTreeMap<Arc<str>, Vec<(Arc<str>, Resolved)>>;

/// A place where a host name is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct User {
    cluster: Arc<str>,
    address: Arc<str>,
    port: u16,
}

impl Names {
    /// None yet.
    pub fn new(means: Means) -> Self {
        Self { inquiry: Inquiry::new(means.clone()), means, users: BTreeMap::new(), told: HashMap::new() }
    }

    /// These clusters are in force.
    pub fn reconcile(&mut self, clusters: &BTreeMap<Arc<str>, Arc<Cluster>>) {
        self.users.clear();
        for (name, cluster) in clusters {
            for written in cluster.hosts().iter() {
                let user = User {
                    cluster: Arc::clone(name),
                    address: written.address.as_str().into(),
                    port: written.address.port(),
                };
                self.users.entry(question(written.address.host())).or_default().push(user);
            }
        }
        let users: HashSet<_> = self.users.values().flatten().collect();
        // A cluster that was away and came back knows nothing of what was told the one before it.
        let knows = |user: &User| clusters.get(&user.cluster).is_some_and(|cluster| !cluster.is_resolving());
        self.told.retain(|user, _| users.contains(user) && knows(user));
        self.inquiry.want(self.users.keys().map(|question| (question.clone(), TERMS)));
    }

    /// Waits until something is known that was not.
    pub async fn step(&mut self) {
        for (question, outcome) in self.inquiry.step().await {
            for user in self.users.get(&question).into_iter().flatten() {
                self.means.meter.resolved(&user.cluster, outcome);
            }
        }
    }

    /// Connections to endpoints of this cluster fail.
    pub fn doubt(&mut self, cluster: &str) {
        let users = &self.users;
        self.inquiry.doubt(|question| users.get(question).into_iter().flatten().any(|user| *user.cluster == *cluster));
    }

    /// What changed since this was last asked.
    pub fn news(&mut self) -> News {
        let mut news = News::new();
        for (question, users) in &self.users {
            let Some(state) = self.inquiry.state(question) else { continue };
            for user in users {
                let Some(resolved) = resolved(state, self.inquiry.records(question), user.port) else { continue };
                if self.told.get(user) != Some(&resolved) {
                    self.told.insert(user.clone(), resolved.clone());
                    let of_cluster = news.entry(Arc::clone(&user.cluster)).or_default();
                    of_cluster.push((Arc::clone(&user.address), resolved));
                }
            }
        }
        news
    }
}

fn question(host: &str) -> Question {
    Question { name: host.into(), records: Records::Host, servers: Arc::default(), timeout: TIMEOUT }
}

/// `None`: not asked yet.
fn resolved(state: &Refresh, records: &[Record], port: u16) -> Option<Resolved> {
    let outcome = state.outcome()?;
    let addresses = records.iter().filter_map(|record| match record {
        Record::Address(ip) => Some(SocketAddr::new(*ip, port)),
        Record::Service { .. } => None,
    });
    let addresses: Vec<_> = addresses.collect();
    Some(match outcome {
        Outcome::Failed(reason) if addresses.is_empty() => Err(reason.to_string().into()),
        Outcome::None if addresses.is_empty() => Err("there is no such name".into()),
        _ => Ok(addresses),
    })
}

/// The operating system tells no time to live: every 5 s (Envoy's dns_refresh_rate), kept for a day
/// (RFC 8767).
const TERMS: Terms = Terms {
    every: Some(Duration::from_secs(5)),
    min: Duration::from_secs(1),
    max_stale: Duration::from_secs(24 * 60 * 60),
    keeps_when_none: true,
};
/// As long as the operating system tries with two servers and two attempts.
const TIMEOUT: Duration = Duration::from_secs(20);
