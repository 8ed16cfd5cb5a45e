//! What the attributes of routes and types cannot say, added to the finished document.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::examples;
use crate::api::openai::error::OpenAiErrorBody;

/// Where a reference to a component points.
const COMPONENT: &str = "#/components/schemas/";

/// Answers whose alternatives overlap: an empty list is a list of anything.
const OVERLAPPING: [&str; 2] = ["Embedding", "EmbeddingVector"];

/// Adds examples, says what a stream holds, and limits what requests may hold as the server does.
pub(super) fn complete(document: &mut Value) {
    spell(document);
    name_paths(document);
    simplify(document);
    let inputs = inputs(document);
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.iter_mut().filter(|(name, _)| inputs.contains(*name)).for_each(|(_, schema)| limit(schema));
    }
    for name in OVERLAPPING {
        let schema = document.pointer_mut(&format!("/components/schemas/{name}")).and_then(Value::as_object_mut);
        if let Some(schema) = schema
            && let Some(alternatives) = schema.remove("oneOf")
        {
            schema.insert("anyOf".to_owned(), alternatives);
        }
    }
    for operation in operations(document) {
        for parameter in list(operation, "parameters") {
            parameter.get_mut("schema").into_iter().for_each(limit);
        }
        let is_openai = operation["tags"][0] == "openai";
        for (kind, content) in contents(operation) {
            describe(&kind, content, is_openai);
        }
        operation["responses"]["200"]["headers"]["x-request-id"] =
            json!({"description": "names the request: the caller's, if sent", "schema": {"type": "string"}});
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        examples::of(&id).into_iter().for_each(|(name, case)| attach(operation, &name, &case));
    }
}

/// Writes what generators of clients stumble over in another way that says the same.
fn simplify(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // They know enumerations of words alone.
            if let Some([only @ Value::Bool(_)]) = map.get("enum").and_then(Value::as_array).map(Vec::as_slice) {
                let only = only.clone();
                map.shift_remove("enum");
                map.insert("const".to_owned(), only);
            }
            // They take schemas for objects: `items` may not be false.
            if let Some(entries) = map.get("prefixItems").and_then(Value::as_array).cloned() {
                map.insert("minItems".to_owned(), json!(entries.len()));
                map.insert("maxItems".to_owned(), json!(entries.len()));
                map.insert("items".to_owned(), json!({"anyOf": entries}));
            }
            // They do not write values of types that they generate.
            let is_union = map.contains_key("$ref") || map.contains_key("oneOf");
            if is_union && map.get("default").is_some_and(Value::is_object) {
                let default = map.shift_remove("default").unwrap_or_default();
                let text = map.get("description").and_then(Value::as_str).unwrap_or_default();
                let text = format!("{text} Left out: `{default}`.");
                map.insert("description".to_owned(), json!(text.trim_start()));
            }
            map.values_mut().for_each(simplify);
        }
        Value::Array(values) => values.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// A parameter that takes the rest of a path has no notation of its own in OpenAPI.
fn name_paths(document: &mut Value) {
    if let Some(Value::Object(paths)) = document.get_mut("paths") {
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    }
}

/// Formats as the OpenAPI registry of formats has them.
fn spell(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(format)) = map.get_mut("format") {
                *format = format.replace("u-int", "uint");
            }
            map.values_mut().for_each(spell);
        }
        Value::Array(values) => values.iter_mut().for_each(spell),
        _ => {}
    }
}

/// All operations of all paths.
fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    paths.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut).flat_map(Map::values_mut)
}

fn list<'a>(of: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    of.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The media types of all successful answers.
fn contents(operation: &mut Value) -> impl Iterator<Item = (String, &mut Value)> {
    let content = operation.pointer_mut("/responses/200/content").and_then(Value::as_object_mut);
    content.into_iter().flatten().map(|(kind, content)| (kind.clone(), content))
}

/// JSON Schema describes text; what is in the text stands beside it.
fn describe(kind: &str, content: &mut Value, is_openai: bool) {
    let event = content["schema"].take();
    let error = format!("{COMPONENT}{}", OpenAiErrorBody::name());
    content["schema"] = match kind {
        "text/event-stream" if is_openai => json!({
            "type": "string",
            "description": "Server-sent events. The JSON of their `data` is a list of chunks, the last of which is an error \
                            if the request has failed; otherwise `data: [DONE]` ends it.",
            "contentMediaType": kind,
            "contentSchema": {"type": "array", "items": {"anyOf": [event, {"$ref": error}]}},
        }),
        "text/event-stream" => json!({
            "type": "string",
            "description": "Server-sent events. Taken apart, they are a list of objects: `event` and the JSON of `data`, \
                            each with an `id` that counts up from 0.",
            "contentMediaType": kind,
            "contentSchema": {"type": "array", "items": event},
        }),
        "application/vnd.apache.parquet" => json!({"contentMediaType": kind}),
        _ => event,
    };
}

/// The components that requests are made of.
fn inputs(document: &mut Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<Value> =
        operations(document).filter_map(|operation| operation.get("requestBody").cloned()).collect();
    while let Some(value) = open.pop() {
        for name in references(&value) {
            if found.insert(name.clone()) {
                open.push(document["components"]["schemas"][&name].clone());
            }
        }
    }
    found
}

/// The components that a value names.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value.as_str().and_then(|to| to.strip_prefix(COMPONENT)) {
                Some(name) if key == "$ref" => vec![name.to_owned()],
                _ => references(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// Numbers end where their type does, and the alternatives of a union have no further fields.
fn limit(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let most = match map.get("format").and_then(Value::as_str) {
                _ if !is_integer(map) || map.contains_key("maximum") => None,
                Some("uint32") => Some(u64::from(u32::MAX)),
                Some("uint64") | None => Some(u64::MAX),
                Some(_) => None,
            };
            if let Some(most) = most {
                map.insert("maximum".to_owned(), json!(most));
            }
            if map.get("format").is_some_and(|format| format == "float") {
                map.entry("minimum").or_insert(json!(f32::MIN));
                map.entry("maximum").or_insert(json!(f32::MAX));
            }
            for alternative in map.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(object) = alternative.as_object_mut().filter(|object| object.contains_key("properties")) {
                    object.insert("additionalProperties".to_owned(), json!(false));
                }
            }
            map.values_mut().for_each(limit);
        }
        Value::Array(values) => values.iter_mut().for_each(limit),
        _ => {}
    }
}

fn is_integer(schema: &Map<String, Value>) -> bool {
    match &schema.get("type") {
        Some(Value::String(kind)) => kind == "integer",
        Some(Value::Array(kinds)) => kinds.contains(&json!("integer")),
        _ => false,
    }
}

/// Puts an example into the request, the parameters and the answer.
fn attach(operation: &mut Value, name: &str, case: &examples::Case) {
    let example = |value: &Value| json!({"summary": case.summary, "value": value});
    if let Some(content) = operation.pointer_mut("/requestBody/content/application~1json") {
        content["examples"][name] = example(&case.request);
    } else {
        for parameter in list(operation, "parameters") {
            let value = parameter["name"].as_str().and_then(|name| case.request.get(name)).cloned();
            if let Some(value) = value {
                parameter["examples"][name] = json!({"summary": case.summary, "value": value});
            }
        }
    }
    for (_, content) in contents(operation).filter(|(kind, _)| *kind == case.content_type) {
        content["examples"][name] = example(&case.response);
    }
}
