//! Policy servers under a test's control, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

type Answer = dyn Fn(&HttpRequest) -> Option<CheckResponse> + Send + Sync;

/// A policy server over gRPC, in a runtime of its own, so that it can be ended as a process is.
pub(crate) struct Policy {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<AttributeContext>>>,
    /// The trace each question was asked in, as its call's `traceparent` says.
    parents: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

struct Service {
    answer: Box<Answer>,
    asked: Arc<Mutex<Vec<AttributeContext>>>,
    parents: Arc<Mutex<Vec<String>>>,
}

impl Policy {
    /// Answers as `answer` says; `None` is never.
    pub(crate) fn start(answer: impl Fn(&HttpRequest) -> Option<CheckResponse> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (asked, parents) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let service = Service { answer: Box::new(answer), asked: Arc::clone(&asked), parents: Arc::clone(&parents) };
        let service = AuthorizationServer::new(service);
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(socket).unwrap());
            let server = tonic::transport::Server::builder().add_service(service.max_decoding_message_size(64 << 20));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, asked, parents, runtime: Some(runtime) }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<HttpRequest> {
        self.contexts().into_iter().map(http_of).collect()
    }

    /// The same, with all around it.
    pub(crate) fn contexts(&self) -> Vec<AttributeContext> {
        self.asked.lock().unwrap().clone()
    }

    /// The `traceparent` of each question's call.
    pub(crate) fn parents(&self) -> Vec<String> {
        self.parents.lock().unwrap().clone()
    }

    /// Ends it with all its connections, whatever it was about to say.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let parent = request.metadata().get("traceparent").and_then(|parent| parent.to_str().ok()).unwrap_or_default();
        self.parents.lock().unwrap().push(parent.to_owned());
        let context = request.into_inner().attributes.unwrap();
        self.asked.lock().unwrap().push(context.clone());
        match (self.answer)(&http_of(context)) {
            Some(answer) => Ok(Response::new(answer)),
            None => std::future::pending().await,
        }
    }
}

fn http_of(context: AttributeContext) -> HttpRequest {
    context.request.unwrap().http.unwrap()
}

/// An answer of this gRPC status and nothing else.
pub(crate) fn status(code: tonic::Code) -> CheckResponse {
    CheckResponse { status: Some(RpcStatus { code: code as i32, ..RpcStatus::default() }), ..CheckResponse::default() }
}
