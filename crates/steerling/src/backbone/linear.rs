//! Matrices of the checkpoint and their products.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Shape, Storage, Tensor};

use crate::Result;
use crate::checkpoint::Reader;
use crate::kernels::matmul::PackedMatrix;

/// Where and in which type a model computes.
#[derive(Debug, Clone)]
pub struct Compute {
    /// The device of all tensors.
    pub device: Device,
    /// The type of weights and activations; on the CPU bfloat16 is the type of weights and of what they are multiplied
    /// with, see [`Compute::activations`].
    pub dtype: DType,
    /// Whether the GPU kernels run on the host instead of the CPU kernels, for tests; see [`crate::gpu::host`].
    pub gpu_on_host: bool,
}

impl Compute {
    /// Single precision on the CPU, the type in which the goldens were recorded.
    pub fn cpu_f32() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, gpu_on_host: false }
    }

    /// Whether the CPU kernels of this crate apply; everything else runs on candle's operations.
    pub fn has_kernels(&self) -> bool {
        self.device.is_cpu() && !self.gpu_on_host && matches!(self.dtype, DType::F32 | DType::BF16)
    }

    /// Whether the GPU kernels of this crate apply.
    pub fn has_gpu_kernels(&self) -> bool {
        (self.device.is_cuda() || self.gpu_on_host) && matches!(self.dtype, DType::F32 | DType::BF16)
    }

    /// The type of everything between products. The CPU kernels keep it in float32: it costs them nothing, and what
    /// bfloat16 spares is the memory and the time of weights.
    pub fn activations(&self) -> DType {
        if self.has_kernels() { DType::F32 } else { self.dtype }
    }
}

/// A weight matrix `[out, in]` of the checkpoint, stored so that its product with rows is fast.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// For the CPU kernels, the only copy of the weight.
    Packed(Arc<PackedMatrix>),
    /// As in the checkpoint, `[out, in]`.
    Dense(Tensor),
}

impl Matrix {
    /// `x W^T` for `x` of shape `[.., in]`. Gradients flow to `x`.
    ///
    /// # Errors
    /// If the shapes do not fit or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(matrix) => {
                Ok(x.contiguous()?.apply_op1(Product { matrix: matrix.clone(), transposed: false })?)
            }
            Self::Dense(weight) => {
                let (inn, out) = self.dims();
                let mut shape = x.dims().to_vec();
                let rows = x.elem_count() / inn;
                if let Some(last) = shape.last_mut() {
                    *last = out;
                }
                Ok(x.reshape((rows, inn))?.matmul(&weight.t()?)?.reshape(shape)?)
            }
        }
    }

    /// `x W^T` in float32 on the host, into `out`: what the vocabulary's logits are needed as.
    ///
    /// # Errors
    /// If the shapes do not fit or the device fails.
    pub fn forward_to_host(&self, x: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        let Self::Packed(matrix) = self else {
            *out = super::ops::to_host(&self.forward(x)?)?;
            return Ok(());
        };
        out.resize(x.elem_count() / matrix.rows_in() * matrix.cols_out(), 0.0);
        Ok(x.contiguous()?.apply_op1_no_bwd(&ProductInto { matrix, out: RefCell::new(out) }).map(drop)?)
    }

    /// `x W` for `x` of shape `[N, out]`: the same matrix used the other way round.
    ///
    /// # Errors
    /// If the shapes do not fit or the device fails.
    pub fn forward_transposed(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Packed(matrix) => {
                Ok(x.contiguous()?.apply_op1(Product { matrix: matrix.clone(), transposed: true })?)
            }
            Self::Dense(weight) => Ok(x.matmul(weight)?),
        }
    }

    /// Rows of the checkpoint's matrix, `[ids.len(), in]`: the embedding of `ids`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Packed(matrix) => {
                let inn = matrix.rows_in();
                let mut rows = vec![0f32; ids.len() * inn];
                for (id, row) in ids.iter().zip(rows.chunks_exact_mut(inn)) {
                    matrix.row(*id as usize, row);
                }
                Ok(Tensor::from_vec(rows, (ids.len(), inn), &Device::Cpu)?)
            }
            Self::Dense(weight) => {
                let ids = Tensor::new(ids, weight.device())?;
                Ok(weight.index_select(&ids, 0)?)
            }
        }
    }

    /// The weight as it lies on the device, `[out, in]`, unless it is packed for the CPU kernels.
    pub(crate) fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Packed(_) => None,
            Self::Dense(weight) => Some(weight),
        }
    }

    /// `(in, out)`.
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Self::Packed(matrix) => (matrix.rows_in(), matrix.cols_out()),
            Self::Dense(weight) => (weight.dims()[1], weight.dims()[0]),
        }
    }
}

