use std::num::NonZeroU32;

use super::*;
use crate::error::ErrorKind;
use crate::policy::backoff::{Backoff, Jitter};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Two retries after exactly 10 ms and 20 ms, a breaker of five in a row, one place.
fn terms() -> Terms {
    let backoff = Backoff::new(MS(10), MS(100)).and_then(|wait| wait.with_jitter(Jitter::Off)).expect("backoff");
    Terms {
        name: "inventory".into(),
        timeout: Some(MS(1000)),
        attempt_timeout: Some(MS(300)),
        retry: Arc::new(RetryPolicy { retries: 2, backoff, ..RetryPolicy::default() }),
        breaker: BreakerConfig { consecutive_failures: NonZeroU32::new(5), rate: None, ..BreakerConfig::default() },
        max_in_flight: 1,
        budget: BudgetConfig::default(),
        idempotent: true,
    }
}

struct Bench {
    guarded: Arc<Guarded>,
    now: Instant,
    rng: fastrand::Rng,
}

impl Bench {
    fn new(terms: Terms) -> Self {
        let now = Instant::now();
        Self { guarded: Arc::new(Guarded::new(terms, None, now)), now, rng: fastrand::Rng::with_seed(1) }
    }

    fn begin(&self) -> Result<Session, crate::Error> {
        Session::begin(&self.guarded, Asked::default(), self.now)
    }

    /// Runs a whole call whose attempts end as `script` says, `step` apart. Gives the waits and the ending.
    fn run(&mut self, script: &[Class]) -> (Vec<Duration>, Ending, Session) {
        let mut session = self.begin().expect("admitted");
        let (mut script, mut waits) = (script.iter(), Vec::new());
        let mut step = session.proceed(self.now);
        loop {
            step = match step {
                Step::Proceed { .. } => {
                    let class = *script.next().expect("no attempt beyond the script");
                    session.ended(class.into(), self.now, &mut self.rng)
                }
                Step::Wait { length } => {
                    waits.push(length);
                    self.now += length;
                    session.proceed(self.now)
                }
                Step::Stop(ending) => {
                    assert_eq!(script.next(), None, "an attempt too few");
                    return (waits, ending, session);
                }
            };
        }
    }

    fn calls(&self, end: End) -> u64 {
        self.guarded.counts().calls(end)
    }
}

fn kind(ending: &Ending) -> Option<ErrorKind> {
    match ending {
        Ending::Own => None,
        Ending::Refused(error) => Some(error.kind()),
    }
}

#[test]
fn a_script_of_outcomes_makes_these_attempts_and_ends_like_this() {
    use Class::*;
    // (idempotent, attempts and how they end, ending, why no further one, counted as)
    type Row<'a> = (bool, &'a [Class], Option<ErrorKind>, &'a str, End);
    let table: &[Row<'_>] = &[
        (true, &[Success], None, "success", End::Success),
        (true, &[Transient, Success], None, "success", End::Success),
        (true, &[Transient, Unprocessed, Transient], None, "attempts_exhausted", End::Failure),
        (true, &[Failed], None, "not_retriable", End::Failure),
        (true, &[Rejected], None, "not_retriable", End::Rejected),
        (true, &[Ignored], None, "not_retriable", End::Ignored),
        (true, &[Throttled, Success], None, "success", End::Success),
        (true, &[TimedOut, Success], None, "success", End::Success),
        (
            true,
            &[TimedOut, TimedOut, TimedOut],
            Some(ErrorKind::AttemptTimeout),
            "attempts_exhausted",
            End::AttemptTimeout,
        ),
        (false, &[Transient], None, "non_idempotent", End::Failure),
        (false, &[TimedOut], Some(ErrorKind::AttemptTimeout), "non_idempotent", End::AttemptTimeout),
        (false, &[Unprocessed, Throttled, Success], None, "success", End::Success),
        (false, &[Unprocessed, Transient], None, "non_idempotent", End::Failure),
    ];
    for (idempotent, script, error, reason, end) in table {
        let mut bench = Bench::new(Terms { idempotent: *idempotent, ..terms() });
        let (waits, ending, session) = bench.run(script);
        let case = format!("{script:?}, idempotent: {idempotent}");
        assert_eq!(waits, [MS(10), MS(20)][..script.len() - 1], "{case}");
        assert_eq!(kind(&ending), *error, "{case}");
        assert_eq!(session.reason(), *reason, "{case}");
        assert_eq!(session.attempts() as usize, script.len(), "{case}");
        assert_eq!(bench.calls(*end), 1, "{case}");
        assert_eq!(bench.guarded.in_flight(), 0, "{case}");
    }
}

