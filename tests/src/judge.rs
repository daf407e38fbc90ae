//! Holds what happened against what a scenario expects, and drivers against each other.
//!
//! Decides: nothing silently; every difference is one sentence. An empty list is a pass.

use std::collections::BTreeMap;

use regex::Regex;

use crate::driver::{Outcome, Report};
use crate::metrics;
use crate::scenario::{Afterwards, Expect, Scenario, Seen, Step, bytes_of, from_hex};
use crate::upstream::{Arrived, Upstreams};

/// Everything that differs from what the scenario expects.
pub fn differences(scenario: &Scenario, report: &Report, upstreams: &Upstreams) -> Vec<String> {
    let mut found = Vec::new();
    let wanted: usize = scenario.steps.iter().map(|step| step.times).sum();
    if report.outcomes.len() != wanted {
        found.push(format!("{} outcomes for {wanted} requests", report.outcomes.len()));
        return found;
    }
    let mut outcomes = report.outcomes.as_slice();
    for (at, step) in scenario.steps.iter().enumerate() {
        let (own, rest) = outcomes.split_at(step.times);
        outcomes = rest;
        let problems = step_differences(step, own, (report.is_bare(), upstreams));
        found.extend(problems.into_iter().map(|problem| format!("steps[{at}]: {problem}")));
    }
    found.extend(afterwards(scenario, report, upstreams));
    found
}

/// What of an outcome must be the same in every language, with upstreams by name: what the caller got, and
/// what the mesh says of how.
pub fn comparable(report: &Report, upstreams: &Upstreams) -> Vec<(String, String)> {
    let line = |outcome: &Outcome| {
        let end = outcome.endpoint.as_deref();
        // Languages differ in the case and the order of names, and may.
        let mut trailers: Vec<_> =
            outcome.trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        trailers.sort();
        let got = format!(
            "{} body={} trailers={trailers:?} body_error={}",
            result(outcome),
            outcome.body,
            outcome.body_error.as_deref().unwrap_or("-"),
        );
        let how = format!(
            "attempts={:?} cluster={} endpoint={}",
            outcome.attempts,
            cluster(outcome),
            end.and_then(|end| upstreams.name_of(end)).unwrap_or("-"),
        );
        (got, how)
    };
    report.outcomes.iter().map(line).collect()
}

/// Status or error kind.
fn result(outcome: &Outcome) -> String {
    match (&outcome.status, &outcome.error) {
        (Some(status), _) => status.to_string(),
        (None, Some(error)) => error.clone(),
        (None, None) => "nothing".to_owned(),
    }
}

fn step_differences(step: &Step, outcomes: &[Outcome], witness: (bool, &Upstreams)) -> Vec<String> {
    let mut found = Vec::new();
    for (nth, outcome) in outcomes.iter().enumerate() {
        let problems = outcome_differences(&step.expect, outcome, witness);
        found.extend(problems.into_iter().map(|problem| format!("request {nth}: {problem}")));
    }
    if !step.counts.is_empty() {
        let mut counts = BTreeMap::<String, usize>::new();
        for outcome in outcomes {
            *counts.entry(result(outcome)).or_default() += 1;
        }
        let wrong = |(what, wanted): (&String, &crate::scenario::Count)| {
            !wanted.holds(counts.get(what).copied().unwrap_or_default())
        };
        let is_other = counts.keys().any(|what| !step.counts.contains_key(what));
        if is_other || step.counts.iter().any(wrong) {
            found.push(format!("came to {counts:?}, expected {:?}", step.counts));
        }
    }
    found
}

fn outcome_differences(expect: &Expect, outcome: &Outcome, witness: (bool, &Upstreams)) -> Vec<String> {
    let (is_bare, upstreams) = witness;
    let mut check = Check::default();
    let status = expect.status.map(|status| status.to_string());
    check.same("result", status.as_ref().or(expect.error.as_ref()), &result(outcome));
    check.same("body_error", expect.body_error.as_ref(), outcome.body_error.as_deref().unwrap_or("-"));
    if expect.body_error.is_none() && outcome.body_error.is_some() {
        check.note(format!("the body broke off: {:?}", outcome.body_error));
    }
    if !is_bare {
        let attempts = outcome.attempts.map_or_else(|| "not told".to_owned(), |attempts| attempts.to_string());
        check.same("attempts", expect.attempts.map(|n| n.to_string()).as_ref(), &attempts);
        check.same("cluster", expect.cluster.as_ref(), cluster(outcome));
        let endpoint = outcome.endpoint.as_deref().unwrap_or("-");
        check.same("endpoint", expect.endpoint.as_ref(), upstreams.name_of(endpoint).unwrap_or(endpoint));
    }
    if let Some(wanted) = &expect.body {
        check.body(wanted, &from_hex(&outcome.body).unwrap_or_default());
    }
    check.fields("header", &expect.headers, &outcome.headers);
    check.fields("trailer", &expect.trailers, &outcome.trailers);
    check.absent(&expect.absent, &outcome.headers);
    let is_late = expect.within_ms.is_some_and(|most| outcome.ms > most);
    if is_late || expect.at_least_ms.is_some_and(|least| outcome.ms < least) {
        check.note(format!("took {} ms", outcome.ms));
    }
    check.found
}

