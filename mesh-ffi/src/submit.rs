//! Doing the ops of a batch.
//!
//! Decides: nothing. Never: waits. Invariant: whatever goes wrong with an op is told by its completion.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use crate::answer;
use crate::body::mesh_body;
use crate::event::Event;
use crate::failure::Failure;
use crate::handles;
use crate::headers;
use crate::inbound::mesh_inbound;
use crate::op::*;
use crate::queue::{Pending, Queue};
use crate::reader::Reader;
use crate::request::mesh_request;
use crate::response::mesh_response;
use crate::scope;
use crate::wait::caught;

/// Does one op.
///
/// # Safety
/// The op was checked, its handle is live and of the type its kind says, its bytes are readable.
pub unsafe fn submit(queue: &Arc<Queue>, op: &mesh_op) {
    // SAFETY: the promises of this function are what rules 1 and 4 say, and what the callees need.
    unsafe {
        match op.kind {
            MESH_OP_SUBMIT => {
                if let Some(request) = handles::take(op.handle.cast::<mesh_request>()) {
                    call(queue, op, &request);
                }
            }
            MESH_OP_READ => {
                if let Ok(response) = handles::lend(op.handle.cast_const().cast::<mesh_response>()) {
                    read(queue, op.tag, response.reader());
                }
            }
            MESH_OP_INBOUND_READ => {
                if let Ok(inbound) = handles::lend(op.handle.cast_const().cast::<mesh_inbound>()) {
                    read(queue, op.tag, inbound.reader());
                }
            }
            MESH_OP_BODY_WRITE => {
                if let Ok(body) = handles::lend(op.handle.cast_const().cast::<mesh_body>()) {
                    write(queue, op.tag, body, op.data.read("data").map(Bytes::copy_from_slice));
                }
            }
            MESH_OP_BODY_END => {
                if let Some(body) = handles::take(op.handle.cast::<mesh_body>()) {
                    end(&body, op.headers.read("headers").unwrap_or_default());
                }
            }
            MESH_OP_RESPOND => {
                if let Some(inbound) = handles::take(op.handle.cast::<mesh_inbound>()) {
                    respond(&inbound, op);
                }
            }
            MESH_OP_CANCEL => queue.cancel(op.tag),
            MESH_OP_RELEASE => op.release(),
            _ => {}
        }
    }
}

fn call(queue: &Arc<Queue>, op: &mesh_op, request: &mesh_request) {
    let Some(pending) = queue.begin(op.tag, request.cancel_token(), Event::failed_call) else { return };
    let launch = match request.launch() {
        Ok(launch) => launch,
        Err(failure) => return pending.fail(failure),
    };
    let ahead = usize::try_from(op.arg).unwrap_or(0);
    queue.runtime().spawn(async move {
        let work = async move {
            let response = launch.perform().await?;
            let whole = if ahead == 0 { None } else { response.reader().read_ahead(ahead).await? };
            Ok((Box::new(response), whole))
        };
        let (tag, outcome) = (pending.tag(), caught(work).await);
        pending.complete(Event::Done { tag, outcome });
    });
}

fn read(queue: &Arc<Queue>, tag: u64, reader: Arc<Reader>) {
    let cancel = CancellationToken::new();
    let Some(pending) = queue.begin(tag, cancel.clone(), Event::failed_read) else { return };
    queue.runtime().spawn(async move {
        let work = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled("the read was cancelled")),
                chunk = reader.next() => chunk,
            }
        };
        let outcome = caught(work).await;
        pending.complete(Event::Chunk { tag, outcome });
    });
}

fn write(queue: &Arc<Queue>, tag: u64, body: &mesh_body, chunk: Result<Bytes, Failure>) {
    let cancel = CancellationToken::new();
    let Some(pending) = queue.begin(tag, cancel.clone(), Event::failed_write) else { return };
    match chunk.and_then(|chunk| start_write(body, chunk)) {
        Ok(None) => pending.complete(Event::Written { tag, outcome: Ok(()) }),
        Ok(Some(rest)) => finish_write(queue, pending, cancel, rest),
        Err(failure) => pending.fail(failure),
    }
}

/// The right to write and what is still to be written.
type Rest = (crate::body::Turn, Frame<Bytes>);

fn start_write(body: &mesh_body, chunk: Bytes) -> Result<Option<Rest>, Failure> {
    let turn = body.turn()?;
    if chunk.is_empty() {
        return Ok(None);
    }
    Ok(turn.try_send(Frame::data(chunk))?.map(|frame| (turn, frame)))
}

