//! Only hedging: the first copy of a request hangs for ever, so that a second one is sent, and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response};
use mesh_core::Body;
use mesh_core::error::BoxError;
use mesh_core::layer::HedgeLayer;
use mesh_core::policy::budget::BudgetConfig;
use mesh_core::policy::hedge::{HedgeDelay, HedgePolicy};
use tower::{ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let one_hangs = service_fn(move |_: Request<Body>| {
        let nth = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            if nth == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(Response::new(Body::from(format!("copy {nth}"))))
        }
    });
    let policy = HedgePolicy {
        max_hedges: 1,
        delay: HedgeDelay::Fixed(Duration::from_millis(20)),
        min_samples: 1,
        budget: BudgetConfig::default(),
        hint_cap: Duration::from_secs(1),
    };
    let client = ServiceBuilder::new().layer(HedgeLayer::new(policy)).service(one_hangs);

    let response = client.oneshot(Request::get("http://books/7").body(Body::empty())?).await?;
    let text = response.into_body().collect_up_to(64).await?;
    println!("answered by {}", String::from_utf8_lossy(&text));
    assert_eq!((&text[..], sent.load(Ordering::SeqCst)), (&b"copy 2"[..], 2));
    Ok(())
}
