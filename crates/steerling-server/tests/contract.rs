//! The OpenAPI document against itself, the routes and what the demo model answers.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;

use boon::{Compiler, Draft, Schemas};
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::from_str(steerling_server::openapi::document()).unwrap()
}

/// Method, path and operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = paths.iter().flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |of| (path, of)));
    methods.map(|(path, (method, operation))| (method.clone(), path.clone(), operation.clone())).collect()
}

/// What is wrong with a value by the schema at a place of the document.
fn errors(document: &Value, schema: &str, value: &Value) -> Option<String> {
    const URL: &str = "https://example.com/openapi.json";
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.set_default_draft(Draft::V2020_12);
    compiler.add_resource(URL, document.clone()).unwrap();
    let index = compiler.compile(&format!("{URL}#{schema}"), &mut schemas).unwrap();
    schemas.validate(value, index).err().map(|error| format!("{error:#}"))
}

/// The events of a recorded stream.
fn events(text: &str) -> Value {
    let record = |record: &str| {
        let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let data: Value = serde_json::from_str(field("data:").unwrap()).unwrap();
        // OpenAI's events have no names.
        field("event:").map_or(data.clone(), |event| json!({"event": event, "data": data}))
    };
    text.split("\n\n").filter(|text| !text.is_empty() && *text != "data: [DONE]").map(record).collect()
}

/// Every place below `value` for which `holds`.
fn places(value: &Value, place: String, holds: &impl Fn(&Value) -> bool, found: &mut Vec<String>) {
    if holds(value) {
        found.push(place.clone());
    }
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            // What an example or an enumeration holds is no schema.
            let inner =
                map.iter().filter(|(key, _)| !["example", "examples", "default", "enum"].contains(&key.as_str()));
            inner.for_each(|(key, value)| places(value, format!("{place}/{}", escaped(key)), holds, found));
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(i, value)| places(value, format!("{place}/{i}"), holds, found));
        }
        _ => {}
    }
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap();
    let how = "`just openapi` writes openapi/openapi.json again";
    assert!(committed == steerling_server::openapi::document(), "it has changed: {how}");
}

#[test]
fn every_example_and_default_is_valid_against_its_own_schema() {
    let document = document();
    let (mut holders, mut schemas) = (Vec::new(), Vec::new());
    places(&document, String::new(), &|value| value.get("examples").is_some_and(Value::is_object), &mut holders);
    let mut seen = 0;
    for place in holders {
        let holder = document.pointer(&place).unwrap();
        for (name, example) in holder["examples"].as_object().unwrap() {
            let value = &example["value"];
            assert_eq!(errors(&document, &format!("{place}/schema"), value), None, "{place} {name}");
            if holder["schema"].get("contentSchema").is_some() {
                let events = events(value.as_str().unwrap());
                assert_eq!(
                    errors(&document, &format!("{place}/schema/contentSchema"), &events),
                    None,
                    "{place} {name}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 150, "{seen} examples");
    let shows = |value: &Value| value.get("example").is_some() || value.get("default").is_some();
    places(&document, String::new(), &shows, &mut schemas);
    assert!(schemas.len() > 30, "{} schemas with examples or defaults", schemas.len());
    for place in schemas {
        let schema = document.pointer(&place).unwrap();
        for value in ["example", "default"].iter().filter_map(|key| schema.get(*key)) {
            assert_eq!(errors(&document, &place, value), None, "{place}");
        }
    }
}

#[test]
fn an_example_that_is_wrong_would_be_noticed() {
    let document = document();
    let of = |value: Value| errors(&document, "/components/schemas/GenerateRequest", &value);
    assert_eq!(of(json!({"prompt": "a", "top_p": 1})), None);
    for wrong in [json!({"prompt": 1}), json!({"top_p": 1.5}), json!({"colour": 1}), json!({"stop": [""]}), json!([])] {
        assert!(of(wrong.clone()).is_some(), "{wrong}");
    }
    let events = events("event: start\ndata: {\"id\": \"gen-1\"}\n\n");
    let stream = "/paths/~1generate/post/responses/200/content/text~1event-stream/schema/contentSchema";
    assert!(errors(&document, stream, &events).is_some(), "a start without its fields");
}

#[test]
fn every_operation_says_what_it_does_takes_answers_and_refuses() {
    let document = document();
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    for tag in document["tags"].as_array().unwrap() {
        assert!(tag["description"].as_str().is_some_and(|text| text.len() > 10), "{tag}");
    }
    let (mut ids, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        let (error, statuses): (_, &[&str]) = match path.starts_with("/v1/") {
            true => ("OpenAiErrorBody", &["400", "404", "413", "415"]),
            false => ("ErrorBody", &["400", "413", "415", "422"]),
        };
        let error = json!({"$ref": format!("#/components/schemas/{error}")});
        let text = |name: &str| operation[name].as_str().unwrap_or_default().trim().len();
        assert!(text("summary") > 5 && text("description") > 10, "{place} is described");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{place} has an id of its own");
        let tag = operation["tags"][0].as_str().unwrap().to_owned();
        assert!(tags.contains(tag.as_str()), "{place} {tag}");
        used.insert(tag);
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{place} {parameter}");
        }
        if let Some(body) = operation.get("requestBody") {
            assert!(body["content"]["application/json"]["examples"].is_object(), "{place} has an example of its body");
            for status in statuses {
                assert!(operation["responses"][*status].is_object(), "{place} {status}");
            }
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{place} {status}");
            let is_refusal = status.parse::<u16>().unwrap() >= 400;
            for (kind, content) in response["content"].as_object().into_iter().flatten() {
                // Parquet is no text.
                let shown = content["examples"].is_object() || kind == "application/vnd.apache.parquet";
                assert!(shown, "{place} {status} {kind} has an example");
                assert_eq!(content["schema"] == error, is_refusal, "{place} {status}");
            }
            for example in response["content"]["application/json"]["examples"].as_object().into_iter().flatten() {
                let code = &example.1["value"]["error"]["code"];
                assert!(!is_refusal || code == example.0, "{place} {status}: {code} is called {}", example.0);
            }
        }
        assert!(operation["responses"]["500"].is_object(), "{place} may fail");
    }
    assert_eq!(used.len(), tags.len(), "every tag has operations");
}

#[test]
fn every_component_is_used_and_every_reference_is_there() {
    let document = document();
    let text = document.to_string();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(text.contains(&format!("\"#/components/schemas/{name}\"")), "nothing refers to {name}");
    }
    for reference in text.split("\"$ref\":\"").skip(1) {
        let to = reference.split('"').next().unwrap();
        assert!(document.pointer(&to[1..]).is_some(), "{to}");
    }
    for event in ["StartEvent", "BlockEvent", "AttributionEvent", "GenerateEvent", "SteerEvent", "AttributeEvent"] {
        assert!(document["components"]["schemas"][event].is_object(), "{event} is named");
    }
}
