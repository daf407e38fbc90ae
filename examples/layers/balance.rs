//! Only a balancer: one service made of three; the one of weight 2 takes half of the requests.

use http::{Request, Response};
use mesh_core::Body;
use mesh_core::cluster::BalancerKind;
use mesh_core::error::BoxError;
use mesh_core::layer::{Balance, Member};
use tower::{Service, ServiceExt, service_fn};

/// Answers with its name.
fn named(
    name: char,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + Sync {
    service_fn(move |_: Request<Body>| async move { Ok::<_, BoxError>(Response::new(Body::from(name.to_string()))) })
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), BoxError> {
    let members = vec![Member::new(named('a'), 2), Member::new(named('b'), 1), Member::new(named('c'), 1)];
    // The default, peak-EWMA, goes where answers come soonest; turns can be counted.
    let balance = Balance::new(BalancerKind::RoundRobin, members);

    let mut answers = String::new();
    for _ in 0..8 {
        let response = balance.clone().oneshot(Request::get("http://books/7").body(Body::empty())?).await?;
        answers.push_str(&String::from_utf8(response.into_body().collect_up_to(64).await?.to_vec())?);
    }
    println!("answered by {answers}");
    assert_eq!(['a', 'b', 'c'].map(|name| answers.matches(name).count()), [4, 2, 2]);
    Ok(())
}
