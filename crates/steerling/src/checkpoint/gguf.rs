//! A model in one file: GGUF, with the small files of a model directory as metadata.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::file::Entry;
use super::gguf_header::{Header, TensorEntry, Unreadable};
use super::{StoredType, tensor_error};
use crate::dir::text_instead;
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
    header: Header,
}

impl Container {
    /// Reads the header of a mapped file.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is no GGUF, or one of another architecture; [`Error::Tensor`] for an entry of
    /// a tensor that cannot be read.
    pub(crate) fn read(path: &Path, content: Bytes) -> Result<Self> {
        let unusable = |message: String| Error::Checkpoint { path: path.to_owned(), message };
        if !content.starts_with(b"GGUF") {
            let instead = text_instead(&content).map_or(String::new(), |text| format!("; {text}"));
            return Err(unusable(format!("neither a model directory nor a GGUF file{instead}")));
        }
        let header = Header::read(&content).map_err(|Unreadable { tensor, reason }| match tensor {
            Some(name) => tensor_error(&name, path, reason),
            None => unusable(format!("not a usable GGUF file: {reason}")),
        })?;
        let found = Self { path: path.to_owned(), content, header };
        match found.string("general.architecture")? {
            Some(name) if name == ARCHITECTURE => Ok(found),
            Some(name) => Err(unusable(format!(
                "a GGUF file of architecture `{name}`, expected `{ARCHITECTURE}` as `steerling quantize` writes it"
            ))),
            None => Err(unusable("a GGUF file without a text `general.architecture`".to_owned())),
        }
    }

    /// A text of the metadata.
    fn string(&self, key: &str) -> Result<Option<&str>> {
        let Some(range) = self.header.strings.get(key) else { return Ok(None) };
        let text = std::str::from_utf8(&self.content[range.clone()]);
        text.map(Some).map_err(|error| self.unusable(format!("metadata `{key}` is not UTF-8: {error}")))
    }

    fn unusable(&self, message: String) -> Error {
        Error::Checkpoint { path: self.path.clone(), message }
    }

    /// The content of one of a model's small files, if this file holds it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for metadata that is no base 64 where it should be.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Bytes>> {
        let Some((_, key)) = FILES.iter().find(|(file, _)| *file == name) else { return Ok(None) };
        let Some(range) = self.header.strings.get(*key) else { return Ok(None) };
        let text = self.content.slice(range.clone());
        if name != LABELS {
            return Ok(Some(text));
        }
        let bytes =
            BASE64_STANDARD.decode(text).map_err(|error| self.unusable(format!("metadata `{key}`: {error}")))?;
        Ok(Some(bytes.into()))
    }

    /// The tensors and where they lie, with the file's content. A tensor that is damaged is left out and told of.
    pub(super) fn into_tensors(self) -> (Bytes, BTreeMap<String, Entry>, Vec<Error>) {
        let (mut tensors, mut problems) = (BTreeMap::new(), Vec::new());
        for entry in &self.header.tensors {
            match self.placed(entry) {
                Err(message) => problems.push(tensor_error(&entry.name, &self.path, message)),
                Ok(_) if tensors.contains_key(&entry.name) => {
                    problems.push(tensor_error(&entry.name, &self.path, "occurs twice in the header"));
                }
                Ok(placed) => drop(tensors.insert(entry.name.clone(), placed)),
            }
        }
        problems.extend(overlaps(&tensors, &self.path));
        problems.sort_by_key(ToString::to_string);
        (self.content, tensors, problems)
    }

    /// Type, shape and place of a tensor, or what is wrong with them.
    fn placed(&self, entry: &TensorEntry) -> Result<Entry, String> {
        let (alignment, size) = (self.header.alignment, self.content.len());
        let stored = StoredType::of_gguf(entry.type_number);
        let shape = &entry.shape;
        let row = shape.last().copied().unwrap_or(1);
        if let Some(stored) = stored.filter(|stored| !row.is_multiple_of(stored.block() as u64)) {
            return Err(format!("found rows of {row}, expected whole blocks of {} in {stored}", stored.block()));
        }
        if !entry.offset.is_multiple_of(alignment) {
            return Err(format!("begins at byte {} of the data, expected a multiple of {alignment}", entry.offset));
        }
        if shape.contains(&0) {
            return Err(format!("found shape {shape:?}, expected no dimension of 0"));
        }
        // Eight bytes a weight are more than any type has.
        let Some(most) = shape.iter().try_fold(8u64, |n, dim| n.checked_mul(*dim)) else {
            return Err(format!("found shape {shape:?}, more weights than can be counted"));
        };
        let bytes = most / 8 / row * stored.map_or(0, |stored| stored.row_bytes(row as usize) as u64);
        let range = self.header.data.checked_add(entry.offset).and_then(|start| Some(start..start.checked_add(bytes)?));
        let range = range.filter(|range| range.end <= size as u64).ok_or_else(|| {
            let offset = entry.offset;
            format!("truncated: shape {shape:?} at byte {offset} of the data ends behind the file's {size} bytes")
        })?;
        Ok(Entry {
            stored,
            type_name: stored.map_or_else(|| StoredType::gguf_name(entry.type_number), |stored| stored.to_string()),
            shape: shape.iter().map(|dim| *dim as usize).collect(),
            range: range.start as usize..range.end as usize,
        })
    }
}

/// Tensors that begin before the one in front of them has ended.
fn overlaps(tensors: &BTreeMap<String, Entry>, path: &Path) -> Vec<Error> {
    let mut places: Vec<(&Range<usize>, &str)> = tensors
        .iter()
        .map(|(name, entry)| (&entry.range, name.as_str()))
        .filter(|(range, _)| !range.is_empty())
        .collect();
    places.sort_by_key(|(range, _)| range.start);
    let overlap = |pair: &[(&Range<usize>, &str)]| {
        let [(before, other), (range, name)] = pair else { return None };
        let message = || {
            let (start, end) = (range.start, before.end);
            format!("begins at byte {start} of the file, but `{other}` ends at byte {end}: they overlap")
        };
        (range.start < before.end).then(|| tensor_error(name, path, message()))
    };
    places.windows(2).filter_map(overlap).collect()
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("path", &self.path).finish_non_exhaustive()
    }
}
