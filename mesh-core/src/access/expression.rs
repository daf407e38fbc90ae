//! Conditions in CEL, for what rules cannot say otherwise.
//!
//! Decides: whether an expression holds for a request; and, when it is read, whether it may be asked at all: its names are
//! known, its loops are not nested, its patterns are written in it. So its cost is bounded by its length and the
//! request's. Never: says what a value was: it may be a credential. Invariant: an expression that cannot be evaluated is
//! no answer; the rule takes what is safe for it, and the failure is counted.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Program, Value};
use http::HeaderMap;
use regex::Regex;

use super::attributes::Attributes;

mod survey;
mod vocabulary;

use vocabulary::Term;

/// A compiled condition.
#[derive(Debug)]
pub struct Expression {
    program: Program,
    terms: Vec<Term>,
    /// What `matches` asks for, compiled when it was read.
    patterns: Arc<HashMap<String, Regex>>,
    failures: AtomicU64,
}

impl Expression {
    /// Reads a condition; the message of a refused one says what to change.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("an expression has at most {MAX_LENGTH} bytes, this one has {}", text.len()));
        }
        if brackets(text) > MAX_BRACKETS {
            return Err(format!("brackets are nested deeper than {MAX_BRACKETS}"));
        }
        let parsed = catch_unwind(|| ENV.compile(text)).map_err(|_| "the expression cannot be parsed".to_owned())?;
        let program = parsed.map_err(|error| format!("no CEL: {}", one_line(&error.to_string())))?;
        let survey = survey::of(program.expression())?;
        let (terms, patterns) = (survey.terms, Arc::new(survey.patterns));
        let expression = Self { program, terms, patterns, failures: AtomicU64::new(0) };
        match expression.evaluate(&nobody(&HeaderMap::new())) {
            Ok(Value::Bool(_)) | Err(_) => Ok(expression),
            Ok(other) => Err(format!("it is a {}, and a condition is true or false", other.type_of())),
        }
    }

    /// Whether it asks for what only requests have.
    pub fn is_about_requests(&self) -> bool {
        self.terms.iter().any(|term| term.is_of_request())
    }

    /// Whether it holds. `None`: it cannot be evaluated, as where it compares what the request does not have.
    pub fn holds(&self, of: &Attributes<'_>) -> Option<bool> {
        let why = match self.evaluate(of) {
            Ok(Value::Bool(holds)) => return Some(holds),
            Ok(_) => "neither true nor false",
            Err(why) => why,
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(listener = of.listener, why, "a condition cannot be evaluated");
        None
    }

    /// How often it could not be evaluated since this was asked last.
    pub fn take_failures(&self) -> u64 {
        if self.failures.load(Ordering::Relaxed) == 0 { 0 } else { self.failures.swap(0, Ordering::Relaxed) }
    }

    fn evaluate(&self, of: &Attributes<'_>) -> Result<Value, &'static str> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| match patterns.get(&*pattern) {
                Some(pattern) => Ok(pattern.is_match(&text)),
                None => Err(ExecutionError::function_error(survey::MATCHES, "unknown pattern")),
            };
            // The environment has none of its own, which would compile the pattern each time.
            context.add_function(survey::MATCHES, matches).map_err(|_| "there are two functions `matches`")?;
        }
        for (name, fields) in vocabulary::bind(&self.terms, of) {
            context.add_variable_from_value(name, fields);
        }
        match catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))) {
            Ok(result) => result.map_err(|error| kind(&error)),
            Err(_) => Err("the evaluation failed"),
        }
    }
}

/// What went wrong, without the values that did.
fn kind(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => "it asks for what the request does not have",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero",
        ExecutionError::Overflow(..) => "overflow",
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds",
        _ => "values of types that do not go together",
    }
}

/// How deep brackets stand in each other, those in texts included: the parser descends into each before it counts.
fn brackets(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for letter in text.bytes() {
        match letter {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A request of nobody, to see of which type an expression is.
fn nobody(headers: &HeaderMap) -> Attributes<'_> {
    Attributes {
        principal: None,
        own_principal: None,
        service: "",
        listener: "",
        method: "",
        path: "",
        query: None,
        host: "",
        scheme: "",
        protocol: "",
        headers,
        source_address: None,
        destination_address: None,
        request_id: "",
        time: SystemTime::UNIX_EPOCH,
        remote_address: None,
        sni: None,
        certificate: None,
        claims: None,
        is_tcp: false,
    }
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
/// Bytes of an expression: several times what the longest in Envoy's and Istio's documentation has.
const MAX_LENGTH: usize = 2048;

/// Far more than anybody reads, far less than a thread's stack bears.
const MAX_BRACKETS: usize = 24;

#[cfg(test)]
mod tests;
