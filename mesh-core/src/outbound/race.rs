//! One step of a call when copies may be sent: the attempt, and hedges beside it.
//!
//! Decides: nothing; the hedge engine says when a copy is due and the retry engine whether an outcome ends
//! the race. Invariant: every copy goes to another endpoint, all copies but the answer are cancelled when
//! the race ends (a reset stream on HTTP/2, a closed connection on HTTP/1.1), and each is judged once.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::cluster::group::Cluster;
use crate::cluster::member::Endpoint;
use crate::cluster::taken::Taken;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::outbound::attempt::{self, Outgoing};
use crate::outbound::call::{Call, Step, outcome};
use crate::outbound::overload;
use crate::outbound::peek::Received;
use crate::outbound::replay::Replay;
use crate::outbound::trail::{HEDGE, Noted};
use crate::policy::hedge::{HedgeRefused, HedgeState};
use crate::telemetry::record::is_grpc;

/// A copy under way.
struct Lane {
    taken: Taken,
    sent_at: Instant,
    place: Option<usize>,
}

/// What a copy needs for itself, so that several can be under way.
struct Parcel {
    core: Arc<Core>,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    head: http::request::Parts,
    body: Replay,
    is_idempotent: bool,
    buffer_response: usize,
    until: Option<Instant>,
}

impl Parcel {
    async fn send(self, lane: usize) -> (usize, Result<Received, Error>) {
        (lane, self.deliver().await)
    }

    async fn deliver(self) -> Result<Received, Error> {
        let head = &self.head;
        let outgoing = Outgoing {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            extensions: &head.extensions,
            body: &self.body,
            is_idempotent: self.is_idempotent,
        };
        let way = attempt::Way::to(self.core.dialer()?, &self.cluster, &self.endpoint, is_grpc(&head.headers));
        let answer = overload::send(&way, &outgoing, self.until).await?;
        let patience = self.until.map(|until| self.core.clock.sleep_until(until));
        Received::hold(answer, self.buffer_response, patience, &self.endpoint.name).await
    }
}

impl Call<'_> {
    /// Races `first` against copies of it. The outcome is judged; the losers are, too.
    pub(super) async fn race(
        &mut self,
        step: &Step<'_>,
        first: Lead,
        with: (&mut HedgeState, &mut Vec<Arc<Endpoint>>),
    ) -> Result<(Taken, Result<Received, Error>), Error> {
        let (hedge, tried) = with;
        let (mut lanes, mut copies, mut last) = (Vec::new(), FuturesUnordered::new(), None);
        copies.push(self.launch(step, first, (&mut lanes, tried)).send(0));
        hedge.sent(self.core.clock.now());
        loop {
            let due = hedge.due().filter(|due| self.deadline.is_none_or(|deadline| *due < deadline));
            if copies.is_empty() && due.is_none() {
                return last.ok_or_else(|| Error::new(ErrorKind::Internal, "a race without a runner"));
            }
            let next_copy = self.core.clock.sleep_until(due.unwrap_or_else(|| self.core.clock.now()));
            tokio::select! {
                biased;
                Some((at, result)) = copies.next(), if !copies.is_empty() => {
                    let Some(lane) = lanes.get_mut(at).and_then(Option::take) else { continue };
                    let (taken, is_over) = self.cross(step, (lane, at), &result, hedge);
                    if is_over {
                        self.call_off(lanes, hedge);
                        return Ok((taken, result));
                    }
                    last = Some((taken, result));
                }
                () = next_copy, if due.is_some() => {
                    if let Some(lead) = self.second(step, tried, hedge) {
                        let lane = lanes.len();
                        copies.push(self.launch(step, lead, (&mut lanes, tried)).send(lane));
                        hedge.sent(self.core.clock.now());
                    }
                }
            }
        }
    }

    fn launch(&mut self, step: &Step<'_>, lead: Lead, to: (&mut Vec<Option<Lane>>, &mut Vec<Arc<Endpoint>>)) -> Parcel {
        let (lanes, tried) = to;
        let Lead { taken, kind, now } = lead;
        let place = self.trail.sent(kind, (&step.terms.cluster, &taken.endpoint), &step.terms.wanted(now, tried));
        let until = self.prepare(step, &taken.endpoint, now);
        let endpoint = Arc::clone(&taken.endpoint);
        tried.push(Arc::clone(&endpoint));
        lanes.push(Some(Lane { taken, sent_at: now, place }));
        Parcel {
            core: Arc::clone(self.core),
            cluster: Arc::clone(&step.terms.cluster),
            endpoint,
            head: self.head.clone(),
            body: self.body.copy(),
            is_idempotent: step.is_idempotent,
            buffer_response: step.terms.retry.buffer_response,
            until,
        }
    }

    /// The copy that is due, if there is somewhere else to send it and it can be paid for.
    fn second(&mut self, step: &Step<'_>, tried: &[Arc<Endpoint>], hedge: &mut HedgeState) -> Option<Lead> {
        let now = self.core.clock.now();
        let cluster = &step.terms.cluster;
        let picked = cluster.pick(step.terms.wanted(now, tried), &mut self.rng).ok();
        let is_new = |taken: &Taken| !tried.iter().any(|other| Arc::ptr_eq(&other.live, &taken.endpoint.live));
        let paid = match picked.filter(is_new) {
            None => Err(HedgeRefused::NoOtherEndpoint),
            Some(taken) => hedge.pay(now).map(|()| taken),
        };
        match paid {
            Ok(taken) => {
                self.core.telemetry.hedged(&cluster.name);
                Some(Lead { taken, kind: HEDGE, now })
            }
            Err(refused) => {
                hedge.stop();
                self.core.telemetry.hedge_refused(&cluster.name, refused.as_str());
                self.trail.note(|| format!("hedge not sent: {}", refused.as_str()));
                None
            }
        }
    }

    /// A copy has come in. Whether it ends the race: it does unless the retry policy names its outcome.
    fn cross(
        &mut self,
        step: &Step<'_>,
        (lane, at): (Lane, usize),
        result: &Result<Received, Error>,
        hedge: &mut HedgeState,
    ) -> (Taken, bool) {
        let Lane { mut taken, sent_at, place } = lane;
        let now = self.core.clock.now();
        let outcome = outcome(result);
        if result.is_ok() {
            hedge.observe(now.saturating_duration_since(sent_at), now);
        }
        self.measure(&outcome, (sent_at, now));
        self.trail.ended(&Noted { place, endpoint: &taken.endpoint, sent_at }, &outcome, now);
        let is_over = step.retry.may_follow(&outcome, &self.facts(step.is_idempotent)).is_err();
        taken.judge(&outcome, now, &mut self.rng);
        if !is_over {
            hedge.failed(&outcome, (now, self.core.clock.wall()));
        } else if at > 0 && result.is_ok() {
            self.core.telemetry.hedge_won(&step.terms.cluster.name);
        }
        self.came_from(&taken.endpoint);
        (taken, is_over)
    }

    /// The race is over: the others are cancelled by whoever drops them next.
    fn call_off(&mut self, lanes: Vec<Option<Lane>>, hedge: &HedgeState) {
        let now = self.core.clock.now();
        for lane in lanes.into_iter().flatten() {
            let waited = now.saturating_duration_since(lane.sent_at);
            hedge.observe(waited, now);
            self.trail.overtaken(lane.place, waited);
            lane.taken.overtaken(now);
        }
    }
}

/// An attempt that is about to be sent.
pub(super) struct Lead {
    pub(super) taken: Taken,
    pub(super) kind: &'static str,
    pub(super) now: Instant,
}
