//! Load balancing over any set of services.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use tower_service::Service;

use super::Pending;
use super::circuit_breaker::ready_call;
use super::retry::outcome;
use crate::cluster::picker::{Asked, Balancing, Candidate, Picker};
use crate::endpoint::load::{Load, Outcome};
use crate::error::{BoxError, Error, ErrorKind};
use crate::policy::verdict::Verdict;
use crate::time::{Clock, Randomness, SystemClock};

/// One of several equal services, with its live load.
pub struct Member<S> {
    service: S,
    load: Arc<Load>,
    weight: u32,
}

impl<S> Member<S> {
    /// A member that takes `weight` shares; unknown load.
    pub fn new(service: S, weight: u32) -> Self {
        Self { service, load: Arc::new(Load::new(SystemClock.now())), weight }
    }
}

impl<S> Candidate for Member<S> {
    fn load(&self) -> &Load {
        &self.load
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn is_available(&self, _: Instant) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        false
    }
}

/// Sends each request to the member that the balancer picks. `Clone`, without a queue or a lock.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::{Request, Response};
/// # use mesh_core::Body;
/// # use mesh_core::error::BoxError;
/// # use tower::{ServiceExt, service_fn};
/// use mesh_core::cluster::BalancerKind;
/// use mesh_core::layer::{Balance, Member};
///
/// let status = |status: u16| {
///     service_fn(move |_: Request<Body>| async move {
///         Ok::<_, BoxError>(Response::builder().status(status).body(Body::empty())?)
///     })
/// };
/// let balance = Balance::new(BalancerKind::RoundRobin, vec![Member::new(status(200), 3), Member::new(status(404), 1)]);
/// let mut found = 0;
/// for _ in 0..4 {
///     found += u32::from(balance.clone().oneshot(Request::new(Body::empty())).await?.status() == 200);
/// }
/// assert_eq!(found, 3);
/// # Ok(())
/// # }
/// ```
pub struct Balance<S> {
    picker: Arc<Picker<Member<S>>>,
    clock: Arc<dyn Clock>,
    randomness: Arc<Randomness>,
}

impl<S> Balance<S> {
    /// Over these members, by a [`BalancerKind`](crate::cluster::BalancerKind) or more settings.
    pub fn new(balancing: impl Into<Balancing>, members: Vec<Member<S>>) -> Self {
        let members = members.into_iter().map(Arc::new).collect();
        Self {
            picker: Arc::new(Picker::new(balancing, members, 0)),
            clock: Arc::new(SystemClock),
            randomness: Arc::new(Randomness::from_entropy()),
        }
    }
}

impl<S> Clone for Balance<S> {
    fn clone(&self) -> Self {
        Self {
            picker: Arc::clone(&self.picker),
            clock: Arc::clone(&self.clock),
            randomness: Arc::clone(&self.randomness),
        }
    }
}

impl<S, In, B> Service<Request<In>> for Balance<S>
where
    S: Service<Request<In>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    In: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pending<Response<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let now = self.clock.now();
        let picked = self.picker.pick(Asked::at(now), &mut self.randomness.generator());
        let picked = picked.map(|pick| Arc::clone(pick.endpoint));
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            let member = picked.map_err(|_| Error::new(ErrorKind::NoEndpoint, "no member is available"))?;
            let in_flight = member.load.start(now);
            let answer = ready_call(&mut member.service.clone(), request).await;
            in_flight.finish(
                clock.now(),
                match Verdict::of(&outcome(&answer)) {
                    Some(Verdict::Success) => Outcome::Answered,
                    Some(_) => Outcome::Failed { retry_after: None },
                    None => Outcome::Neutral,
                },
            );
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::body::Body;
    use crate::cluster::BalancerKind;

    /// It answers at once, which alone would make it look like the better one.
    #[tokio::test]
    async fn a_member_that_fails_by_its_grpc_status_loses_traffic() {
        let member = |grpc_status: &'static str| {
            let answer = service_fn(move |_: Request<Body>| async move {
                let response = Response::builder().header("grpc-status", grpc_status).body(Body::empty());
                response.map_err(BoxError::from)
            });
            Member::new(answer, 1)
        };
        let balance = Balance::new(BalancerKind::PeakEwma, vec![member("14"), member("0")]);
        let mut failed = 0;
        for _ in 0..100 {
            let response = balance.clone().oneshot(Request::new(Body::empty())).await.unwrap();
            failed += u32::from(response.headers()["grpc-status"] == "14");
        }
        assert!(failed <= 5, "{failed} of 100 went to the member that is down");
    }
}
