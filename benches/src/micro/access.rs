//! Whether a request may come in, by 10, 100 and 1 000 local rules, and whether it finds a token.
//!
//! Each rule names a caller and a prefix of the path; the last one is the one that matches. The peer of the rules is
//! the `cel` crate, with one compiled expression a rule; that of the limit is governor's keyed limiter.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cel::{Context, Program, Value};
use governor::{Quota, RateLimiter};
use http::HeaderMap;
use mesh_core::access::rbac::{Decision, Effect, Pattern, Rule, Rules};
use mesh_core::policy::rate_limit::{KeyedBuckets, RateLimit};

use super::{Run, Subject};
use crate::trace::attributes;

/// Rules and limits.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for size in [10, 100, 1_000] {
        let cel = format!("authorization cel {size} rules");
        all.push(Subject { is_large: size > 100, ..Subject::theirs(cel.clone(), move || expressions(size)) });
        all.push(Subject::ours(format!("authorization {size} rules"), Some(cel), move || rules(size)));
    }
    let governor = "rate limit governor".to_owned();
    all.push(Subject::theirs(governor.clone(), governed));
    all.push(Subject::ours("rate limit".to_owned(), Some(governor), limited));
    all
}

fn caller(index: usize) -> String {
    format!("spiffe://cluster.local/ns/default/sa/caller-{index}")
}

fn rules(size: usize) -> Run {
    let rule = |index: usize| Rule {
        name: format!("rule-{index}"),
        action: Effect::Allow,
        principals: vec![Pattern::parse(&caller(index))],
        paths: vec![Pattern::parse(&format!("/area-{index}/*"))],
        ..Rule::default()
    };
    let rules = Rules::new(Effect::Deny, (0..size).map(rule).collect());
    let (caller, path, headers) = (caller(size - 1), format!("/area-{}/x", size - 1), HeaderMap::new());
    Box::new(move |times| {
        for _ in 0..times {
            let decided = rules.decide(&attributes(&caller, &path, &headers));
            assert!(matches!(std::hint::black_box(decided), Decision::Allow { rule: Some(_) }));
        }
    })
}

fn expressions(size: usize) -> Run {
    let program = |index: usize| {
        let text = format!("principal == '{}' && path.startsWith('/area-{index}/')", caller(index));
        let Ok(program) = Program::compile(&text) else { panic!("{text} is an expression") };
        program
    };
    let programs: Vec<Program> = (0..size).map(program).collect();
    let (caller, path) = (Arc::new(caller(size - 1)), Arc::new(format!("/area-{}/x", size - 1)));
    Box::new(move |times| {
        for _ in 0..times {
            let mut context = Context::default();
            context.add_variable_from_value("principal", Value::String(Arc::clone(&caller)));
            context.add_variable_from_value("path", Value::String(Arc::clone(&path)));
            let holds = |program: &Program| matches!(program.execute(&context), Ok(Value::Bool(true)));
            assert!(std::hint::black_box(programs.iter().any(holds)));
        }
    })
}

const CALLERS: usize = 1_000;

fn limited() -> Run {
    let Ok(limit) = RateLimit::new(u32::MAX, u32::MAX, Duration::from_secs(1)) else { panic!("it is a limit") };
    let (buckets, now) = (KeyedBuckets::new(limit, 10 * CALLERS), Instant::now());
    let callers: Vec<String> = (0..CALLERS).map(caller).collect();
    // Everybody has been here before.
    assert!(callers.iter().all(|caller| buckets.take(caller.as_bytes(), now).is_ok()));
    let mut rng = fastrand::Rng::with_seed(1);
    Box::new(move |times| {
        for _ in 0..times {
            assert!(buckets.take(callers[rng.usize(..CALLERS)].as_bytes(), now).is_ok());
        }
    })
}

fn governed() -> Run {
    let limiter = RateLimiter::keyed(Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX));
    let callers: Vec<String> = (0..CALLERS).map(caller).collect();
    assert!(callers.iter().all(|caller| limiter.check_key(caller).is_ok()));
    let mut rng = fastrand::Rng::with_seed(1);
    Box::new(move |times| {
        for _ in 0..times {
            assert!(limiter.check_key(&callers[rng.usize(..CALLERS)]).is_ok());
        }
    })
}
