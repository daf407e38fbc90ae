//! What a check is asked about one request.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use crate::access::attributes::{Attributes, AttributesBuf};

/// What a check is asked about one request.
#[derive(Clone)]
pub struct Question<'a> {
    /// The facts of the request.
    pub attributes: Attributes<'a>,
    /// What the server reads of its body. An answer to a question with a body is neither kept nor shared.
    pub body: Option<SentBody>,
    /// How long the answer may be kept at most: the end of the caller's certificate, or of a token it sends.
    pub max_expiry: Option<Instant>,
}

/// As much of a question as it takes to see whether it has been answered before.
pub(crate) struct About<'a> {
    pub(crate) attributes: Attributes<'a>,
    pub(crate) has_body: bool,
}

impl<'a> Question<'a> {
    /// A question about these facts alone.
    pub fn about(attributes: Attributes<'a>) -> Self {
        Self { attributes, body: None, max_expiry: None }
    }

    pub(super) fn to_buf(&self) -> QuestionBuf {
        QuestionBuf { attributes: self.attributes.to_buf(), body: self.body.clone(), max_expiry: self.max_expiry }
    }
}

/// The body is left out.
impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("attributes", &self.attributes).finish_non_exhaustive()
    }
}

/// What a question tells of a request's body.
#[derive(Clone, PartialEq, Eq)]
pub struct SentBody {
    /// The body, or its beginning. Not empty.
    pub bytes: Bytes,
    /// Whether there is more of it.
    pub is_partial: bool,
}

impl fmt::Debug for SentBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentBody").field("bytes", &self.bytes.len()).field("is_partial", &self.is_partial).finish()
    }
}

/// A question that owns what it holds.
pub(super) struct QuestionBuf {
    attributes: AttributesBuf,
    body: Option<SentBody>,
    max_expiry: Option<Instant>,
}

impl QuestionBuf {
    pub(super) fn borrow(&self) -> Question<'_> {
        Question { attributes: self.attributes.borrow(), body: self.body.clone(), max_expiry: self.max_expiry }
    }
}
