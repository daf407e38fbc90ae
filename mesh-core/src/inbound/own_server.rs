//! The server side for an application that keeps its own server, and is no tower service.
//!
//! Decides: nothing; each request goes through the story of `serve`, in which the application's own server stands for
//! the service. Never: reads or writes a socket; of bodies it is told the beginning, once a check wants it, and the
//! length. Invariant: the application holds a [`Ticket`] exactly for what was admitted, and is counted as serving it
//! until the ticket is gone.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tower_service::Service;

use super::body::Lengths;
use super::known_peers::KnownPeers;
use super::later_body::{Later, Question, Sought, Terms};
use super::{ConnectionAddress, Inbound, peer_of, serve};
use crate::body::Body;
use crate::core::Core;
use crate::error::{BoxError, Error, ErrorKind, Side};
use crate::identity::tls::PeerIdentity;

/// Admits the requests that an application's own server receives: access rules, end users, limits, checks, telemetry,
/// trace and deadline, as for a listener of the mesh. A tower service has [`ServerLayer`](super::ServerLayer).
///
/// Connections are the server's: `address` and `tls` of the listener say nothing here. Who comes without a certificate
/// that the mesh knows is an unauthenticated caller, whom the rules let in or not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use http::{Request, Response};
/// use mesh_core::Mesh;
/// use mesh_core::inbound::own_server::{Begun, Given};
///
/// let mesh = Mesh::from_yaml(
///     "{version: 1, listeners: [{name: in}], policy: {access: {rules: [
///        {name: admin, action: deny, paths: [/admin*]}]}}}",
///     "mesh.yaml",
/// )?;
/// let check = mesh.inbound_check("in")?;
/// match check.begin(Request::get("/books").body(Given::Whole(Default::default()))?).await? {
///     Begun::Admitted(mut ticket) => {
///         let head = ticket.answer(Response::builder().status(200).body(())?)?; // to be sent as it comes back
///         assert_eq!(head.status(), 200);
///         ticket.end(5, None); // "hello" was sent
///     }
///     Begun::Answered(answer) => panic!("{}", answer.response.status()),
///     Begun::Wanted(_) => unreachable!("the body was handed over"),
/// }
/// let refused = check.begin(Request::get("/admin").body(Given::Whole(Default::default()))?).await?;
/// assert!(matches!(refused, Begun::Answered(answer) if answer.response.status() == 403));
/// # Ok(())
/// # }
/// ```
pub struct InboundCheck {
    inbound: Arc<Inbound>,
    peers: KnownPeers,
}

/// The listeners that own servers ask about. All who ask about one share it: its places are for all of them.
#[derive(Default)]
pub(crate) struct Asked(Mutex<HashMap<Arc<str>, Weak<Inbound>>>);

impl Asked {
    /// The listener called `name`, which is made for the first who asks.
    pub(crate) fn find(&self, core: &Arc<Core>, name: &str) -> Result<Arc<Inbound>, Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inbound) = known.get(name).and_then(Weak::upgrade) {
            return Ok(inbound);
        }
        let inbound = Inbound::new(core, name)?;
        known.insert(Arc::clone(&inbound.name), Arc::downgrade(&inbound));
        Ok(inbound)
    }
}

/// What the server hands over of a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// All of it; empty: it has none.
    Whole(Bytes),
    /// Its beginning: more than [`InboundCheck::body_limit`] bytes, or as much as there was time for.
    Beginning(Bytes),
    /// Nothing yet: it is asked for ([`Begun::Wanted`]) once a check wants it. So nobody waits for the body of a request
    /// that is refused without it, or that no check asks about.
    Later,
}

/// How a request begins.
pub enum Begun {
    /// It is the application's to answer.
    Admitted(Ticket),
    /// It was answered already: refused, or a question about health. The application never sees it.
    Answered(Answer),
    /// A check wants to know the body that was to be given [later](Given::Later).
    Wanted(Wanted),
}

