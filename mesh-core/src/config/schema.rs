//! The JSON Schema of the document, and every way in which a tree breaks it.
//!
//! Decides: unknown fields, wrong types, malformed values, missing fields: all of them in one pass.
//! Never: looks across fields; that is [`super::check`].
//! Invariant: a tree without findings deserialises.

use std::sync::OnceLock;

use schemars::JsonSchema;
use serde_json::Value as Json;

use super::cluster::Endpoint;
use super::diagnostic::{Diagnostic, Path, did_you_mean};
use super::document::Document;
use super::duration::TimeSpan;
use super::end_user::ClaimPath;
use super::hedge::HedgeDelay;
use super::path_template::{RewriteText, TemplateText};
use super::policy::CacheAttribute;
use super::telemetry::LogTarget;
use super::tree::{Entry, Node, Value};
use super::value::{
    AddressText, HeaderName, HostPattern, HostText, Method, Name, PathText, RegexText, ServerNameText, SpiffeIdText,
    TextPattern, TextValue, TrustDomainText, ValueError,
};

/// The JSON Schema (draft 2020-12) of a configuration file, for editors.
pub fn json_schema() -> Json {
    document_schema().clone()
}

/// Every way in which the tree is not a [`Document`].
pub fn document_findings(tree: &Node, origin: &str) -> Vec<Diagnostic> {
    findings(document_schema(), tree, origin)
}

/// Every way in which the tree is not a list of [`Endpoint`].
pub fn endpoints_findings(tree: &Node, origin: &str) -> Vec<Diagnostic> {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    findings(SCHEMA.get_or_init(schema_of::<Vec<Endpoint>>), tree, origin)
}

fn document_schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(schema_of::<Document>)
}

fn schema_of<T: JsonSchema>() -> Json {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

fn findings(schema: &Json, tree: &Node, origin: &str) -> Vec<Diagnostic> {
    let mut walker = Walker { root: schema, origin, found: Vec::new() };
    walker.walk(tree, schema, &Path::ROOT);
    walker.found
}

struct Walker<'s> {
    root: &'s Json,
    origin: &'s str,
    found: Vec<Diagnostic>,
}

