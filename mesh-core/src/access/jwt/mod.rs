//! End users: who a request is made for, proven by a signed token (JWT, RFC 7519).
//!
//! Decides: whether a request carries no token, one that proves its user, or one that does not. As Istio's
//! RequestAuthentication: without a token a request goes on without a user, and rules decide; with one that does not
//! verify it never does.
//! Never: reads a clock, fetches a key, keeps or shows a token. Believes nothing of a token but which issuer and key to
//! ask, before its signature is verified.
//! Invariant: there are claims only after a key of the issuer they name verified them, by that key's own algorithm.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), mesh_core::error::BoxError> {
//! use http::{Request, Response};
//! use mesh_core::error::BoxError;
//! use mesh_core::{Body, EndUser, Mesh};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! // The key of RFC 8037 A.1.
//! let mesh = Mesh::from_yaml(
//!     r#"
//! listeners: [{ name: in }]
//! policy:
//!   end_users:
//!     - name: shop
//!       issuer: https://login.shop.example
//!       audiences: [shop]
//!       jwks:
//!         inline: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'
//! "#,
//!     "mesh.yaml",
//! )?;
//! let greet = service_fn(|request: Request<Body>| async move {
//!     let user = request.extensions().get::<EndUser>().and_then(EndUser::principal);
//!     Ok::<_, BoxError>(Response::new(Body::from(format!("hello {}", user.as_deref().unwrap_or("stranger")))))
//! });
//! let service = mesh.server_layer("in")?.layer(greet);
//! let response = service.clone().oneshot(Request::get("/").body(Body::empty())?).await?;
//! assert_eq!(response.into_body().collect_up_to(64).await?, "hello stranger");
//! // Unsigned: {"alg":"none"}, {"sub":"alice"}.
//! let forged = Request::get("/").header("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.");
//! assert_eq!(service.oneshot(forged.body(Body::empty())?).await?.status(), 401);
//! # Ok(())
//! # }
//! ```

mod cookie;
mod der;
mod key;
mod location;
pub mod refresh;
mod source;
mod stated;
mod strict;
#[cfg(test)]
mod tests;
mod token;
mod user;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

pub use self::key::{KeySet, MAX_SET_BYTES};
pub use self::location::Location;
use self::source::{Digest, Keys};
pub use self::source::{KeySource, Origin};
pub use self::stated::stated_expiry;
use self::token::Token;
use self::user::Proven;
pub use self::user::{EndUser, Terms, expires, principal};
use super::attributes::Claims;

/// Whose tokens are believed, and how.
pub struct Issuer {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What its tokens have to say.
    pub terms: Terms,
    /// Where its tokens may stand.
    pub locations: Vec<Location>,
    /// Whether a request without any token is refused.
    pub is_required: bool,
    /// Whether the application sees the token.
    pub forwards_token: bool,
    /// Claims that the application sees as headers.
    pub claim_headers: Vec<ClaimHeader>,
    /// Its keys.
    pub keys: Arc<KeySource>,
}

/// A header that says what a claim says, and that nobody else can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The claim, by the path to it.
    pub claim: Vec<String>,
    /// The header.
    pub header: HeaderName,
}

/// The issuers of one listener.
#[derive(Default)]
pub struct EndUsers {
    issuers: Vec<Arc<Issuer>>,
    /// Where to look, each once.
    locations: Vec<Location>,
}

/// A verified token.
#[derive(Debug)]
pub struct Verified {
    /// Whom it proves.
    pub user: EndUser,
    /// Whose it is.
    pub issuer: Arc<Issuer>,
    /// Where it stood.
    pub location: Location,
}

/// A request is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The issuer that the token names, if it is known.
    pub issuer: Option<Arc<str>>,
    /// Why.
    pub reason: Refusal,
}

/// Why a token, or its absence, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is none, and one is required.
    Missing,
    /// There is more than one.
    SeveralTokens,
    /// Longer than 8 KiB.
    TooLong,
    /// Not a signed token in its compact form.
    Malformed,
    /// Its header demands what is not understood.
    Critical,
    /// An algorithm that is never accepted.
    Algorithm,
    /// An issuer whose tokens are not accepted, here or in this place.
    UnknownIssuer,
    /// The issuer's keys have not come yet.
    NoKeys,
    /// No key of that name and kind.
    UnknownKey,
    /// The signature is not the key's.
    Signature,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYetValid,
    /// It has no end.
    NoExpiry,
    /// It is for somebody else.
    Audience,
}

impl Refusal {
    /// The stable name, in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::SeveralTokens => "several_tokens",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::UnknownIssuer => "unknown_issuer",
            Self::NoKeys => "no_keys",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoExpiry => "no_expiry",
            Self::Audience => "audience",
        }
    }
}

