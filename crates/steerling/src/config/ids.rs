//! Special token ids: `config.json` first, then `tokenizer_config.json`, then the ids of `cl100k_base` as released.

use serde_json::Value;

use super::fields::Fields;
use super::{ChatIds, SpecialIds};
use crate::{Error, Result};

impl SpecialIds {
    /// The ids of the released base models.
    pub const RELEASED: Self =
        Self { eos: 100_257, pad: 100_277, bos: 100_278, endofchunk: 100_279, mask: 100_280, chat: None };
}

impl ChatIds {
    /// The ids of the released instruct models.
    pub const RELEASED: Self = Self { start_header: 100_281, end_header: 100_282, eot: 100_283 };
}

/// Reads the ids; `config` wins over `tokenizer`. All must lie below `vocab_size`.
pub(super) fn special_ids(config: &mut Fields<'_>, tokenizer: Option<&Value>, vocab_size: usize) -> Result<SpecialIds> {
    let empty = serde_json::Map::new();
    let tokenizer = match tokenizer {
        None => &empty,
        Some(value) => value.as_object().ok_or_else(|| {
            Error::config("tokenizer_config", "found something else than a JSON object in tokenizer_config.json")
        })?,
    };
    let mut both = Both { config, tokenizer: Fields::new(tokenizer, "tokenizer_config."), vocab_size };
    let released = SpecialIds::RELEASED;
    Ok(SpecialIds {
        eos: both.id("eos_token_id", released.eos)?,
        pad: both.id("pad_token_id", released.pad)?,
        bos: both.id("bos_token_id", released.bos)?,
        endofchunk: both.id("endofchunk_token_id", released.endofchunk)?,
        mask: both.id("mask_token_id", released.mask)?,
        chat: both.chat()?,
    })
}

struct Both<'f, 'a, 't> {
    config: &'f mut Fields<'a>,
    tokenizer: Fields<'t>,
    vocab_size: usize,
}

impl Both<'_, '_, '_> {
    fn find(&mut self, key: &'static str) -> Result<Option<u32>> {
        // Both are read, so that a bad value in either is reported.
        let (first, second) = (self.config.token_id(key)?, self.tokenizer.token_id(key)?);
        Ok(first.or(second))
    }

    fn id(&mut self, key: &'static str, default: u32) -> Result<u32> {
        let found = self.find(key)?;
        let id = found.unwrap_or(default);
        if (id as usize) < self.vocab_size {
            return Ok(id);
        }
        let origin = if found.is_some() { "" } else { " (the default, as the key is absent)" };
        Err(Error::config(key, format!("found {id}{origin}, expected less than vocab_size {}", self.vocab_size)))
    }

    /// A checkpoint is a chat model iff it names `eot_id`, or says `instruct: true`.
    fn chat(&mut self) -> Result<Option<ChatIds>> {
        let named = self.find("eot_id")?.is_some();
        let instruct = self.config.flag("instruct", named)?;
        if named && !instruct {
            return Err(Error::config("instruct", "found false beside an eot_id, expected true or no eot_id"));
        }
        if !instruct {
            self.config.ignore(&["start_header_id", "end_header_id"]);
            return Ok(None);
        }
        let eot = self.id("eot_id", ChatIds::RELEASED.eot)?;
        // As released, the two header tokens stand directly before <|eot_id|>.
        Ok(Some(ChatIds {
            start_header: self.id("start_header_id", eot.saturating_sub(2))?,
            end_header: self.id("end_header_id", eot.saturating_sub(1))?,
            eot,
        }))
    }
}
