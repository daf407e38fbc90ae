//! The policy's epoch: how a server says that its policy has changed.
//!
//! Decides: whether what an answer says voids all that was kept before, or shows that the answer itself is of an older
//! policy. Numbers only go up, so servers that disagree for a while settle on the greatest. Texts have no order: the
//! latest counts, but each for a second at least, so that two servers that never agree cost one voiding a second.
//! Never: reads a clock. Invariant: an answer of an older epoch is not kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Asked;
use crate::time::after;

/// An epoch, as a server names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Epoch {
    /// A version that goes up.
    Number(u64),
    /// A digest or a name.
    Text(Box<str>),
}

/// What an answer's epoch means for what is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing.
    Same,
    /// Everything before it is void.
    New,
    /// The answer is of a policy that was replaced.
    Old,
}

/// Which answers are of the policy in force.
#[derive(Default)]
pub(super) struct Epochs {
    generation: AtomicU64,
    heard: Mutex<Latest>,
}

/// What was said since the policy changed without a server saying so: what they said before counts no more.
#[derive(Default)]
struct Latest {
    since: u64,
    said: Option<Said>,
}

/// The epoch in force, and when the question was asked whose answer brought it.
struct Said {
    epoch: Epoch,
    since: Instant,
}

impl Epochs {
    /// Counts the changes. Answers of another count are void.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The policy has changed, and perhaps the server: whatever epoch comes next is the one in force.
    pub(super) fn advance(&self) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.generation.fetch_add(1, Ordering::AcqRel);
        *heard = Latest { since: before + 1, said: None };
    }

    /// Takes note of an answer's epoch; one that changes it is of the new one. What was asked before the policy changed
    /// otherwise says nothing.
    pub(super) fn hear(&self, epoch: &Epoch, asked: &mut Asked) -> Heard {
        let mut latest = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.epoch < latest.since {
            return Heard::Old;
        }
        let is_first = latest.said.is_none();
        let heard = latest.said.as_ref().map_or(Heard::New, |said| said.heard(epoch, asked.at));
        if heard == Heard::New {
            latest.said = Some(Said { epoch: epoch.clone(), since: asked.at });
            if is_first {
                return Heard::Same;
            }
            let before = self.generation.fetch_add(1, Ordering::AcqRel);
            asked.epoch += u64::from(asked.epoch == before);
        }
        heard
    }
}

impl Said {
    fn heard(&self, epoch: &Epoch, asked_at: Instant) -> Heard {
        let is_newer = match (&self.epoch, epoch) {
            (before, epoch) if before == epoch => return Heard::Same,
            (Epoch::Number(before), Epoch::Number(epoch)) => epoch > before,
            _ => asked_at >= after(self.since, LEAST_LIFE),
        };
        if is_newer { Heard::New } else { Heard::Old }
    }
}

/// How long a text counts at least (ours). A policy that changes twice in that time is noticed after it.
const LEAST_LIFE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Epoch {
        Epoch::Text(text.into())
    }

    /// Hears epochs, each of a question that was asked so many milliseconds after the first.
    fn heard(all: &[(Epoch, u64)]) -> (Vec<Heard>, u64) {
        let (epochs, start) = (Epochs::default(), Instant::now());
        let heard = all.iter().map(|(epoch, ms)| {
            let at = start + Duration::from_millis(*ms);
            epochs.hear(epoch, &mut Asked { epoch: epochs.generation(), at })
        });
        (heard.collect(), epochs.generation())
    }

    #[test]
    fn a_greater_number_is_new_at_once_and_a_smaller_one_old_for_ever() {
        let number = |number, ms| (Epoch::Number(number), ms);
        let all =
            [number(7, 0), number(7, 1), number(8, 2), number(7, 3), number(8, 4), number(7, 90_000), number(9, 5)];
        let expected = [Heard::Same, Heard::Same, Heard::New, Heard::Old, Heard::Same, Heard::Old, Heard::New];
        assert_eq!(heard(&all), (expected.into(), 2));
    }

    #[test]
    fn texts_that_alternate_are_new_once_a_second_at_most() {
        let all: Vec<_> = (0..1000).map(|nth| (text(["a", "b"][nth % 2]), nth as u64 * 10)).collect();
        let (heard, voided) = heard(&all);
        assert!((5..10).contains(&voided), "{voided} in ten seconds");
        assert_eq!(heard[1], Heard::Old);
    }

    #[test]
    fn a_text_that_stays_is_new_once() {
        let all = [(text("a"), 0), (text("b"), 1000), (text("b"), 1001), (text("b"), 9000), (text("a"), 900)];
        assert_eq!(heard(&all), ([Heard::Same, Heard::New, Heard::Same, Heard::Same, Heard::Old].into(), 1));
    }

    #[test]
    fn a_number_after_a_text_is_another_word_and_has_no_order() {
        let all = [(Epoch::Number(9), 0), (text("a"), 10), (text("a"), 1000), (Epoch::Number(1), 2000)];
        assert_eq!(heard(&all), ([Heard::Same, Heard::Old, Heard::New, Heard::New].into(), 2));
    }

    #[test]
    fn who_brings_an_epoch_is_of_it() {
        let epochs = Epochs::default();
        let mut asked = Asked { epoch: 0, at: Instant::now() };
        epochs.hear(&Epoch::Number(1), &mut asked);
        assert_eq!(epochs.hear(&Epoch::Number(2), &mut asked), Heard::New);
        assert_eq!(asked.epoch, epochs.generation());
    }

    #[test]
    fn after_a_change_that_no_server_told_of_any_epoch_counts_and_none_of_a_question_from_before() {
        let (epochs, at) = (Epochs::default(), Instant::now());
        let hear = |number, asked: &mut Asked| epochs.hear(&Epoch::Number(number), asked);
        let (mut before, mut under_way) = (Asked { epoch: 0, at }, Asked { epoch: 0, at });
        hear(9, &mut before);
        epochs.advance();
        assert_eq!(hear(9, &mut under_way), Heard::Old);
        let mut after = Asked { epoch: epochs.generation(), at };
        assert_eq!((hear(3, &mut after), hear(2, &mut after)), (Heard::Same, Heard::Old));
        assert_eq!((hear(4, &mut after), after.epoch), (Heard::New, epochs.generation()));
    }
}
