//! Reads a model's weights one after the other and tells how far it is.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use super::{Progress, StoredType, Weights};
use crate::backbone::{Compute, Matrix};
use crate::kernels::matmul::{Dot, Kind, PANEL_ROWS, PackedMatrix};
use crate::{Error, Result};

/// Weights together with someone who wants to know how many bytes of them were read.
pub struct Reader<'a> {
    weights: &'a Weights,
    progress: RefCell<Progress<'a>>,
    done: Cell<u64>,
    held: Cell<u64>,
}

/// In which form a matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a tensor of the device.
    Dense(DType),
    /// Packed for the CPU kernels in float32.
    F32,
    /// In bfloat16, for products that keep their input in float32.
    Bf16,
    /// In bfloat16, for products that may round their input, and do so where that is faster.
    Bf16Rounding,
    /// As in a GGUF file; inputs stay in float32.
    Quantized(Kind),
}

impl Form {
    /// The form of a matrix that is stored in some type: what loses nothing and is no larger than in the file, unless
    /// bfloat16 is asked for. (float16 is widened: no kernel reads it.)
    pub fn of(stored: StoredType, compute: &Compute) -> Self {
        match (compute.has_kernels(), stored, compute.dtype) {
            (false, _, dtype) => Self::Dense(dtype),
            (true, StoredType::Quantized(kind), _) => Self::Quantized(kind),
            (true, _, DType::BF16) => Self::Bf16Rounding,
            (true, StoredType::BF16, _) => Self::Bf16,
            (true, _, _) => Self::F32,
        }
    }

    /// Bytes of a matrix `[out, inn]`. The kernels' panels are padded to 32 rows, in bfloat16 also to an even length.
    pub fn bytes(self, (out, inn): (usize, usize)) -> u64 {
        let rows = out.next_multiple_of(PANEL_ROWS) as u64;
        let (out, inn) = (out as u64, inn as u64);
        match self {
            Self::Dense(dtype) => out * inn * dtype.size_in_bytes() as u64,
            Self::F32 => 4 * rows * inn,
            Self::Bf16 | Self::Bf16Rounding => 2 * rows * inn.next_multiple_of(2),
            // Factors are kept in float32.
            Self::Quantized(Kind::Q8_0) => rows * inn * 9 / 8,
            Self::Quantized(Kind::Q4K) => rows * inn * 19 / 32,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Dense(dtype) => dtype.as_str(),
            Self::F32 => "f32",
            Self::Bf16 | Self::Bf16Rounding => "bf16",
            Self::Quantized(Kind::Q8_0) => "q8_0",
            Self::Quantized(Kind::Q4K) => "q4_k",
        })
    }
}

impl<'a> Reader<'a> {
    /// A reader at the start.
    pub fn new(weights: &'a Weights, progress: Progress<'a>) -> Self {
        Self { weights, progress: RefCell::new(progress), done: Cell::new(0), held: Cell::new(0) }
    }

    /// Bytes in memory of everything that was read so far.
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// Those of [`Weights::load`].
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.weights.load(name, shape, dtype, device)?;
        self.advance(name, shape, tensor.elem_count() * dtype.size_in_bytes())?;
        Ok(tensor)
    }

    /// The matrix `name`, of `(out, in)` in the checkpoint, in the form that its products want.
    ///
    /// # Errors
    /// Those of [`Weights::load`].
    pub fn matrix(&self, name: &str, (out, inn): (usize, usize), compute: &Compute) -> Result<Matrix> {
        self.weights.check_shape(name, &[out, inn])?;
        let failed: OnceLock<Error> = OnceLock::new();
        let fill = |row: usize, values: &mut [f32]| {
            if let Err(error) = self.weights.fill_row(name, row, values) {
                _ = failed.set(error);
            }
        };
        let packed = match (Form::of(self.weights.stored(name)?, compute), self.weights.view(name)?) {
            (Form::Dense(dtype), _) => {
                return Ok(Matrix::Dense(self.tensor(name, &[out, inn], dtype, &compute.device)?));
            }
            (Form::Quantized(kind), Some(view)) => PackedMatrix::pack_quantized(kind, (out, inn), view.bytes),
            (Form::F32 | Form::Quantized(_), _) => PackedMatrix::pack_with(out, inn, fill),
            (form @ (Form::Bf16 | Form::Bf16Rounding), _) => {
                let dot = if form == Form::Bf16Rounding { Dot::fastest() } else { None };
                PackedMatrix::pack_bf16_with(out, inn, dot, fill)
            }
        };
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.advance(name, &[out, inn], packed.bytes())?;
        Ok(Matrix::Packed(Arc::new(packed)))
    }

    /// Notes that a tensor of the checkpoint was read, and takes so many bytes now.
    fn advance(&self, name: &str, shape: &[usize], held: usize) -> Result<()> {
        self.held.set(self.held.get() + held as u64);
        let bytes = self.weights.stored(name)?.row_bytes(shape.iter().product());
        self.done.set(self.done.get() + bytes as u64);
        (self.progress.borrow_mut())(self.done.get(), self.weights.total_bytes());
        Ok(())
    }
}
