//! What an expression asks for, and whether it may.

use std::collections::HashMap;

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};
use regex::{Regex, RegexBuilder};

use super::one_line;
use super::vocabulary::{Term, is_root, names};

/// An expression whose every name is known and whose cost is bounded.
pub(super) fn of(expression: &IdedExpr) -> Result<Survey, String> {
    let mut survey = Survey::default();
    survey.visit(expression, 0)?;
    Ok(survey)
}

#[derive(Default)]
pub(super) struct Survey {
    pub(super) terms: Vec<Term>,
    /// The patterns that are written in it, compiled.
    pub(super) patterns: HashMap<String, Regex>,
    /// Variables of the loop that is looked at.
    bound: Vec<String>,
}

impl Survey {
    fn visit(&mut self, expression: &IdedExpr, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH}"));
        }
        if let Some(segments) = self.path(&expression.expr) {
            return self.name(&segments);
        }
        match &expression.expr {
            Expr::Call(call) => {
                if !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(format!("unknown function `{}`: there are {}", call.func_name, shown_functions()));
                }
                if call.func_name == MATCHES {
                    let (pattern, compiled) = compile_pattern(call.args.last())?;
                    self.patterns.insert(pattern, compiled);
                }
                call.target
                    .iter()
                    .map(|target| &**target)
                    .chain(&call.args)
                    .try_for_each(|part| self.visit(part, depth + 1))
            }
            Expr::Select(select) => self.visit(&select.operand, depth + 1),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element, depth + 1)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key, depth + 1).and_then(|()| self.visit(&entry.value, depth + 1))
                }
                EntryExpr::StructField(_) => Err(NO_MESSAGES.to_owned()),
            }),
            Expr::Comprehension(inner) => self.visit_loop(inner, depth + 1),
            Expr::Struct(_) => Err(NO_MESSAGES.to_owned()),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    /// A loop in a loop would cost the product of what a caller sends.
    fn visit_loop(&mut self, inner: &ComprehensionExpr, depth: usize) -> Result<(), String> {
        if !self.bound.is_empty() {
            return Err("a loop stands inside another: its cost would have no useful bound".to_owned());
        }
        self.visit(&inner.iter_range, depth)?;
        self.bound = [&inner.iter_var, &inner.accu_var].into_iter().chain(&inner.iter_var2).cloned().collect();
        let parts = [&inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result];
        parts.into_iter().try_for_each(|part| self.visit(part, depth))?;
        self.bound.clear();
        Ok(())
    }

    /// `a.b.c` as segments, where `a` is a variable that no loop makes.
    fn path<'e>(&self, expression: &'e Expr) -> Option<Vec<&'e str>> {
        let mut segments = Vec::new();
        let mut at = expression;
        loop {
            match at {
                Expr::Select(select) => {
                    segments.push(select.field.as_str());
                    at = &select.operand.expr;
                }
                Expr::Ident(name) if !self.bound.contains(name) => {
                    segments.push(name);
                    segments.reverse();
                    return Some(segments);
                }
                _ => return None,
            }
        }
    }

    fn name(&mut self, segments: &[&str]) -> Result<(), String> {
        let Some(term) = Term::of(segments) else {
            let name = segments.join(".");
            let what = if is_root(&name) { "is no value by itself" } else { "is not known" };
            return Err(format!("`{name}` {what}: there are {}", names()));
        };
        if !self.terms.contains(&term) {
            self.terms.push(term);
        }
        Ok(())
    }
}

/// A pattern that a caller could choose would have to be compiled for each request.
fn compile_pattern(pattern: Option<&IdedExpr>) -> Result<(String, Regex), String> {
    let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern.map(|pattern| &pattern.expr) else {
        return Err("`matches` takes a pattern that is written out".to_owned());
    };
    let compiled = RegexBuilder::new(pattern.inner()).size_limit(MAX_PATTERN).build();
    let compiled = compiled.map_err(|error| format!("`matches`: {}", one_line(&error.to_string())))?;
    Ok((pattern.inner().to_owned(), compiled))
}

fn shown_functions() -> String {
    let shown = FUNCTIONS.iter().filter(|name| name.starts_with(|first: char| first.is_ascii_alphabetic()));
    shown.copied().collect::<Vec<_>>().join(", ")
}

const NO_MESSAGES: &str = "there are no messages to construct";
pub(super) const MATCHES: &str = "matches";
/// Levels of an expression; the parser takes no more than 96.
const MAX_DEPTH: usize = 32;
/// Bytes of a compiled pattern: what the regex crate's own default is a tenth of.
const MAX_PATTERN: usize = 1 << 20;
const FUNCTIONS: &[&str] = &[
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
    MATCHES,
    "contains",
    "double",
    "endsWith",
    "int",
    "size",
    "startsWith",
    "string",
];
