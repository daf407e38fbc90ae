//! A server that assigns rate limits as it is told to, and remembers every report.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    AbandonAction, BucketAction as Said, QuotaAssignmentAction,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::RateLimitQuotaService;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{
    BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, RequestsPerTimeUnit, Strategy};
use envoy_types::pb::envoy::r#type::v3::{RateLimitStrategy, RateLimitUnit};
use envoy_types::pb::google::protobuf::Duration as WireDuration;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

pub(crate) type Bucket = BTreeMap<String, String>;
type Answer = Result<RateLimitQuotaResponse, Status>;

/// One report of one bucket.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The number of its stream, from 1.
    pub(crate) stream: usize,
    pub(crate) domain: String,
    pub(crate) bucket: Bucket,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
}

/// Says `rule` of each bucket when it is first reported on a stream, or each time.
#[derive(Default)]
pub(crate) struct Assigner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rule: Option<Said>,
    is_refreshing: bool,
    /// Begins to answer with the first report, as servers of grpc-go do with their first message.
    is_late: bool,
    seen: Vec<Seen>,
    streams: Vec<mpsc::UnboundedSender<Answer>>,
    /// Streams that the client has ended.
    ended: usize,
}

impl Assigner {
    pub(crate) fn saying(rule: Option<Said>) -> Arc<Self> {
        let assigner = Self::default();
        assigner.state.lock().unwrap().rule = rule;
        Arc::new(assigner)
    }

    /// Extends what it assigned with each report.
    pub(crate) fn refreshing(rule: Said) -> Arc<Self> {
        let assigner = Self::saying(Some(rule));
        assigner.state.lock().unwrap().is_refreshing = true;
        assigner
    }

    /// Answers nothing, not even with a head, before it was told something.
    pub(crate) fn late(rule: Said) -> Arc<Self> {
        let assigner = Self::saying(Some(rule));
        assigner.state.lock().unwrap().is_late = true;
        assigner
    }

    /// Says this of every bucket on the latest stream, now and from now on.
    pub(crate) fn say(&self, said: Said) {
        let mut state = self.state.lock().unwrap();
        state.rule = Some(said);
        let stream = state.streams.len();
        let buckets: HashSet<Bucket> =
            state.seen.iter().filter(|seen| seen.stream == stream).map(|seen| seen.bucket.clone()).collect();
        let bucket_action = buckets.into_iter().map(|bucket| action(bucket, said)).collect();
        state.streams[stream - 1].send(Ok(RateLimitQuotaResponse { bucket_action })).unwrap();
    }

    /// Ends every stream with an error.
    pub(crate) fn break_off(&self) {
        for stream in &self.state.lock().unwrap().streams {
            let _ = stream.send(Err(Status::unavailable("gone")));
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(crate) fn streams(&self) -> usize {
        self.state.lock().unwrap().streams.len()
    }

    pub(crate) fn ended(&self) -> usize {
        self.state.lock().unwrap().ended
    }

    /// Allowed and denied, of all reports.
    pub(crate) fn sums(&self) -> (u64, u64) {
        self.seen().iter().fold((0, 0), |(allowed, denied), seen| (allowed + seen.allowed, denied + seen.denied))
    }

    fn open(&self) -> (usize, mpsc::UnboundedReceiver<Answer>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap();
        state.streams.push(sender);
        (state.streams.len(), receiver)
    }

    fn hear(&self, stream: usize, message: RateLimitQuotaUsageReports) {
        let mut state = self.state.lock().unwrap();
        let mut actions = Vec::new();
        for usage in message.bucket_quota_usages {
            let bucket: Bucket = usage.bucket_id.unwrap().bucket.into_iter().collect();
            let is_new = !state.seen.iter().any(|seen| seen.stream == stream && seen.bucket == bucket);
            let said = state.rule.filter(|_| is_new || state.is_refreshing);
            actions.extend(said.map(|said| action(bucket.clone(), said)));
            let elapsed = usage.time_elapsed.unwrap();
            assert!(elapsed.seconds > 0 || elapsed.nanos > 0, "the protocol wants some time to have passed");
            state.seen.push(Seen {
                stream,
                domain: message.domain.clone(),
                bucket,
                allowed: usage.num_requests_allowed,
                denied: usage.num_requests_denied,
            });
        }
        if !actions.is_empty() {
            let _ = state.streams[stream - 1].send(Ok(RateLimitQuotaResponse { bucket_action: actions }));
        }
    }
}

/// What the protocol's generated server is made of.
pub(crate) struct Service(pub(crate) Arc<Assigner>);

#[tonic::async_trait]
impl RateLimitQuotaService for Service {
    type StreamRateLimitQuotasStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn stream_rate_limit_quotas(
        &self,
        request: Request<Streaming<RateLimitQuotaUsageReports>>,
    ) -> Result<Response<Self::StreamRateLimitQuotasStream>, Status> {
        let assigner = Arc::clone(&self.0);
        let (number, answers) = assigner.open();
        let mut reports = request.into_inner();
        let is_late = assigner.state.lock().unwrap().is_late;
        if is_late {
            let first = reports.message().await?.ok_or_else(|| Status::invalid_argument("nothing is reported"))?;
            assigner.hear(number, first);
        }
        tokio::spawn(async move {
            while let Ok(Some(message)) = reports.message().await {
                assigner.hear(number, message);
            }
            assigner.state.lock().unwrap().ended += 1;
        });
        let answers = unfold(answers, |mut answers| async { answers.recv().await.map(|answer| (answer, answers)) });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn action(bucket: Bucket, said: Said) -> BucketAction {
    BucketAction { bucket_id: Some(BucketId { bucket: bucket.into_iter().collect() }), bucket_action: Some(said) }
}

pub(crate) fn per(requests_per_time_unit: u64, unit: RateLimitUnit, ttl: i64) -> Said {
    assigned(Strategy::RequestsPerTimeUnit(RequestsPerTimeUnit { requests_per_time_unit, time_unit: unit as i32 }), ttl)
}

pub(crate) fn deny(ttl: i64) -> Said {
    assigned(Strategy::BlanketRule(BlanketRule::DenyAll as i32), ttl)
}

pub(crate) fn abandon() -> Said {
    Said::AbandonAction(AbandonAction {})
}

fn assigned(strategy: Strategy, ttl: i64) -> Said {
    Said::QuotaAssignmentAction(QuotaAssignmentAction {
        assignment_time_to_live: Some(WireDuration { seconds: ttl, nanos: 0 }),
        rate_limit_strategy: Some(RateLimitStrategy { strategy: Some(strategy) }),
    })
}
