//! Requests and what the demo model answers to them. A test sends each of them and compares.

use serde::Deserialize;
use serde_json::{Map, Value};

/// An example of an operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// What it shows.
    pub(super) summary: String,
    /// The body, or the parameters.
    pub(super) request: Value,
    #[serde(default = "json")]
    pub(super) content_type: String,
    /// The body; text if it is not JSON.
    pub(super) response: Value,
}

fn json() -> String {
    "application/json".to_owned()
}

/// Operation and file.
macro_rules! files {
    ($($operation:literal),+ $(,)?) => {
        &[$(($operation, include_str!(concat!("examples/", $operation, ".json")))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "generate",
    "steer",
    "attribute",
    "score",
    "embed",
    "list_concepts",
    "show_concept",
    "concept_group",
    "concept_tokens",
    "concept_neighbors",
    "detect_concepts",
    "contrast_concepts",
    "create_completion",
    "create_chat_completion",
    "create_embeddings",
    "list_models",
    "retrieve_model",
    "tokenize",
    "detokenize",
    "info",
    "live",
    "ready",
    "metrics",
    "openapi_json",
    "playground",
    "playground_asset",
    "docs",
    "docs_asset",
];

/// The examples of an operation, in the order of its file.
pub(super) fn of(operation: &str) -> Vec<(String, Case)> {
    let file = FILES.iter().find(|(name, _)| *name == operation).map(|(_, file)| *file).unwrap_or("{}");
    let cases: Map<String, Value> = serde_json::from_str(file).expect("a file of examples is a JSON object");
    let read = |value| serde_json::from_value(value).expect("an example has the fields of a case");
    cases.into_iter().map(|(name, value)| (name, read(value))).collect()
}
