//! The stream to a server that assigns rate limits: reports go out, assignments come in.
//!
//! Decides: when to open it again, and when a server that does not begin to answer is taken for dead. Never: is waited
//! for by a request, holds the mesh alive once the server answers, or ends an assignment: those hold as long as they
//! were given.
//! Invariant: each stream first tells of every bucket, by which the server knows what to assign.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::RateLimitQuotaUsageReports;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_client::RateLimitQuotaServiceClient;
use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::codec::Streaming;
use tonic::{Request, Status};

use crate::access::quota_limit::{Quota, StreamEnd};
use crate::core::Core;
use crate::outbound::{CallOptions, CallReport, GrpcChannel, Lasting, ServiceClient};
use crate::policy::backoff::Backoff;
use crate::time::{Clock, after};

type Answer = envoy_types::pb::envoy::service::rate_limit_quota::v3::RateLimitQuotaResponse;

/// Keeps a stream open for it from now on, unless that is done already.
pub(super) fn follow(core: &Arc<Core>, quota: &Arc<Quota>) {
    if !quota.claim() {
        return;
    }
    match core.runtime() {
        Ok(runtime) => drop(runtime.spawn(run(Arc::downgrade(core), Arc::downgrade(quota)))),
        Err(_) => quota.unclaim(),
    }
}

/// One stream after the other, as long as the mesh and the limit are there.
async fn run(core: Weak<Core>, quota: Weak<Quota>) {
    let mut failures = 0;
    loop {
        let Some(heard) = one(&core, &quota).await else { return };
        let Some((core, quota)) = both(&core, &quota) else { return };
        failures = if heard.is_answered { 1 } else { failures + 1 };
        quota.counts().ended(heard.end);
        let wait = backoff().delay(failures, &mut core.randomness.generator());
        tracing::warn!(
            limit = &*quota.config().name,
            error.type = heard.end.as_str(),
            rpc.grpc.status_code = heard.code.map(|code| code as i32),
            again_in_ms = wait.as_millis() as u64,
            "the stream to the rate limit quota service is over; what was assigned holds until it expires"
        );
        let (clock, until) = (Arc::clone(&core.clock), after(core.clock.now(), wait));
        drop((core, quota));
        clock.sleep_until(until).await;
    }
}

/// How a stream went.
struct Heard {
    end: StreamEnd,
    code: Option<tonic::Code>,
    is_answered: bool,
}

impl Heard {
    fn failed(status: &Status, is_answered: bool) -> Self {
        Self { end: StreamEnd::Failed, code: Some(status.code()), is_answered }
    }

    fn ended(end: StreamEnd, is_answered: bool) -> Self {
        Self { end, code: None, is_answered }
    }
}

fn both(core: &Weak<Core>, quota: &Weak<Quota>) -> Option<(Arc<Core>, Arc<Quota>)> {
    let (core, quota) = (core.upgrade()?, quota.upgrade()?);
    core.check_open().is_ok().then_some((core, quota))
}

/// Opens a stream and listens to its end. `None`: nobody needs it any more.
async fn one(core: &Weak<Core>, quota: &Weak<Quota>) -> Option<Heard> {
    let (answers, endpoint) = match open(core, quota).await? {
        Ok(opened) => opened,
        Err(heard) => return Some(heard),
    };
    quota.upgrade()?.counts().opened();
    listen(answers, endpoint, (core, quota)).await
}

/// The mesh is held until the server begins to answer, and no longer than [`PATIENCE`]. Some servers begin with their
/// first assignment.
async fn open(core: &Weak<Core>, quota: &Weak<Quota>) -> Option<Result<(Streaming<Answer>, Option<Arc<str>>), Heard>> {
    let (core, quota) = both(core, quota)?;
    let clock = Arc::clone(&core.clock);
    let config = quota.config();
    quota.counts().begun();
    let channel = GrpcChannel::new(ServiceClient::to_cluster(Arc::clone(&core), Arc::clone(&config.cluster)));
    let mut client = RateLimitQuotaServiceClient::with_origin(channel, config.origin.clone());
    let mut request = Request::new(reports(&quota, &clock));
    request.extensions_mut().insert(Lasting);
    request.extensions_mut().insert(CallOptions { detached: true, ..CallOptions::default() });
    drop(quota);
    let late = clock.sleep_until(after(clock.now(), PATIENCE));
    Some(tokio::select! {
        opened = client.stream_rate_limit_quotas(request) => match opened {
            Ok(opened) => {
                let endpoint = opened.extensions().get::<CallReport>().map(|report| Arc::clone(&report.endpoint));
                Ok((opened.into_inner(), endpoint))
            }
            Err(status) => Err(Heard::failed(&status, false)),
        },
        () = late => Err(Heard::ended(StreamEnd::Silent, false)),
    })
}

