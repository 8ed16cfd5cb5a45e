//! The header of a GGUF file (versions 2 and 3), read from its bytes: nothing is allocated that the file does not hold.
//!
//! candle's reader would do for a sound file. It keeps tensors in a map, in which a name that occurs twice is lost, and
//! takes 32 bytes for each byte of an array that nothing reads.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where tensors begin by default, in bytes.
pub(super) const ALIGNMENT: u64 = 32;
/// The format's numbers for types of metadata.
pub(super) const U32: u32 = 4;
pub(super) const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// The format's limit.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays, so deep that no file needs more.
const MAX_DEPTH: u32 = 8;
/// The least bytes of a tensor's entry, and of one of metadata.
const LEAST_TENSOR: u64 = 24;
const LEAST_METADATA: u64 = 13;

/// What the header says.
pub(super) struct Header {
    /// Where the texts of the metadata lie in the file.
    pub(super) strings: BTreeMap<String, Range<usize>>,
    /// Tensors begin at multiples of this, from `data` on.
    pub(super) alignment: u64,
    /// Where the data begins in the file.
    pub(super) data: u64,
    /// In the order of the header.
    pub(super) tensors: Vec<TensorEntry>,
}

/// A tensor as the header has it, unchecked.
pub(super) struct TensorEntry {
    pub(super) name: String,
    /// Rows first, as in this crate: the header has it the other way round.
    pub(super) shape: Vec<u64>,
    /// The format's number of the type.
    pub(super) type_number: u32,
    /// From `data` on, in bytes.
    pub(super) offset: u64,
}

/// Why a header cannot be read, and the tensor whose entry it was, if it was one.
pub(super) struct Unreadable {
    pub(super) tensor: Option<String>,
    pub(super) reason: String,
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Self { tensor: None, reason }
    }
}

impl Header {
    /// Reads the header at the start of `file`, which begins with the format's four letters.
    pub(super) fn read(file: &[u8]) -> Result<Self, Unreadable> {
        let mut from = Cursor { file, at: 4 };
        let version = from.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version}, expected 2 or 3").into());
        }
        let tensor_count = from.count("tensors", LEAST_TENSOR)?;
        let metadata_count = from.count("entries of metadata", LEAST_METADATA)?;
        let (mut strings, mut alignment) = (BTreeMap::new(), ALIGNMENT);
        for _ in 0..metadata_count {
            let key = from.text()?;
            match from.u32()? {
                STRING => {
                    let value = from.string()?;
                    if strings.insert(key.clone(), value).is_some() {
                        return Err(format!("metadata `{key}` occurs twice").into());
                    }
                }
                U32 if key == "general.alignment" => alignment = from.u32()?.into(),
                kind => from.skip(kind, 0)?,
            }
        }
        if !alignment.is_power_of_two() {
            return Err(format!("general.alignment is {alignment}, expected a power of two").into());
        }
        let tensors = (0..tensor_count).map(|_| from.tensor()).collect::<Result<_, _>>()?;
        let data = (from.at as u64).checked_next_multiple_of(alignment).ok_or_else(|| "no room for data".to_owned())?;
        Ok(Self { strings, alignment, data, tensors })
    }
}

/// A place in the file.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `len` bytes.
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let rest = &self.file[self.at..];
        let bytes = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or_else(|| {
            let (at, size) = (self.at, self.file.len());
            format!("the header takes {len} bytes from byte {at} on, but the file has {size} bytes")
        })?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default()))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default()))
    }

    /// A number of things that take at least so many bytes each.
    fn count(&mut self, what: &str, least: u64) -> Result<u64, String> {
        let (count, room) = (self.u64()?, (self.file.len() - self.at) as u64);
        match count.checked_mul(least) {
            Some(needed) if needed <= room => Ok(count),
            _ => Err(format!("the header says {count} {what}, which do not fit the {room} bytes behind it")),
        }
    }

    /// Where a string lies.
    fn string(&mut self) -> Result<Range<usize>, String> {
        let len = self.u64()?;
        let start = self.at;
        self.take(len)?;
        Ok(start..self.at)
    }

    fn text(&mut self) -> Result<String, String> {
        let range = self.string()?;
        String::from_utf8(self.file[range].to_vec()).map_err(|_| format!("a name before byte {} is not UTF-8", self.at))
    }

    /// Passes over a value of metadata.
    fn skip(&mut self, kind: u32, depth: u32) -> Result<(), String> {
        if let Some(size) = size_of(kind) {
            return self.take(size).map(drop);
        }
        match kind {
            STRING => self.string().map(drop),
            ARRAY if depth < MAX_DEPTH => {
                let kind = self.u32()?;
                match size_of(kind) {
                    Some(size) => {
                        let count = self.count("elements of an array", size)?;
                        self.take(count * size).map(drop)
                    }
                    None => {
                        let count = self.count("elements of an array", 8)?;
                        (0..count).try_for_each(|_| self.skip(kind, depth + 1))
                    }
                }
            }
            ARRAY => Err(format!("arrays of metadata are nested deeper than {MAX_DEPTH}")),
            _ => Err(format!("metadata of type {kind} at byte {}, expected 0 to 12", self.at)),
        }
    }

    /// An entry of a tensor.
    fn tensor(&mut self) -> Result<TensorEntry, Unreadable> {
        let name = self.text()?;
        self.rest_of_tensor(&name).map_err(|reason| Unreadable { tensor: Some(name), reason })
    }

    fn rest_of_tensor(&mut self, name: &str) -> Result<TensorEntry, String> {
        let dimensions = self.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!("found {dimensions} dimensions, expected at most {MAX_DIMENSIONS}"));
        }
        let mut shape = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(TensorEntry { name: name.to_owned(), shape, type_number: self.u32()?, offset: self.u64()? })
    }
}

/// Bytes of a value of metadata, unless its length stands before it.
fn size_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
