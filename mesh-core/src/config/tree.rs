//! YAML text to a tree in which every node knows its line.
//!
//! Decides: which texts are one YAML document within our limits, and what a plain scalar means
//! (YAML 1.2 core schema: `yes` and `on` are texts). Never: knows what a field means.
//! Invariant: a tree is finite and small: depth, size and what aliases repeat are bounded.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::diagnostic::{Diagnostic, Path, Step};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The value.
    pub value: Value,
}

/// A YAML value under the core schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing was written.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<Entry>),
}

/// A field of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The field's name.
    pub key: String,
    /// Line and column of the name.
    pub place: (u32, u32),
    /// The value. A list, a mapping or nothing stands where its name stands.
    pub node: Node,
}

impl Node {
    /// Reads a text. An empty text is an empty mapping.
    pub fn read(text: &str, origin: &str) -> Result<Node, Vec<Diagnostic>> {
        if text.len() > MAX_BYTES {
            return Err(vec![Diagnostic::error(
                origin,
                "",
                format!("the file is larger than {} MiB", MAX_BYTES >> 20),
            )]);
        }
        let mut reader =
            Reader { parser: Parser::new_from_str(text), origin, anchors: HashMap::new(), size: 0, found: vec![] };
        match reader.document() {
            Ok(node) if reader.found.is_empty() => Ok(node),
            Ok(_) => Err(reader.found),
            Err(Stopped(last)) => {
                reader.found.push(*last);
                Err(reader.found)
            }
        }
    }

    /// Line and column.
    pub fn place(&self) -> (u32, u32) {
        (self.line, self.column)
    }

    /// The place of the field, or of the nearest field above it that was written.
    pub fn place_of(&self, path: &Path<'_>) -> (u32, u32) {
        self.nearest(path).place()
    }

    /// The field, if it was written.
    pub fn find(&self, path: &Path<'_>) -> Option<&Node> {
        path.steps().into_iter().try_fold(self, Node::child)
    }

    fn nearest(&self, path: &Path<'_>) -> &Node {
        let mut node = self;
        for step in path.steps() {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    fn child(&self, step: Step<'_>) -> Option<&Node> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Field(name)) => entries.iter().find(|e| e.key == name).map(|e| &e.node),
            (Value::List(items), Step::Index(index)) => items.get(index),
            _ => None,
        }
    }

    /// The same tree without places; fields with nothing written are left out.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                let written = entries.iter().filter(|entry| entry.node.value != Value::Null);
                serde_json::Value::Object(written.map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }
}

impl Value {
    /// What the value is, for a sentence that starts with "found".
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => format!("{value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) if text.chars().count() > MAX_QUOTED => {
                format!("the text `{}...`", text.chars().take(MAX_QUOTED).collect::<String>())
            }
            Self::Text(text) => format!("the text `{text}`"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// The text cannot be read any further.
struct Stopped(Box<Diagnostic>);

struct Reader<'i> {
    parser: Parser<'i, StrInput<'i>>,
    origin: &'i str,
    anchors: HashMap<usize, (Node, usize)>,
    size: usize,
    found: Vec<Diagnostic>,
}

impl<'i> Reader<'i> {
    fn document(&mut self) -> Result<Node, Stopped> {
        let mut root = None;
        loop {
            let (event, span) = self.next(&Path::ROOT)?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => {
                    return Err(self.stop(place(&span), &Path::ROOT, "a second YAML document in the same file"));
                }
                event => root = Some(self.node(event, &span, &Path::ROOT)?),
            }
        }
        let empty = Node { line: 1, column: 1, value: Value::Map(Vec::new()) };
        Ok(root.filter(|node| node.value != Value::Null).unwrap_or(empty))
    }

