//! The turns of a conversation as OpenAI's clients send them.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::neutral;
use crate::api::generate::request::ChatMessage;
use crate::error::ApiError;
use crate::extract;
use crate::openapi::extended;

/// A turn, with all fields of OpenAI's.
#[derive(Debug)]
pub(super) struct ChatTurn;

/// The fields that mean something here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Turn {
    /// `system`, `user` or `assistant`; `developer` is taken for `system`.
    #[schema(example = "user")]
    role: String,
    /// The text of the turn, whole or in parts, which are put together.
    content: Content,
}

/// A text, whole or in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "neither a text nor a list of parts")]
#[schema(as = ChatContent)]
enum Content {
    /// Whole.
    Text(String),
    /// Parts, each a text.
    Parts(Vec<Part>),
}

/// A part, read when it is known to be a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = TextPart)]
struct Part(Map<String, Value>);

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum TextPart {
    /// There are no others here.
    Text { text: String },
}

impl PartialSchema for ChatTurn {
    fn schema() -> RefOr<Schema> {
        extended(neutral::schema(neutral::MESSAGE, "A turn of a conversation."), Turn::schema(), &["role", "content"])
    }
}

impl ToSchema for ChatTurn {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Turn::schemas(schemas);
    }
}

/// The turns as the model's template takes them.
///
/// # Errors
/// If a turn holds something else than text.
pub(super) fn read(messages: Vec<Map<String, Value>>) -> Result<Vec<ChatMessage>, ApiError> {
    let turn = |(i, mut body): (usize, Map<String, Value>)| {
        neutral::strip(&mut body, neutral::MESSAGE)
            .and_then(|()| of(body))
            .map_err(|error| error.within(&format!("messages[{i}]")))
    };
    messages.into_iter().enumerate().map(turn).collect()
}

fn of(body: Map<String, Value>) -> Result<ChatMessage, ApiError> {
    let Turn { role, content } = extract::read(Value::Object(body))?;
    let role = if role == "developer" { "system".to_owned() } else { role };
    let content = match content {
        Content::Text(text) => text,
        Content::Parts(parts) => parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?,
    };
    Ok(ChatMessage { role, content })
}

fn part((i, Part(body)): (usize, Part)) -> Result<String, ApiError> {
    let param = format!("content[{i}]");
    match body.get("type").and_then(Value::as_str) {
        Some("text") => {
            let TextPart::Text { text } =
                extract::read(Value::Object(body)).map_err(|error: ApiError| error.within(&param))?;
            Ok(text)
        }
        Some(other) => Err(ApiError::unsupported(&param, format!("`{other}` is not supported: this model reads text"))),
        None => Err(ApiError::invalid(format!("{param}.type"), "a string is needed: `text`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(turn: Value) -> Result<Vec<ChatMessage>, ApiError> {
        let Value::Object(turn) = turn else { panic!("not an object") };
        read(vec![turn])
    }

    #[test]
    fn parts_are_put_together_and_an_assistants_answer_can_be_sent_back() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]);
        let turns = parsed(json!({"role": "developer", "content": parts})).expect("a turn");
        assert_eq!((turns[0].role.as_str(), turns[0].content.as_str()), ("system", "a b"));
        let answer =
            json!({"role": "assistant", "content": "x", "refusal": null, "tool_calls": null, "annotations": []});
        assert!(parsed(answer).is_ok());
    }

    #[test]
    fn what_is_no_text_is_refused_where_it_stands() {
        let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]);
        for (turn, param) in [
            (json!({"role": "user", "content": image}), "messages[0].content[1]"),
            (json!({"role": "user", "content": [{"text": "a"}]}), "messages[0].content[0].type"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]"),
            (json!({"role": "user", "content": null}), "messages[0].content"),
            (json!({"role": "user", "content": "a", "name": "x"}), "messages[0].name"),
            (json!({"role": "user", "content": "a", "tool_calls": [{}]}), "messages[0].tool_calls"),
            (json!({"content": "a"}), "messages[0]"),
        ] {
            let error = parsed(turn.clone()).expect_err(param);
            assert_eq!(error.param.as_deref(), Some(param), "{turn}");
        }
    }
}
