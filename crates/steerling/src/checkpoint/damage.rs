//! What is wrong with a safetensors file that its library does not accept, in terms of a tensor where one is to blame.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde_json::Value;

use super::file::LENGTH_BYTES;
use super::tensor_error;
use crate::dir::text_instead;
use crate::{Error, Result};

/// Longest header that the library reads.
const MAX_HEADER: usize = 100_000_000;

/// A tensor's entry in the header.
#[derive(Deserialize)]
struct Claim {
    dtype: Dtype,
    shape: Vec<u64>,
    /// First byte of the data, and one past the last.
    data_offsets: (u64, u64),
}

/// Why a file of at least [`LENGTH_BYTES`] bytes failed the check; `reason` is the library's word.
pub(super) fn diagnose(path: &Path, content: &[u8], reason: &str) -> Error {
    let unusable = |message: String| Error::Checkpoint { path: path.to_owned(), message };
    let (length, rest) = content.split_at(LENGTH_BYTES);
    let length = length.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let Some(header) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        let size = content.len();
        return unusable(match text_instead(content) {
            Some(text) => format!("not a safetensors file: {text}"),
            None => format!(
                "not a safetensors file, or truncated: a header of {length} bytes does not fit a file of {size} bytes"
            ),
        });
    };
    if header.len() > MAX_HEADER {
        return unusable(format!(
            "not a usable safetensors file: a header of {length} bytes, at most {MAX_HEADER} are read"
        ));
    }
    match blame(path, header, (rest.len() - header.len()) as u64) {
        Err(error) => error,
        Ok(()) => unusable(format!("corrupt safetensors file: {reason}")),
    }
}

/// Refuses the first tensor, in the order of the data, that is not what or where it should be.
fn blame(path: &Path, header: &[u8], available: u64) -> Result<()> {
    let Ok(entries) = serde_json::from_slice::<BTreeMap<String, Value>>(header) else { return Ok(()) };
    let mut claims = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        match Claim::deserialize(entry) {
            Ok(claim) => claims.push((name, claim)),
            Err(error) => return Err(tensor_error(&name, path, format!("not usable in the header: {error}"))),
        }
    }
    claims.sort_by_key(|(_, claim)| claim.data_offsets);
    // What is wrong with a tensor alone explains holes and overlaps elsewhere.
    for (name, claim) in &claims {
        claim.check(available).map_err(|message| tensor_error(name, path, message))?;
    }
    let mut end_before = 0;
    for (name, claim) in &claims {
        let (start, end) = claim.data_offsets;
        if start != end_before {
            let what = if start < end_before { "overlaps the tensor before it" } else { "a hole lies before it" };
            let message = format!("begins at byte {start} of the data, expected byte {end_before}: {what}");
            return Err(tensor_error(name, path, message));
        }
        end_before = end;
    }
    match available - end_before {
        0 => Ok(()),
        surplus => {
            let message = format!("corrupt safetensors file: {surplus} bytes behind the last tensor belong to none");
            Err(Error::Checkpoint { path: path.to_owned(), message })
        }
    }
}

impl Claim {
    /// That type, shape and place agree, and the place is in the file.
    fn check(&self, available: u64) -> Result<(), String> {
        let (start, end) = self.data_offsets;
        let shape = &self.shape;
        let bits = shape.iter().try_fold(self.dtype.bitsize() as u64, |n, dim| n.checked_mul(*dim));
        let Some(bytes) = bits.map(|bits| bits / 8) else {
            return Err(format!("found shape {shape:?}, more bytes than can be counted"));
        };
        if end > available {
            let found = format!("found {available} bytes of data");
            return Err(format!("truncated: expected shape {shape:?} ending at byte {end} of the data, {found}"));
        }
        if end.checked_sub(start) != Some(bytes) {
            let dtype = self.dtype;
            return Err(format!(
                "found bytes {start} to {end} of the data, expected the {bytes} bytes of {dtype} {shape:?}"
            ));
        }
        Ok(())
    }
}
