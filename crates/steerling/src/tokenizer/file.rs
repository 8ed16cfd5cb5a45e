//! Vocabularies that come as a `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokenizers::{Decoder, ModelWrapper};

use super::spans::{Spelling, raw_byte};
use super::special;
use crate::config::SpecialIds;
use crate::dir::parse_json;
use crate::{Error, ModelDir, Result};

/// An id and the bytes of the text it stands for.
pub(super) struct Span {
    pub(super) id: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A loaded `tokenizer.json`.
pub(super) struct Vocabulary {
    tokenizer: tokenizers::Tokenizer,
    /// What unknown text becomes; it may be listed as special and still comes out of text.
    unknown: Option<u32>,
    spelling: Spelling,
    len: usize,
}

impl Vocabulary {
    /// `path` is what errors call the bytes.
    pub(super) fn load(path: &Path, bytes: &[u8], special: &SpecialIds) -> Result<Self> {
        let unusable = |message: String| Error::Checkpoint { path: path.to_owned(), message };
        let mut json = object(path, parse_json(path, bytes)?)?;
        let ids: Vec<u32> = special::list(special).iter().map(|&(id, _)| id).collect();
        for key in ["truncation", "padding", "post_processor"] {
            json[key] = Value::Null;
        }
        for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
            // The config decides what is special, whatever the file says.
            if token["id"].as_u64().is_some_and(|id| ids.iter().any(|&special| u64::from(special) == id)) {
                token["special"] = Value::Bool(true);
            }
        }
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(|error| unusable(error.to_string()))?;
        // Despite its name: special names in a text are encoded as the text they are, not found as specials.
        tokenizer.set_encode_special_tokens(true);
        let model = &json["model"];
        let unknown = match model["unk_id"].as_u64() {
            Some(id) => u32::try_from(id).ok(),
            None => model["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token)),
        };
        let len = tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let unknown = unknown.filter(|id| !ids.contains(id));
        let byte_level = ["normalizer", "pre_tokenizer", "decoder"].iter().any(|step| is_byte_level(&json[*step]));
        let spelling = Spelling::new(byte_level, unknown);
        Ok(Self { tokenizer, unknown, spelling, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The tokens that the file marks as special.
    pub(super) fn special_names(&self) -> BTreeMap<u32, String> {
        let added = self.tokenizer.get_added_tokens_decoder();
        added.into_iter().filter(|(_, token)| token.special).map(|(id, token)| (id, token.content)).collect()
    }

    /// Ids and the bytes that each covers.
    pub(super) fn encode(&self, text: &str, names: &BTreeMap<u32, String>) -> Result<Vec<Span>> {
        let mut spans = Vec::new();
        self.encode_into(text, 0, names, &mut spans)?;
        self.spelling.split_shared(text, &mut spans, |id| self.tokenizer.id_to_token(id));
        Ok(spans)
    }

    /// `base`: where `text` starts in the user's text.
    fn encode_into(&self, text: &str, base: usize, names: &BTreeMap<u32, String>, spans: &mut Vec<Span>) -> Result<()> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| Error::Tokenizer(error.to_string()))?;
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if !names.contains_key(&id) || Some(id) == self.unknown {
                spans.push(Span { id, start: base + start, end: base + end });
                continue;
            }
            // The model's own vocabulary may hold the special name as a word. In user text it is a word
            // the vocabulary lacks: the unknown word if words are all it has, else its parts.
            if let (ModelWrapper::WordLevel(_) | ModelWrapper::WordPiece(_), Some(unknown)) =
                (self.tokenizer.get_model(), self.unknown)
            {
                spans.push(Span { id: unknown, start: base + start, end: base + end });
                continue;
            }
            let part = text.get(start..end).unwrap_or_default();
            let first = part.chars().next().map_or(0, char::len_utf8);
            if first == part.len() {
                return Err(Error::Tokenizer(format!(
                    "`{part}` at byte {} can only be encoded as the special token {id}",
                    base + start
                )));
            }
            self.encode_into(&part[..first], base + start, names, spans)?;
            self.encode_into(&part[first..], base + start + first, names, spans)?;
        }
        Ok(())
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special: bool, names: &BTreeMap<u32, String>) -> String {
        let token = |id: &u32| match names.get(id) {
            Some(_) if skip_special => None,
            Some(name) => Some(name.clone()),
            None => self.tokenizer.id_to_token(*id),
        };
        let tokens: Vec<String> = ids.iter().filter_map(token).collect();
        match self.tokenizer.get_decoder() {
            // No known decoder fails; if one does, the raw tokens are better than nothing.
            Some(decoder) => decoder.decode(tokens.clone()).unwrap_or_else(|_| tokens.concat()),
            // The format's rule for a file without a decoder.
            None => tokens.join(" "),
        }
    }

    /// Whether the id is a raw byte `<0xNN>`, whose text depends on the bytes around it.
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.tokenizer.id_to_token(id).is_some_and(|token| raw_byte(&token).is_some())
    }
}

/// Whether a step of the tokenizer, or one of its parts, turns bytes into letters or back.
fn is_byte_level(step: &Value) -> bool {
    let parts = ["normalizers", "pretokenizers", "decoders"].into_iter().filter_map(|key| step[key].as_array());
    step["type"] == "ByteLevel" || parts.flatten().any(is_byte_level)
}

/// `encoding_name` of a directory's `tokenizer_config.json`; `None` when there is no such file or key.
pub(super) fn encoding_name(dir: &ModelDir) -> Result<Option<String>> {
    let file = "tokenizer_config.json";
    if !dir.contains(file) {
        return Ok(None);
    }
    match &object(&dir.file(file), dir.read_json(file)?)?["encoding_name"] {
        Value::Null => Ok(None),
        Value::String(name) => Ok(Some(name.clone())),
        other => Err(Error::config("encoding_name", format!("{other} is not a string"))),
    }
}

/// Refuses JSON that is no object; `path` is what errors call it.
fn object(path: &Path, json: Value) -> Result<Value> {
    if json.is_object() {
        return Ok(json);
    }
    Err(Error::Checkpoint { path: path.to_owned(), message: "is not a JSON object".to_owned() })
}
