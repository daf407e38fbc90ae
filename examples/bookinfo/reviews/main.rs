//! reviews: what readers say about a book. Version 1 has no stars; 2 asks `ratings` and shows them
//! black, 3 shows them red.
//!
//! Not a word here about certificates, retries, traces or policy: the mesh has them from its file.

use http::{Method, Request, Response, StatusCode, header};
use mesh_core::error::BoxError;
use mesh_core::{Body, Mesh, ServiceClient};
use serde_json::{Value, json};
use tower::service_fn;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(config), Some(version)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bookinfo-reviews CONFIG v1|v2|v3".into());
    };
    let color = match version.as_str() {
        "v1" => None,
        "v2" => Some("black"),
        "v3" => Some("red"),
        other => return Err(format!("there is no version {other:?}").into()),
    };
    let mesh = Mesh::from_file(config)?;
    let reviews = Reviews { client: mesh.client(), color };
    let answer = service_fn(move |request| {
        let reviews = reviews.clone();
        async move { reviews.answer(request).await }
    });
    let listening = mesh.listen("inbound", answer).await?;
    println!("reviews {version} on {}", listening.local_addr());
    listening.closed().await;
    Ok(())
}

#[derive(Clone)]
struct Reviews {
    client: ServiceClient,
    /// Of the stars; `None`: this version shows none.
    color: Option<&'static str>,
}

impl Reviews {
    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let Some(product) = request.uri().path().strip_prefix("/reviews/") else {
            return Ok(error(StatusCode::NOT_FOUND));
        };
        if request.method() != Method::GET {
            return Ok(error(StatusCode::METHOD_NOT_ALLOWED));
        }
        let mut reviews = vec![
            json!({"reviewer": "Reviewer1", "text": "An extremely entertaining play by Shakespeare."}),
            json!({"reviewer": "Reviewer2", "text": "Absolutely fun and entertaining. Nothing like it."}),
        ];
        if let Some(color) = self.color {
            let Some(ratings) = self.ratings(product).await? else { return Ok(error(StatusCode::BAD_GATEWAY)) };
            for review in &mut reviews {
                let stars = &ratings[review["reviewer"].as_str().unwrap_or_default()];
                review["rating"] = json!({"stars": stars, "color": color});
            }
        }
        Ok(document(StatusCode::OK, &json!({"id": product, "reviews": reviews})))
    }

    /// Stars by reviewer; `None` if `ratings` has no answer.
    async fn ratings(&self, product: &str) -> Result<Option<Value>, BoxError> {
        let request = Request::get(format!("http://ratings/ratings/{product}")).body(Body::empty())?;
        let response = self.client.call(request).await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        let body: Value = serde_json::from_slice(&response.into_body().collect_up_to(64 * 1024).await?)?;
        Ok(Some(body["ratings"].clone()))
    }
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn error(status: StatusCode) -> Response<Body> {
    document(status, &json!({"error": status.canonical_reason()}))
}
