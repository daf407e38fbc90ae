//! An upgrade passed through: caller and upstream speak to each other once both have agreed.
//!
//! Decides: nothing. Never: looks at a byte.

use http::{Request, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::body::Body;
use crate::outbound::upgrade::{Tunnel, wanted};

/// The caller's half of an upgrade that may come.
pub(super) struct Caller {
    protocol: http::HeaderValue,
    upgrading: OnUpgrade,
}

/// Whether the caller asks for another protocol.
pub(super) fn asked(request: &mut Request<Body>) -> Option<Caller> {
    let protocol = wanted(request.headers()).filter(|_| request.version() == Version::HTTP_11)?.clone();
    Some(Caller { protocol, upgrading: hyper::upgrade::on(request) })
}

impl Caller {
    /// Asks the upstream the same; hop-by-hop headers are gone by now.
    pub(super) fn ask(&self, request: &mut Request<Body>) {
        request.headers_mut().insert(header::UPGRADE, self.protocol.clone());
    }

    /// Joins the two halves if the upstream agreed.
    pub(super) fn join(self, mut response: Response<Body>) -> Response<Body> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return response;
        }
        let tunnel = response.extensions_mut().remove::<Tunnel>();
        let upstream = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _tunnel = tunnel;
            let joined = async {
                let (caller, upstream) = (self.upgrading.await?, upstream.await?);
                let (mut caller, mut upstream) = (TokioIo::new(caller), TokioIo::new(upstream));
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                    tokio::io::copy_bidirectional(&mut caller, &mut upstream).await?,
                )
            };
            match joined.await {
                Ok((sent, received)) => tracing::debug!(sent, received, "tunnel ended"),
                Err(error) => tracing::debug!(%error, "tunnel broke"),
            }
        });
        response
    }
}