/// An answer of the mesh, to be sent as it is.
#[derive(Debug)]
pub struct Answer {
    /// Status, headers and body.
    pub response: Response<Bytes>,
    /// What follows the body.
    pub trailers: Option<HeaderMap>,
}

impl InboundCheck {
    pub(crate) fn new(inbound: Arc<Inbound>) -> Self {
        Self { inbound, peers: KnownPeers::default() }
    }

    /// How many bytes of a body the checks of this listener want to know, by the policy in force; 0: none. Hand over
    /// one more if there are more, so that what is too long is seen to be.
    pub fn body_limit(&self) -> usize {
        let policy = self.inbound.policy(&self.inbound.core.snapshot.load());
        let wanted = policy.checks.iter().filter_map(|check| check.check.config().body);
        wanted.map(|terms| terms.max_bytes).max().unwrap_or(0)
    }

    /// Who the client is that proved to hold the key of this certificate chain (DER, leaf first) in a TLS handshake,
    /// by the mesh's own roots. `None`: nobody whom the mesh knows, which makes the caller an unauthenticated one.
    pub fn peer(&self, chain: &[&[u8]], server_name: Option<&str>) -> Option<Arc<PeerIdentity>> {
        self.peers.find(&self.inbound, chain, server_name)
    }

    /// Admits a request or answers it. Where it came from is said by its extensions: a [`ConnectionAddress`] and a
    /// [`PeerIdentity`] (or an `Arc` of one), which [`peer`](Self::peer) finds, or, of a TLS client that proved none, a
    /// [`ServerName`](super::ServerName).
    ///
    /// The future may be polled anywhere; it is ready at the first poll unless there is something to wait for. Fails
    /// if the mesh is closed, or the process forked.
    pub fn begin(&self, request: Request<Given>) -> impl Future<Output = Result<Begun, Error>> + Send + 'static {
        let inbound = Arc::clone(&self.inbound);
        let runtime = inbound.core.runtime();
        async move {
            let runtime = runtime?;
            let beginning = Box::pin(begin(inbound, request, runtime.clone()));
            Ok(Entered { runtime, inner: Some(beginning) }.await)
        }
    }
}

/// A request that goes on once its body is handed over. Dropped before, it counts as given up by the caller.
pub struct Wanted {
    question: Question,
    said: Option<u64>,
    core: Arc<Core>,
    rest: Entered<dyn Future<Output = Begun> + Send>,
}

impl Wanted {
    /// How many bytes of the body the checks want to know that may be asked about this request. Hand over one more if there
    /// are more, so that what is too long is seen to be.
    pub fn limit(&self) -> usize {
        let Terms { limit, beginning_will_do, .. } = self.question.terms;
        // Of what may be longer, no byte is waited for that nobody looks at.
        if beginning_will_do { limit.saturating_sub(1) } else { limit }
    }

    /// When it is too late: the caller waits no longer, or took longer than the check grants
    /// (`with_request_body.timeout`).
    pub fn deadline(&self) -> Instant {
        self.question.terms.until
    }

    /// Goes on with what the server hands over. After the [deadline](Self::deadline), and with [`Given::Later`], the
    /// answer says that it was too late. Ready at the first poll unless there is something to wait for.
    pub fn give(self, given: Given) -> impl Future<Output = Begun> + Send + 'static {
        let Self { question: Question { terms, hand }, said, core, rest } = self;
        let is_late = given == Given::Later || core.clock.now() >= terms.until;
        let given = match given {
            Given::Beginning(bytes) if said == Some(bytes.len() as u64) => Given::Whole(bytes),
            given => given,
        };
        async move {
            // Kept, the story waits for the body until its time is over.
            let _late = if is_late {
                Some(hand)
            } else {
                let _ = hand.send(Body::from(given));
                None
            };
            rest.await
        }
    }
}

/// A request that the application answers. Dropped before its end, it counts as given up by the caller.
pub struct Ticket {
    head: Parts,
    runtime: Handle,
    lengths: Lengths,
    story: Option<Story>,
    reply: Option<oneshot::Sender<Response<Body>>>,
    body: Option<Body>,
    tail: Option<oneshot::Sender<Result<Option<HeaderMap>, BoxError>>>,
}