impl EndUsers {
    /// Of these issuers.
    pub fn new(issuers: Vec<Arc<Issuer>>) -> Self {
        let mut locations: Vec<Location> = Vec::new();
        for location in issuers.iter().flat_map(|issuer| &issuer.locations) {
            if !locations.contains(location) {
                locations.push(location.clone());
            }
        }
        Self { issuers, locations }
    }

    /// Whether nobody is asked who the user is.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// All of them.
    pub fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// Who the user of a request is; `Ok(None)`: nobody says.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Verified>, Refused> {
        let mut found = None;
        for location in &self.locations {
            let Some(token) = location.token(headers, query).map_err(Refused::by_nobody)? else { continue };
            if found.replace((location, token)).is_some() {
                return Err(Refused::by_nobody(Refusal::SeveralTokens));
            }
        }
        let Some((location, token)) = found else {
            let is_required = self.issuers.iter().any(|issuer| issuer.is_required);
            return if is_required { Err(Refused::by_nobody(Refusal::Missing)) } else { Ok(None) };
        };
        let (issuer, user) = self.verify(location, &token, now)?;
        Ok(Some(Verified { user, issuer: Arc::clone(issuer), location: location.clone() }))
    }

    fn verify(&self, location: &Location, text: &str, now: SystemTime) -> Result<(&Arc<Issuer>, EndUser), Refused> {
        let digest = Digest::of(text.as_bytes());
        for issuer in self.at(location) {
            if let Some(proven) = issuer.keys.keys().and_then(|keys| keys.remembered.find(digest)) {
                return Ok((issuer, issuer.admit(&proven, now)?));
            }
        }
        let token = Token::read(text).map_err(Refused::by_nobody)?;
        let named = token.claims.get("iss").and_then(Value::as_str);
        let issuer = self.at(location).find(|issuer| Some(&*issuer.terms.issuer) == named);
        let issuer = issuer.ok_or(Refused::by_nobody(Refusal::UnknownIssuer))?;
        let keys = issuer.keys.keys().ok_or(issuer.refused(Refusal::NoKeys))?;
        let proven = issuer.prove(token, &keys)?;
        let user = issuer.admit(&proven, now)?;
        keys.remembered.remember(digest, &proven);
        Ok((issuer, user))
    }

    /// A token is believed only where its issuer puts it.
    fn at(&self, location: &Location) -> impl Iterator<Item = &Arc<Issuer>> {
        self.issuers.iter().filter(move |issuer| issuer.locations.contains(location))
    }

    /// Takes headers off that only verified claims may set.
    pub fn strip_claims(&self, headers: &mut HeaderMap) {
        for claim in self.issuers.iter().flat_map(|issuer| &issuer.claim_headers) {
            headers.remove(&claim.header);
        }
    }
}

impl Issuer {
    fn prove(&self, token: Token<'_>, keys: &Keys) -> Result<Arc<Proven>, Refused> {
        let signed = keys.set.verify((token.algorithm, token.key.as_deref()), token.signed, &token.signature);
        signed.map_err(|reason| {
            // The issuer may have new keys.
            self.keys.doubt();
            self.refused(reason)
        })?;
        Ok(Arc::new(Proven::new(token.claims, token.text)))
    }

    fn admit(&self, proven: &Arc<Proven>, now: SystemTime) -> Result<EndUser, Refused> {
        proven.admit(&self.name, &self.terms, now).map_err(|reason| self.refused(reason))
    }

    fn refused(&self, reason: Refusal) -> Refused {
        Refused { issuer: Some(Arc::clone(&self.name)), reason }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Refused {
    fn by_nobody(reason: Refusal) -> Self {
        Self { issuer: None, reason }
    }
}

impl Verified {
    /// Makes a request what the application is to see. Returns the query without the token, if it was there.
    pub fn apply(&self, headers: &mut HeaderMap, query: Option<&str>) -> Option<Option<String>> {
        let mut new_query = None;
        if !self.issuer.forwards_token {
            match &self.location {
                Location::Header { name, .. } => drop(headers.remove(name)),
                Location::Cookie(name) => cookie::remove(headers, name),
                Location::Query(name) => {
                    new_query = Some(query.and_then(|query| location::without_parameter(query, name)));
                }
            }
        }
        for output in &self.issuer.claim_headers {
            if let Some(value) = find(self.user.claims(), &output.claim).and_then(header_value) {
                headers.insert(&output.header, value);
            }
        }
        new_query
    }
}

/// The claim at the end of this path.
pub fn find<'c>(claims: &'c Claims, path: &[impl AsRef<str>]) -> Option<&'c Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(first.as_ref())?, |value, name| value.as_object()?.get(name.as_ref()))
}

/// Texts, numbers, truths, and lists of texts, joined with `,`; what no header can hold is left out.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?.join(","),
        Value::Null | Value::Object(_) => return None,
    };
    HeaderValue::try_from(text).ok()
}
