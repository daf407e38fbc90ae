//! Request bodies that a layer can read, keep and send again.

use crate::body::Body;

/// A body that can become the mesh's and be made of it: what a layer needs that sends a request twice.
///
/// A client with another body type is brought to one of these by tower's `map_request`, above the layers
/// with [`Body::new`] and below them with a constructor of its own.
pub trait RequestBody: Send + 'static {
    /// This body as the mesh's.
    fn into_mesh(self) -> Body;
    /// The mesh's body as this one.
    fn from_mesh(body: Body) -> Self;
}

impl RequestBody for Body {
    fn into_mesh(self) -> Body {
        self
    }

    fn from_mesh(body: Body) -> Self {
        body
    }
}

/// What generated gRPC clients send.
impl RequestBody for tonic::body::Body {
    fn into_mesh(self) -> Body {
        Body::new(self)
    }

    fn from_mesh(body: Body) -> Self {
        Self::new(body)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::error::BoxError;
    use crate::layer::RetryLayer;
    use crate::policy::retry::RetryPolicy;

    /// What arrives of a POST with a streamed body of tonic's, attempt by attempt; the first ends with `error`.
    async fn arrived(error: fn() -> BoxError) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let arrived = Arc::clone(&seen);
        let server = service_fn(move |request: Request<tonic::body::Body>| {
            let arrived = Arc::clone(&arrived);
            async move {
                let body = request.into_body().into_mesh().collect_up_to(64).await?;
                let mut arrived = arrived.lock().unwrap();
                arrived.push(String::from_utf8(body.to_vec())?);
                if arrived.len() == 1 { Err(error()) } else { Ok(Response::new(())) }
            }
        });
        let client = ServiceBuilder::new().layer(RetryLayer::new(RetryPolicy::default())).service(server);
        let (sender, body) = Body::channel(1, None);
        sender.send(Ok(http_body::Frame::data("hello".into()))).await.unwrap();
        drop(sender);
        let _ = client.oneshot(Request::post("/").body(tonic::body::Body::new(body)).unwrap()).await;
        Arc::into_inner(seen).map(|seen| seen.into_inner().unwrap()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_post_is_sent_again_whole_when_tonics_channel_could_not_connect_and_only_then() {
        assert_eq!(arrived(|| tonic::ConnectError("refused".into()).into()).await, ["hello", "hello"]);
        assert_eq!(arrived(|| "who knows".into()).await, ["hello"]);
    }
}
