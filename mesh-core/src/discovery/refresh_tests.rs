use std::net::IpAddr;

use super::*;

const TERMS: Terms =
    Terms { every: None, min: Duration::from_secs(1), max_stale: Duration::from_secs(60), keeps_when_none: false };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn answer(last: u8, ttl: u64) -> Result<Answer, Unanswered> {
    let records = vec![Record::Address(IpAddr::from([127, 0, 0, last]))];
    Ok(Answer { records, ttl: Some(secs(ttl)) })
}

fn failure() -> Result<Answer, Unanswered> {
    Err(Unanswered::Failed("SERVFAIL".to_owned()))
}

/// Asks and takes the answer at once, `after` the start.
struct Script {
    state: Refresh,
    start: Instant,
    rng: fastrand::Rng,
}

impl Script {
    fn new(terms: Terms) -> Self {
        let start = Instant::now();
        Self { state: Refresh::new(terms, start), start, rng: fastrand::Rng::with_seed(1) }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    fn turn(&mut self, millis: u64, answer: Result<Answer, Unanswered>) {
        let now = self.at(millis);
        assert!(self.state.ask(now), "not due at {millis} ms");
        self.state.answered(answer, now, &mut self.rng);
    }

    /// When it asks next, in milliseconds from the start.
    fn due(&self) -> u64 {
        (self.state.due - self.start).as_nanos().div_ceil(1_000_000) as u64
    }
}

#[test]
fn an_answer_is_used_for_its_time_to_live_and_asked_for_again_just_after() {
    for (ttl, least, most) in
        [(0, 1000, 1100), (1, 1000, 1100), (4, 4000, 4400), (60, 60_000, 60_500), (86_400, 300_000, 300_500)]
    {
        let mut script = Script::new(TERMS);
        script.turn(0, answer(1, ttl));
        let due = script.due();
        assert!((least..=most).contains(&due), "ttl {ttl}: asked again after {due} ms");
        assert!(!script.state.ask(script.at(due - 1)), "ttl {ttl}");
        assert!(script.state.ask(script.at(due)), "ttl {ttl}");
    }
}

#[test]
fn a_fixed_interval_replaces_the_time_to_live_but_not_the_least_interval() {
    for (every, least) in [(30, 30_000), (0, 1000)] {
        let mut script = Script::new(Terms { every: Some(secs(every)), ..TERMS });
        script.turn(0, answer(1, 5));
        assert!((least..=least + 500).contains(&script.due()), "{}", script.due());
    }
}

#[test]
fn one_question_is_never_asked_twice_at_once() {
    let mut script = Script::new(TERMS);
    assert!(script.state.ask(script.at(0)));
    assert!(!script.state.ask(script.at(60_000)));
    script.state.doubt(script.at(60_000));
    assert!(!script.state.ask(script.at(120_000)));
    let now = script.at(120_000);
    script.state.answered(answer(1, 1), now, &mut script.rng);
    assert!(script.state.ask(script.at(122_000)));
}

#[test]
fn o64_failures_keep_the_last_answer_until_it_is_too_stale_and_no_longer() {
    let mut script = Script::new(TERMS);
    script.turn(0, answer(1, 2));
    let mut asked = Vec::new();
    let mut millis = script.due();
    while millis < 61_000 {
        asked.push(millis);
        script.turn(millis, failure());
        assert_eq!(script.state.records(script.at(millis)).len(), 1, "at {millis} ms");
        millis = script.due();
    }
    let gaps: Vec<u64> = asked.windows(2).map(|pair| (pair[1] - pair[0]).div_euclid(1000)).collect();
    assert_eq!(gaps, [1, 2, 4, 8, 16], "less and less often");
    // The time to live was over at 2 s, or rather when the next answer could have come; then 60 s.
    let end = (script.state.wake().unwrap().min(script.state.ends(script.state.good.as_ref().unwrap())) - script.start)
        .as_millis() as u64;
    assert!(end >= 62_000, "{end}");
    let gone = script.at(2_000 + 60_000 + 6_000);
    assert_eq!(script.state.records(gone), []);
    script.state.expire(gone);
    assert_eq!(script.state.confirmed(), None);
}

#[test]
fn without_patience_a_failure_takes_the_records_once_a_renewal_could_have_come() {
    let mut script = Script::new(Terms { max_stale: Duration::ZERO, ..TERMS });
    script.turn(0, answer(1, 1));
    script.turn(script.due(), failure());
    assert_eq!(script.state.records(script.at(2_000)).len(), 1);
    assert_eq!(script.state.records(script.at(7_000)), []);
}

#[test]
fn that_there_is_none_is_believed_or_not_as_the_terms_say() {
    for (keeps_when_none, left) in [(false, 0), (true, 1)] {
        let mut script = Script::new(Terms { keeps_when_none, ..TERMS });
        script.turn(0, answer(1, 1));
        let due = script.due();
        script.turn(due, Err(Unanswered::None(Some(secs(3600)))));
        assert_eq!(script.state.records(script.at(due)).len(), left);
        assert_eq!(script.state.outcome(), Some(&Outcome::None));
        assert!(script.due() <= due + 30_500, "a name that appears is found soon");
    }
}

#[test]
fn a_doubt_asks_soon_but_not_sooner_than_the_least_interval() {
    let mut script = Script::new(TERMS);
    script.turn(0, answer(1, 300));
    script.state.doubt(script.at(300));
    assert_eq!(script.due(), 1000);
    script.turn(1000, answer(2, 300));
    script.state.doubt(script.at(50_000));
    assert_eq!(script.due(), 50_000);
}

#[test]
fn callers_that_start_together_do_not_ask_together() {
    let start = Instant::now();
    let due = |seed| {
        let mut state = Refresh::new(TERMS, start);
        state.ask(start);
        state.answered(answer(1, 30), start, &mut fastrand::Rng::with_seed(seed));
        state.due
    };
    let times: std::collections::BTreeSet<_> = (0..50).map(due).collect();
    assert!(times.len() > 40, "{}", times.len());
}