#[test]
fn a_callee_that_names_a_wait_is_left_alone_for_exactly_that() {
    let mut bench = Bench::new(terms());
    let mut session = bench.begin().expect("admitted");
    let _ = session.proceed(bench.now);
    let hint = Outcome { class: Class::Throttled, retry_after: Some(MS(700)) };
    assert!(matches!(session.ended(hint, bench.now, &mut bench.rng), Step::Wait { length } if length == MS(700)));
    let _ = session.proceed(bench.now + MS(700));
    // A second one does not fit before the deadline: fail now instead of sleeping into it.
    let step = session.ended(hint, bench.now + MS(700), &mut bench.rng);
    assert!(matches!(step, Step::Stop(Ending::Own)));
    assert_eq!(session.reason(), "no_time");
}

#[test]
fn an_attempt_ends_at_its_own_limit_or_at_the_deadline_whichever_is_earlier() {
    let bench = Bench::new(terms());
    let asked = Asked { deadline: Some(bench.now + MS(400)), ..Asked::default() };
    let mut session = Session::begin(&bench.guarded, asked, bench.now).expect("admitted");
    assert!(matches!(session.proceed(bench.now), Step::Proceed { until: Some(at) } if at == bench.now + MS(300)));
    let late = bench.now + MS(200);
    assert!(matches!(session.proceed(late), Step::Proceed { until: Some(at) } if at == bench.now + MS(400)));
    let Step::Stop(Ending::Refused(error)) = session.proceed(bench.now + MS(400)) else { panic!("no time is left") };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(bench.calls(End::Timeout), 1);
}

#[test]
fn an_open_breaker_refuses_at_once_and_costs_no_budget() {
    let mut bench = Bench::new(Terms { idempotent: false, ..terms() });
    for _ in 0..5 {
        bench.run(&[Class::Failed]);
    }
    let (before, attempts) = (bench.guarded.budget_balance(bench.now), bench.guarded.counts().attempts());
    let mut session = bench.begin().expect("admitted");
    let Step::Stop(Ending::Refused(error)) = session.proceed(bench.now) else { panic!("the breaker is open") };
    assert_eq!(error.kind(), ErrorKind::CircuitOpen);
    assert!(error.place().retry_after.is_some_and(|wait| wait > Duration::ZERO));
    assert_eq!(error.sent(), crate::Sent::Never);
    assert_eq!(bench.guarded.counts().attempts(), attempts);
    assert!(bench.guarded.budget_balance(bench.now) >= before);
    assert_eq!(bench.calls(End::CircuitOpen), 1);
}

#[test]
fn a_breaker_that_opens_mid_call_gives_the_caller_its_own_outcome_without_a_wait() {
    let mut bench =
        Bench::new(Terms { retry: Arc::new(RetryPolicy { retries: 10, ..(*terms().retry).clone() }), ..terms() });
    let (waits, ending, session) = bench.run(&[Class::Transient; 5]);
    assert_eq!((waits.len(), kind(&ending), session.reason()), (4, None, "circuit_open"));
}

