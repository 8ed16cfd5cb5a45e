//! The chat template of instruct checkpoints (MODEL.md section 9).

use super::Tokenizer;
use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the turn; special names in it stay plain text.
    pub content: String,
}

impl Tokenizer {
    /// The prompt for the next assistant turn: for each message
    /// `<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|endofchunk|><|eot_id|>`, then
    /// `<|start_header_id|>assistant<|end_header_id|>\n\n`. No BOS. Special ids are placed as ids, never parsed from text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a checkpoint without chat tokens, [`Error::Invalid`] for an empty conversation or an unknown role,
    /// and those of [`encode`](Self::encode).
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let special = self.special();
        let Some(chat) = special.chat else {
            return Err(Error::Unsupported(
                "this checkpoint has no chat tokens: send a prompt instead of messages".to_owned(),
            ));
        };
        if messages.is_empty() {
            return Err(Error::invalid("messages", "is empty; at least one message is needed"));
        }
        let mut ids = Vec::new();
        for (index, Message { role, content }) in messages.iter().enumerate() {
            if !matches!(role.as_str(), "system" | "user" | "assistant") {
                return Err(Error::invalid(
                    format!("messages[{index}].role"),
                    format!("`{role}` is none of system, user, assistant"),
                ));
            }
            ids.push(chat.start_header);
            ids.extend(self.encode(role)?);
            ids.push(chat.end_header);
            // Together, because blank lines at the start of the content belong to the same token as these.
            ids.extend(self.encode(&format!("\n\n{content}"))?);
            ids.extend([special.endofchunk, chat.eot]);
        }
        ids.push(chat.start_header);
        ids.extend(self.encode("assistant")?);
        ids.push(chat.end_header);
        ids.extend(self.encode("\n\n")?);
        Ok(ids)
    }
}
