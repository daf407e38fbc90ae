//! What binds requests to endpoints, as a rule or a cluster says it.
//!
//! Decides: which of the two is asked: the rule, and where it says nothing the cluster. Never: picks.
//! Invariant: hash and session are two answers; a session comes before a hash.

use super::hash_policy::HashPolicy;
use super::session::Session;

/// What binds requests to endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity {
    /// What a request hashes to; empty: nothing is said.
    pub hash: Vec<HashPolicy>,
    /// What keeps a client with its endpoint.
    pub session: Option<Session>,
}

impl Affinity {
    /// The hash policies of a rule, or else of the cluster.
    pub fn hash<'a>(rule: Option<&'a Self>, cluster: &'a Self) -> &'a [HashPolicy] {
        rule.map(|rule| &rule.hash[..]).filter(|hash| !hash.is_empty()).unwrap_or(&cluster.hash)
    }

    /// The session of a rule, or else of the cluster.
    pub fn session<'a>(rule: Option<&'a Self>, cluster: &'a Self) -> Option<&'a Session> {
        rule.and_then(|rule| rule.session.as_ref()).or(cluster.session.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::hash_policy::Part;
    use crate::route::session::Carrier;

    #[test]
    fn a_rule_comes_before_its_cluster_each_answer_by_itself() {
        let hash = |part| vec![HashPolicy { part, is_terminal: false }];
        let session = |name: &str| Session { carrier: Carrier::Header(name.parse().unwrap()), is_strict: false };
        let cluster = Affinity { hash: hash(Part::Principal), session: Some(session("x-cluster")) };
        let rule = Affinity { hash: hash(Part::Address), session: None };
        assert_eq!(Affinity::hash(Some(&rule), &cluster), rule.hash);
        assert_eq!(Affinity::session(Some(&rule), &cluster), cluster.session.as_ref());
        let rule = Affinity { hash: Vec::new(), session: Some(session("x-rule")) };
        assert_eq!(Affinity::hash(Some(&rule), &cluster), cluster.hash);
        assert_eq!(Affinity::session(Some(&rule), &cluster), rule.session.as_ref());
        assert_eq!(Affinity::hash(None, &cluster), cluster.hash);
        assert_eq!(Affinity::session(None, &Affinity::default()), None);
    }
}
