//! What is committed, and why a generation ends.

/// One committed token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Commit {
    /// Denoising step, counted over all blocks from 0.
    pub step: usize,
    /// Generation block, from 0.
    pub block: usize,
    /// Absolute index in the sequence.
    pub position: usize,
    /// Token id.
    pub id: u32,
    /// Largest softmax probability of the position when it was chosen.
    pub confidence: f32,
    /// The model's logit of the token, before suppression, penalty and bans.
    pub target_logit: f32,
    /// The logit that decided: after guidance, suppression and penalty.
    pub decision_logit: f32,
}

/// A token chosen for a position, before it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Absolute index in the sequence.
    pub position: usize,
    /// Token id.
    pub id: u32,
    /// Largest softmax probability of the position.
    pub confidence: f32,
    /// The model's logit of the token, before suppression, penalty and bans.
    pub target_logit: f32,
    /// The logit that decided: after guidance, suppression and penalty.
    pub decision_logit: f32,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// Every requested position is filled.
    Length,
    /// `<|eot_id|>` was committed.
    Eot,
    /// One of `stop_tokens` was committed.
    StopToken,
    /// One of the `stop` strings stands in the text.
    StopString,
}

impl FinishReason {
    /// The name used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Eot => "eot",
            Self::StopToken => "stop_token",
            Self::StopString => "stop_string",
        }
    }
}
