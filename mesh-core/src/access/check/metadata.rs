//! Dynamic metadata: what a proxy's filters tell each other, in protobuf's form of JSON.
//!
//! Decides: under which names a policy server finds the end user's claims. Never: tells claims that nobody asked to be
//! told. Invariant: what is written and read again says the same; a number is a double, as in protobuf.

use std::collections::HashMap;

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

/// JSON as a protobuf structure.
pub(super) fn structure(fields: Map<String, Value>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name, pb(value))).collect() }
}

/// A protobuf structure as JSON, in the order of its names.
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

/// The namespace of Envoy's filter that verifies tokens.
pub(super) const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// Istio's `payload_in_metadata`.
const PAYLOAD: &str = "payload";
/// 2^53: up to here a double names every whole number.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

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
    fn claims_stand_under_istios_names_and_a_stranger_has_none() {
        let claims = json!({"sub": "alice"});
        let metadata = of_claims(claims.as_object());
        assert_eq!(json(&metadata.filter_metadata[JWT_AUTHN]), json!({"payload": {"sub": "alice"}}));
        assert!(of_claims(None).filter_metadata.is_empty());
    }
}
