//! Only a gate, in front of an axum router: one request is served, one waits for its place, the next is turned
//! away.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::routing::get;
use http::{Request, StatusCode};
use mesh_core::Body;
use mesh_core::error::BoxError;
use mesh_core::layer::ShedLayer;
use mesh_core::policy::concurrency::Terms;
use mesh_core::policy::criticality::Shares;
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let may_answer = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may_answer);
    let answer = move || async move {
        if let Ok(permit) = gate.acquire().await {
            permit.forget();
        }
        "hello"
    };
    let one_at_a_time = Terms { max: 1, adaptive: None, shares: Shares::default() };
    let app = Router::new().route("/", get(answer)).layer(
        ServiceBuilder::new()
            // axum wants every error to become an answer.
            .layer(HandleErrorLayer::new(|error: BoxError| async move {
                (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }))
            .layer(ShedLayer::new(one_at_a_time, 1, Duration::from_secs(60))),
    );
    let send = || app.clone().oneshot(Request::new(Body::empty()));

    // The third has its answer before the others may have theirs.
    let third = async {
        let turned_away = send().await;
        may_answer.add_permits(2);
        turned_away
    };
    let (first, second, third) = futures_util::join!(send(), send(), third);
    let statuses = [first?.status(), second?.status(), third?.status()];
    println!("served, served after a wait, turned away: {statuses:?}");
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
    Ok(())
}
