//! Fields of OpenAI's without a meaning here: accepted where they ask for nothing, refused where they would change the
//! answer, never ignored.

use serde_json::{Map, Value};
use utoipa::openapi::schema::{AdditionalProperties, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};

use crate::error::ApiError;

/// A field and what it may hold beside null.
pub(super) struct Field {
    name: &'static str,
    takes: Takes,
}

enum Takes {
    /// Whatever is of this type: it has no bearing on the answer.
    Any(Kind),
    /// Only these values (as JSON), which ask for nothing.
    Only(&'static [&'static str]),
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Object,
}

const fn any(name: &'static str, kind: Kind) -> Field {
    Field { name, takes: Takes::Any(kind) }
}

const fn only(name: &'static str, values: &'static [&'static str]) -> Field {
    Field { name, takes: Takes::Only(values) }
}

/// Of completions.
pub(super) const COMPLETION: &[Field] = &[
    any("user", Kind::Text),
    only("presence_penalty", &["0"]),
    only("frequency_penalty", &["0"]),
    only("logit_bias", &["{}"]),
    only("suffix", &[r#""""#]),
];

/// Of chat completions.
pub(super) const CHAT: &[Field] = &[
    any("user", Kind::Text),
    any("safety_identifier", Kind::Text),
    any("prompt_cache_key", Kind::Text),
    any("prompt_cache_retention", Kind::Text),
    any("metadata", Kind::Object),
    any("parallel_tool_calls", Kind::Bool),
    only("presence_penalty", &["0"]),
    only("frequency_penalty", &["0"]),
    only("logit_bias", &["{}"]),
    only("store", &["false"]),
    only("service_tier", &[r#""auto""#, r#""default""#]),
    only("response_format", &[r#"{"type":"text"}"#]),
    only("modalities", &[r#"["text"]"#]),
    only("tools", &["[]"]),
    only("tool_choice", &[r#""none""#, r#""auto""#]),
    only("functions", &["[]"]),
    only("function_call", &[r#""none""#, r#""auto""#]),
    only("reasoning_effort", &[r#""none""#]),
    only("verbosity", &[r#""medium""#]),
    only("audio", &[]),
    only("prediction", &[]),
    only("web_search_options", &[]),
];

/// Of a message of a chat.
pub(super) const MESSAGE: &[Field] = &[
    only("name", &[]),
    only("refusal", &[]),
    only("audio", &[]),
    only("function_call", &[]),
    only("tool_calls", &["[]"]),
    only("tool_call_id", &[]),
    only("annotations", &["[]"]),
];

/// Of embeddings.
pub(super) const EMBEDDING: &[Field] = &[any("user", Kind::Text)];

/// Takes the fields out of a body.
///
/// # Errors
/// If one of them asks for something.
pub(super) fn strip(body: &mut Map<String, Value>, fields: &[Field]) -> Result<(), ApiError> {
    for Field { name, takes } in fields {
        let Some(value) = body.remove(*name) else { continue };
        if !value.is_null() && !takes.allows(&value) {
            return Err(ApiError::unsupported(name, takes.refusal()));
        }
    }
    Ok(())
}

/// An object with the fields as its properties.
pub(super) fn schema(fields: &[Field], description: &str) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .description(Some(description))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    RefOr::T(Schema::Object(
        fields.iter().fold(object, |object, field| object.property(field.name, field.schema())).build(),
    ))
}

impl Takes {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Self::Any(Kind::Text) => value.is_string(),
            Self::Any(Kind::Bool) => value.is_boolean(),
            Self::Any(Kind::Object) => value.is_object(),
            // 0.0 is 0.
            Self::Only(values) => values.iter().any(|allowed| match (json(allowed), value) {
                (Value::Number(allowed), Value::Number(value)) => allowed.as_f64() == value.as_f64(),
                (allowed, value) => allowed == *value,
            }),
        }
    }

    fn refusal(&self) -> String {
        match self {
            Self::Any(Kind::Text) => "not a string".to_owned(),
            Self::Any(Kind::Bool) => "not a boolean".to_owned(),
            Self::Any(Kind::Object) => "not an object".to_owned(),
            Self::Only([]) => "not supported by this server: leave it out".to_owned(),
            Self::Only(values) => {
                format!("not supported by this server: leave it out, or send {}", values.join(" or "))
            }
        }
    }
}

impl Field {
    fn schema(&self) -> Schema {
        let of_type = |of: Type| ObjectBuilder::new().schema_type(SchemaType::from_iter([of, Type::Null]));
        let object = match self.takes {
            Takes::Any(kind) => of_type(match kind {
                Kind::Text => Type::String,
                Kind::Bool => Type::Boolean,
                Kind::Object => Type::Object,
            })
            .description(Some("Accepted, without effect.")),
            Takes::Only(values) => {
                let values = values.iter().map(|value| json(value)).chain([Value::Null]);
                ObjectBuilder::new()
                    .schema_type(SchemaType::AnyValue)
                    .enum_values(Some(values))
                    .description(Some("Not supported; accepted where it asks for nothing."))
            }
        };
        Schema::Object(object.build())
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("a constant of this file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stripped(body: Value, fields: &[Field]) -> Result<Value, ApiError> {
        let Value::Object(mut body) = body else { panic!("not an object") };
        strip(&mut body, fields).map(|()| Value::Object(body))
    }

    #[test]
    fn what_asks_for_nothing_is_taken_out_and_the_rest_stays() {
        let body = json!({"tools": [], "presence_penalty": 0.0, "logit_bias": {}, "user": "x", "store": false,
            "response_format": {"type": "text"}, "tool_choice": null, "audio": null, "other": 1});
        assert_eq!(stripped(body, CHAT).expect("neutral"), json!({"other": 1}));
    }

    #[test]
    fn what_asks_for_something_is_refused_by_name() {
        for (name, value) in [
            ("tools", json!([{}])),
            ("presence_penalty", json!(0.1)),
            ("presence_penalty", json!("0")),
            ("logit_bias", json!({"5": 1})),
            ("store", json!(true)),
            ("response_format", json!({"type": "json_object"})),
            ("audio", json!({})),
            ("user", json!(5)),
            ("parallel_tool_calls", json!("yes")),
        ] {
            let body = Value::Object([(name.to_owned(), value.clone())].into_iter().collect());
            let refused = stripped(body, CHAT).expect_err(name);
            assert_eq!(refused.param.as_deref(), Some(name), "{value}");
        }
    }
}
