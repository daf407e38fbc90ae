//! `mesh explain`: which rule takes a request, why the others do not, and what happens to it then.
//!
//! Invariant: the answer comes from the compiled routes a process would use; this file only words it.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use mesh_core::compile::endpoints_of;
use mesh_core::config::{Balancer, Cluster, Document, Endpoint, RetryJitter, Route, Rule, TimeSpan, TlsMode};
use mesh_core::policy::retry::is_idempotent;
use mesh_core::route::answer::Answer;
use mesh_core::route::{Matched, Miss, RequestHead, RouteTable};
use mesh_core::snapshot::{Action, Snapshot, To};

use crate::load::load;
use crate::paint::{self, Paint};
use crate::request::Asked;
use crate::rule_text::conditions;
use crate::table::Table;

/// Explains, with exit code 1 when no rule takes the request.
pub fn run(file: &Path, asked: &Asked) -> Result<ExitCode, String> {
    let loaded = load(file);
    let Some(snapshot) = loaded.snapshot else {
        let first = loaded.findings.iter().find(|finding| finding.is_error()).map(ToString::to_string);
        return Err(format!(
            "{}\nrun `mesh check {}` for everything that is wrong",
            first.unwrap_or_default(),
            file.display()
        ));
    };
    let explained = Explanation {
        snapshot: &snapshot,
        base: file.parent().unwrap_or(Path::new("")),
        asked,
        paint: paint::for_stdout(),
    };
    let (text, is_routed) = explained.text();
    paint::print(&text)?;
    Ok(if is_routed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Explanation<'a> {
    snapshot: &'a Snapshot,
    /// What relative paths in the document are relative to.
    base: &'a Path,
    asked: &'a Asked,
    paint: Paint,
}

impl Explanation<'_> {
    fn text(&self) -> (String, bool) {
        let authority = self.asked.authority().unwrap_or_default();
        // As a request of this process; who asks an ingress is not known here.
        let own = self.document().identity.as_ref().map(|identity| identity.spiffe_id.as_str());
        let head = RequestHead::new(&self.asked.method, &self.asked.uri, &self.asked.headers).asked_by(own);
        let mut out = format!("{} http://{authority}{}\n", self.asked.method, self.asked.target());
        for (name, value) in &self.asked.headers {
            let _ = writeln!(out, "  {name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        out.push('\n');
        let routes = &self.snapshot.routes;
        match routes.lookup(authority, head) {
            Err(Miss::NoHost) => {
                out += &self.no_host(authority);
                (out, false)
            }
            Err(Miss::NoRule) => {
                out += &self.trials(authority, head, None);
                let _ = writeln!(
                    out,
                    "\n{}: no rule of this route matches and no other route is tried: the call fails with no_route (404)",
                    self.paint.error("no route")
                );
                (out, false)
            }
            Ok(matched) => {
                out += &self.trials(authority, head, Some(matched.rule_index));
                out += &self.consequences(authority, &matched);
                (out, true)
            }
        }
    }

    fn no_host(&self, authority: &str) -> String {
        let hosts = self.document().routes.iter().flat_map(|route| &route.hosts).map(|host| host.as_str());
        let hosts: Vec<&str> = hosts.collect();
        let known = if hosts.is_empty() {
            "the file has no routes".to_owned()
        } else {
            format!("the hosts are {}", hosts.join(", "))
        };
        format!(
            "{}: no route is for host `{authority}`: the call fails with no_route (404); {known}\n",
            self.paint.error("no route")
        )
    }

    fn trials(&self, authority: &str, head: RequestHead<'_>, taken: Option<usize>) -> String {
        let Some(route) = self.route(authority) else { return String::new() };
        let hosts: Vec<&str> = route.hosts.iter().map(|host| host.as_str()).collect();
        let mut out = format!("route {} (hosts {})\n", self.paint.strong(route.label()), hosts.join(", "));
        let names = rule_names(&self.snapshot.routes, authority);
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for trial in self.snapshot.routes.explain(authority, head) {
            let (mark, why) = match &trial.failed {
                Some(failed) => (self.paint.error("no "), format!("not met: {failed}")),
                None => {
                    let wanted = taken.and_then(|at| route.rules.get(at)).map(|rule| conditions(&rule.matches));
                    (self.paint.good("yes"), format!("takes {}", wanted.unwrap_or_default()))
                }
            };
            let _ = writeln!(out, "  {mark}  {:<width$}  {why}", trial.rule);
        }
        for name in taken.map_or(&[][..], |at| &names[at + 1..]) {
            let _ = writeln!(
                out,
                "  {}  {name:<width$}  {}",
                self.paint.faint("-  "),
                self.paint.faint("not tried: the first match wins")
            );
        }
        out
    }

    fn consequences(&self, authority: &str, matched: &Matched<'_, Action>) -> String {
        let Some((route, rule)) =
            self.route(authority).and_then(|route| Some((route, route.rules.get(matched.rule_index)?)))
        else {
            return String::new();
        };
        let mut lines = vec![
            ("rule", format!("{} of route {}", matched.rule.name, route.label())),
            ("timeout", self.timeouts(rule)),
            ("retry", self.retries(rule)),
        ];
        lines.extend(self.hedges(rule).map(|hedges| ("hedge", hedges)));
        lines.extend(self.rewritten(matched).map(|rewritten| ("rewrite", rewritten)));
        let copies = rule.mirror.iter().map(|copy| format!("{} % to {}", copy.percent.0, copy.cluster.as_str()));
        lines.extend(copies.map(|copy| ("mirror", copy)));
        let mut out = String::from("\n");
        for (title, line) in lines {
            let _ = writeln!(out, "{:<8}  {line}", self.paint.strong(&format!("{title:<8}")));
        }
        let split = match &matched.rule.action.to {
            To::Backends { split, .. } => split,
            To::Answer(answer) => {
                let _ = writeln!(out, "{:<8}  {}", self.paint.strong("answer  "), self.answered(answer, matched));
                return out;
            }
        };
        let total: u64 = split.iter().map(|(weight, _)| u64::from(weight)).sum();
        for (weight, target) in split.iter() {
            let cluster = &target.cluster;
            let percent = f64::from(weight) * 100.0 / total.max(1) as f64;
            let _ = writeln!(
                out,
                "\n{:<8}  {}: weight {weight}, {percent:.1} %",
                self.paint.strong("backend "),
                cluster.name
            );
            out += &self.cluster(&cluster.name);
        }
        out
    }

    /// What the rule answers by itself.
    fn answered(&self, answer: &Answer, matched: &Matched<'_, Action>) -> String {
        let uri = format!("http://{}{}", self.asked.authority().unwrap_or_default(), self.asked.target());
        let uri = uri.parse().unwrap_or_else(|_| self.asked.uri.clone());
        match answer.respond::<bytes::Bytes>(&uri, matched.prefix_len) {
            Err(error) => format!("fails: {error}"),
            Ok(response) => match response.headers().get("location") {
                Some(to) => format!("{} to {}", response.status(), String::from_utf8_lossy(to.as_bytes())),
                None => format!("{}, {} bytes", response.status(), response.body().len()),
            },
        }
    }

    fn timeouts(&self, rule: &Rule) -> String {
        let defaults = &self.document().defaults;
        let whole =
            bound(rule.timeout.unwrap_or(defaults.timeout), "for the whole request", "no limit for the whole request");
        let attempt = bound(
            rule.attempt_timeout.unwrap_or(defaults.attempt_timeout),
            "for each attempt",
            "no limit for an attempt",
        );
        format!("{whole}, {attempt}")
    }

    fn retries(&self, rule: &Rule) -> String {
        let defaults = &self.document().defaults;
        let retry = rule.retry.as_ref().map_or_else(|| defaults.retry.clone(), |own| own.over(&defaults.retry));
        if retry.attempts == 0 || retry.conditions.is_empty() {
            return "never".to_owned();
        }
        let conditions = serde_json::to_value(&retry.conditions).unwrap_or_default();
        let conditions: Vec<&str> =
            conditions.as_array().into_iter().flatten().filter_map(|name| name.as_str()).collect();
        let waits = match retry.jitter {
            RetryJitter::Envoy => format!("random wait up to {}, doubling to {}", retry.base, retry.max),
            other => format!("wait from {} by {} to {}, jitter {other:?}", retry.base, retry.multiplier, retry.max),
        };
        let safety = if is_idempotent(&self.asked.method) || retry.non_idempotent {
            String::new()
        } else {
            format!("; {} only if the endpoint provably did not process it", self.asked.method)
        };
        format!("up to {} more on {}; {waits}{safety}", retry.attempts, conditions.join(", "))
    }

    fn hedges(&self, rule: &Rule) -> Option<String> {
        let base = &self.document().defaults.hedge;
        let hedge = match &rule.hedge {
            Some(own) => own.over(&base.clone().unwrap_or_default()),
            None => base.clone()?,
        };
        let copies = format!("up to {} more, {} after the latest", hedge.max_hedges, hedge.delay);
        (hedge.max_hedges > 0).then_some(copies)
    }

    fn rewritten(&self, matched: &Matched<'_, Action>) -> Option<String> {
        let rewrite = matched.rule.action.rewrite.as_ref().filter(|rewrite| !rewrite.is_none())?;
        let (mut uri, mut headers) = (self.asked.uri.clone(), self.asked.headers.clone());
        if let Err(error) = rewrite.apply(&mut uri, &mut headers, matched.taken()) {
            return Some(format!("fails: {error}"));
        }
        let sent = Asked { method: self.asked.method.clone(), uri, headers };
        Some(format!("sent as {} http://{}{}", sent.method, sent.authority().unwrap_or_default(), sent.target()))
    }

    fn cluster(&self, name: &str) -> String {
        let Some(cluster) = self.document().clusters.iter().find(|cluster| cluster.name.as_str() == name) else {
            return String::new();
        };
        let balancer = match cluster.balancer.unwrap_or(self.document().defaults.balancer) {
            Balancer::PeakEwma => "peak_ewma",
            Balancer::LeastRequest => "least_request",
            Balancer::RoundRobin => "round_robin",
            Balancer::Random => "random",
            Balancer::WeightedRoundRobin => "weighted_round_robin",
            Balancer::RingHash => "ring_hash",
            Balancer::Maglev => "maglev",
        };
        let mode = self.mode(cluster, None);
        let mut out = format!("          {balancer}, {}\n", security(cluster, mode));
        match self.endpoints(cluster) {
            Err(reason) => out += &format!("          {}\n", self.paint.error(&reason)),
            Ok(endpoints) if endpoints.is_empty() => {
                out += "          no endpoint: every request fails with no_endpoint (503)\n"
            }
            Ok(endpoints) => {
                let mut table = Table::default();
                for endpoint in &endpoints {
                    table.row(self.endpoint(cluster, endpoint));
                }
                out += &table.render("          ");
            }
        }
        out
    }

    fn endpoint(&self, cluster: &Cluster, endpoint: &Endpoint) -> [String; 4] {
        let place =
            endpoint.locality.as_ref().map_or_else(String::new, |place| format!("{}/{}", place.region, place.zone));
        let own = self.mode(cluster, Some(endpoint));
        let differs = match own {
            same if same == self.mode(cluster, None) => "",
            TlsMode::Plaintext => "plaintext",
            TlsMode::Mutual => "mutual TLS",
            TlsMode::Simple => "TLS",
        };
        [endpoint.address.to_string(), format!("weight {}", endpoint.weight.0), place, differs.to_owned()]
    }

    fn endpoints(&self, cluster: &Cluster) -> Result<Vec<Endpoint>, String> {
        match (&cluster.endpoints, &cluster.endpoints_file) {
            (Some(endpoints), _) => Ok(endpoints.clone()),
            (None, Some(file)) => {
                let read = endpoints_of(&self.base.join(file), None)?;
                Ok(read.into_iter().map(Arc::unwrap_or_clone).collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    fn mode(&self, cluster: &Cluster, endpoint: Option<&Endpoint>) -> TlsMode {
        let default = if self.document().identity.is_some() { TlsMode::Mutual } else { TlsMode::Plaintext };
        endpoint.and_then(|endpoint| endpoint.tls).or(cluster.tls.mode).unwrap_or(default)
    }

    fn route(&self, authority: &str) -> Option<&Route> {
        let host = self.snapshot.routes.virtual_host(authority)?;
        // Routes are compiled one to one, in the order written.
        let at = self.snapshot.routes.virtual_hosts().iter().position(|candidate| std::ptr::eq(candidate, host))?;
        self.document().routes.get(at)
    }

    fn document(&self) -> &Document {
        &self.snapshot.document
    }
}

fn rule_names<'t>(routes: &'t RouteTable<Action>, authority: &str) -> Vec<&'t str> {
    routes
        .virtual_host(authority)
        .map_or_else(Vec::new, |host| host.rules.iter().map(|rule| rule.name.as_str()).collect())
}

fn bound(span: TimeSpan, what: &str, none: &str) -> String {
    if span.is_zero() { none.to_owned() } else { format!("{span} {what}") }
}

fn security(cluster: &Cluster, mode: TlsMode) -> String {
    match mode {
        TlsMode::Plaintext => "plaintext".to_owned(),
        TlsMode::Mutual => {
            let ids: Vec<&str> = cluster.tls.server_ids.iter().map(|id| id.as_str()).collect();
            format!("mutual TLS with {}", ids.join(" or "))
        }
        TlsMode::Simple => {
            let roots =
                cluster.tls.ca_file.as_ref().map_or("the system's roots".to_owned(), |file| file.display().to_string());
            format!("TLS with {}, by {roots}", cluster.server_name().unwrap_or("the host of each endpoint"))
        }
    }
}
