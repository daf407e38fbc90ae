//! Keeps the keys of end users' issuers current: looks at files, asks clusters.
//!
//! Decides: nothing; [`Refresh`] says when to ask. Never: runs on the request path, or takes keys away: what cannot be
//! read or reached leaves the last good ones in force, counted and logged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use http::{Request, StatusCode, Uri, header};

use crate::access::jwt::refresh::Refresh;
use crate::access::jwt::{KeySet, KeySource, MAX_SET_BYTES, Origin};
use crate::body::Body;
use crate::core::Core;
use crate::discovery::file::{POLL_INTERVAL, WatchedFile};
use crate::outbound::{CallOptions, ServiceClient};
use crate::snapshot::Snapshot;
use crate::telemetry::names::{label, metric};

/// Runs as long as the mesh.
pub(super) async fn follow(weak: Weak<Core>) {
    let mut followed: Vec<Followed> = Vec::new();
    loop {
        let Some(core) = weak.upgrade() else { return };
        reconcile(&mut followed, &core.snapshot.load(), core.clock.now());
        for one in &mut followed {
            one.look(&core).await;
        }
        drop(core);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// One issuer whose keys are not in the document.
struct Followed {
    issuer: Arc<str>,
    keys: Arc<KeySource>,
    means: Means,
}

enum Means {
    File(Option<WatchedFile>),
    Remote(Arc<Mutex<Refresh>>),
}

/// Follows what the document names, and nothing else.
fn reconcile(followed: &mut Vec<Followed>, snapshot: &Snapshot, now: Instant) {
    let listeners = snapshot.listeners.values();
    let issuers: Vec<_> = listeners.flat_map(|listener| listener.end_users.issuers()).collect();
    followed.retain(|one| issuers.iter().any(|issuer| Arc::ptr_eq(&issuer.keys, &one.keys)));
    for issuer in issuers {
        let means = match issuer.keys.origin() {
            Origin::Inline(_) => continue,
            _ if followed.iter().any(|one| Arc::ptr_eq(&issuer.keys, &one.keys)) => continue,
            Origin::File(path) => Means::File(Some(WatchedFile::new(path))),
            Origin::Remote { interval, .. } => Means::Remote(Arc::new(Mutex::new(Refresh::new(*interval, now)))),
        };
        followed.push(Followed { issuer: Arc::clone(&issuer.name), keys: Arc::clone(&issuer.keys), means });
    }
}

impl Followed {
    async fn look(&mut self, core: &Arc<Core>) {
        match &mut self.means {
            Means::File(slot) => {
                let Some(mut file) = slot.take_if(|file| file.may_have_changed()) else { return };
                // What is in it is read on a thread that carries no requests.
                let reading = tokio::task::spawn_blocking(move || {
                    let read = read(&mut file);
                    (file, read)
                });
                let Ok((file, read)) = reading.await else { return };
                *slot = Some(file);
                if let Some(read) = read {
                    put_in_force(core, (&self.issuer, &self.keys), read);
                }
            }
            Means::Remote(refresh) => {
                let now = core.clock.now();
                let mut due = lock(refresh);
                if self.keys.take_doubt() {
                    due.doubt(now);
                }
                if due.ask(now) {
                    let asked = (Arc::clone(&self.issuer), Arc::clone(&self.keys), Arc::clone(refresh));
                    tokio::spawn(ask(Arc::clone(core), asked));
                }
            }
        }
    }
}

fn read(file: &mut WatchedFile) -> Option<Result<KeySet, String>> {
    let path = file.path().display().to_string();
    match file.poll() {
        Ok(None) => None,
        Ok(Some(text)) => Some(KeySet::read(text.as_bytes()).map_err(|why| format!("{path}: {why}"))),
        Err(error) => Some(Err(format!("{path}: {error}"))),
    }
}

async fn ask(core: Arc<Core>, (issuer, keys, refresh): (Arc<str>, Arc<KeySource>, Arc<Mutex<Refresh>>)) {
    let answer = match keys.origin() {
        Origin::Remote { cluster, uri, timeout, .. } => {
            let options = CallOptions { timeout: Some(*timeout), ..CallOptions::default() };
            fetch(ServiceClient::to_cluster(Arc::clone(&core), Arc::clone(cluster)), uri, options).await
        }
        Origin::Inline(_) | Origin::File(_) => return,
    };
    lock(&refresh).answered(answer.is_ok(), core.clock.now(), &mut core.randomness.generator());
    put_in_force(&core, (&issuer, &keys), answer);
}

async fn fetch(client: ServiceClient, uri: &Uri, options: CallOptions) -> Result<KeySet, String> {
    let request = Request::get(uri).header(header::ACCEPT, "application/jwk-set+json, application/json");
    let request = request.extension(options).body(Body::empty()).map_err(|error| error.to_string())?;
    let response = client.call(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer's status is {}", response.status().as_u16()));
    }
    let text = response.into_body().collect_up_to(MAX_SET_BYTES).await.map_err(|error| error.to_string())?;
    KeySet::read(&text)
}

fn put_in_force(core: &Core, (issuer, keys): (&str, &KeySource), read: Result<KeySet, String>) {
    let outcome = if read.is_ok() { "loaded" } else { "failed" };
    let labels = [(label::ISSUER, issuer), (label::OUTCOME, outcome)];
    core.telemetry.registry.counter(&metric::JWKS_LOADS, &labels).inc();
    match read {
        Ok(set) => {
            if !set.ignored().is_empty() {
                tracing::info!(issuer, ignored = ?set.ignored(), "keys of an issuer that are of no use");
            }
            keys.publish(set);
        }
        Err(reason) => {
            let kept = keys.count();
            tracing::warn!(issuer, reason, kept, "no new keys of an issuer; the last good ones stay");
        }
    }
}

fn lock(refresh: &Mutex<Refresh>) -> MutexGuard<'_, Refresh> {
    refresh.lock().unwrap_or_else(PoisonError::into_inner)
}
