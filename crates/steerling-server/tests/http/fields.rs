//! Every field of every request body, as the OpenAPI document lists them, with values that it does not take.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::openai::demo;
use crate::support::Server;

/// Words of Rust and of its JSON library, which no user of the API has to know.
const RUST: [&str; 22] = [
    "u8",
    "u32",
    "u64",
    "i64",
    "usize",
    "f32",
    "f64",
    "bool",
    "struct",
    "enum",
    "variant",
    "untagged",
    "internally",
    "tuple",
    "sequence",
    "map",
    "unit",
    "newtype",
    "Option",
    "Vec",
    "invalid type",
    "missing field",
];

/// Bodies that their operations answer; fields are added to them.
fn bodies() -> Vec<(&'static str, Value)> {
    let prompt = json!({"prompt": "The", "max_new_tokens": 1, "seed": 1});
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    vec![
        ("/generate", prompt.clone()),
        ("/steer", with(prompt.clone(), "steering", json!({"amplify": [{"concept": 0}]}))),
        ("/attribute", prompt),
        ("/score", json!({"items": [{"context": "The", "continuation": " chef"}], "samples": 2})),
        ("/embed", json!({"inputs": "The"})),
        ("/concepts/detect", json!({"text": "The"})),
        ("/concepts/contrast", json!({"a": ["The"], "b": ["A"]})),
        ("/tokenize", json!({"text": "The"})),
        ("/detokenize", json!({"ids": [1]})),
        ("/v1/completions", json!({"model": "steerling", "prompt": "The", "max_tokens": 1})),
        (
            "/v1/chat/completions",
            json!({"model": "steerling", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ),
        ("/v1/embeddings", json!({"model": "steerling", "input": "The"})),
    ]
}

/// A place of a body.
struct Field {
    operation: &'static str,
    /// As errors name it; empty for the body.
    path: String,
    /// Its schema, not a reference.
    schema: Value,
    /// One of several alternatives for this place.
    alternative: bool,
    /// The body with a value at this place.
    body: Rc<dyn Fn(Value) -> Value>,
}

struct Document(Value);

impl Document {
    fn new() -> Self {
        Self(serde_json::from_str(steerling_server::openapi::document()).unwrap())
    }

    fn resolved(&self, schema: &Value) -> Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.resolved(self.0.pointer(&reference[1..]).unwrap()),
            None => schema.clone(),
        }
    }

    /// All places of all bodies.
    fn fields(&self) -> Vec<Field> {
        let mut found = Vec::new();
        let operations = self.0["paths"].as_object().unwrap();
        let described = operations.iter().filter(|(_, item)| item["post"]["requestBody"].is_object());
        let bodies = bodies();
        assert_eq!(described.count(), bodies.len(), "every operation with a body is in the table");
        for (operation, body) in bodies {
            let schema = &operations[operation]["post"]["requestBody"]["content"]["application/json"]["schema"];
            let (path, schema) = (String::new(), self.resolved(schema));
            let root = Field { operation, path, schema, alternative: false, body: Rc::new(|value| value) };
            self.below(root, Some(&body), &mut found);
        }
        assert!(found.len() > 400, "{} places", found.len());
        found
    }

    /// Adds a place and all within it; objects have the fields of `like`, or those that they need.
    fn below(&self, mut field: Field, like: Option<&Value>, found: &mut Vec<Field>) {
        if field.schema["description"].as_str().is_some_and(|text| text.starts_with("Not supported")) {
            for name in ["items", "properties"] {
                field.schema.as_object_mut().unwrap().remove(name);
            }
        }
        let Field { operation, path, schema, body, .. } = &field;
        let inner = |path: String, schema: &Value, alternative: bool, body: Rc<dyn Fn(Value) -> Value>| Field {
            operation,
            path,
            schema: self.resolved(schema),
            alternative,
            body,
        };
        for schema in schema["oneOf"].as_array().into_iter().flatten() {
            self.below(inner(path.clone(), schema, true, body.clone()), None, found);
        }
        if schema["items"].is_object() {
            let body = body.clone();
            let entry = inner(
                format!("{path}[0]"),
                &schema["items"],
                field.alternative,
                Rc::new(move |value| body(json!([value]))),
            );
            self.below(entry, None, found);
        }
        for (name, schema_of_field) in schema["properties"].as_object().into_iter().flatten() {
            let dot = if path.is_empty() { "" } else { "." };
            let (body, base, key) = (body.clone(), like.cloned().unwrap_or_else(|| self.least(schema)), name.clone());
            let place = move |value: Value| {
                let mut object = base.clone();
                object[&key] = value;
                body(object)
            };
            self.below(inner(format!("{path}{dot}{name}"), schema_of_field, false, Rc::new(place)), None, found);
        }
        found.push(field);
    }

    /// A small value of a schema.
    fn least(&self, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(value) = schema.get("const").or(schema["enum"].get(0)) {
            return value.clone();
        }
        if let Some(first) = schema["oneOf"].get(0) {
            return self.least(first);
        }
        let kind = schema["type"].as_str().or(schema["type"][0].as_str()).unwrap_or_default();
        match kind {
            "string" => json!("a"),
            "boolean" => json!(false),
            "integer" | "number" if schema["minimum"].as_f64().is_some_and(|least| least >= 0.0) => {
                schema["minimum"].clone()
            }
            "integer" => json!(0),
            "number" => json!(1),
            "array" if schema["minItems"].as_u64() > Some(0) => json!([self.least(&schema["items"])]),
            "array" => json!([]),
            "object" => {
                let required = schema["required"].as_array().into_iter().flatten().map(|name| name.as_str().unwrap());
                required
                    .map(|name| (name.to_owned(), self.least(&schema["properties"][name])))
                    .collect::<Map<_, _>>()
                    .into()
            }
            _ => Value::Null,
        }
    }

    /// Whether a schema takes a value, by its type alone but for words and constants.
    fn takes(&self, schema: &Value, value: &Value) -> bool {
        let schema = self.resolved(schema);
        if let Some(alternatives) = schema["oneOf"].as_array() {
            return alternatives.iter().any(|schema| self.takes(schema, value));
        }
        if let Some(only) = schema.get("const") {
            return only == value;
        }
        let kinds: Vec<&str> = schema["type"]
            .as_str()
            .into_iter()
            .chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str))
            .collect();
        let is = |kind: &str| kinds.contains(&kind);
        match value {
            Value::Null => is("null"),
            Value::Bool(_) => is("boolean"),
            Value::Number(number) => is("number") || (is("integer") && !number.is_f64()),
            Value::String(_) => {
                is("string") && schema.get("enum").is_none_or(|words| words.as_array().unwrap().contains(value))
            }
            Value::Array(_) => is("array"),
            Value::Object(_) => is("object"),
        }
    }
}

