//! A server that can be made to fail: `mesh-shop mesh.yaml LEDGER FAULT`.
//!
//! Every POST appends its `x-order` header to the file LEDGER, which survives a kill. While a file FAULT
//! exists, every answer is 500, after the order was taken: the worst case for a client that repeats.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use http::{Method, Request, Response, StatusCode};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh};

fn main() -> Result<(), BoxError> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut next = || arguments.next().ok_or("usage: mesh-shop mesh.yaml LEDGER FAULT");
    let (config, ledger, fault) = (next()?, next()?, next()?);
    let mut ledger = OpenOptions::new().create(true).append(true).open(ledger)?;
    let mesh = Mesh::from_file(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut take = move |request: &Request<Body>| -> Result<StatusCode, BoxError> {
        if request.method() == Method::POST {
            let order = request.headers().get("x-order").and_then(|order| order.to_str().ok()).ok_or("no order")?;
            ledger.write_all(format!("{order}\n").as_bytes())?;
        }
        Ok(if fault.exists() { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK })
    };
    let take = std::sync::Arc::new(std::sync::Mutex::new(move |request: &Request<Body>| take(request)));
    runtime.block_on(async {
        let shop = tower::service_fn(move |request: Request<Body>| {
            let taken = take.lock().map_err(|_| "poisoned".into()).and_then(|mut take| take(&request));
            async move {
                let mut response = Response::new(Body::from("thanks"));
                *response.status_mut() = taken?;
                Ok::<_, BoxError>(response)
            }
        });
        mesh.listen("inbound", shop).await?.closed().await;
        Ok(())
    })
}
