//! Text to ids and back: `cl100k_base` built in, or a directory's `tokenizer.json`.
//!
//! Special ids never come out of user text: `<|mask|>` typed by a user is the plain characters `<|mask|>`.

mod chat;
mod cl100k;
mod file;
mod spans;
mod special;
mod stream;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::{Config, SpecialIds};
use crate::{Error, ModelDir, Result, dir};

pub use chat::Message;
pub use stream::StreamDecoder;

/// Name of the vocabulary file in a model directory.
const FILE: &str = "tokenizer.json";

/// One token of an encoded text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token's id.
    pub id: u32,
    /// The token's bytes as text; bytes that are no UTF-8 on their own show as U+FFFD.
    pub text: String,
    /// First byte of the encoded text that the token covers.
    pub start: usize,
    /// One past the last byte that the token covers.
    pub end: usize,
}

/// A tokenizer with the special ids of its checkpoint. Clones share one vocabulary.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    vocabulary: Vocabulary,
    special: SpecialIds,
    /// Ids that `skip_special` leaves out, with the names that are shown otherwise.
    names: BTreeMap<u32, String>,
    vocab_size: usize,
}

enum Vocabulary {
    Cl100k,
    File(Box<file::Vocabulary>),
}

impl Tokenizer {
    /// The built-in `cl100k_base` with a checkpoint's special ids. The ranks are read once a process (0.05 to 0.1 s) and shared.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when a special id is taken by an ordinary token or two special ids are equal.
    pub fn cl100k(special: SpecialIds) -> Result<Self> {
        cl100k::check(&special)?;
        let vocab_size = cl100k::LEN.max(special::highest(&special) as usize + 1);
        let names = special::names(&special)?;
        Ok(Self(Arc::new(Inner { vocabulary: Vocabulary::Cl100k, special, names, vocab_size })))
    }

    /// A `tokenizer.json`. Its truncation, padding and post-processor are not used: nothing is cut or added behind the caller's back.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Checkpoint`] when it is no usable tokenizer,
    /// [`Error::Tokenizer`] when two special ids are equal.
    pub fn from_file(path: &Path, special: SpecialIds) -> Result<Self> {
        Self::from_bytes(path, &dir::read(path)?, special)
    }

    /// The content of a `tokenizer.json`; `path` is what errors call it.
    fn from_bytes(path: &Path, bytes: &[u8], special: SpecialIds) -> Result<Self> {
        let mut names = special::names(&special)?;
        let file = file::Vocabulary::load(path, bytes, &special)?;
        names.extend(file.special_names());
        let vocab_size = file.len().max(special::highest(&special) as usize + 1);
        let vocabulary = Vocabulary::File(Box::new(file));
        Ok(Self(Arc::new(Inner { vocabulary, special, names, vocab_size })))
    }

    /// The tokenizer of a checkpoint directory: its `tokenizer.json` if there is one, else `cl100k_base` if
    /// `tokenizer_config.json` does not name another encoding and the config's ids fit.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming what is missing or does not fit the config's `vocab_size`; [`Error::Io`] for an unreadable file.
    pub fn for_checkpoint(dir: impl Into<ModelDir>, config: &Config) -> Result<Self> {
        let dir = dir.into();
        let path = dir.file(FILE);
        let unusable = |message: String| Error::Checkpoint { path: path.clone(), message };
        let tokenizer = if dir.contains(FILE) {
            Self::from_bytes(&path, &dir.read(FILE)?, config.special)?
        } else {
            if let Some(name) = file::encoding_name(&dir)?
                && name != cl100k::NAME
            {
                return Err(unusable(format!(
                    "missing, and tokenizer_config.json names encoding `{name}`; only {} is built in",
                    cl100k::NAME
                )));
            }
            Self::cl100k(config.special).map_err(|error| {
                unusable(format!("missing, and the built-in {} does not fit: {error}", cl100k::NAME))
            })?
        };
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(unusable(format!(
                "ids go up to {}, config's vocab_size is {}",
                tokenizer.vocab_size() - 1,
                config.vocab_size
            )));
        }
        Ok(tokenizer)
    }

    /// The ids of a text. Nothing is added, and the names of special tokens are plain text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the vocabulary cannot express the text, or a run of whitespace is too long for the splitter.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.vocabulary {
            Vocabulary::Cl100k => cl100k::encode(text),
            Vocabulary::File(file) => Ok(file.encode(text, &self.0.names)?.into_iter().map(|span| span.id).collect()),
        }
    }

    /// BOS, the ids of [`encode`](Self::encode), EOS.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = vec![self.0.special.bos];
        ids.extend(self.encode(text)?);
        ids.push(self.0.special.eos);
        Ok(ids)
    }

    /// The tokens of [`encode`](Self::encode) with the bytes of the text that they cover.
    /// The spans follow each other and cover the text, also where several tokens make up one character. Only a
    /// `tokenizer.json` that changes the text first may leave bytes out (blanks, say), or give several tokens the span of
    /// the characters that they were made from together (a ligature taken apart).
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<Token>> {
        match &self.0.vocabulary {
            Vocabulary::Cl100k => {
                let mut start = 0;
                let mut tokens = Vec::new();
                for id in cl100k::encode(text)? {
                    let bytes = cl100k::bytes(id).unwrap_or_default();
                    let end = start + bytes.len();
                    tokens.push(Token { id, text: String::from_utf8_lossy(&bytes).into_owned(), start, end });
                    start = end;
                }
                Ok(tokens)
            }
            Vocabulary::File(file) => {
                let spans = file.encode(text, &self.0.names)?;
                Ok(spans
                    .into_iter()
                    .map(|span| Token { id: span.id, text: self.token_text(span.id), start: span.start, end: span.end })
                    .collect())
            }
        }
    }

    /// The text of ids. Bytes that are no UTF-8 become U+FFFD; ids without text (for `cl100k_base` 100256 and
    /// 100261 to 100275, and whatever the vocabulary does not hold) are skipped. Special ids are skipped or shown by name.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        match &self.0.vocabulary {
            Vocabulary::Cl100k => {
                let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.cl100k_bytes(id, skip_special)).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Vocabulary::File(file) => file.decode(ids, skip_special, &self.0.names),
        }
    }

    /// One token for display: the name of a special id, nothing for an id without text.
    pub fn token_text(&self, id: u32) -> String {
        self.decode(&[id], false)
    }

    /// The special ids.
    pub fn special(&self) -> &SpecialIds {
        &self.0.special
    }

    /// The highest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    fn cl100k_bytes(&self, id: u32, skip_special: bool) -> Vec<u8> {
        match self.0.names.get(&id) {
            Some(_) if skip_special => Vec::new(),
            Some(name) => name.clone().into_bytes(),
            None => cl100k::bytes(id).unwrap_or_default(),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.0.vocab_size)
            .field("special", &self.0.special)
            .finish_non_exhaustive()
    }
}