impl Ticket {
    /// The request as the application is to see it: what was judged, with the changes of checks. Its extensions have
    /// the [`CallContext`](crate::CallContext), and the [`EndUser`](crate::EndUser) of a verified token.
    pub fn head(&self) -> &Parts {
        &self.head
    }

    /// Whether the head of the answer was told.
    pub fn is_answered(&self) -> bool {
        self.body.is_some()
    }

    /// Bytes of the request's body that the application has read by now.
    pub fn count_request(&self, bytes: u64) {
        self.lengths.request.store(bytes, Ordering::Relaxed);
    }

    /// The application's status and headers; gives them back as they are to be sent. Once.
    pub fn answer(&mut self, head: Response<()>) -> Result<Response<()>, Error> {
        let reply = self.reply.take().ok_or_else(|| misuse("the request was answered already"))?;
        let (tail, rest) = oneshot::channel();
        self.tail = Some(tail);
        let mut response = head.map(|()| Body::new(Rest { tail: Some(rest) }));
        response.extensions_mut().insert(self.lengths.clone());
        // The story waits for nothing but this: its receiver lives as long as the story does.
        let _ = reply.send(response);
        let _entered = self.runtime.enter();
        let polled = self.story.as_mut().map(|story| poll_now(story.as_mut()));
        let Some(Poll::Ready(response)) = polled else {
            return Err(Error::new(ErrorKind::Internal, "the answer was not taken").with_side(Side::Inbound));
        };
        self.story = None;
        let (head, body) = response.into_parts();
        self.body = Some(body);
        Ok(Response::from_parts(head, ()))
    }

    /// The response was sent: so many bytes of body, then these trailers. Gives them back as they are to be sent.
    pub fn end(mut self, response_bytes: u64, trailers: Option<HeaderMap>) -> Option<HeaderMap> {
        self.lengths.response.store(response_bytes, Ordering::Relaxed);
        self.close(Ok(trailers))
    }

    /// The response broke off, after so many bytes of its body.
    pub fn fail(mut self, response_bytes: u64, why: &str) {
        self.lengths.response.store(response_bytes, Ordering::Relaxed);
        self.close(Err(why.into()));
    }

    fn close(&mut self, tail: Result<Option<HeaderMap>, BoxError>) -> Option<HeaderMap> {
        let _ = self.tail.take()?.send(tail);
        let mut body = self.body.take()?;
        let _entered = self.runtime.enter();
        let mut trailers = None;
        while let Poll::Ready(Some(Ok(frame))) = poll_now(Pin::new(&mut body.frame())) {
            trailers = frame.into_trailers().ok().or(trailers);
        }
        trailers
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.story = None;
        self.body = None;
    }
}

/// The story of one request, up to the head of its response.
type Story = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

async fn begin(inbound: Arc<Inbound>, mut request: Request<Given>, runtime: Handle) -> Begun {
    let said = length_of(request.headers());
    let later = (*request.body() == Given::Later).then(|| {
        let sought = Sought::default();
        request.extensions_mut().insert(sought.clone());
        Later::new(sought, said.unwrap_or(0))
    });
    let (later, asked) = later.unzip();
    let lengths = Lengths::default();
    let mut request = request.map(|given| later.map_or_else(|| Body::from(given), Body::new));
    request.extensions_mut().insert(lengths.clone());
    let peer = peer_of(request.extensions());
    let address = request.extensions().get::<ConnectionAddress>().copied();
    let (parking, parked) = oneshot::channel();
    let core = Arc::clone(&inbound.core);
    let story: Story =
        Box::pin(async move { serve::serve(&inbound, (address, peer), request, Parking(Some(parking))).await });
    let rest = admitted_or_answered(story, parked, (lengths, runtime.clone()));
    let Some(asked) = asked else { return rest.await };
    let mut rest: Pin<Box<dyn Future<Output = Begun> + Send>> = Box::pin(rest);
    tokio::select! {
        biased;
        begun = &mut rest => begun,
        Ok(question) = asked => {
            Begun::Wanted(Wanted { question, said, core, rest: Entered { runtime, inner: Some(rest) } })
        }
    }
}

