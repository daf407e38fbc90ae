//! What a document does to live state that it shares with the one before.
//!
//! Decides: nothing. Invariant: nothing happens unless the whole document is good; an error found later in a
//! compilation leaves no trace.

/// Changes that wait for the end of a compilation.
#[derive(Default)]
pub(super) struct Effects(Vec<Box<dyn FnOnce()>>);

impl Effects {
    /// Once the document is known to be good.
    pub(super) fn later(&mut self, effect: impl FnOnce() + 'static) {
        self.0.push(Box::new(effect));
    }

    /// It is.
    pub(super) fn happen(self) {
        self.0.into_iter().for_each(|effect| effect());
    }
}