impl<'s> Walker<'s> {
    fn walk(&mut self, node: &Node, schema: &'s Json, path: &Path<'_>) {
        let Some(schema) = self.choose(&node.value, schema) else {
            return self.refuse_type(node, schema, path);
        };
        let words = words(schema);
        if !words.is_empty() {
            return self.walk_word(node, &words, path);
        }
        match &node.value {
            Value::Map(entries) => self.walk_map(node, entries, (schema, path)),
            Value::List(items) => self.walk_list(node, items, (schema, path)),
            Value::Text(text) => self.walk_text(node, text, (schema, path)),
            Value::Int(number) => self.walk_number(node, *number as f64, (schema, path)),
            Value::Float(number) => self.walk_number(node, *number, (schema, path)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// The schema that speaks about this kind of value, references and alternatives resolved.
    fn choose(&self, value: &Value, schema: &'s Json) -> Option<&'s Json> {
        let schema = self.resolve(schema);
        match schema.get("anyOf").and_then(Json::as_array) {
            Some(alternatives) => alternatives.iter().find_map(|alternative| self.choose(value, alternative)),
            None => takes(schema, value).then_some(schema),
        }
    }

    fn resolve(&self, mut schema: &'s Json) -> &'s Json {
        while let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            match self.root.pointer(reference.trim_start_matches('#')) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    fn refuse_type(&mut self, node: &Node, schema: &'s Json, path: &Path<'_>) {
        let mut expected = Vec::new();
        self.describe(schema, &mut expected);
        let format = self.resolve(schema).get("format").and_then(Json::as_str);
        let hint = match (&node.value, format) {
            (Value::Int(number), Some(TimeSpan::FORMAT)) => Some(format!("add a unit: `{number}s` or `{number}ms`")),
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), _) if expected.iter().any(|e| e == "a text") => {
                Some("put it in quotes".to_owned())
            }
            _ => None,
        };
        let message = format!("wrong type: found {}", node.value.describe());
        let found = Diagnostic::error(self.origin, path, message).at(node.place());
        self.found.push(found.expecting(expected.join(" or ")).hinting(hint));
    }

    /// What a schema takes, in words, "nothing" left out.
    fn describe(&self, schema: &'s Json, expected: &mut Vec<String>) {
        let schema = self.resolve(schema);
        for alternative in schema.get("anyOf").and_then(Json::as_array).into_iter().flatten() {
            self.describe(alternative, expected);
        }
        let words = words(schema);
        if !words.is_empty() {
            return expected.push(format!("one of {}", words.join(", ")));
        }
        if let Some(format) = schema.get("format").and_then(Json::as_str).and_then(format_of) {
            return expected.push(format.expected.to_owned());
        }
        let names = types(schema).into_iter().filter_map(|name| TYPE_NAMES.iter().find(|(json, _)| *json == name));
        expected.extend(names.map(|(_, words)| (*words).to_owned()));
    }

    fn walk_word(&mut self, node: &Node, words: &[&str], path: &Path<'_>) {
        let word = match &node.value {
            Value::Text(text) => text.as_str(),
            Value::Null => return,
            _ => "",
        };
        if !words.contains(&word) {
            let message = format!("unknown value: found {}", node.value.describe());
            let found = Diagnostic::error(self.origin, path, message).at(node.place());
            let hint = did_you_mean(word, words.iter().copied());
            self.found.push(found.expecting(format!("one of {}", words.join(", "))).hinting(hint));
        }
    }

    fn walk_map(&mut self, node: &Node, entries: &[Entry], (schema, path): (&'s Json, &Path<'_>)) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let others = schema.get("additionalProperties");
        let required: Vec<&str> = strings(schema.get("required")).collect();
        for entry in entries {
            let below = path.field(&entry.key);
            let known = properties.and_then(|properties| properties.get(&entry.key));
            match known.or(others.filter(|others| others.is_object())) {
                Some(schema) if self.may_be_left_out(entry, &required, schema) => {}
                Some(schema) if entry.node.value == Value::Null => self.refuse_type(&entry.node, schema, &below),
                Some(schema) => self.walk(&entry.node, schema, &below),
                None if others == Some(&Json::Bool(false)) => {
                    let names: Vec<&str> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                    self.refuse_field(entry, &names, &below);
                }
                None => {}
            }
        }
        for name in required.iter().filter(|name| !entries.iter().any(|entry| entry.key == **name)) {
            let found = Diagnostic::error(self.origin, path, format!("the field `{name}` is missing"));
            self.found.push(found.at(node.place()));
        }
    }

    fn may_be_left_out(&self, entry: &Entry, required: &[&str], schema: &'s Json) -> bool {
        entry.node.value == Value::Null && !required.contains(&entry.key.as_str()) && self.may_be_empty(schema)
    }

    /// Whether a field may be written without a value: a section with all of its lines commented out.
    /// A scalar may not, nor a list that must have entries: an empty `principals:` would let everybody in.
    fn may_be_empty(&self, schema: &'s Json) -> bool {
        let schema = self.resolve(schema);
        if let Some(alternatives) = schema.get("anyOf").and_then(Json::as_array) {
            let mut written = alternatives.iter().filter(|alternative| types(self.resolve(alternative)) != ["null"]);
            return written.all(|alternative| self.may_be_empty(alternative));
        }
        let is_section = types(schema).iter().any(|name| matches!(*name, "object" | "array"));
        is_section && schema.get("minItems").is_none()
    }

    fn refuse_field(&mut self, entry: &Entry, names: &[&str], path: &Path<'_>) {
        let message = format!("unknown field `{}`", entry.key);
        let found = Diagnostic::error(self.origin, path, message).at(entry.place);
        let hint = did_you_mean(&entry.key, names.iter().copied());
        self.found.push(found.expecting(format!("one of {}", names.join(", "))).hinting(hint));
    }

    fn walk_list(&mut self, node: &Node, items: &[Node], (schema, path): (&'s Json, &Path<'_>)) {
        let least = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
        if (items.len() as u64) < least {
            self.found
                .push(Diagnostic::error(self.origin, path, "the list is empty").at(node.place()).expecting("an entry"));
        }
        let Some(schema) = schema.get("items") else { return };
        for (index, item) in items.iter().enumerate() {
            self.walk(item, schema, &path.index(index));
        }
    }

    fn walk_text(&mut self, node: &Node, text: &str, (schema, path): (&'s Json, &Path<'_>)) {
        let refuse = |message: String| Diagnostic::error(self.origin, path, message).at(node.place());
        let least = schema.get("minLength").and_then(Json::as_u64).unwrap_or(0);
        let most = schema.get("maxLength").and_then(Json::as_u64).unwrap_or(u64::MAX);
        let length = text.chars().count() as u64;
        let rooted = schema.get("pattern").and_then(Json::as_str) == Some("^/");
        let format = schema.get("format").and_then(Json::as_str).and_then(format_of);
        let found = if length < least {
            Some(refuse("the text is empty".into()))
        } else if length > most {
            Some(refuse(format!("the text has {length} characters; at most {most} are allowed")))
        } else if rooted && !text.starts_with('/') {
            Some(refuse(format!("`{text}` does not start with `/`")).expecting("a path like /a/b"))
        } else {
            let parsed = format.map(|format| ((format.parse)(text), format));
            parsed.and_then(|(result, format)| result.err().map(|error| (error, format))).map(|(error, format)| {
                let found = refuse(format!("{}: found {}", error.message, node.value.describe()));
                found.expecting(format.expected).hinting(error.hint)
            })
        };
        self.found.extend(found);
    }

    fn walk_number(&mut self, node: &Node, number: f64, (schema, path): (&'s Json, &Path<'_>)) {
        let bound = |name| schema.get(name).and_then(Json::as_f64);
        let widest = match schema.get("format").and_then(Json::as_str) {
            Some("uint32") => Some(f64::from(u32::MAX)),
            Some("uint16") => Some(f64::from(u16::MAX)),
            _ => None,
        };
        let (low, high) = (bound("minimum"), bound("maximum").or(widest));
        if low.is_none_or(|low| number >= low) && high.is_none_or(|high| number <= high) {
            return;
        }
        let expected = match (low, high) {
            (Some(low), Some(high)) if low == high => format!("{low}"),
            (Some(low), Some(high)) => format!("{low} to {high}"),
            (Some(low), None) => format!("{low} or more"),
            (None, Some(high)) => format!("{high} or less"),
            (None, None) => String::new(),
        };
        let message = format!("out of range: found {}", node.value.describe());
        self.found.push(Diagnostic::error(self.origin, path, message).at(node.place()).expecting(expected));
    }
}

/// A `format` of ours: how to read it and what it looks like.
struct Format {
    name: &'static str,
    expected: &'static str,
    parse: fn(&str) -> Result<(), ValueError>,
}

const fn format<T: TextValue>() -> Format {
    Format { name: T::FORMAT, expected: T::EXPECTED, parse: |text| T::parse(text).map(drop) }
}

fn format_of(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

/// The texts that the schema lists, as `enum`, as `const` or as alternatives of these.
fn words(schema: &Json) -> Vec<&str> {
    let own = strings(schema.get("enum")).chain(schema.get("const").and_then(Json::as_str));
    let below = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten().flat_map(words);
    own.chain(below).collect()
}

fn strings(list: Option<&Json>) -> impl Iterator<Item = &str> {
    list.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn types(schema: &Json) -> Vec<&str> {
    let one = schema.get("type").and_then(Json::as_str);
    one.into_iter().chain(strings(schema.get("type"))).collect()
}

/// Whether the schema speaks about this kind of value.
fn takes(schema: &Json, value: &Value) -> bool {
    let types = types(schema);
    if types.is_empty() {
        return words(schema).is_empty() || matches!(value, Value::Text(_));
    }
    types.iter().any(|name| match value {
        Value::Null => *name == "null",
        Value::Bool(_) => *name == "boolean",
        Value::Int(_) => matches!(*name, "integer" | "number"),
        Value::Float(_) => *name == "number",
        Value::Text(_) => *name == "string",
        Value::List(_) => *name == "array",
        Value::Map(_) => *name == "object",
    })
}

const FORMATS: [Format; 19] = [
    format::<TimeSpan>(),
    format::<HedgeDelay>(),
    format::<Name>(),
    format::<AddressText>(),
    format::<HostText>(),
    format::<ServerNameText>(),
    format::<HostPattern>(),
    format::<TextPattern>(),
    format::<SpiffeIdText>(),
    format::<TrustDomainText>(),
    format::<HeaderName>(),
    format::<Method>(),
    format::<RegexText>(),
    format::<PathText>(),
    format::<TemplateText>(),
    format::<RewriteText>(),
    format::<CacheAttribute>(),
    format::<LogTarget>(),
    format::<ClaimPath>(),
];
const TYPE_NAMES: [(&str, &str); 6] = [
    ("boolean", "true or false"),
    ("integer", "a whole number"),
    ("number", "a number"),
    ("string", "a text"),
    ("array", "a list"),
    ("object", "a mapping"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every keyword the generated schema uses is one the walker knows; a new one must not be ignored in silence.
    #[test]
    fn the_schema_uses_no_keyword_that_the_walker_ignores() {
        fn visit(schema: &Json) {
            let Some(object) = schema.as_object() else { return };
            for (keyword, value) in object {
                match keyword.as_str() {
                    "$defs" | "properties" => value.as_object().unwrap().values().for_each(visit),
                    "items" | "additionalProperties" => visit(value),
                    "anyOf" | "oneOf" => value.as_array().unwrap().iter().for_each(visit),
                    "pattern" => assert_eq!(value, "^/"),
                    "format" => {
                        let name = value.as_str().unwrap();
                        assert!(format_of(name).is_some() || ["uint32", "uint16", "double"].contains(&name), "{name}");
                    }
                    "$schema" | "$ref" | "title" | "description" | "default" | "type" | "required" | "enum"
                    | "const" => {}
                    "minimum" | "maximum" | "minItems" | "minLength" | "maxLength" => {}
                    other => panic!("the walker does not know `{other}`"),
                }
            }
        }
        visit(document_schema());
    }

    #[test]
    fn every_field_of_the_schema_has_a_description() {
        let schema = json_schema();
        let definitions = schema["$defs"].as_object().unwrap();
        let objects = definitions.iter().map(|(name, object)| (name.as_str(), object)).chain([("Document", &schema)]);
        let mut fields = 0;
        for (name, definition) in objects {
            for (field, property) in definition["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].is_string(), "{name}.{field}");
                fields += 1;
            }
        }
        assert!(fields > 100, "{fields}");
    }
}
