//! A set of questions that is kept answered.
//!
//! Decides: nothing; [`Refresh`] does. Never: asks one question twice at once, or waits for one answer
//! before it takes another. Invariant: every question wanted has a state, and no other has.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::refresh::{Refresh, Terms};
use super::resolver::{Answer, Question, Record, Resolver, Unanswered};
use crate::time::{Clock, Randomness};

/// What asking draws on.
#[derive(Clone)]
pub struct Means {
    /// Answers.
    pub resolver: Arc<dyn Resolver>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub randomness: Arc<Randomness>,
    /// Told of each answer: the owner (a cluster) and how it ended.
    pub meter: Arc<dyn Meter>,
}

/// Counts answers.
pub trait Meter: Send + Sync + 'static {
    /// A question of `cluster` ended: `success`, `empty`, `timeout` or `error`.
    fn resolved(&self, cluster: &str, outcome: &'static str);
}

/// Questions and their answers.
pub struct Inquiry {
    means: Means,
    states: BTreeMap<Question, Refresh>,
    asking: FuturesUnordered<Pin<Box<dyn Future<Output = Asked> + Send>>>,
}

type Asked = (Question, Result<Answer, Unanswered>);

impl Inquiry {
    /// Nothing is asked yet.
    pub fn new(means: Means) -> Self {
        Self { means, states: BTreeMap::new(), asking: FuturesUnordered::new() }
    }

    /// Asks exactly these from now on; what is known of them is kept.
    pub fn want(&mut self, questions: impl IntoIterator<Item = (Question, Terms)>) {
        let now = self.means.clock.now();
        let wanted: BTreeMap<_, _> = questions.into_iter().collect();
        self.states.retain(|question, _| wanted.contains_key(question));
        for (question, terms) in wanted {
            self.states.entry(question).or_insert_with(|| Refresh::new(terms, now));
        }
    }

    /// Waits until an answer came or records ceased to hold. Dropping the future loses nothing.
    pub async fn step(&mut self) -> Vec<(Question, &'static str)> {
        let now = self.means.clock.now();
        self.ask(now);
        let wake = self.states.values().filter_map(Refresh::wake).min();
        let clock = Arc::clone(&self.means.clock);
        let sleep = async {
            match wake {
                Some(wake) => clock.sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        let mut ended = Vec::new();
        tokio::select! {
            Some(asked) = self.asking.next() => ended.extend(self.take(asked)),
            () = sleep => {}
        }
        // Whatever else is here already belongs to the same step.
        while let Some(Some(asked)) = futures_util::FutureExt::now_or_never(self.asking.next()) {
            ended.extend(self.take(asked));
        }
        let now = self.means.clock.now();
        self.states.values_mut().for_each(|state| state.expire(now));
        ended
    }

    /// Connections to what was answered fail.
    pub fn doubt(&mut self, is_meant: impl Fn(&Question) -> bool) {
        let now = self.means.clock.now();
        self.states.iter_mut().filter(|(question, _)| is_meant(question)).for_each(|(_, state)| state.doubt(now));
    }

    /// The records that answer a question now.
    pub fn records(&self, question: &Question) -> &[Record] {
        self.states.get(question).map_or(&[], |state| state.records(self.means.clock.now()))
    }

    /// What is known of a question.
    pub fn state(&self, question: &Question) -> Option<&Refresh> {
        self.states.get(question)
    }

    /// All questions.
    pub fn states(&self) -> impl Iterator<Item = (&Question, &Refresh)> {
        self.states.iter()
    }

    /// When the oldest answer that holds was confirmed.
    pub fn oldest(&self) -> Option<Instant> {
        self.states.values().filter_map(Refresh::confirmed).min()
    }

    fn ask(&mut self, now: Instant) {
        for (question, state) in &mut self.states {
            if self.asking.len() < MOST_AT_ONCE && state.ask(now) {
                let (question, looking) = (question.clone(), self.means.resolver.look_up(question));
                self.asking.push(Box::pin(async move { (question, looking.await) }));
            }
        }
    }

    fn take(&mut self, (question, answer): Asked) -> Option<(Question, &'static str)> {
        let outcome = answer.as_ref().map_or_else(Unanswered::as_str, |_| "success");
        if let Err(failed @ (Unanswered::TimedOut | Unanswered::Failed(_))) = &answer {
            tracing::warn!(name = %question.name, records = ?question.records, reason = %failed, "not resolved; the last answer stays");
        }
        let state = self.states.get_mut(&question)?;
        state.answered(answer, self.means.clock.now(), &mut self.means.randomness.generator());
        Some((question, outcome))
    }
}

/// Questions in flight at most, so that a thousand names do not go out in one burst.
const MOST_AT_ONCE: usize = 32;
