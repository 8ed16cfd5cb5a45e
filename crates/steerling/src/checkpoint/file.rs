//! One memory-mapped safetensors file.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Error, Result};

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// A mapped file and where its tensors lie in it.
#[derive(Debug)]
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    map: Mmap,
    pub(super) tensors: BTreeMap<String, Entry>,
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In bytes from the start of the file; within the file, and as long as type and shape say.
    range: Range<usize>,
}

impl MappedFile {
    /// Maps a file and reads its header. Nothing else is read from disk yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() < LENGTH_BYTES as u64 {
            return Err(unusable(path, "too short to be a safetensors file"));
        }
        // SAFETY: mapping is sound as long as nobody shortens or rewrites the file while it is mapped. Checkpoints are
        // written once and then only read; a server that replaces one has to write a new file and rename it. Copying
        // instead would hold 16 GB twice.
        #[expect(unsafe_code, reason = "the only way to map a file; see above for what it relies on")]
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| diagnose(path, &map, &e.to_string()))?;
        let start = LENGTH_BYTES + header;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| {
            let (from, to) = info.data_offsets;
            (name, Entry { dtype: info.dtype, shape: info.shape.clone(), range: start + from..start + to })
        });
        Ok(Self { path: path.to_owned(), tensors: tensors.collect(), map })
    }

    /// The bytes of a tensor of this file.
    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.map[entry.range.clone()]
    }
}

impl Entry {
    pub(super) fn byte_len(&self) -> usize {
        self.range.len()
    }
}

fn unusable(path: &Path, message: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_owned(), message: message.into() }
}

/// Why a file failed its check, in terms of a tensor where one is to blame. `reason` is the library's word.
fn diagnose(path: &Path, map: &[u8], reason: &str) -> Error {
    let (length, rest) = map.split_at(LENGTH_BYTES);
    let length = length.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        let message = format!(
            "not a safetensors file, or truncated: a header of {length} bytes does not fit a file of {} bytes",
            map.len()
        );
        return unusable(path, message);
    };
    let available = (rest.len() - header.len()) as u64;
    let parsed: Option<Value> = serde_json::from_slice(header).ok();
    let ends = parsed.as_ref().and_then(Value::as_object).into_iter().flatten().filter_map(|(name, info)| {
        let end = info.get("data_offsets")?.get(1)?.as_u64()?;
        Some((name, end, info.get("shape")?.to_string()))
    });
    // The first tensor that is cut off, as this is where the file stops being usable.
    let cut = ends.filter(|(_, end, _)| *end > available).min_by_key(|(_, end, _)| *end);
    match cut {
        Some((name, end, shape)) => Error::Tensor {
            name: name.clone(),
            file: path.to_owned(),
            message: format!(
                "truncated: expected shape {shape} ending at byte {end} of the data, found {available} bytes of data"
            ),
        },
        None => unusable(path, format!("corrupt safetensors file: {reason}")),
    }
}
