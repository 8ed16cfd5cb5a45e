//! The examples of the OpenAPI document are what the demo model answers.
//!
//! `STEERLING_UPDATE_EXAMPLES=1 cargo test … examples` writes down what it answers now.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use steerling::{DeviceChoice, Runtime, RuntimeOptions};
use steerling_server::config::{ServiceOptions, model_dir};
use steerling_server::engine::Loaded;

use crate::support::{Server, options};

/// Where files are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/openapi/examples")
}

/// A server with the demo model.
pub(crate) async fn demo() -> Server {
    demo_with(options()).await
}

/// The same with options of its own.
pub(crate) async fn demo_with(service: ServiceOptions) -> Server {
    let build = || {
        let options = RuntimeOptions {
            kv_bytes: 32 << 20,
            gradient_bytes: Some(1 << 30),
            device: DeviceChoice::Cpu,
            ..RuntimeOptions::default()
        };
        Ok(Loaded::from(Runtime::load(&model_dir(None).into(), &options, &mut |_, _| ())?))
    };
    Server::start_model(service, build).await
}

/// What may differ from run to run is made equal.
fn settled(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &value) {
                    ("id", Value::String(id)) if id.contains('-') && id.len() > 30 => {
                        let (kind, _) = id.split_once('-').unwrap();
                        *value = json!(format!("{kind}-2f4b7c1e9a6d4083b5c2e1f07a9d3c68"));
                    }
                    ("queue_ms" | "prefill_ms" | "decode_ms" | "total_ms" | "cached_blocks", _) => *value = json!(2),
                    ("rows" | "kv_blocks_active" | "kv_blocks_cached", _) => *value = json!(45),
                    ("created", _) => *value = json!(1_764_000_000),
                    ("git_commit", _) => *value = Value::Null,
                    _ => settled(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(settled),
        Value::String(text) if text.starts_with("event: ") || text.starts_with("data: ") => {
            *text = settled_stream(text)
        }
        _ => {}
    }
}

fn settled_stream(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("data: ") {
        Some("[DONE]") | None => format!("{line}\n"),
        Some(data) => {
            let mut data: Value = serde_json::from_str(data).unwrap();
            settled(&mut data);
            format!("data: {data}\n")
        }
    };
    text.lines().map(line).collect()
}

/// Equal but for rounding, which other processors do differently.
fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| close(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b)),
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-3 * a.abs().max(1.0)
        }
        (Value::String(a), Value::String(b)) if a.contains("data: ") || a.contains(',') => {
            let (a, b): (Vec<_>, Vec<_>) = (parts(a), parts(b));
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| close(a, b))
        }
        (a, b) => a == b,
    }
}

/// The numbers and words of a stream or a table.
fn parts(text: &str) -> Vec<Value> {
    let part = |part: &str| serde_json::from_str(part).unwrap_or_else(|_| json!(part.replace(',', ";")));
    let pieces = text.lines().flat_map(|line| match line.strip_prefix("data: ") {
        Some(data) => vec![data],
        None => line.split(',').collect(),
    });
    pieces.map(part).collect()
}

/// Sends the example's request and gives the answer in the form of the file.
async fn ask(server: &Server, (method, path): (&str, &str), case: &Value) -> Value {
    let request = match method {
        "post" => server.client.post(format!("{}{path}", server.url)).json(&case["request"]),
        _ => {
            let (mut path, mut query) = (path.to_owned(), Vec::new());
            for (name, value) in case["request"].as_object().unwrap() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match path.contains(&format!("{{{name}}}")) {
                    true => path = path.replace(&format!("{{{name}}}"), &value),
                    false => query.push(format!("{name}={value}")),
                }
            }
            server.client.get(format!("{}{path}?{}", server.url, query.join("&")))
        }
    };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{method} {path} {case}");
    let kind = response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(kind, case["content_type"].as_str().unwrap_or("application/json"), "{method} {path}");
    let text = response.text().await.unwrap();
    if kind == "application/json" { serde_json::from_str(&text).unwrap() } else { json!(text) }
}

#[tokio::test]
async fn examples_of_the_document_are_answers_of_the_demo_model() {
    let document: Value = serde_json::from_str(steerling_server::openapi::document()).unwrap();
    let (server, (chat, _files)) = (demo().await, crate::openai::demo(true).await);
    let update = std::env::var_os("STEERLING_UPDATE_EXAMPLES").is_some();
    let mut compared = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let file = folder().join(format!("{}.json", operation["operationId"].as_str().unwrap()));
            let Ok(text) = fs::read_to_string(&file) else { panic!("{} is missing", file.display()) };
            let mut cases: Map<String, Value> = serde_json::from_str(&text).unwrap();
            // The demo model as it is has no chat tokens.
            let server = if path == "/v1/chat/completions" { &chat } else { &server };
            for (name, case) in &mut cases {
                let mut answer = ask(server, (method, path), case).await;
                settled(&mut answer);
                // A reader that falls behind on a busy machine finds steps merged, and lanes come in any order.
                for _ in 0..20 {
                    if !answer.is_string() || update || close(&answer, &case["response"]) {
                        break;
                    }
                    answer = ask(server, (method, path), case).await;
                    settled(&mut answer);
                }
                // Of long files a few lines or fields are shown.
                if ["/metrics", "/openapi.json", "/", "/assets/{file}", "/docs", "/docs/{file}"]
                    .contains(&path.as_str())
                {
                    let shown = &case["response"];
                    let holds = match (answer.as_str(), shown.as_str()) {
                        (Some(answer), Some(shown)) => {
                            shown.lines().all(|line| answer.lines().any(|other| other == line))
                        }
                        _ => answer["openapi"] == shown["openapi"] && answer["info"]["title"] == shown["info"]["title"],
                    };
                    assert!(holds, "{method} {path} {name}");
                    continue;
                }
                if update {
                    case["response"] = answer;
                    continue;
                }
                assert!(close(&answer, &case["response"]), "{path} {name}: the model answers\n{answer:#}");
                compared += 1;
            }
            if update {
                fs::write(&file, serde_json::to_string_pretty(&cases).unwrap() + "\n").unwrap();
            }
        }
    }
    assert!(update || compared > 20, "{compared} examples");
}