#[test]
fn a_dropped_call_gives_back_place_and_probe_and_judges_nobody() {
    let mut bench = Bench::new(Terms { idempotent: false, ..terms() });
    for _ in 0..5 {
        bench.run(&[Class::Failed]);
    }
    bench.now += Duration::from_secs(600);
    for _ in 0..3 {
        let mut probe = bench.begin().expect("admitted");
        assert!(matches!(probe.proceed(bench.now), Step::Proceed { .. }), "the probe's permit came back");
        assert_eq!(bench.guarded.in_flight(), 1);
        drop(probe);
        assert_eq!(bench.guarded.in_flight(), 0);
    }
    assert_eq!(bench.calls(End::Ignored), 3);
    bench.run(&[Class::Success]);
    assert_eq!(bench.guarded.breaker_state(bench.now), State::Closed);
}

#[test]
fn calls_above_the_limit_are_refused_before_anything_ran() {
    let bench = Bench::new(terms());
    let first = bench.begin().expect("the only place");
    assert_eq!(bench.begin().map(drop).map_err(|error| error.kind()), Err(ErrorKind::Overloaded));
    drop(first);
    assert!(bench.begin().is_ok());
    assert_eq!(bench.calls(End::Overloaded), 1);
}

#[test]
fn an_outage_is_amplified_by_the_budget_and_no_more() {
    let budget = BudgetConfig::new(0.2, 0, Duration::from_secs(10)).expect("budget");
    let mut bench = Bench::new(Terms {
        budget,
        breaker: BreakerConfig { consecutive_failures: None, rate: None, ..BreakerConfig::default() },
        ..terms()
    });
    for _ in 0..1000 {
        let mut session = bench.begin().expect("admitted");
        let mut step = session.proceed(bench.now);
        while !matches!(step, Step::Stop(_)) {
            step = match step {
                Step::Wait { .. } => session.proceed(bench.now),
                _ => session.ended(Class::Transient.into(), bench.now, &mut bench.rng),
            };
        }
    }
    let counts = bench.guarded.counts();
    assert_eq!((counts.attempts(), counts.retries()), (1200, 200));
    assert!(counts.refused().any(|(reason, count)| reason == "budget_empty" && count > 0));
}

#[test]
fn a_reload_keeps_counts_places_breaker_and_budget() {
    let mut bench = Bench::new(Terms { idempotent: false, ..terms() });
    for _ in 0..5 {
        bench.run(&[Class::Failed]);
    }
    let held = bench.begin().expect("admitted");
    let wider = Terms { max_in_flight: 2, timeout: None, idempotent: false, ..terms() };
    let next = Guarded::new(wider, Some(&bench.guarded), bench.now);
    next.take_over();
    assert_eq!(next.breaker_state(bench.now), State::Open);
    assert_eq!((next.in_flight(), next.counts().calls(End::Failure)), (1, 5));
    drop(held);
    assert_eq!(next.in_flight(), 0);
    let trip = BreakerConfig { consecutive_failures: NonZeroU32::new(50), ..terms().breaker };
    let other = Guarded::new(Terms { breaker: trip, ..terms() }, Some(&next), bench.now);
    assert_eq!(other.breaker_state(bench.now), State::Open, "a reload closes no breaker");
    assert_eq!(other.counts().calls(End::Failure), 5);
}

#[test]
fn an_error_of_the_mesh_says_itself_what_it_means() {
    use crate::error::Sent::{Maybe, Never, Unprocessed};
    for (kind, sent, class) in [
        (ErrorKind::Connect, Never, Class::Unprocessed),
        (ErrorKind::Reset, Maybe, Class::Transient),
        (ErrorKind::Reset, Unprocessed, Class::Unprocessed),
        (ErrorKind::Timeout, Maybe, Class::Transient),
        (ErrorKind::NoEndpoint, Never, Class::Unprocessed),
        (ErrorKind::Draining, Never, Class::Unprocessed),
        (ErrorKind::RateLimited, Never, Class::Throttled),
        (ErrorKind::Denied, Never, Class::Rejected),
        (ErrorKind::CircuitOpen, Never, Class::Ignored),
        (ErrorKind::Overloaded, Never, Class::Ignored),
        (ErrorKind::Cancelled, Maybe, Class::Ignored),
        (ErrorKind::Closed, Never, Class::Ignored),
    ] {
        assert_eq!(Class::of(kind, sent), class, "{kind} {sent:?}");
    }
}
