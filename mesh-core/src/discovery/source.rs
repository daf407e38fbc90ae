//! The one way in which endpoints come from somewhere else.
//!
//! Decides: how a source and the mesh meet: the source says what *is*, the mesh takes the latest of it.
//! Never: keeps a queue; a state that was not taken yet is replaced by the next one, so that a source that
//! speaks 100 000 times to a mesh that nobody uses costs one state.
//! Invariant: the last state published is the one that ends up in force.
//!
//! # What a source is
//! A file ([`FileSource`](super::file::FileSource)), DNS ([`DnsSource`](super::dns::DnsSource)), or one that
//! the application registers ([`MeshBuilder::endpoint_source`](crate::MeshBuilder::endpoint_source)) and a
//! cluster names (`endpoint_source: registry`). Endpoints inside the document need none: they come into force
//! with their revision.
//!
//! One source may serve any number of clusters: [`follow`](EndpointSource::follow) is called once for each,
//! and the future is dropped when the cluster is gone. So a source that keeps one connection to a registry or
//! control plane subscribes in `follow` and unsubscribes when the future is dropped. xDS fits as it is: an EDS
//! stream's `ClusterLoadAssignment` is the whole state of one cluster, `priority`, `health`, `weight`,
//! `locality` and metadata are fields of an [`Endpoint`](Written), `endpoint_stale_after` is
//! [`valid_for`](EndpointSet::valid_for), and a NACK is [`refuse`](Sink::refuse).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::cluster::Endpoint as Written;

/// Says which endpoints a cluster has, for as long as it is asked.
pub trait EndpointSource: Send + Sync + 'static {
    /// Follows the endpoints of `cluster` and tells `sink` each state. What was told last stays in force
    /// after the future has ended.
    fn follow(&self, cluster: &str, sink: Sink) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// All endpoints of a cluster, as one source says them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EndpointSet {
    /// The endpoints. Hand out the same `Arc` for one that did not change: that is what makes a small change
    /// of a large set cheap.
    pub endpoints: Vec<Arc<Written>>,
    /// How long this holds unless it is said again; then the cluster has no endpoint. `None`: until the next.
    pub valid_for: Option<Duration>,
}

/// Where a source tells what it knows. Cheap to clone.
#[derive(Clone)]
pub struct Sink(Arc<Slot>);

/// What a source said and nobody took yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// The state.
    Set(EndpointSet),
    /// There is none, and why.
    Refused(Arc<str>),
}

#[derive(Default)]
struct Slot {
    said: Mutex<Option<Said>>,
    changed: Notify,
    doubted: Notify,
}

impl EndpointSet {
    /// These endpoints, until further notice.
    pub fn new(endpoints: Vec<Arc<Written>>) -> Self {
        Self { endpoints, valid_for: None }
    }
}

impl Sink {
    /// A place for one source and one cluster.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// This is the state now; what was not taken yet of earlier ones is forgotten.
    pub fn publish(&self, set: EndpointSet) {
        self.say(Said::Set(set));
    }

    /// What the source has cannot be used; what is in force stays. A state that waits to be taken is kept.
    pub fn refuse(&self, reason: &str) {
        let mut said = self.lock();
        if !matches!(*said, Some(Said::Set(_))) {
            *said = Some(Said::Refused(reason.into()));
            self.0.changed.notify_one();
        }
    }

    /// Completes when connections to what this source said fail: a reason to look again before it would.
    pub async fn doubted(&self) {
        self.0.doubted.notified().await;
    }

    /// Connections to what was said fail.
    pub fn doubt(&self) {
        self.0.doubted.notify_one();
    }

    /// The latest word, once there is one. For whoever puts it in force.
    pub async fn take(&self) -> Said {
        loop {
            if let Some(said) = self.lock().take() {
                return said;
            }
            self.0.changed.notified().await;
        }
    }

    fn say(&self, what: Said) {
        *self.lock() = Some(what);
        self.0.changed.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Said>> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Sink {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_state_replaces_the_ones_nobody_took() {
        let sink = Sink::new();
        let set = |seconds| EndpointSet { valid_for: Some(Duration::from_secs(seconds)), ..EndpointSet::default() };
        for n in 0..100_000 {
            sink.publish(set(n));
        }
        assert_eq!(sink.take().await, Said::Set(set(99_999)));
        assert_eq!(*sink.lock(), None, "nothing is kept behind it");
    }

    #[tokio::test]
    async fn a_refusal_does_not_take_the_place_of_a_state_that_waits() {
        let sink = Sink::new();
        sink.publish(EndpointSet::default());
        sink.refuse("broken");
        assert_eq!(sink.take().await, Said::Set(EndpointSet::default()));
        sink.refuse("broken");
        assert_eq!(sink.take().await, Said::Refused("broken".into()));
    }
}
