//! A model in one file: GGUF, with the small files of a model directory as metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use candle_core::quantized::gguf_file::{Content, Value};

use super::file::Entry;
use super::{StoredType, tensor_error};
use crate::{Error, Result};

/// What `general.architecture` says of a file that this crate reads.
pub(super) const ARCHITECTURE: &str = "steerling";

/// Files of a model directory, and the metadata that holds the text of each.
pub(super) const FILES: [(&str, &str); 4] = [
    ("config.json", "steerling.config"),
    ("tokenizer_config.json", "steerling.tokenizer_config"),
    ("tokenizer.json", "tokenizer.huggingface.json"),
    (LABELS, "steerling.concept_labels.base64"),
];

/// The one that is no text, and therefore in base 64.
const LABELS: &str = "concept_labels.parquet";

/// An opened file: its header is read, its tensors are mapped.
pub(crate) struct Container {
    path: PathBuf,
    content: Bytes,
    header: Content,
}

impl Container {
    /// Reads the header of a mapped file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is no GGUF, or one of another architecture.
    pub(crate) fn read(path: &Path, content: Bytes) -> Result<Self> {
        let unusable = |message: String| Error::Checkpoint { path: path.to_owned(), message };
        if !content.starts_with(b"GGUF") {
            return Err(unusable("neither a model directory nor a GGUF file".to_owned()));
        }
        let header = Content::read(&mut Cursor::new(&content[..]))
            .map_err(|error| unusable(format!("not a usable GGUF file: {error}")))?;
        match header.metadata.get("general.architecture") {
            Some(Value::String(found)) if found == ARCHITECTURE => Ok(Self { path: path.to_owned(), content, header }),
            Some(Value::String(found)) => Err(unusable(format!(
                "a GGUF file of architecture `{found}`, expected `{ARCHITECTURE}` as `steerling quantize` writes it"
            ))),
            _ => Err(unusable("a GGUF file without `general.architecture`".to_owned())),
        }
    }

    /// The content of one of a model's small files, if this file holds it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for metadata of another type.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Bytes>> {
        let Some((_, key)) = FILES.iter().find(|(file, _)| *file == name) else { return Ok(None) };
        let unusable = |message: String| Error::Checkpoint { path: self.path.clone(), message };
        let text = match self.header.metadata.get(*key) {
            None => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(unusable(format!("metadata `{key}` is not a string"))),
        };
        if name != LABELS {
            return Ok(Some(text.clone().into()));
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| unusable(format!("metadata `{key}`: {error}")))?;
        Ok(Some(bytes.into()))
    }

    /// The tensors and where they lie, with the file's content. A tensor that is damaged is left out and told of.
    pub(super) fn into_tensors(self) -> (Bytes, BTreeMap<String, Entry>, Vec<Error>) {
        let (mut tensors, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, info) in &self.header.tensor_infos {
            let stored = StoredType::of_gguf(info.ggml_dtype);
            let shape = info.shape.dims().to_vec();
            let row = shape.last().copied().unwrap_or(1);
            let problem = |message: String| tensor_error(name, &self.path, message);
            if let Some(stored) = stored.filter(|stored| !row.is_multiple_of(stored.block())) {
                let message = format!("found rows of {row}, expected whole blocks of {} in {stored}", stored.block());
                problems.push(problem(message));
                continue;
            }
            let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, dim| n.checked_mul(*dim));
            let len = rows.and_then(|n| n.checked_mul(stored.map_or(0, |stored| stored.row_bytes(row))));
            let start = self.header.tensor_data_offset.checked_add(info.offset).and_then(|n| usize::try_from(n).ok());
            let end = start.zip(len).and_then(|(start, len)| start.checked_add(len));
            match start.zip(end) {
                Some((start, end)) if end <= self.content.len() => {
                    let type_name = stored.map_or(format!("{:?}", info.ggml_dtype), |stored| stored.to_string());
                    tensors.insert(name.clone(), Entry { stored, type_name, shape, range: start..end });
                }
                _ => {
                    let found = self.content.len();
                    problems.push(problem(format!("truncated: shape {shape:?} ends behind the file's {found} bytes")));
                }
            }
        }
        problems.sort_by_key(ToString::to_string);
        (self.content, tensors, problems)
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("path", &self.path).finish_non_exhaustive()
    }
}