impl Field {
    /// The status, the message and the field of what is answered to the body with this value.
    async fn answer(&self, server: &Server, value: Value) -> (u16, String, String) {
        let body = (self.body)(value);
        self.answer_to(server, body.to_string()).await
    }

    async fn answer_to(&self, server: &Server, body: String) -> (u16, String, String) {
        let request = server.client.post(format!("{}{}", server.url, self.operation));
        let request = request.header("content-type", "application/json").timeout(Duration::from_secs(120));
        let response = request
            .body(body.clone())
            .send()
            .await
            .unwrap_or_else(|error| panic!("{} {body}: {error}", self.operation));
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        if status < 400 {
            return (status, String::new(), String::new());
        }
        let error: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
        let message = of("message");
        let words: Vec<&str> = message.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let rust = RUST.iter().find(|word| words.contains(*word) || (word.contains(' ') && message.contains(*word)));
        assert_eq!(rust, None, "{} {body}: {message}", self.operation);
        let late = status == 504 && self.path == "timeout_ms";
        assert!(status < 500 || status == 501 || late, "{} {body}: {status} {message}", self.operation);
        (status, message, of("param"))
    }

    /// What a body is refused with.
    fn refused(&self) -> u16 {
        if self.operation.starts_with("/v1") { 400 } else { 422 }
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_refused_with_its_field_in_the_words_of_json() {
    let ((server, _dir), document) = (demo(false).await, Document::new());
    let values = [json!(null), json!(true), json!(7), json!(0.5), json!("x"), json!([]), json!({})];
    for field in document.fields() {
        for value in values.iter().filter(|value| !field.alternative && !document.takes(&field.schema, value)) {
            let (status, message, param) = field.answer(&server, value.clone()).await;
            let place = format!("{} {} {value}: {message}", field.operation, field.path);
            assert_eq!((status, &param), (field.refused(), &field.path), "{place}");
        }
    }
}

#[tokio::test]
async fn a_misspelt_field_is_answered_with_the_nearest_one() {
    let ((server, _dir), document) = (demo(false).await, Document::new());
    let mut tried = 0;
    for field in document.fields() {
        let Some(properties) = field.schema["properties"].as_object() else { continue };
        for name in properties.keys().filter(|name| name.len() > 3) {
            let middle = name.len() / 2;
            for slip in [format!("{}{}", &name[..middle], &name[middle + 1..]), format!("{name}s"), name.to_uppercase()]
            {
                if properties.contains_key(&slip) {
                    continue;
                }
                let mut object = document.least(&field.schema);
                object.as_object_mut().unwrap().remove(name);
                object[&slip] = document.least(&properties[name]);
                let (status, message, param) = field.answer(&server, object).await;
                let path = if field.path.is_empty() { slip.clone() } else { format!("{}.{slip}", field.path) };
                let place = format!("{} {path}: {message}", field.operation);
                assert_eq!((status, param), (field.refused(), path), "{place}");
                assert!(message.contains(&format!("did you mean `{name}`?")), "{place}");
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
}

#[tokio::test]
async fn the_extremes_of_every_number_are_answered_or_refused_by_name() {
    let ((server, _dir), document) = (demo(false).await, Document::new());
    let limits = [
        "0",
        "1",
        "-1",
        "2147483648",
        "4294967295",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551614",
        "18446744073709551615",
        "1e-320",
        "1e-40",
        "-1e-40",
        "3.4e38",
    ];
    let too_large = ["1e300", "-1e300", "1e999", "18446744073709551616", "-9223372036854775809"];
    for field in document.fields() {
        let is = |kind: &str| {
            field.schema["type"] == kind
                || field.schema["type"].as_array().is_some_and(|kinds| kinds.contains(&json!(kind)))
        };
        if !is("integer") && !is("number") {
            continue;
        }
        // What no integer of 64 bits is, a number may be.
        let beyond = if is("integer") { &too_large[..] } else { &too_large[..3] };
        let bounds = ["minimum", "maximum"].map(|name| field.schema[name].to_string());
        let text = (field.body)(json!("HERE")).to_string();
        for number in limits.iter().copied().chain(bounds.iter().map(String::as_str)).chain(beyond.iter().copied()) {
            let (status, message, param) = field.answer_to(&server, text.replace("\"HERE\"", number)).await;
            let place = format!("{} {} {number}: {status} {param} {message}", field.operation, field.path);
            let named = param == field.path;
            assert!(!beyond.contains(&number) || (named && status == field.refused()), "{place}");
            // More variants than there are slots are turned away.
            assert!([200, 429, 504].contains(&status) || !param.is_empty(), "{place}");
        }
    }
}

#[tokio::test]
async fn integers_are_those_of_json_schema() {
    let ((server, _dir), document) = (demo(false).await, Document::new());
    for field in document.fields() {
        let is = |kind: &str| {
            field.schema["type"] == kind
                || field.schema["type"].as_array().is_some_and(|kinds| kinds.contains(&json!(kind)))
        };
        // Whether there is time enough is no matter of notation.
        if !is("integer") || field.path == "timeout_ms" {
            continue;
        }
        let text = (field.body)(json!("HERE")).to_string();
        let with = |number: &str| text.replace("\"HERE\"", number);
        let plain = field.answer_to(&server, with("2")).await;
        for same in ["2.0", "2e0", "0.2e1", "200E-2"] {
            let answer = field.answer_to(&server, with(same)).await;
            assert_eq!(answer, plain, "{} {} {same}", field.operation, field.path);
        }
        let (status, message, param) = field.answer_to(&server, with("8.5")).await;
        assert_eq!((status, param.as_str()), (field.refused(), field.path.as_str()), "{message}");
        assert!(message.contains("8.5 is not an integer"), "{} {}: {message}", field.operation, field.path);
    }
}
