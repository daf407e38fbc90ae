//! The whole client, built from layers.
//!
//! Decides: nothing; it stacks the layers by the rule that matches. Invariant: what it decides, it decides as
//! [`crate::ServiceClient`] does, by the same engines. It does less than that client:
//! - It keeps no metrics, no access log and no explanation, makes no [`CallReport`](crate::CallReport), and does
//!   not tell the peer who we are (`telemetry.metrics.peer_metadata`).
//! - `retry.buffer_response` has no effect: a response is handed on at its head, so that a gRPC status in the
//!   trailers is not retried.
//! - A copy of a late request goes to the same endpoint if there is no other; the client sends none.
//! - A place under the concurrency limit is free again at the head of a response, not at its end.
//! - Requests are not mirrored.
//! - Errors name neither the rule nor the number of attempts.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower::{ServiceBuilder, ServiceExt};
use tower_service::Service;

use super::endpoint::{EndpointService, Tried};
use super::{ConcurrencyLayer, HedgeLayer, Pending, RetryLayer, TimeoutLayer, TraceLayer};
use crate::body::Body;
use crate::context::CallContext;
use crate::core::Core;
use crate::error::{BoxError, Error, ErrorKind};
use crate::mesh::Mesh;
use crate::outbound::affinity::Ties;
use crate::outbound::{CallOptions, fault, headers};
use crate::policy::timeout::Limits;
use crate::route::matcher::RequestHead;
use crate::snapshot::To;
use crate::telemetry::TraceContext;
use crate::telemetry::names::header::SHOULD_RETRY;
use crate::telemetry::record::is_grpc;

/// A client composed of stand-alone layers, by the routes of the mesh's configuration. It decides as
/// [`crate::ServiceClient`] does; it keeps no metrics and no access log.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_core::error::BoxError> {
/// # use http::Request;
/// # use mesh_core::{Body, Error, ErrorKind, Mesh};
/// # use tower::ServiceExt;
/// use mesh_core::layer::compose;
///
/// let mesh = Mesh::from_yaml("{version: 1}", "mesh.yaml")?;
/// let error = compose(&mesh).oneshot(Request::get("http://books/7").body(Body::empty())?).await.unwrap_err();
/// assert_eq!(error.downcast_ref().map(Error::kind), Some(ErrorKind::NoRoute));
/// # Ok(())
/// # }
/// ```
pub fn compose(mesh: &Mesh) -> Composed {
    Composed { core: Arc::clone(mesh.core()) }
}

/// See [`compose`].
#[derive(Clone)]
pub struct Composed {
    core: Arc<Core>,
}

impl Service<Request<Body>> for Composed {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pending<Response<Body>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(route(Arc::clone(&self.core), request))
    }
}

async fn route(core: Arc<Core>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let snapshot = core.snapshot.load_full();
    let mut rng = core.randomness.generator();
    let (mut head, body) = request.into_parts();
    headers::make_absolute(&mut head);
    let authority = head.uri.authority().map(ToString::to_string);
    let authority = authority.ok_or_else(|| Error::new(ErrorKind::BadRequest, "the request names no host"))?;
    let own = core.telemetry.principal();
    let asked = RequestHead::new(&head.method, &head.uri, &head.headers).asked_by(own.as_deref());
    let matched = snapshot.routes.lookup(&authority, asked);
    let matched =
        matched.map_err(|_| Error::new(ErrorKind::NoRoute, format!("no route for {authority}{}", head.uri.path())))?;
    let (action, taken) = (&matched.rule.action, matched.taken());
    let changed = |mut response: Response<Body>| {
        if let Some(changes) = &action.response_headers {
            changes.apply(response.headers_mut());
        }
        response
    };
    let split = match &action.to {
        To::Backends { split, is_sticky } => (split, *is_sticky),
        To::Answer(answer) => return Ok(changed(answer.respond(&head.uri, taken.prefix)?)),
    };
    let inherited = CallContext::current();
    let (target, ties) = Ties::to(&head, split, &action.affinity, inherited.as_deref(), &mut rng);
    let cluster = &target.cluster;
    let is_bound = ties.is_bound();
    head.extensions.insert(Arc::new(ties));
    if let Some(rewrite) = &action.rewrite {
        rewrite.apply(&mut head.uri, &mut head.headers, taken)?;
    }
    action.request_headers.apply(&mut head.headers);
    head.extensions.insert(Tried::default());

    let mut options = head.extensions.get::<CallOptions>().copied().unwrap_or_default();
    // The policy may know more than the method: layers further down ask the options only.
    options.idempotent.get_or_insert_with(|| action.retry.is_idempotent(&head.method, &head.headers));
    head.extensions.insert(options);
    crate::outbound::overload::classify(&mut head.headers, &options, inherited.as_deref());
    headers::leave_connection(&mut head.headers, inherited.as_deref(), &mut rng);
    let trace = match &inherited {
        Some(context) => context.trace.clone(),
        None => TraceContext::join(&head.headers, &mut rng, snapshot.sample_percent),
    };
    cluster.refuse_unless_http()?;
    let now = core.clock.now();
    let of_caller = inherited.as_deref().filter(|_| !options.detached).and_then(|context| context.remaining(now));
    let limits = Limits {
        application: options.timeout,
        incoming: of_caller.into_iter().chain(headers::deadline_of(&head.headers)).min(),
        incoming_max: action.timeout_header_max,
        route: action.timeout,
    };
    let deadline = limits.deadline(now);
    if let Some(fault) = &action.fault {
        let about = (&*cluster.name, is_grpc(&head.headers));
        if let Some(response) = fault::inject(&core, fault.draw(&mut rng), about, deadline).await? {
            return Ok(changed(response));
        }
    }
    cluster.refuse_if_broken(core.clock.now())?;
    let mut context = CallContext { deadline, ..CallContext::new(trace) };
    if let Some(inherited) = &inherited {
        context.attempt = inherited.attempt;
        // Nobody waits for what is detached: its end says nothing of the request that is being served.
        if !options.detached {
            context.gave_up = inherited.gave_up.clone();
        }
    }
    let context = Arc::new(context);

    let hedge = action.hedge.as_ref().filter(|_| !is_bound).map(|hedging| {
        HedgeLayer::shared(Arc::clone(hedging), Arc::clone(&action.retry), Arc::clone(&cluster.budget))
            .with_clock(Arc::clone(&core.clock))
    });
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::new(snapshot.sample_percent))
        .layer(TimeoutLayer::new(None).with_clock(Arc::clone(&core.clock)))
        .layer(ConcurrencyLayer::shared(Arc::clone(&cluster.limit)).with_clock(Arc::clone(&core.clock)))
        .layer(
            RetryLayer::shared(Arc::clone(&action.retry), Arc::clone(&cluster.budget))
                .with_clock(Arc::clone(&core.clock)),
        )
        .option_layer(hedge)
        .service(EndpointService::of(&core, cluster, action.attempt_timeout).within(target.subset));
    let mut response = CallContext::scope(Arc::clone(&context), stack.oneshot(Request::from_parts(head, body))).await?;
    if response.headers_mut().remove(SHOULD_RETRY).is_some_and(|value| value.as_bytes() == b"false") {
        context.gave_up.set();
    }
    Ok(changed(response))
}
