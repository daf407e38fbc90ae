//! What a listener does to paths, from its settings.

use crate::config::listener::Listener;
use crate::config::path::{EscapedSlashes as Written, JudgedPaths};
use crate::route::normalize::{EscapedSlashes, PathNormalization};
use crate::route::path::PathMatcher;
use crate::route::path_terms::PathTerms;

pub(super) fn terms(written: &Listener) -> Result<PathTerms, String> {
    let escaped_slashes = match written.path_with_escaped_slashes_action {
        Written::KeepUnchanged => EscapedSlashes::Keep,
        Written::RejectRequest => EscapedSlashes::Reject,
        Written::UnescapeAndForward => EscapedSlashes::Unescape,
        Written::UnescapeAndRedirect => EscapedSlashes::Redirect,
    };
    let kept = written.keep_escaped_slashes.iter().map(|path| PathMatcher::prefix(path.as_str()));
    Ok(PathTerms {
        normalization: PathNormalization {
            normalize: written.normalize_path,
            merge_slashes: written.merge_slashes,
            escaped_slashes,
        },
        kept: kept.collect::<Result<_, _>>()?,
        judges_readings: written.judged_paths == JudgedPaths::EveryReading,
    })
}
