//! An endpoint for one attempt: the picker's choice, if its breaker lets it.
//!
//! Decides: which doors are knocked at, and what is said when all are shut. Never: which endpoint is better;
//! the picker does. Invariant: whoever gets an endpoint has the permits of its breaker and of the cluster's;
//! a refusal takes no lock but those of the breakers it asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::group::{Cluster, Wanted};
use super::health::Health;
use super::member::Endpoint;
use super::picker::{Asked, NoEndpoint, Picker};
use super::taken::Taken;
use crate::error::{Error, ErrorKind, Place};
use crate::policy::circuit_breaker::{Permit, Refused};

impl Cluster {
    /// An endpoint for one attempt, other than those already tried if there is one.
    pub fn pick(self: &Arc<Self>, wanted: Wanted<'_>, rng: &mut fastrand::Rng) -> Result<Taken, Error> {
        let Wanted { now, tried, hash, subset, last_wait } = wanted;
        self.note_use();
        let mut leave = self.leave(now)?;
        let pickers = self.pickers.load();
        let picker = pickers.of(subset);
        let mut skip: Vec<usize> = tried.iter().filter_map(|endpoint| pickers.index_of(endpoint)).collect();
        let (mut soonest, earlier) = (None, skip.len());
        // A breaker may close its door between the look and the knock: then knock elsewhere.
        for _ in 0..=picker.endpoints().len().min(KNOCKS) {
            let picked = match picker.pick(Asked { now, tried: &skip, hash }, rng) {
                Ok(picked) => picked,
                Err(reason) => {
                    if reason == NoEndpoint::AllUnavailable {
                        skip.extend(shut_out(picker, &skip, now, rng));
                    }
                    if skip.len() == earlier {
                        return Err(self.no_endpoint(reason));
                    }
                    break;
                }
            };
            match picked.endpoint.live.breaker.admit(now) {
                Ok(permit) => return Ok(Taken::new(self, Arc::clone(picked.endpoint), (permit, leave.take()), now)),
                Err(refused) => soonest = soonest.into_iter().chain(refused.retry_after).min(),
            }
            if skip.contains(&picked.index) {
                break;
            }
            skip.push(picked.index);
        }
        let doors = skip[earlier..].iter().filter_map(|index| picker.endpoints().get(*index));
        self.knock_last(doors, (leave, soonest), (now, last_wait))
    }

    /// Where all doors are shut, the first whose first wait is over opens.
    fn knock_last<'e>(
        self: &Arc<Self>,
        doors: impl Iterator<Item = &'e Arc<Endpoint>>,
        (mut leave, mut soonest): (Option<Permit>, Option<Duration>),
        (now, last_wait): (Instant, Option<Duration>),
    ) -> Result<Taken, Error> {
        for endpoint in doors {
            match endpoint.live.breaker.admit_last(now, last_wait) {
                Ok(permit) => return Ok(Taken::new(self, Arc::clone(endpoint), (permit, leave.take()), now)),
                Err(refused) => soonest = soonest.into_iter().chain(refused.retry_after).min(),
            }
        }
        let place = Place { cluster: Some(self.name.to_string()), retry_after: soonest, ..Place::default() };
        Err(Error::new(ErrorKind::CircuitOpen, "every endpoint's circuit breaker is open").with_place(place))
    }

    /// The permit of the cluster's breaker, if it has one.
    pub(super) fn leave(&self, now: Instant) -> Result<Option<Permit>, Error> {
        let leave = self.breaker.as_ref().map(|breaker| breaker.admit(now)).transpose();
        leave.map_err(|refused| self.broken(refused))
    }

    /// Refuses what the breaker of the cluster would refuse: before anything is waited for, at the cost of two
    /// loads. The permit itself is taken with the endpoint.
    pub fn refuse_if_broken(&self, now: Instant) -> Result<(), Error> {
        let refusal = self.breaker.as_ref().and_then(|breaker| breaker.refusal(now));
        refusal.map_or(Ok(()), |refused| Err(self.broken(refused)))
    }

    /// Refuses a request where no HTTP is spoken.
    pub fn refuse_unless_http(&self) -> Result<(), Error> {
        if self.settings.speaks_http {
            return Ok(());
        }
        Err(Error::new(ErrorKind::BadRequest, "the cluster speaks TCP: dial it, it takes no request"))
    }

    fn broken(&self, refused: Refused) -> Error {
        let retry_after = refused.retry_after;
        let place = Place { cluster: Some(self.name.to_string()), retry_after, ..Place::default() };
        Error::new(ErrorKind::CircuitOpen, "the cluster's circuit breaker is open").with_place(place)
    }

    fn no_endpoint(&self, reason: NoEndpoint) -> Error {
        let message = match (reason, self.news.trouble()) {
            (NoEndpoint::Empty, Some(trouble)) => format!("the cluster has no endpoint: {trouble}"),
            (NoEndpoint::Empty, None) => "the cluster has no endpoint".to_owned(),
            (NoEndpoint::AllUnavailable, _) => "no endpoint is available".to_owned(),
            (NoEndpoint::Panicking, _) => "too few endpoints are available, and the cluster fails on panic".to_owned(),
        };
        let place = Place { cluster: Some(self.name.to_string()), ..Place::default() };
        Error::new(ErrorKind::NoEndpoint, message).with_place(place)
    }
}

/// Where no panic is allowed, nobody is picked whose breaker is open: the first few that nothing else speaks
/// against, from anywhere in their levels.
fn shut_out(picker: &Picker<Endpoint>, skip: &[usize], now: Instant, rng: &mut fastrand::Rng) -> Vec<usize> {
    let is_shut = |index: &usize| {
        let endpoint = &picker.endpoints()[*index];
        let is_well = endpoint.health(now) <= Health::Degraded && !endpoint.live.outlier.is_ejected();
        is_well && endpoint.live.breaker.is_open(now) && !skip.contains(index)
    };
    picker.members_from_anywhere(rng).take(KNOCKS).filter(is_shut).collect()
}

/// Doors that are tried: if so many breakers in a row are open, most are.
const KNOCKS: usize = 16;
