//! Log-probabilities of tokens, in OpenAI's two shapes. Their meaning is ours: each token after those before it, with the
//! rest of its attention block masked, under the model itself (no steering, guidance or penalty).

use std::collections::BTreeMap;

use serde::Serialize;
use steerling::Tokenizer;
use steerling::score::TokenScore;
use steerling::tokenizer::StreamDecoder;
use utoipa::ToSchema;

/// A token, and its number unless it is the first of a text.
type Scored = (u32, Option<TokenScore>);

/// Of a completion: lists of the same length.
///
/// `log p` of each token after those before it, with the rest of its attention block masked, as `left_to_right` of
/// `/score`: also for generated tokens, which were committed in another order. Steering, guidance and penalty play no part.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CompletionLogprobs {
    /// Texts of the tokens.
    tokens: Vec<String>,
    /// In nats; null for the first token of an echoed prompt, which comes after nothing.
    token_logprobs: Vec<Option<f64>>,
    /// The likeliest tokens at each place, and the token itself; null for `logprobs: 0`.
    top_logprobs: Option<Vec<Option<BTreeMap<String, f64>>>>,
    /// Where each token begins in the choice's `text`, in characters.
    text_offset: Vec<usize>,
}

/// Of a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatLogprobs {
    /// The tokens of the message, as in [`CompletionLogprobs`].
    content: Vec<ChatTokenLogprob>,
    /// Always null.
    refusal: Option<String>,
}

/// A token of a message.
#[derive(Debug, Serialize, ToSchema)]
struct ChatTokenLogprob {
    #[serde(flatten)]
    token: ChatToken,
    /// The likeliest tokens in its place.
    top_logprobs: Vec<ChatToken>,
}

/// A token and its log-probability.
#[derive(Debug, Serialize, ToSchema)]
struct ChatToken {
    token: String,
    logprob: f64,
    /// The token as UTF-8; null if it is a part of a character.
    bytes: Option<Vec<u8>>,
}

impl CompletionLogprobs {
    /// `prompt`: how many of the tokens are the echoed prompt's, and its text.
    pub(super) fn new(scored: &[Scored], top: usize, prompt: (usize, &str), tokenizer: &Tokenizer) -> Self {
        let text = |id: &u32| tokenizer.token_text(*id);
        let (echoed, generated) = scored.split_at(prompt.0);
        let mut text_offset = offsets(echoed, 0, tokenizer);
        text_offset.extend(offsets(generated, if prompt.0 > 0 { prompt.1.chars().count() } else { 0 }, tokenizer));
        let top_of = |(id, score): &Scored| {
            let TokenScore { logprob, top } = score.as_ref()?;
            let mut map = BTreeMap::new();
            // Tokens that are parts of characters may share a text: the likeliest has it.
            for (id, logprob) in top.iter().chain([&(*id, *logprob)]) {
                map.entry(text(id)).or_insert(*logprob);
            }
            Some(map)
        };
        Self {
            tokens: scored.iter().map(|(id, _)| text(id)).collect(),
            token_logprobs: scored.iter().map(|(_, score)| score.as_ref().map(|score| score.logprob)).collect(),
            top_logprobs: (top > 0).then(|| scored.iter().map(top_of).collect()),
            text_offset,
        }
    }
}

/// Where each token begins, in characters; those of one character begin together.
fn offsets(scored: &[Scored], from: usize, tokenizer: &Tokenizer) -> Vec<usize> {
    let mut decoder = StreamDecoder::new(tokenizer.clone(), Vec::new());
    let mut at = from;
    let offset = |(id, _): &Scored| {
        let start = at;
        at += decoder.push(&[*id]).chars().count();
        start
    };
    scored.iter().map(offset).collect()
}

impl ChatLogprobs {
    pub(super) fn new(scored: &[Scored], tokenizer: &Tokenizer) -> Self {
        let token = |id: u32, logprob: f64| {
            let token = tokenizer.token_text(id);
            let bytes = (!token.contains(char::REPLACEMENT_CHARACTER)).then(|| token.clone().into_bytes());
            ChatToken { token, logprob, bytes }
        };
        let of = |(id, score): &Scored| {
            let TokenScore { logprob, top } = score.as_ref()?;
            let top_logprobs = top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
            Some(ChatTokenLogprob { token: token(*id, *logprob), top_logprobs })
        };
        Self { content: scored.iter().filter_map(of).collect(), refusal: None }
    }
}
