//! The Rust server of the stories: `mesh-hello mesh.yaml [SECONDS]` serves the listener `inbound` and says hello to the
//! peer; under `/slow` it takes five seconds for it; under `/claims` it says who the end user is and how often it was
//! called. SIGTERM drains it, within so many seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use http_body::Frame;
use mesh_core::error::BoxError;
use mesh_core::{Body, EndUser, Mesh, PeerIdentity};

/// The slow answer: so many pieces, one each half second.
const PIECES: usize = 10;
/// Time between SIGTERM and the end, unless another is asked for.
const GRACE: Duration = Duration::from_secs(7);

fn main() -> Result<(), BoxError> {
    // Before there is a further thread: all of them inherit it, and the signal waits for `terminated`.
    let terminated = block_sigterm();
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: mesh-hello mesh.yaml [SECONDS]")?;
    let grace = arguments.next().map_or(Ok(GRACE), |seconds| seconds.parse().map(Duration::from_secs))?;
    let mesh = Mesh::from_file(path)?;
    let draining = mesh.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        terminated();
        let _ = tell.send(());
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listening = mesh.listen("inbound", tower::service_fn(answer)).await?;
        tokio::spawn(async move {
            if told.await.is_ok() {
                draining.drain(grace).await;
            }
        });
        listening.closed().await;
        Ok(())
    })
}

async fn answer(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    if request.uri().path() == "/claims" {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let claims = request.extensions().get::<EndUser>().map(EndUser::claims);
        return Ok(Response::new(Body::from(serde_json::json!({ "calls": calls, "claims": claims }).to_string())));
    }
    let peer = request.extensions().get::<PeerIdentity>().map(|peer| peer.id.to_string());
    let hello = format!("hello {}", peer.unwrap_or_default());
    if request.uri().path() != "/slow" {
        return Ok(Response::new(Body::from(hello)));
    }
    let (sender, body) = Body::channel(1, None);
    tokio::spawn(async move {
        for _ in 0..PIECES {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = sender.send(Ok(Frame::data(hello.clone().into()))).await;
        }
    });
    Ok(Response::new(body))
}

#[allow(unsafe_code, reason = "the standard library knows no signals")]
fn block_sigterm() -> impl FnOnce() + Send + 'static {
    // SAFETY: the set is initialised by sigemptyset before it is read; nothing else is shared.
    let signals = unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    move || {
        let mut number = 0;
        // SAFETY: both pointers are to live values of this frame.
        unsafe {
            libc::sigwait(&signals, &mut number);
        }
    }
}
