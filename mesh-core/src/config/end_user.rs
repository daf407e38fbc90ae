//! End users, as they are written: whose tokens are believed, and how.
//!
//! Decides: each setting's default and its origin. Never: verifies. Invariant: holds public keys only, or where they are.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::TimeSpan;
use super::value::{HeaderName, Name, TextValue, ValueError, text_serde};

/// Whose tokens are believed (Istio's RequestAuthentication). A request without a token goes on without a user, and
/// rules decide; a token that cannot be verified is refused (401). Of bare connections nothing is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndUserIssuer {
    /// The issuer's name in logs and telemetry. Unique.
    pub name: Name,
    /// What its tokens say in `iss`, letter by letter.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// The token has to name one of these in `aud`. Default: any will do (Istio).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub audiences: Option<Vec<String>>,
    /// Where its keys are: exactly one of `file`, `inline` and `cluster`.
    pub jwks: Jwks,
    /// The listeners where its tokens are believed. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<Name>>,
    /// Headers where the token may stand. Default: `authorization` after `Bearer `, unless there are `from_params` or
    /// `from_cookies` (Istio; a token in the query, which it takes besides, ends up in logs: RFC 6750 2.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub from_headers: Option<Vec<TokenHeader>>,
    /// Query parameters where the token may stand. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1)))]
    pub from_params: Vec<String>,
    /// Cookies where the token may stand, by name, with or without quotes around it. A name that a request has twice is
    /// refused (ours; Envoy takes the first). Unless the token is forwarded, the cookie is taken out of the request
    /// (ours; Envoy leaves it there). Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(length(min = 1)))]
    pub from_cookies: Vec<String>,
    /// Whether a request without any token is refused (401). Default: false (Istio).
    #[serde(default)]
    pub required: bool,
    /// How far the issuer's clock may be off ours. Default: 60s (Envoy).
    #[serde(default = "default_skew")]
    pub clock_skew: TimeSpan,
    /// Whether a token without `exp` is refused. Default: true (ours; Envoy: false).
    #[serde(default = "default_true")]
    pub require_expiration: bool,
    /// Whether the application sees the token itself. Default: false (Istio).
    #[serde(default)]
    pub forward_original_token: bool,
    /// Claims that the application sees as headers. A caller's own headers of these names are taken off every request.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_to_headers: Vec<ClaimToHeader>,
}

/// Public keys of an issuer, as a JWK Set (RFC 7517): RSA from 2048 bits, P-256, P-384, Ed25519.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// A file, read again on change; relative to this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub file: Option<PathBuf>,
    /// The set itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 262144))]
    pub inline: Option<String>,
    /// A cluster of this file that is asked for it. Until it has answered, no token of this issuer is believed; when
    /// it does not answer any more, the last keys stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Name>,
    /// The path it is asked for. Default: /.well-known/jwks.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub path: Option<String>,
    /// How often it is asked, besides once when a token names an unknown key (at most every 30s). Default: 5m (ours;
    /// Envoy's cache: 10m, Istio: 20m).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// Time for its answer. Default: 5s (Istio).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
}

/// A header that holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// Its name.
    pub name: HeaderName,
    /// What stands before the token, in any case; a header without it holds something else. Default: nothing (Istio).
    #[serde(default)]
    pub prefix: String,
}

/// A header that says what a claim says (Istio's `outputClaimToHeaders`): texts, numbers, truths, and lists of texts,
/// joined with `,`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The header.
    pub header: HeaderName,
    /// The claim.
    pub claim: ClaimPath,
}

/// A claim: its name, or the path to it as `[a][b]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimPath(pub Vec<String>);

impl TextValue for ClaimPath {
    const FORMAT: &'static str = "claim";
    const EXPECTED: &'static str = "a claim like sub, or [realm][roles] for one within another";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let Some(inner) = text.strip_prefix('[') else {
            let is_name = !text.is_empty() && !text.contains(['[', ']']);
            return if is_name { Ok(Self(vec![text.to_owned()])) } else { Err(ValueError::new("not a claim")) };
        };
        let inner = inner.strip_suffix(']').ok_or_else(|| ValueError::new("a bracket is missing"))?;
        let path: Vec<String> = inner.split("][").map(str::to_owned).collect();
        if path.iter().any(|name| name.is_empty() || name.contains(['[', ']'])) {
            return Err(ValueError::new("a name within the brackets is missing, or holds one"));
        }
        Ok(Self(path))
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [name] => f.write_str(name),
            path => path.iter().try_for_each(|name| write!(f, "[{name}]")),
        }
    }
}

text_serde!(ClaimPath);

impl Jwks {
    /// The path a cluster is asked for.
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/.well-known/jwks.json")
    }

    /// How often.
    pub fn interval(&self) -> TimeSpan {
        self.interval.unwrap_or(TimeSpan::secs(300))
    }

    /// Within what time.
    pub fn timeout(&self) -> TimeSpan {
        self.timeout.unwrap_or(TimeSpan::secs(5))
    }
}

fn default_skew() -> TimeSpan {
    TimeSpan::secs(60)
}

fn default_true() -> bool {
    true
}
