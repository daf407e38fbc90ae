//! The way to a policy server.
//!
//! Decides: that a question may be asked again, within the check's timeout; how soon servers that were all given up are
//! asked again. Never: asks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use tower_service::Service;

use crate::body::Body;
use crate::context::CallContext;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::outbound::{CallOptions, LastWait, OwnRetry, ServiceClient};
use crate::snapshot::CheckPolicy;

/// A mesh client of the cluster that answers a check.
pub(super) struct PolicyChannel {
    client: ServiceClient,
    options: CallOptions,
    retry: OwnRetry,
    context: Arc<CallContext>,
}

impl PolicyChannel {
    /// `context` is what the question inherits, whoever's task asks it.
    pub(super) fn new(core: Arc<Core>, policy: &CheckPolicy, context: Arc<CallContext>) -> Self {
        // A question changes nothing, though gRPC asks by POST.
        let timeout = Some(policy.check.config().timeout);
        Self {
            client: ServiceClient::to_cluster(core, Arc::clone(&policy.cluster)),
            options: CallOptions { timeout, idempotent: Some(true), ..CallOptions::default() },
            retry: OwnRetry(Arc::clone(&policy.retry)),
            context,
        }
    }
}

impl Service<Request<Body>> for PolicyChannel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(&mut self.client, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.options);
        request.extensions_mut().insert(self.retry.clone());
        request.extensions_mut().insert(Arc::clone(&self.context));
        request.extensions_mut().insert(LAST_WAIT);
        let client = self.client.clone();
        Box::pin(async move {
            // A question is in memory whatever encodes it: in one piece, it can be sent again whatever its size.
            let (head, body) = request.into_parts();
            let whole = body.collect().await.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
            client.call(Request::from_parts(head, Body::from(whole.to_bytes()))).await
        })
    }
}

/// Every request in the meantime is answered by the failure mode, so the server is looked for twice a second instead of
/// every five seconds: one question, whose timeout bounds it (ours).
const LAST_WAIT: LastWait = LastWait(Duration::from_millis(500));
