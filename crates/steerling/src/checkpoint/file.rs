//! One file of weights, memory-mapped if it lies on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use safetensors::SafeTensors;

use super::gguf::Container;
use super::{StoredType, damage};
use crate::{Error, ModelDir, Result};

/// Bytes before the header of a safetensors file: its length.
pub(super) const LENGTH_BYTES: usize = 8;

/// A file and where its tensors lie in it.
pub(super) struct WeightFile {
    /// What errors call it.
    pub(super) path: PathBuf,
    content: Bytes,
    pub(super) tensors: BTreeMap<String, Entry>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// `None` for a type that weights cannot have.
    pub(super) stored: Option<StoredType>,
    /// The type in the file's own words.
    pub(super) type_name: String,
    pub(super) shape: Vec<usize>,
    /// In bytes from the start of the file; within the file, and as long as type and shape say.
    pub(super) range: Range<usize>,
}

impl WeightFile {
    /// Opens a file and reads its header. Of a file on disk nothing else is read yet.
    pub(super) fn open(dir: &ModelDir, name: &str) -> Result<Self> {
        let (path, content) = (dir.file(name), dir.map(name)?);
        if content.len() < LENGTH_BYTES {
            let message = format!("truncated: {} bytes are too short for a safetensors file", content.len());
            return Err(Error::Checkpoint { path, message });
        }
        let (header, metadata) =
            SafeTensors::read_metadata(&content).map_err(|e| damage::diagnose(&path, &content, &e.to_string()))?;
        let start = LENGTH_BYTES + header;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let (stored, type_name) = (StoredType::of_safetensors(info.dtype), format!("{:?}", info.dtype));
            (name, Entry { stored, type_name, shape: info.shape.clone(), range: start + from..start + to })
        });
        Ok(Self { path, tensors: tensors.collect(), content })
    }

    /// The tensors of a model in one file, and what is wrong with them.
    pub(super) fn of_container(path: &Path, container: Container) -> (Self, Vec<Error>) {
        let (content, tensors, problems) = container.into_tensors();
        (Self { path: path.to_owned(), content, tensors }, problems)
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> u64 {
        self.content.len() as u64
    }

    /// The bytes of a tensor of this file.
    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.content[entry.range.clone()]
    }
}

/// Bytes would print their content.
impl fmt::Debug for WeightFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeightFile").field("path", &self.path).field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn byte_len(&self) -> usize {
        self.range.len()
    }
}