async fn listen(
    mut answers: Streaming<Answer>,
    endpoint: Option<Arc<str>>,
    (core, quota): (&Weak<Core>, &Weak<Quota>),
) -> Option<Heard> {
    let clock = Arc::clone(&core.upgrade()?.clock);
    let mut is_answered = false;
    loop {
        let look = pin!(clock.sleep_until(after(clock.now(), LOOK)));
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(said)) => {
                    is_answered = true;
                    quota.upgrade()?.follow(said, clock.now());
                }
                Ok(None) => return Some(Heard::ended(StreamEnd::Ended, is_answered)),
                Err(status) => return Some(Heard::failed(&status, is_answered)),
            },
            () = look => {
                let (core, quota) = both(core, quota)?;
                if endpoint.as_deref().is_some_and(|endpoint| has_left(&core, &quota, endpoint)) {
                    return Some(Heard::ended(StreamEnd::Left, is_answered));
                }
            }
        }
    }
}

/// A stream lasts: it would keep an endpoint in use that is no longer one of the cluster's.
fn has_left(core: &Core, quota: &Quota, name: &str) -> bool {
    let snapshot = core.snapshot.load();
    let Some(cluster) = snapshot.clusters.get(&quota.config().cluster) else { return true };
    let mut has_left = true;
    cluster.each_endpoint(|endpoint| has_left &= *endpoint.name != *name);
    has_left
}

/// What is sent on one stream. Nothing is taken from the buckets before the transport asks for it, so that what a
/// server cannot be told is told later.
struct Outgoing {
    quota: Weak<Quota>,
    news: Arc<tokio::sync::Notify>,
    clock: Arc<dyn Clock>,
    stream: u64,
    /// When all buckets are to be reported; `None`: at once.
    next: Option<Instant>,
    waiting: VecDeque<RateLimitQuotaUsageReports>,
}

fn reports(quota: &Arc<Quota>, clock: &Arc<dyn Clock>) -> impl Stream<Item = RateLimitQuotaUsageReports> + use<> {
    let outgoing = Outgoing {
        quota: Arc::downgrade(quota),
        news: Arc::clone(quota.news()),
        clock: Arc::clone(clock),
        stream: quota.next_stream(),
        next: None,
        waiting: VecDeque::new(),
    };
    unfold(outgoing, |mut outgoing| async { outgoing.next().await.map(|message| (message, outgoing)) })
}

impl Outgoing {
    async fn next(&mut self) -> Option<RateLimitQuotaUsageReports> {
        loop {
            let quota = self.quota.upgrade()?;
            if !quota.is_current(self.stream) {
                // What woke this stream is for the one after it.
                self.news.notify_one();
                return None;
            }
            if self.waiting.is_empty() {
                self.fill(&quota);
            }
            drop(quota);
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            let next = self.next.unwrap_or_else(|| self.clock.now());
            tokio::select! {
                () = self.news.notified() => {}
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    fn fill(&mut self, quota: &Quota) {
        let now = self.clock.now();
        let is_time = self.next.is_none_or(|next| next <= now);
        self.waiting = if is_time { quota.report_all(now) } else { quota.report_news(now) }.into();
        if is_time {
            self.next = Some(after(now, quota.config().interval));
        }
    }
}

/// 500 ms to 30 s, full jitter [Envoy's backoff of the streams to its control plane].
fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).unwrap_or_default()
}

/// For a server to begin its answer; ours. One that has nothing to assign for so long is asked anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether the stream is still needed, and where it should be.
const LOOK: Duration = Duration::from_secs(1);