    /// The next event that is part of the document's structure: neither a comment nor a remark on an anchor.
    fn next(&mut self, path: &Path<'_>) -> Result<(Event<'i>, Span), Stopped> {
        loop {
            match self.parser.next_event() {
                None => return Ok((Event::StreamEnd, Span::default())),
                Some(Ok((event, span))) if event.is_node() || is_boundary(&event) => return Ok((event, span)),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let marker = error.marker();
                    let at = (count(marker.line()).max(1), count(marker.col()) + 1);
                    return Err(self.stop(at, path, &format!("not valid YAML: {}", error.info())));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'i>, span: &Span, path: &Path<'_>) -> Result<Node, Stopped> {
        let (line, column) = place(span);
        let before = self.size;
        self.grow(1, (line, column), path)?;
        let (value, anchor) = match event {
            Event::Alias(id) => return self.repeat(id, (line, column), path),
            Event::Scalar(text, style, anchor, tag) => {
                let tagged = self.has_text_tag(tag.as_deref(), span, path);
                let plain = style == ScalarStyle::Plain && !tagged;
                (if plain { plain_scalar(&text) } else { Value::Text(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.has_text_tag(tag.as_deref(), span, path);
                (Value::List(self.list(path)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.has_text_tag(tag.as_deref(), span, path);
                (Value::Map(self.map(path)?), anchor)
            }
            _ => return Err(self.stop((line, column), path, "the text ends too early")),
        };
        let node = Node { line, column, value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.size - before));
        }
        Ok(node)
    }

    fn list(&mut self, path: &Path<'_>) -> Result<Vec<Node>, Stopped> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next(path)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            let path = path.index(items.len());
            items.push(self.node(event, &span, &path)?);
        }
    }

    fn map(&mut self, path: &Path<'_>) -> Result<Vec<Entry>, Stopped> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut names: HashMap<String, (u32, u32)> = HashMap::new();
        loop {
            let (event, span) = self.next(path)?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let entry = self.entry(event, &span, path)?;
            match names.insert(entry.key.clone(), entry.place) {
                None => entries.push(entry),
                Some(first) => {
                    let message = format!("the field `{}` is written twice", entry.key);
                    let found = Diagnostic::error(self.origin, path.field(&entry.key), message).at(entry.place);
                    self.found.push(found.hinting(Some(format!("the first one is in line {}", first.0))));
                }
            }
        }
    }

    fn entry(&mut self, event: Event<'i>, span: &Span, path: &Path<'_>) -> Result<Entry, Stopped> {
        let at = place(span);
        let Event::Scalar(key, ..) = event else {
            return Err(self.stop(at, path, "the name of a field is a text, not a list, a mapping or an alias"));
        };
        let key = key.into_owned();
        let below = path.field(&key);
        let (event, span) = self.next(&below)?;
        let mut node = self.node(event, &span, &below)?;
        if matches!(node.value, Value::List(_) | Value::Map(_) | Value::Null) {
            (node.line, node.column) = at;
        }
        Ok(Entry { place: at, node, key })
    }

    /// An alias, which counts as much as what it repeats.
    fn repeat(&mut self, id: usize, at: (u32, u32), path: &Path<'_>) -> Result<Node, Stopped> {
        let Some((_, size)) = self.anchors.get(&id) else {
            return Err(self.stop(at, path, "an alias stands inside the value that it repeats"));
        };
        let size = *size;
        self.grow(size, at, path)?;
        let node = self.anchors.get(&id).map(|(node, _)| node.clone());
        node.ok_or_else(|| self.stop(at, path, "unknown alias"))
    }

    fn grow(&mut self, nodes: usize, at: (u32, u32), path: &Path<'_>) -> Result<(), Stopped> {
        self.size += nodes;
        if self.size > MAX_NODES {
            return Err(self.stop(
                at,
                path,
                &format!("the document has more than {MAX_NODES} values, aliases repeated"),
            ));
        }
        if path.depth() > MAX_DEPTH {
            return Err(self.stop(at, path, &format!("the document is deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// Whether the value is tagged as a text; any tag outside the core schema is an error.
    fn has_text_tag(&mut self, tag: Option<&Tag>, span: &Span, path: &Path<'_>) -> bool {
        let Some(tag) = tag else { return false };
        if tag.core_suffix().is_none() {
            let message = format!("the tag `{}{}` means nothing here", tag.handle(), tag.suffix());
            self.found.push(Diagnostic::error(self.origin, path, message).at(place(&span.tag_span().unwrap_or(*span))));
        }
        tag.core_suffix() == Some("str")
    }

    fn stop(&self, at: (u32, u32), path: &Path<'_>, message: &str) -> Stopped {
        Stopped(Box::new(Diagnostic::error(self.origin, path, message).at(at)))
    }
}

fn is_boundary(event: &Event<'_>) -> bool {
    matches!(
        event,
        Event::SequenceEnd
            | Event::MappingEnd
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
    )
}

fn place(span: &Span) -> (u32, u32) {
    (count(span.start.line()).max(1), count(span.start.col()) + 1)
}

fn count(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX - 1)
}

/// The core schema (YAML 1.2.2, 10.3.2), without infinities: no field of ours takes one.
fn plain_scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok());
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Value::Int(number);
    }
    let numeric =
        text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) && text.bytes().any(|b| b.is_ascii_digit());
    if !numeric || text.starts_with(['e', 'E']) {
        return Value::Text(text.to_owned());
    }
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _) => Value::Int(number),
        (_, Ok(number)) if number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

/// Bytes of one file. Origin: ours; 100 000 endpoints fit.
const MAX_BYTES: usize = 32 << 20;
/// Values in one file, those that aliases repeat included: what an alias bomb runs into.
const MAX_NODES: usize = 2_000_000;
/// Our own format is 9 levels deep.
const MAX_DEPTH: usize = 32;
/// Characters of a text that a message quotes.
const MAX_QUOTED: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_scalar_reads_by_the_core_schema() {
        for (text, value) in [
            ("1", Value::Int(1)),
            ("-1", Value::Int(-1)),
            ("0x1f", Value::Int(31)),
            ("0o17", Value::Int(15)),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
            ("true", Value::Bool(true)),
            ("yes", Value::Text("yes".into())),
            ("10.0.0.1", Value::Text("10.0.0.1".into())),
            ("1.2-3", Value::Text("1.2-3".into())),
            ("~", Value::Null),
            (".inf", Value::Text(".inf".into())),
            ("e5", Value::Text("e5".into())),
            ("5s", Value::Text("5s".into())),
        ] {
            assert_eq!(plain_scalar(text), value, "{text}");
        }
    }

    #[test]
    fn a_quoted_number_is_a_text() {
        let tree = Node::read("a: '1'\nb: !!str 1\n", "x").unwrap();
        let Value::Map(entries) = &tree.value else { panic!("{tree:?}") };
        assert!(entries.iter().all(|entry| entry.node.value == Value::Text("1".into())));
    }

    #[test]
    fn an_alias_bomb_is_refused_and_a_plain_alias_is_not() {
        assert!(Node::read("a: &a [1, 2]\nb: *a\n", "x").is_ok());
        let mut bomb = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", "));
        }
        let found = Node::read(&bomb, "x").unwrap_err();
        assert!(found[0].message.contains("more than"), "{found:?}");
    }

    #[test]
    fn a_tree_that_is_too_deep_is_refused() {
        let found = Node::read(&format!("a: {}{}", "[".repeat(100), "]".repeat(100)), "x").unwrap_err();
        assert!(found[0].message.contains("deeper"), "{found:?}");
        assert!(Node::read(&"[".repeat(100_000), "x").is_err());
        assert!(Node::read(&"- ".repeat(100_000), "x").is_err());
    }

    #[test]
    fn a_node_stands_where_it_is_written() {
        let tree = Node::read("# c\na:\n  b: 1\n  c:\n    - x: 2\n    - y\nd:\n", "x").unwrap();
        let root = Path::ROOT;
        let (a, d) = (root.field("a"), root.field("d"));
        let (b, c) = (a.field("b"), a.field("c"));
        let (first, second) = (c.index(0), c.index(1));
        let missing = first.field("nothing");
        for (path, place) in
            [(a, (2, 1)), (b, (3, 6)), (c, (4, 3)), (first, (5, 7)), (second, (6, 7)), (d, (7, 1)), (missing, (5, 7))]
        {
            assert_eq!(tree.place_of(&path), place, "{path}");
        }
    }
}