fn finish_write(queue: &Arc<Queue>, pending: Pending, cancel: CancellationToken, (turn, frame): Rest) {
    queue.runtime().spawn(async move {
        let work = async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled("the write was cancelled")),
                sent = turn.send(frame) => sent,
            }
        };
        // The turn ends before the event is out: who receives it may write again.
        let (tag, outcome) = (pending.tag(), caught(work).await);
        pending.complete(Event::Written { tag, outcome });
    });
}

fn end(body: &mesh_body, trailers: &[u8]) {
    let mut map = HeaderMap::new();
    // Trailers that cannot be sent break the body off: dropping it without an end does.
    if headers::unpack_into(&mut map, trailers).is_err() {
        return;
    }
    if let (Ok(end), Some(runtime)) = (body.end(map), body.engine().running()) {
        runtime.spawn(end);
    }
}

/// An answer that cannot be built leaves the request unanswered, which the peer sees as a 500.
fn respond(inbound: &mesh_inbound, op: &mesh_op) {
    // SAFETY: the op's bytes are readable until the exchange returns (rule 4).
    let parts = unsafe { (op.headers.read("headers"), op.data.read("data")) };
    if let (Ok(headers), Ok(body)) = parts
        && let Ok(response) = answer::response(op.arg, headers, Bytes::copy_from_slice(body).into())
    {
        let _ = inbound.answer(response);
    }
    // The handle is gone with this op, as with `mesh_inbound_free`.
    scope::leave(inbound.context());
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::ptr::null_mut;
    use std::sync::{Mutex, PoisonError};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use mesh_core::Mesh;
    use mesh_core::endpoint::connect::{Connector, Io};

    use super::*;
    use crate::code::{MESH_E_CANCELLED, MESH_OK};
    use crate::engine::Engine;
    use crate::mesh::mesh;
    use crate::request::mesh_request_new;
    use crate::text::{Text, mesh_bytes};

    /// The one connection there is: its other end is the test's.
    struct Wire(Mutex<Option<DuplexStream>>);

    impl Connector for Wire {
        fn connect(&self, _: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
            let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            Box::pin(async move { Ok(Box::new(stream.ok_or(io::ErrorKind::ConnectionRefused)?) as Box<dyn Io>) })
        }
    }

    fn op(kind: i32, handle: *mut mesh_request, arg: i64) -> mesh_op {
        let none = mesh_bytes::empty();
        mesh_op { kind, flags: 0, tag: 7, handle: handle.cast(), data: none, headers: none, arg }
    }

    fn get(engine: &Arc<Engine>) -> *mut mesh_request {
        let handle = handles::give(mesh { engine: Arc::clone(engine) });
        let (method, target, mut request) = (Text::new("GET"), Text::new("http://echo/"), null_mut());
        // SAFETY: a live handle, text that outlives the call, a writable result; the handle is taken back once.
        unsafe {
            let code = mesh_request_new(handle, method.lend(), target.lend(), &raw mut request, null_mut());
            assert_eq!(code, MESH_OK);
            drop(handles::take(handle));
        }
        request
    }

    #[test]
    fn a_call_whose_body_is_read_ahead_ends_when_it_is_cancelled() {
        let (near, mut far) = tokio::io::duplex(1024);
        let wire = Arc::new(Wire(Mutex::new(Some(near))));
        let mesh = Mesh::builder().connector(wire).from_yaml(CONFIG, "test").unwrap();
        let engine = Arc::new(Engine::new(mesh, false));
        let queue = Queue::new(Arc::clone(&engine)).unwrap();
        // SAFETY: the request is live and taken over by the op.
        unsafe { submit(&queue, &op(MESH_OP_SUBMIT, get(&engine), i64::MAX)) };
        queue.runtime().block_on(async {
            let mut asked = [0; 1024];
            assert!(far.read(&mut asked).await.unwrap() > 0);
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
            // More than a connection keeps for a body that nobody reads: past it, the reading ahead has begun.
            far.write_all(&vec![0; 8 << 20]).await.unwrap();
        });
        // SAFETY: a cancel has no handle.
        unsafe { submit(&queue, &op(MESH_OP_CANCEL, null_mut(), 0)) };
        // Nothing else ends it before the timeout of the route.
        queue.wait(None);
        let mut events = queue.take(2);
        assert_eq!(events.len(), 1);
        let Some(Event::Done { tag: 7, outcome: Err(failure) }) = events.pop() else { panic!("the call is done") };
        assert_eq!(failure.code, MESH_E_CANCELLED);
        drop(far);
    }

    const CONFIG: &str = "
version: 1
node: { service: test }
clusters: [ { name: echo, endpoints: [ { address: '127.0.0.1:1' } ] } ]
routes: [ { hosts: [echo], rules: [ { timeout: 120s, backends: [ { cluster: echo } ] } ] } ]
";
}
