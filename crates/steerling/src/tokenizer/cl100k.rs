//! The built-in vocabulary of the released checkpoints.

use tiktoken_rs::cl100k_base_singleton;

use super::special;
use crate::config::SpecialIds;
use crate::{Error, Result};

/// What `tokenizer_config.json` calls it.
pub(super) const NAME: &str = "cl100k_base";

/// Highest id of the encoding itself (`<|endofprompt|>`) plus one.
pub(super) const LEN: usize = 100_277;

/// The first id that is not an ordinary token: `<|endoftext|>`.
const FIRST_SPECIAL: u32 = 100_257;

/// The splitter backtracks once per character of a run of whitespace, and its library panics after a million steps
/// (700,000 are fine, 1,000,001 are not). The limit refuses nothing that fits the context of 4096.
const MAX_WHITESPACE_RUN: usize = 700_000;

/// Refuses special ids that ordinary text would produce as well.
pub(super) fn check(special: &SpecialIds) -> Result<()> {
    for (id, name) in special::list(special) {
        if id < FIRST_SPECIAL {
            return Err(Error::Tokenizer(format!(
                "{name} has id {id}, an ordinary token of {NAME}; special ids start at {FIRST_SPECIAL}"
            )));
        }
    }
    Ok(())
}

/// Ids of a text, every special name being plain text.
pub(super) fn encode(text: &str) -> Result<Vec<u32>> {
    let mut run = 0;
    for character in text.chars() {
        run = if character.is_whitespace() { run + 1 } else { 0 };
        if run > MAX_WHITESPACE_RUN {
            return Err(Error::Tokenizer(format!("more than {MAX_WHITESPACE_RUN} whitespace characters in a row")));
        }
    }
    Ok(cl100k_base_singleton().encode_ordinary(text))
}

/// The bytes of a token; `None` for the holes of the vocabulary and beyond its end.
pub(super) fn bytes(id: u32) -> Option<Vec<u8>> {
    cl100k_base_singleton().decode_bytes(&[id]).ok()
}
