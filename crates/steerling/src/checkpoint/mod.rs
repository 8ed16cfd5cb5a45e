//! Weights of a directory: found, memory-mapped, verified against the configuration, read a tensor or a row at a time.
//!
//! [`Weights`] is what a model is built from; it hides whether they come from a [`Checkpoint`] or are random values
//! made up in memory ([`Synthetic`]).

mod damage;
mod expected;
mod file;
pub(crate) mod gguf;
mod gguf_header;
mod memory;
mod quantize;
mod reader;
mod scan;
mod stored;
mod synthesize;
mod view;
mod weights;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::config::Config;
use crate::{Error, ModelDir, Result};
use file::{Entry, WeightFile};

pub use crate::kernels::matmul::Kind;
pub use expected::{Expected, expected};
pub use memory::MemoryNeeds;
pub use quantize::Recipe;
pub use reader::{Form, Reader};
pub use stored::StoredType;
pub use synthesize::Synthetic;
pub use view::{RawView, row_f32};
pub use weights::Weights;

/// Told the bytes done and the bytes in total, now and then, during something long.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A model directory: its configuration and its mapped weights.
#[derive(Debug)]
pub struct Checkpoint {
    dir: ModelDir,
    config: Config,
    files: Vec<WeightFile>,
    /// Name -> index into `files`.
    tensors: BTreeMap<String, usize>,
    problems: Vec<Error>,
    notes: Vec<String>,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Type in the file, in the words of its format (`BF16`, `Q4_K`).
    pub dtype: String,
    /// Linear weights are `[out, in]`.
    pub shape: &'a [usize],
    /// Size in the file.
    pub bytes: u64,
    /// The file that holds it.
    pub file: &'a Path,
}

impl Checkpoint {
    /// Opens a directory that holds exactly the tensors its configuration demands.
    ///
    /// # Errors
    /// Those of [`Config::from_dir`]; otherwise the first of [`Checkpoint::problems`], with the number of the others.
    pub fn open(dir: impl Into<ModelDir>) -> Result<Self> {
        let mut found = Self::inspect(dir)?;
        if found.problems.is_empty() {
            return Ok(found);
        }
        let first = found.problems.remove(0);
        Err(and_more(first, found.problems.len()))
    }

    /// Opens whatever can be opened, so that everything wrong with it can be listed.
    ///
    /// # Errors
    /// Those of [`Config::from_dir`] only: without a configuration there is nothing to compare with.
    pub fn inspect(dir: impl Into<ModelDir>) -> Result<Self> {
        let dir = dir.into();
        let config = Config::from_dir(&dir)?;
        Ok(scan::scan(dir, config))
    }

    /// What keeps this checkpoint from being used, in the order found; empty after [`Checkpoint::open`].
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// What is odd and harmless, for people: lower-case sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The directory.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weight files, and their sizes in bytes.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|f| (f.path.as_path(), f.len()))
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, &file)| {
            let file = &self.files[file];
            let entry = &file.tensors[name];
            TensorInfo {
                name,
                dtype: entry.type_name.clone(),
                shape: &entry.shape,
                bytes: entry.byte_len() as u64,
                file: &file.path,
            }
        })
    }

    /// Bytes of all tensors in the files.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().map(|t| t.bytes).sum()
    }

    /// The bytes of a tensor, not copied. Names are those of `MODEL.md`; the prefix `transformer.` may be given even
    /// where the file has none.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is no such tensor or it holds numbers of another type.
    pub fn view(&self, name: &str) -> Result<RawView<'_>> {
        let name = file_name(&self.config, name);
        let (file, entry) = self.entry(name)?;
        let stored = entry.stored.ok_or_else(|| wrong_type(name, &file.path, &entry.type_name))?;
        Ok(RawView { stored, shape: &entry.shape, bytes: file.bytes(entry) })
    }

    /// A tensor on the CPU in the type of the file; in float32 if it is quantized there.
    ///
    /// # Errors
    /// Those of [`Checkpoint::view`], and [`Error::Device`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.view(name)?.tensor(&Device::Cpu)
    }

    /// A tensor on a device in a type. It travels in the type of the file and is converted there.
    ///
    /// # Errors
    /// Those of [`Checkpoint::view`], and [`Error::Device`].
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(self.view(name)?.tensor(device)?.to_dtype(dtype)?)
    }

    fn entry(&self, name: &str) -> Result<(&WeightFile, &Entry)> {
        let missing = || Error::Tensor {
            name: name.to_owned(),
            file: self.dir.path(),
            message: "not in this checkpoint".to_owned(),
        };
        let file = &self.files[*self.tensors.get(name).ok_or_else(missing)?];
        Ok((file, file.tensors.get(name).ok_or_else(missing)?))
    }
}

/// The name a tensor has in the files of this configuration: without concept heads they leave out `transformer.`.
fn file_name<'a>(config: &Config, name: &'a str) -> &'a str {
    match (&config.concept, name.strip_prefix("transformer.")) {
        (None, Some(rest)) => rest,
        _ => name,
    }
}

fn wrong_type(name: &str, file: &Path, found: &str) -> Error {
    tensor_error(name, file, format!("found type {found}, expected F32, F16 or BF16, or Q8_0 or Q4_K in a GGUF file"))
}

fn tensor_error(name: &str, file: &Path, message: impl Into<String>) -> Error {
    Error::Tensor { name: name.to_owned(), file: file.to_owned(), message: message.into() }
}

/// An error that also says how many others there are.
fn and_more(error: Error, others: usize) -> Error {
    let more: Cow<'_, str> = match others {
        0 => return error,
        1 => Cow::Borrowed(" (and 1 more problem)"),
        n => Cow::Owned(format!(" (and {n} more problems)")),
    };
    match error {
        Error::Tensor { name, file, message } => Error::Tensor { name, file, message: message + &more },
        Error::Checkpoint { path, message } => Error::Checkpoint { path, message: message + &more },
        other => other,
    }
}