/// A linear layer.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Matrix,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `{name}.weight`, of `dims` `(out, in)`, and `{name}.bias` if there is one.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn load(reader: &Reader, name: &str, dims: (usize, usize), bias: bool, compute: &Compute) -> Result<Self> {
        let weight = reader.matrix(&format!("{name}.weight"), dims, compute)?;
        let bias = match bias {
            true => Some(reader.tensor(&format!("{name}.bias"), &[dims.0], compute.activations(), &compute.device)?),
            false => None,
        };
        Ok(Self { weight, bias })
    }

    /// `x W^T + b` for `x` of shape `[.., in]`.
    ///
    /// # Errors
    /// If the shapes do not fit or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// The product with a packed matrix, written to a buffer that is reused; the tensor it returns is empty.
struct ProductInto<'a> {
    matrix: &'a PackedMatrix,
    out: RefCell<&'a mut Vec<f32>>,
}

impl CustomOp1 for ProductInto<'_> {
    fn name(&self) -> &'static str {
        "packed-matmul-into"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.matrix.matmul(super::ops::contiguous_f32(storage, layout)?, &mut self.out.borrow_mut());
        Ok((CpuStorage::F32(Vec::new()), 0.into()))
    }
}

/// The product with a packed matrix as a candle operation; frozen weights, so only `x` has a gradient.
struct Product {
    matrix: Arc<PackedMatrix>,
    transposed: bool,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "packed-matmul"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = super::ops::contiguous_f32(storage, layout)?;
        let (inn, out) = match self.transposed {
            false => (self.matrix.rows_in(), self.matrix.cols_out()),
            true => (self.matrix.cols_out(), self.matrix.rows_in()),
        };
        let rows = x.len() / inn;
        let mut y = vec![0f32; rows * out];
        match self.transposed {
            false => self.matrix.matmul(x, &mut y),
            true => self.matrix.matmul_transposed(x, &mut y),
        }
        // The leading dimensions stay: every reshape would cost the backward pass a copy.
        let mut shape = layout.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inn => *last = out,
            _ => candle_core::bail!("a product of rows of {inn} with {shape:?}"),
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    /// Rows without a gradient are left out: before the last layer's attention spreads it, only the explained positions
    /// have one.
    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let transposed = Product { matrix: self.matrix.clone(), transposed: !self.transposed };
        let grad = grad.contiguous()?;
        let width = grad.dim(D::Minus1)?;
        let rows = grad.elem_count() / width;
        let acting = acting_rows(&grad, width)?;
        if 2 * acting.len() > rows || acting.is_empty() {
            return Ok(Some(grad.apply_op1(transposed)?));
        }
        let acting = Tensor::new(acting, grad.device())?;
        let product = grad.reshape((rows, width))?.index_select(&acting, 0)?.apply_op1(transposed)?;
        let mut shape = grad.dims().to_vec();
        let width = product.dim(D::Minus1)?;
        if let Some(last) = shape.last_mut() {
            *last = width;
        }
        let all = Tensor::zeros((rows, width), grad.dtype(), grad.device())?.index_add(&acting, &product, 0)?;
        Ok(Some(all.reshape(shape)?))
    }
}

/// The rows of a contiguous tensor that hold a number other than 0.
fn acting_rows(x: &Tensor, width: usize) -> candle_core::Result<Vec<u32>> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("a packed matrix multiplies on the processor") };
    let rows = super::ops::contiguous_f32(storage, layout)?.chunks_exact(width);
    Ok((0..).zip(rows).filter(|(_, row)| row.iter().any(|x| *x != 0.0)).map(|(i, _)| i).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::kernels::testing::numbers;

    #[test]
    fn rows_without_a_gradient_change_nothing_for_the_others() {
        let (rows, inn, out) = (9, 40, 33);
        let matrix = Matrix::Packed(Arc::new(PackedMatrix::pack(&numbers(1, out * inn), out, inn)));
        let x = Var::zeros((3, 3, inn), DType::F32, &Device::Cpu).unwrap();
        let dense = numbers(2, rows * out);
        let gradient = |acting: &[usize]| {
            let mut pull = dense.clone();
            for (i, row) in pull.chunks_mut(out).enumerate() {
                if !acting.contains(&i) {
                    row.fill(0.0);
                }
            }
            let pull = Tensor::from_vec(pull, (3, 3, out), &Device::Cpu).unwrap();
            let loss = (matrix.forward(x.as_tensor()).unwrap() * pull).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let grad = grads.get(x.as_tensor()).unwrap();
            assert_eq!(grad.dims(), [3, 3, inn]);
            grad.reshape((rows, inn)).unwrap().to_vec2::<f32>().unwrap()
        };
        let all = gradient(&(0..rows).collect::<Vec<_>>());
        for acting in [&[][..], &[4], &[0, 8]] {
            for (i, row) in gradient(acting).into_iter().enumerate() {
                let expected = if acting.contains(&i) { all[i].clone() } else { vec![0.0; inn] };
                assert_eq!(row, expected, "row {i} of {acting:?}");
            }
        }
    }
}
