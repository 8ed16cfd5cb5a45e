//! The turns of a conversation as OpenAI's clients send them.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::neutral;
use crate::api::generate::request::ChatMessage;
use crate::error::ApiError;
use crate::openapi::extended;

/// A turn, with all fields of OpenAI's.
#[derive(Debug)]
pub(super) struct ChatTurn;

/// The fields that mean something here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
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
    Parts(Vec<TextPart>),
}

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

/// Takes what asks for nothing out of the turns of a body.
///
/// # Errors
/// If a turn asks for something, or holds something else than text.
pub(super) fn strip(body: &mut Map<String, Value>) -> Result<(), ApiError> {
    let turns = body.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten().enumerate();
    for (i, turn) in turns {
        let Value::Object(turn) = turn else { continue };
        let stripped = neutral::strip(turn, neutral::MESSAGE).and_then(|()| only_text(turn.get("content")));
        stripped.map_err(|error| error.within(&format!("messages[{i}]")))?;
    }
    Ok(())
}

fn only_text(content: Option<&Value>) -> Result<(), ApiError> {
    for (i, part) in content.and_then(Value::as_array).into_iter().flatten().enumerate() {
        if let Some(other) = part["type"].as_str().filter(|kind| *kind != "text") {
            let message = format!("`{other}` is not supported: this model reads text");
            return Err(ApiError::unsupported(&format!("content[{i}].type"), message));
        }
    }
    Ok(())
}

impl From<Turn> for ChatMessage {
    fn from(Turn { role, content }: Turn) -> Self {
        let role = if role == "developer" { "system".to_owned() } else { role };
        let content = match content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().map(|TextPart::Text { text }| text).collect(),
        };
        Self { role, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(turn: &Value) -> Result<ChatMessage, ApiError> {
        let mut body = json!({"messages": [turn]});
        strip(body.as_object_mut().expect("an object"))?;
        let turn: Turn = serde_json::from_value(body["messages"][0].take()).expect("a turn");
        Ok(turn.into())
    }

    #[test]
    fn parts_are_put_together_and_an_assistants_answer_can_be_sent_back() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]);
        let turn = parsed(&json!({"role": "developer", "content": parts})).expect("a turn");
        assert_eq!((turn.role.as_str(), turn.content.as_str()), ("system", "a b"));
        let answer =
            json!({"role": "assistant", "content": "x", "refusal": null, "tool_calls": null, "annotations": []});
        assert!(parsed(&answer).is_ok());
    }

    #[test]
    fn what_is_no_text_is_refused_where_it_stands() {
        let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]);
        for (turn, param) in [
            (json!({"role": "user", "content": image}), "messages[0].content[1].type"),
            (json!({"role": "user", "content": "a", "name": "x"}), "messages[0].name"),
            (json!({"role": "user", "content": "a", "tool_calls": [{}]}), "messages[0].tool_calls"),
        ] {
            let error = parsed(&turn).expect_err(param);
            assert_eq!(error.param.as_deref(), Some(param), "{turn}");
        }
    }
}
