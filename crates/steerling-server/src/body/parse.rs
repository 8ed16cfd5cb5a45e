//! Bytes to JSON.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::error::{ApiError, Code};

/// What some editors and shells put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The JSON value of a body, which may begin with a byte order mark.
///
/// # Errors
/// 400 for what is no JSON; 422 for a key that an object has twice and for numbers beyond any type, naming the field.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Strict(value) = serde_path_to_error::deserialize(&mut deserializer).map_err(reject)?;
    deserializer.end().map_err(|error| ApiError::new(Code::InvalidJson, error.to_string()))?;
    Ok(value)
}

fn reject(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let inner = error.into_inner();
    let message = inner.to_string();
    match inner.classify() {
        Category::Data => ApiError::invalid(path, message),
        // Well-formed: the parser does not tell the two apart by category.
        Category::Syntax if message.starts_with("number out of range") && path != "." => {
            ApiError::invalid(path, "the number is too large to be represented")
        }
        Category::Syntax | Category::Eof | Category::Io => ApiError::new(Code::InvalidJson, message),
    }
}

/// JSON whose objects have every key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                entries.next_value_seed(Repeated(&key))?;
            }
            let Strict(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// The value of a key that the object has already: reading it fails, so that the error's path ends with the key.
struct Repeated<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Repeated<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(D::Error::custom(format_args!("the key `{}` is given more than once", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_json() {
        assert_eq!(parse(b"\xef\xbb\xbf{\"a\": 1}").expect("JSON"), json!({"a": 1}));
        for broken in [&b"\xef\xbb\xbf"[..], b"\xef\xbb{}", b"{}\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf{}"] {
            assert_eq!(parse(broken).expect_err("no JSON").code, Code::InvalidJson);
        }
    }

    #[test]
    fn a_repeated_key_is_named_with_its_path_at_every_depth() {
        for (text, path, key) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "a", "a"),
            (r#"{"a": {"b": [{"c": 1}, {"c": 1, "d": 2, "c": null}]}}"#, "a.b[1].c", "c"),
            (r#"[{"x": {}, "\u0078": []}]"#, "[0].x", "x"),
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert_eq!((error.code, error.param.as_deref()), (Code::InvalidRequest, Some(path)), "{text}");
            assert!(
                error.message.starts_with(&format!("the key `{key}` is given more than once")),
                "{}",
                error.message
            );
        }
        assert!(parse(br#"{"a": {"a": 1}, "b": {"a": 1}}"#).is_ok());
    }

    #[test]
    fn a_number_beyond_every_type_names_its_field() {
        let error = parse(br#"{"a": [1, 1e999]}"#).expect_err("too large");
        assert_eq!((error.code, error.param.as_deref()), (Code::InvalidRequest, Some("a[1]")));
    }
}
