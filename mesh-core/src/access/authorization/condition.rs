//! One condition: a field, values of which one must fit, and values of which none may.

use super::cidr::Cidr;
use super::field::{Field, Value};
use crate::access::attributes::Attributes;
use crate::access::rbac::Pattern;
use crate::route::host;
use crate::route::template::PathTemplate;

/// A field and what is asked of it. An empty list asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) field: Field,
    pub(super) values: Vec<Test>,
    pub(super) not_values: Vec<Test>,
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    Text(Pattern),
    /// The pattern is in lower case.
    AnyCase(Pattern),
    Template(PathTemplate),
    Block(Cidr),
    Port(u16),
}

impl Condition {
    pub(super) fn is_http_only(&self) -> bool {
        self.field.is_http_only()
    }

    pub(super) fn reads_changes(&self) -> bool {
        matches!(self.field, Field::Header(_) | Field::Target)
    }

    /// `widens`: a host that is named without a port is met on every port, too, and a header that came several times
    /// is met by each of its values, too.
    pub(super) fn holds(&self, attributes: &Attributes<'_>, widens: bool) -> bool {
        let one_fits = |tests: &[Test]| self.field.any(attributes, &|value| fits(tests, &value));
        let fits_bare = || {
            let host = (widens && self.field == Field::Host).then(|| host::split_port(attributes.host).0);
            host.is_some_and(|host| fits(&self.values, &Value::Text(host)))
        };
        // Alone, a value may fit which is hidden by those beside it.
        let alone = |test: &dyn Fn(&Value<'_>) -> bool| self.field.any_line(attributes, test);
        let value_fits =
            || one_fits(&self.values) || fits_bare() || widens && alone(&|value| fits(&self.values, value));
        let excluded = || match widens {
            true => one_fits(&self.not_values) && !alone(&|value| !fits(&self.not_values, value)),
            false => one_fits(&self.not_values) || alone(&|value| fits(&self.not_values, value)),
        };
        (self.values.is_empty() || value_fits()) && (self.not_values.is_empty() || !excluded())
    }
}

fn fits(tests: &[Test], value: &Value<'_>) -> bool {
    tests.iter().any(|test| test.fits(value))
}

impl Test {
    fn fits(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Text(pattern), Value::Text(text)) => pattern.matches(text),
            (Self::AnyCase(pattern), Value::Text(text)) => pattern.matches(&text.to_ascii_lowercase()),
            (Self::Template(template), Value::Text(text)) => template.matches(text),
            (Self::Block(block), Value::Ip(address)) => block.contains(*address),
            (Self::Port(port), Value::Port(actual)) => port == actual,
            _ => false,
        }
    }
}
