//! Reads a model's weights one after the other and tells how far it is.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use super::{Progress, Weights};
use crate::backbone::{Compute, Matrix};
use crate::kernels::matmul::PackedMatrix;
use crate::{Error, Result};

/// Weights together with someone who wants to know how many bytes of them were read.
pub struct Reader<'a> {
    weights: &'a Weights,
    progress: RefCell<Progress<'a>>,
    done: Cell<u64>,
    bytes_each: u64,
}

impl<'a> Reader<'a> {
    /// A reader at the start.
    ///
    /// # Errors
    /// If the type of the weights cannot be told.
    pub fn new(weights: &'a Weights, progress: Progress<'a>) -> Result<Self> {
        let bytes_each = weights.dtype()?.size_in_bytes() as u64;
        Ok(Self { weights, progress: RefCell::new(progress), done: Cell::new(0), bytes_each })
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// Those of [`Weights::load`].
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.weights.load(name, shape, dtype, device)?;
        self.advance(tensor.elem_count());
        Ok(tensor)
    }

    /// The matrix `name`, of `(out, in)` in the checkpoint, in the form that its products want.
    ///
    /// # Errors
    /// Those of [`Weights::load`].
    pub fn matrix(&self, name: &str, (out, inn): (usize, usize), compute: &Compute) -> Result<Matrix> {
        if !compute.has_kernels() {
            let weight = self.tensor(name, &[out, inn], compute.dtype, &compute.device)?;
            return Ok(Matrix::Dense(weight.t()?.contiguous()?));
        }
        self.weights.check_shape(name, &[out, inn])?;
        let failed: OnceLock<Error> = OnceLock::new();
        let packed = PackedMatrix::pack_with(out, inn, |row, values| {
            if let Err(error) = self.weights.fill_row(name, row, values) {
                _ = failed.set(error);
            }
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        self.advance(out * inn);
        Ok(Matrix::Packed(Arc::new(packed)))
    }

    fn advance(&self, elements: usize) {
        self.done.set(self.done.get() + elements as u64 * self.bytes_each);
        (self.progress.borrow_mut())(self.done.get(), self.weights.total_bytes());
    }
}
