//! What a listener does to paths, as it is written. The words are Envoy's.
//!
//! Decides: what can be written. Never: changes a path. Invariant: what is absent is safe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EscapedSlashes {
    /// They stay, byte for byte: an id may hold one.
    #[default]
    KeepUnchanged,
    /// The request is refused (400).
    RejectRequest,
    /// They are decoded, and the request goes on.
    UnescapeAndForward,
    /// They are decoded, and the caller is sent to the decoded path (307); gRPC callers are refused.
    UnescapeAndRedirect,
}

/// What access rules and authorization policies are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgedPaths {
    /// The path, and what it becomes where slashes are merged, escapes decoded or `;parameters` dropped: each has to
    /// pass. A deny may grow so, never shrink.
    #[default]
    EveryReading,
    /// The path as it is handed on, and nothing else (Istio): a rule on paths may be dodged by another spelling.
    AsHandedOn,
}