/// Bytes that the head says the body has.
fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn admitted_or_answered(
    mut story: Story,
    parked: oneshot::Receiver<Parked>,
    (lengths, runtime): (Lengths, Handle),
) -> Begun {
    tokio::select! {
        biased;
        response = &mut story => Begun::Answered(Answer::of(response).await),
        Ok((head, reply)) = parked => Begun::Admitted(Ticket {
            head: *head,
            runtime,
            lengths,
            story: Some(story),
            reply: Some(reply),
            body: None,
            tail: None,
        }),
    }
}

impl Answer {
    /// An answer of ours is in memory: this waits for nothing.
    async fn of(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let Ok(collected) = body.collect().await else {
            return Self { response: Response::from_parts(head, Bytes::new()), trailers: None };
        };
        let trailers = collected.trailers().cloned();
        Self { response: Response::from_parts(head, collected.to_bytes()), trailers }
    }
}

impl From<Given> for Body {
    fn from(given: Given) -> Self {
        match given {
            Given::Whole(bytes) => Self::from(bytes),
            Given::Beginning(bytes) => Self::new(Beginning { bytes, error: Some(WITHHELD) }),
            Given::Later => Self::from(Given::Beginning(Bytes::new())),
        }
    }
}

/// The beginning of a body. Who wants to know more learns that there is more, not that it ended.
struct Beginning {
    bytes: Bytes,
    error: Option<&'static str>,
}

impl HttpBody for Beginning {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if !this.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.bytes)))));
        }
        Poll::Ready(this.error.take().map(|error| Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::default();
        hint.set_lower(self.bytes.len() as u64);
        hint
    }
}

/// The application's place in the story: hands the request out, and waits for its answer.
struct Parking(Option<oneshot::Sender<Parked>>);

/// An admitted request, and where its answer goes. The body is the server's.
type Parked = (Box<Parts>, oneshot::Sender<Response<Body>>);

impl Service<Request<Body>> for Parking {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (reply, answer) = oneshot::channel();
        let (head, _) = request.into_parts();
        if let Some(parking) = self.0.take() {
            let _ = parking.send((Box::new(head), reply));
        }
        Box::pin(async move { Ok(answer.await?) })
    }
}

/// The body of a response that the application sends: empty here, and over when the application says so.
struct Rest {
    tail: Option<oneshot::Receiver<Result<Option<HeaderMap>, BoxError>>>,
}

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(tail) = self.tail.as_mut() else { return Poll::Ready(None) };
        let told = std::task::ready!(Pin::new(tail).poll(cx));
        self.tail = None;
        Poll::Ready(match told {
            Ok(Ok(trailers)) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Ok(Err(error)) => Some(Err(error)),
            Err(gone) => Some(Err(gone.into())),
        })
    }
}

/// Runs its future inside a runtime, and ends it there, whatever thread polls or drops it.
struct Entered<F: ?Sized> {
    runtime: Handle,
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future + ?Sized> Future for Entered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let runtime = self.runtime.clone();
        let _entered = runtime.enter();
        self.inner.as_mut().map_or(Poll::Pending, |inner| inner.as_mut().poll(cx))
    }
}

impl<F: ?Sized> Drop for Entered<F> {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.inner = None;
    }
}

/// One poll of what has nothing to wait for, on whatever thread; a runtime's budget for its tasks does not count.
fn poll_now<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut now = std::pin::pin!(tokio::task::unconstrained(future));
    now.as_mut().poll(&mut Context::from_waker(noop_waker_ref()))
}

fn misuse(what: &str) -> Error {
    Error::new(ErrorKind::BadRequest, what.to_owned()).with_side(Side::Inbound)
}

/// A check wants more of a body than [`InboundCheck::body_limit`] said when its server asked, or its server did not ask.
const WITHHELD: &str = "its server did not hand it over";
