//! Which of the generated ids a generation returns.

use super::FinishReason;
use crate::config::SpecialIds;

/// The ids that end a text, and those that are no part of one.
#[derive(Debug, Clone, Copy)]
pub struct OutputRules<'a> {
    /// Ids with a meaning of their own.
    pub special: &'a SpecialIds,
    /// Ids that end the text beside `<|eot_id|>`.
    pub stop_tokens: &'a [u32],
}

impl OutputRules<'_> {
    /// Whether the id ends the text.
    pub fn is_terminal(&self, id: u32) -> bool {
        self.stop_tokens.contains(&id) || self.special.chat.is_some_and(|chat| chat.eot == id)
    }

    /// Where the text of these generated ids ends, as an index, and why; `None` if no id ends it.
    pub fn terminal(&self, generated: &[u32]) -> Option<(usize, FinishReason)> {
        let at = generated.iter().position(|id| self.is_terminal(*id))?;
        let is_stop = self.stop_tokens.contains(&generated[at]);
        Some((at, if is_stop { FinishReason::StopToken } else { FinishReason::Eot }))
    }

    /// Indices and ids of what is returned of these generated ids: mask and EOS dropped, cut before the first id that
    /// ends the text.
    pub fn output<'a>(&self, generated: &'a [u32]) -> impl Iterator<Item = (usize, u32)> + use<'a> {
        let end = self.terminal(generated).map_or(generated.len(), |(at, _)| at);
        let [mask, eos] = [self.special.mask, self.special.eos];
        generated[..end].iter().copied().enumerate().filter(move |(_, id)| *id != mask && *id != eos)
    }
}
