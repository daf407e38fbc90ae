//! JSON that can be read in one way only.
//!
//! Decides: which bytes are an object. Never: takes the last of two members of one name, as most readers do: whoever
//! signed and whoever reads would see two different tokens. Invariant: no object in the result had a name twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The object that these bytes are; `None` for anything else, and for a name that is written twice at any depth.
pub(super) fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict::deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match read.0 {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(Strict(element)) = list.next_element()? {
            read.push(element);
        }
        Ok(Value::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let Strict(value) = members.next_value()?;
            if read.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is written twice"));
            }
        }
        Ok(Value::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_serde_reads_it_unless_a_name_is_there_twice() {
        for text in [r#"{"a":1,"b":[true,null,-2,1.5,"x"],"c":{"d":{}}}"#, "{}", " {\"a\":\"\\u00e9\"} "] {
            let usual: Value = serde_json::from_str(text).unwrap();
            assert_eq!(object(text.as_bytes()).map(Value::Object), Some(usual), "{text}");
        }
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
            "[]",
            "\"a\"",
            "",
            "{",
            "{}{}",
            "{} x",
            "{'a':1}",
            "\u{feff}{}",
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), None, "not UTF-8");
        assert_eq!(object("{\"a\":".repeat(1000).as_bytes()), None, "as deep as the stack");
    }
}
