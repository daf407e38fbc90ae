//! What a started mesh does between requests.
//!
//! Decides: when to look at files, names, endpoints and certificates. Never: holds the mesh alive; each
//! task ends when the mesh is gone.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use self::discover::discover;
use crate::admin;
use crate::compile;
use crate::config::diagnostic::Diagnostic;
use crate::config::identity::Identity as Written;
use crate::config::telemetry::LogTarget;
use crate::core::Core;
use crate::discovery::file::POLL_INTERVAL;
use crate::discovery::publish::{ConfigError, Opened};
use crate::endpoint::connect::Moment;
use crate::error::{Error, ErrorKind};
use crate::identity::dev_ca::{DevCa, DevCaIssuer};
use crate::identity::file::{BundleFile, FileIssuer};
use crate::identity::rotation::{Issuer, rotate};
use crate::identity::spiffe_id::{SpiffeId, TrustDomain};
use crate::telemetry::reporting::Telemetry;
use crate::telemetry::{AccessLog, Target};

mod discover;
mod health;
mod keys;

/// Issues the first identity, then starts everything else on `runtime`.
pub(crate) fn start(core: &Arc<Core>, runtime: &Handle) -> Result<(), Error> {
    let document = Arc::clone(&core.snapshot.load().document);
    if let (Some(source), Some(written)) = (&core.identity, &document.identity) {
        let failed = |error: String| Error::new(ErrorKind::Tls, format!("no identity: {error}"));
        let issuer = issuer(core, written).map_err(failed)?;
        // The first identity is issued before anything is served or sent.
        source.publish(issuer.issue().map_err(|error| failed(error.to_string()))?);
        runtime.spawn(rotate(source.clone(), issuer, Arc::clone(&core.clock), core.randomness.generator().u64(..)));
    }
    if let Some(written) = &document.telemetry.admin {
        let address = written.address.as_str();
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Config, format!("admin endpoint {address}: {error}")).with_source(error)
        };
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let _entered = runtime.enter();
        let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
        runtime.spawn(admin::run(socket, Arc::downgrade(core)));
    }
    // The log's thread inherits the signal mask of a library thread, not of the application's.
    let telemetry = Arc::clone(&core.telemetry);
    let logging = runtime.spawn(async move { telemetry.access_log.start() });
    if Handle::try_current().is_err() {
        let _ = runtime.block_on(logging);
    }
    runtime.spawn(watch(Arc::downgrade(core)));
    runtime.spawn(sweep(Arc::downgrade(core)));
    runtime.spawn(health::watch(Arc::downgrade(core)));
    runtime.spawn(keys::follow(Arc::downgrade(core)));
    runtime.spawn(discover(Arc::downgrade(core), runtime.clone()));
    Ok(())
}

/// Who we are and where we report to.
pub(crate) fn telemetry(opened: &Opened) -> Result<Telemetry, ConfigError> {
    let document = &opened.snapshot.document;
    let principal = document.identity.as_ref().map(|identity| identity.spiffe_id.as_str());
    let target = match document.telemetry.access_log.as_ref().map(|log| &log.path) {
        None => Target::Off,
        Some(LogTarget::Stdout) => Target::Stdout,
        Some(LogTarget::Stderr) => Target::Stderr,
        Some(LogTarget::File(path)) => Target::File(opened.publisher.base().join(path)),
    };
    let log = AccessLog::to(target).map_err(|error| {
        let message = format!("the access log cannot be opened: {error}");
        ConfigError::new(vec![Diagnostic::error(opened.publisher.origin(), "telemetry.access_log.path", message)])
    })?;
    Ok(Telemetry::new(compile::node(document, principal), log, document.telemetry.metrics.peer_metadata))
}

fn issuer(core: &Core, written: &Written) -> Result<Arc<dyn Issuer>, String> {
    let base = core.publisher().base().to_path_buf();
    let id = SpiffeId::parse(written.spiffe_id.as_str()).map_err(|error| error.to_string())?;
    let mut bundles = Vec::new();
    for further in &written.trust_bundles {
        let trust_domain = TrustDomain::parse(further.trust_domain.as_str()).map_err(|error| error.to_string())?;
        bundles.push(BundleFile { trust_domain, path: base.join(&further.bundle) });
    }
    match (&written.dev_ca, &written.files) {
        (Some(ca), _) => {
            let authority = DevCa::open(&base.join(&ca.directory), &TrustDomain::of(&id), core.clock.wall());
            let authority = authority.map_err(|error| error.to_string())?;
            Ok(Arc::new(DevCaIssuer::new(authority, id, ca.ttl.0, Arc::clone(&core.clock)).with_bundles(bundles)))
        }
        (None, Some(files)) => {
            bundles.push(BundleFile { trust_domain: TrustDomain::of(&id), path: base.join(&files.bundle) });
            Ok(Arc::new(FileIssuer::new(id, base.join(&files.certificate), base.join(&files.key), bundles)))
        }
        (None, None) => Err("the configuration names neither dev_ca nor files".to_owned()),
    }
}

/// Looks at the configuration file. What is in it is read on a thread that carries no requests.
async fn watch(core: Weak<Core>) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let Some(core) = core.upgrade() else { return };
        if !core.publisher().may_have_news() {
            continue;
        }
        if tokio::task::spawn_blocking(move || take_file(&core)).await.is_err() {
            return;
        }
    }
}

fn take_file(core: &Core) {
    let changed = core.publisher().poll_file();
    let Some((text, origin)) = changed else { return };
    match core.publish(&text, &origin) {
        Ok(revision) => tracing::info!(revision, "configuration in force"),
        Err(error) => tracing::warn!(%error, "configuration refused; the last good one stays"),
    }
}

/// Ejections end, idle and retired connections close.
async fn sweep(core: Weak<Core>) {
    let mut last: Vec<(Arc<str>, Instant)> = Vec::new();
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(core) = core.upgrade() else { return };
        let snapshot = core.snapshot.load_full();
        let now = core.clock.now();
        let generation = core.identity.as_ref().map_or(0, |identity| identity.rotations());
        last.retain(|(name, _)| snapshot.clusters.contains_key(name));
        for cluster in snapshot.clusters.values() {
            cluster.close_idle(Moment { now, generation });
            let at = last.iter().position(|(name, _)| *name == cluster.name);
            match at.map(|at| &mut last[at].1) {
                Some(at) if now.saturating_duration_since(*at) < cluster.outlier.interval() => {}
                Some(at) => {
                    *at = now;
                    cluster.sweep(now, &mut core.randomness.generator());
                }
                None => last.push((Arc::clone(&cluster.name), now)),
            }
        }
    }
}

/// How often idle connections and ejections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