fn afterwards(scenario: &Scenario, report: &Report, upstreams: &Upstreams) -> Vec<String> {
    let expect: &Afterwards = &scenario.expect;
    let mut check = Check::default();
    for name in scenario.upstreams.keys() {
        let (got, connections) = (upstreams.arrived(name).len(), upstreams.connections(name));
        let wanted = expect.hits.get(name);
        if !wanted.is_none_or(|wanted| wanted.holds(got)) || (wanted.is_none() && got > 0) {
            check.note(format!("upstream {name} got {got} requests, expected {wanted:?}"));
        }
        if let Some(wanted) = expect.connections.get(name).filter(|wanted| !wanted.holds(connections)) {
            check.note(format!("upstream {name} accepted {connections} connections, expected {wanted:?}"));
        }
    }
    for seen in &expect.seen {
        let all = upstreams.arrived(&seen.at);
        match all.get(seen.nth) {
            Some(arrived) => {
                let changed = seen.same_as_first.iter().filter(|name| {
                    arrived.headers.get(*name).is_none() || arrived.headers.get(*name) != all[0].headers.get(*name)
                });
                changed.for_each(|name| check.note(format!("request {} at {}: {name} differs", seen.nth, seen.at)));
                check.arrival(seen, arrived);
            }
            None => check.note(format!("upstream {} got no request {}", seen.at, seen.nth)),
        }
    }
    let samples = report.metrics.as_deref().map(metrics::parse);
    for metric in expect.metrics.iter().filter(|_| samples.is_some()) {
        let labels = metric.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let got = metrics::sum(samples.as_deref().unwrap_or_default(), &metric.name, labels);
        if got != metric.value {
            check.note(format!("{} {:?} is {got}, expected {}", metric.name, metric.labels, metric.value));
        }
    }
    check.found
}

#[derive(Default)]
struct Check {
    found: Vec<String>,
}

impl Check {
    fn note(&mut self, problem: String) {
        self.found.push(problem);
    }

    fn same(&mut self, what: &str, wanted: Option<&String>, got: &str) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != got) {
            self.note(format!("{what} is {got:?}, expected {wanted:?}"));
        }
    }

    fn bytes(&mut self, what: &str, wanted: &[u8], got: &[u8]) {
        if wanted != got {
            let (short, text) = (&got[..got.len().min(SHOWN)], String::from_utf8_lossy(wanted));
            let text: String = text.chars().take(SHOWN).collect();
            let got = String::from_utf8_lossy(short);
            self.note(format!("{what} is {got:?} ({} bytes), expected {text:?} ({})", short.len(), wanted.len()));
        }
    }

    /// Pieces that a deadline cuts off are told by a pattern.
    fn body(&mut self, wanted: &str, got: &[u8]) {
        if wanted.starts_with('~') {
            let text = String::from_utf8_lossy(got);
            if !matches(wanted, &text) {
                self.note(format!("body {text:?} does not match {wanted:?}"));
            }
        } else {
            self.bytes("body", &bytes_of(wanted), got);
        }
    }

    fn fields(&mut self, what: &str, wanted: &BTreeMap<String, String>, got: &[(String, String)]) {
        for (name, wanted) in wanted {
            let mut values = got.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            if !values.any(|value| matches(wanted, value)) {
                self.note(format!("{what} {name} does not match {wanted:?} in {got:?}"));
            }
        }
    }

    fn absent(&mut self, names: &[String], got: &[(String, String)]) {
        for name in names.iter().filter(|name| got.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))) {
            self.note(format!("header {name} is there"));
        }
    }

    fn arrival(&mut self, wanted: &Seen, arrived: &Arrived) {
        let before = self.found.len();
        self.same("method", wanted.method.as_ref(), &arrived.method);
        self.same("target", wanted.target.as_ref(), &arrived.target);
        if let Some(body) = &wanted.body {
            self.bytes("body", &bytes_of(body), &arrived.body);
        }
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Vec<_> =
            arrived.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        self.fields("header", &wanted.headers, &headers);
        self.absent(&wanted.absent, &headers);
        for (name, (least, most)) in &wanted.between {
            let value = arrived.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            if !value.is_some_and(|value| (*least..=*most).contains(&value)) {
                self.note(format!("header {name} is {value:?}, expected {least} to {most}"));
            }
        }
        for problem in &mut self.found[before..] {
            *problem = format!("request {} at {}: {problem}", wanted.nth, wanted.at);
        }
    }
}

/// Equal, or a match of the whole value when the pattern starts with `~`.
fn matches(pattern: &str, value: &str) -> bool {
    match pattern.strip_prefix('~') {
        Some(pattern) => Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(value)),
        None => pattern == value,
    }
}

/// Bytes of a body that a message shows.
const SHOWN: usize = 200;
/// The cluster, or `-`: where a rule answers by itself there is none, which some languages say by an empty text.
fn cluster(outcome: &Outcome) -> &str {
    outcome.cluster.as_deref().filter(|name| !name.is_empty()).unwrap_or("-")
}
