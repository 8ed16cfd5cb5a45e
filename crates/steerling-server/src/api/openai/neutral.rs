//! Fields of OpenAI's without a meaning here: accepted where they ask for nothing, refused where they would change the
//! answer, never ignored.

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::AdditionalProperties;
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
            Self::Only(values) => values.iter().any(|allowed| match (constant(allowed), value) {
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
        let mut schema = match self.takes {
            Takes::Any(kind) => json!({
                "description": "Accepted, without effect.",
                "type": [match kind { Kind::Text => "string", Kind::Bool => "boolean", Kind::Object => "object" }, "null"],
            }),
            Takes::Only(values) => exactly(&values.iter().map(|value| constant(value)).collect::<Vec<_>>()),
        };
        if matches!(self.takes, Takes::Only(_)) {
            schema["description"] = "Not supported; accepted where it asks for nothing.".into();
        }
        serde_json::from_value(schema).expect("it is a schema")
    }
}

/// A schema of these values and null. Generators of clients know no enumerations of objects and lists, so it says what
/// such a value consists of.
fn exactly(values: &[Value]) -> Value {
    match values {
        [] => json!({"type": "null"}),
        [Value::Object(fields)] if fields.is_empty() => json!({"type": ["object", "null"], "maxProperties": 0}),
        [Value::Object(fields)] => {
            let properties: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), word(value))).collect();
            let required: Vec<&String> = fields.keys().collect();
            json!({
                "type": ["object", "null"], "properties": properties, "required": required, "additionalProperties": false,
            })
        }
        [Value::Array(list)] => {
            let entry = list.first().map_or(json!({"type": "object"}), word);
            json!({"type": ["array", "null"], "items": entry, "minItems": list.len(), "maxItems": list.len()})
        }
        [Value::Number(number)] => json!({"type": ["number", "null"], "minimum": number, "maximum": number}),
        [Value::Bool(value)] => json!({"oneOf": [{"type": "boolean", "enum": [value]}, {"type": "null"}]}),
        words => json!({"oneOf": [{"type": "string", "enum": words}, {"type": "null"}]}),
    }
}

fn word(value: &Value) -> Value {
    json!({"type": "string", "enum": [value]})
}

fn constant(text: &str) -> Value {
    serde_json::from_str(text).expect("a constant of this file")
}

#[cfg(test)]
mod tests {
    use super::*;

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
