//! What a body may look like: the part of JSON Schema that request schemas use, read once.

use std::collections::HashMap;

use serde_json::Value;

/// What a value may be.
#[derive(Debug)]
pub(super) enum Shape {
    /// Anything.
    Any,
    /// Null.
    Null,
    /// True or false.
    Boolean,
    /// A number without a fraction within bounds.
    Integer { least: i128, most: i128 },
    /// A number within bounds.
    Number { least: f64, most: f64 },
    /// A string; one of `words` unless there are none.
    Text { words: Vec<String> },
    /// This value.
    Only(Value),
    /// A list of values of one shape.
    List(Box<Shape>),
    /// Named values and no others.
    Object(Vec<Field>),
    /// One of several shapes.
    OneOf(Vec<Shape>),
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) shape: Shape,
}

/// The shapes of all schemas of a document, by name.
pub(super) fn schemas(document: &Value) -> HashMap<String, Shape> {
    let schemas = document["components"]["schemas"].as_object();
    schemas.into_iter().flatten().map(|(name, schema)| (name.clone(), Shape::of(schema, document))).collect()
}

/// The value that a reference within the document points at.
fn resolve<'a>(document: &'a Value, reference: &str) -> &'a Value {
    document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null)
}

impl Shape {
    /// The shape that a schema describes. No schema of the document refers to itself.
    fn of(schema: &Value, document: &Value) -> Self {
        if let Some(reference) = schema["$ref"].as_str() {
            return Self::of(resolve(document, reference), document);
        }
        if let Some(constant) = schema.get("const") {
            return Self::Only(constant.clone());
        }
        if let Some(alternatives) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            return Self::one_of(alternatives.iter().map(|schema| Self::of(schema, document)));
        }
        match &schema["type"] {
            Value::String(kind) => Self::of_type(kind, schema, document),
            Value::Array(kinds) => {
                let kinds = kinds.iter().filter_map(Value::as_str);
                Self::one_of(kinds.map(|kind| Self::of_type(kind, schema, document)))
            }
            _ => Self::Any,
        }
    }

    fn one_of(shapes: impl Iterator<Item = Self>) -> Self {
        let flat = |shape| match shape {
            Self::OneOf(shapes) => shapes,
            shape => vec![shape],
        };
        Self::OneOf(shapes.flat_map(flat).collect())
    }

    fn of_type(kind: &str, schema: &Value, document: &Value) -> Self {
        let bound = |name: &str| &schema[name];
        match kind {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "integer" => {
                let whole = |value: &Value| {
                    let signed = value.as_i64().map(i128::from);
                    signed.or(value.as_u64().map(i128::from)).or(value.as_f64().map(|value| value as i128))
                };
                Self::Integer {
                    least: whole(bound("minimum")).unwrap_or(i64::MIN.into()),
                    most: whole(bound("maximum")).unwrap_or(u64::MAX.into()),
                }
            }
            "number" => Self::Number {
                least: bound("minimum").as_f64().unwrap_or(f64::MIN),
                most: bound("maximum").as_f64().unwrap_or(f64::MAX),
            },
            "string" => {
                let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
                Self::Text { words: words.map(str::to_owned).collect() }
            }
            "array" => Self::List(Box::new(Self::of(&schema["items"], document))),
            "object" => Self::object(schema, document),
            _ => Self::Any,
        }
    }

    fn object(schema: &Value, document: &Value) -> Self {
        let Some(properties) = schema["properties"].as_object() else { return Self::Any };
        let required = |name: &str| schema["required"].as_array().into_iter().flatten().any(|entry| entry == name);
        let field = |(name, schema): (&String, &Value)| Field {
            name: name.clone(),
            required: required(name),
            shape: Self::of(schema, document),
        };
        Self::Object(properties.iter().map(field).collect())
    }
}
