//! Dynamic metadata: what a proxy's filters tell each other, in protobuf's form of JSON.
//!
//! Decides: under which names a policy server finds the end user's claims. Never: tells claims that nobody asked to be
//! told. Invariant: what is written and read again says the same; a number is a double, as in protobuf.

use std::collections::HashMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value as PbValue};
use serde_json::{Map, Number, Value};

use crate::access::attributes::Claims;

/// The verified claims, where Istio has Envoy put them; nothing without an end user.
pub(super) fn of_claims(claims: Option<&Claims>) -> Metadata {
    let payload = claims.map(|claims| (PAYLOAD.to_owned(), pb(Value::Object(claims.clone()))));
    let filter_metadata = payload.map(|payload| (JWT_AUTHN.to_owned(), Struct { fields: [payload].into() }));
    Metadata { filter_metadata: filter_metadata.into_iter().collect(), ..Metadata::default() }
}

/// What an access log may show of an answer's metadata, as the text of a JSON object: whole fields in the order of their
/// names as far as they fit, and how many did not. The hints are for the cache.
pub(super) fn logged(structure: &Struct) -> Option<Arc<str>> {
    let mut fields: Vec<_> = structure.fields.iter().filter(|(name, _)| *name != HINTS).collect();
    fields.sort_unstable_by_key(|(name, _)| *name);
    let (mut text, mut omitted) = ("{".to_owned(), 0);
    for (name, value) in fields {
        let field = format!("{}:{},", Value::from(&**name), value_of(value));
        match text.len() + field.len() <= MAX_LOGGED_BYTES {
            true => text += &field,
            false => omitted += 1,
        }
    }
    if omitted > 0 {
        text += &format!("\"{OMITTED}\":{omitted},");
    }
    let inner = text.strip_suffix(',')?;
    Some(format!("{inner}}}").into())
}

/// JSON as a protobuf structure.
pub(super) fn structure(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name, pb(value))).collect() }
}

/// A protobuf structure as JSON, in the order of its names.
#[cfg(any(feature = "rego", test))]
pub(super) fn json(structure: &Struct) -> Value {
    object(&structure.fields)
}

fn pb(value: Value) -> PbValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(yes) => Kind::BoolValue(yes),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(pb).collect() }),
        Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    PbValue { kind: Some(kind) }
}

fn object(fields: &HashMap<String, PbValue>) -> Value {
    Value::Object(fields.iter().map(|(name, value)| (name.clone(), value_of(value))).collect())
}

fn value_of(value: &PbValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(yes)) => Value::Bool(*yes),
        Some(Kind::NumberValue(number)) => number_of(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value_of).collect()),
        Some(Kind::StructValue(inner)) => object(&inner.fields),
    }
}

/// A whole number reads as one, as in protobuf's JSON form. What JSON has no number for is null.
fn number_of(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Namespace of the cache's hints in an answer. Other proxies ignore it.
pub(super) const HINTS: &str = "libmesh.check_cache";
/// Bytes of one answer's metadata in a line of the access log, the count of what was left out not included (ours).
const MAX_LOGGED_BYTES: usize = 1024;
/// Says how many fields were left out.
const OMITTED: &str = "libmesh.omitted";
/// The namespace of Envoy's filter that verifies tokens.
pub(super) const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// Istio's `payload_in_metadata`.
const PAYLOAD: &str = "payload";
/// 2^53: up to here a double names every whole number.
pub(super) const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let given = json!({"a": [1, -2.5, "x", true, null, {"b": {}}], "exp": 1_800_000_000_u64, "n": 0.0});
        let written = structure(given.as_object().unwrap().clone());
        assert_eq!(written.fields["exp"].kind, Some(Kind::NumberValue(1_800_000_000.0)));
        let expected = json!({"a": [1, -2.5, "x", true, null, {"b": {}}], "exp": 1_800_000_000_u64, "n": 0});
        assert_eq!(json(&written), expected);
        for (number, text) in [(f64::NAN, "null"), (f64::INFINITY, "null"), (1e300, "1e+300"), (-0.0, "0")] {
            assert_eq!(number_of(number).to_string(), text);
        }
    }

    #[test]
    fn a_log_shows_whole_fields_up_to_a_kibibyte_and_says_what_it_left_out() {
        let shown = |given: Value| logged(&structure(given.as_object().unwrap().clone()));
        assert_eq!(shown(json!({})), None);
        assert_eq!(shown(json!({"libmesh.check_cache": {"valid_duration": "1s"}})), None);
        let some = shown(json!({"b": {"x": [1, "\n\""]}, "a\"": 0.5, "libmesh.check_cache": 1})).unwrap();
        assert_eq!(&*some, r#"{"a\"":0.5,"b":{"x":[1,"\n\""]}}"#);
        // A brace, the quoted name, a colon, two quotes and a comma: 7 bytes around the text.
        for (bytes, is_shown) in [(MAX_LOGGED_BYTES - 8, true), (MAX_LOGGED_BYTES - 7, false)] {
            let text = shown(json!({"a": "x".repeat(bytes)})).unwrap();
            assert_eq!(text.contains('x'), is_shown, "{bytes}");
            assert!(text.len() <= MAX_LOGGED_BYTES + 40, "{}", text.len());
        }
        let mixed = shown(json!({"a": "x".repeat(2000), "b": 1, "c": "y".repeat(2000)})).unwrap();
        assert_eq!(&*mixed, r#"{"b":1,"libmesh.omitted":2}"#);
    }

    #[test]
    fn claims_stand_under_istios_names_and_a_stranger_has_none() {
        let claims = json!({"sub": "alice"});
        let metadata = of_claims(claims.as_object());
        assert_eq!(json(&metadata.filter_metadata[JWT_AUTHN]), json!({"payload": {"sub": "alice"}}));
        assert!(of_claims(None).filter_metadata.is_empty());
    }
}
