//! What a model is built from: the same calls, whether the values lie in files or are made up.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

use super::view::{row_len, rows};
use super::{Checkpoint, RawView, StoredType, Synthetic, row_f32, tensor_error};
use crate::config::Config;
use crate::{ModelDir, Result};

/// Weights of a configuration. All calls take `&self` and may come from many threads at once.
///
/// Names are those of `MODEL.md`; the prefix `transformer.` may be given even where the file has none.
#[derive(Debug)]
pub enum Weights {
    /// From a directory, memory-mapped if it lies on disk.
    Files(Checkpoint),
    /// Random values, made up as they are asked for.
    Random(Synthetic),
}

impl Weights {
    /// Weights of a verified directory.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`].
    pub fn open(dir: impl Into<ModelDir>) -> Result<Self> {
        Ok(Self::Files(Checkpoint::open(dir)?))
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        match self {
            Self::Files(checkpoint) => checkpoint.config(),
            Self::Random(synthetic) => synthetic.config(),
        }
    }

    /// Bytes of all tensors, as stored.
    pub fn total_bytes(&self) -> u64 {
        match self {
            Self::Files(checkpoint) => checkpoint.total_bytes(),
            Self::Random(synthetic) => synthetic.total_bytes(),
        }
    }

    /// Type in which a tensor is stored.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if there is no such tensor or it holds numbers of another type.
    pub fn stored(&self, name: &str) -> Result<StoredType> {
        match self {
            Self::Files(checkpoint) => Ok(checkpoint.view(name)?.stored),
            Self::Random(synthetic) => Ok(synthetic.stored()),
        }
    }

    /// The bytes of a tensor, if they lie in a file.
    ///
    /// # Errors
    /// Those of [`Checkpoint::view`].
    pub(super) fn view(&self, name: &str) -> Result<Option<RawView<'_>>> {
        match self {
            Self::Files(checkpoint) => checkpoint.view(name).map(Some),
            Self::Random(_) => Ok(None),
        }
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        match self {
            Self::Files(checkpoint) => Ok(checkpoint.view(name)?.shape),
            Self::Random(synthetic) => synthetic.shape(name),
        }
    }

    /// Refuses a tensor that is absent or of another shape.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`].
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        if found != shape {
            let message = format!("found shape {found:?}, expected {shape:?}");
            return Err(tensor_error(name, &self.place(), message));
        }
        Ok(())
    }

    /// A tensor of the given shape, type and device.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if there is no such tensor or its shape is another; [`crate::Error::Device`].
    pub fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        self.check_shape(name, shape)?;
        match self {
            Self::Files(checkpoint) => checkpoint.load(name, dtype, device),
            Self::Random(synthetic) => synthetic.load(name, dtype, device),
        }
    }

    /// Writes one row of a tensor in float32. Rows are the first dimension of a matrix; a vector is one row.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if there is no such tensor or row, or `out` is not as long as a row.
    pub fn fill_row(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let shape = self.shape(name)?;
        if row >= rows(shape) || out.len() != row_len(shape) {
            let message = format!("found shape {shape:?}, asked for {} values of row {row}", out.len());
            return Err(tensor_error(name, &self.place(), message));
        }
        match self {
            Self::Files(checkpoint) => row_f32(&checkpoint.view(name)?, row, out),
            Self::Random(synthetic) => synthetic.fill_row(name, row, out)?,
        }
        Ok(())
    }

    /// What errors name as the place of a tensor.
    fn place(&self) -> PathBuf {
        match self {
            Self::Files(checkpoint) => checkpoint.dir().path(),
            Self::Random(_) => "random weights".into(),
        }
    }
}
