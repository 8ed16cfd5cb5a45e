//! RMSNorm and LayerNorm, computed in float32 whatever the storage type.

use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use super::grad;
use super::linear::Compute;
use super::ops;
use crate::Result;
use crate::checkpoint::Reader;
use crate::config::{Config, NormKind};
use crate::gpu;

/// A norm over the last dimension.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    /// In float32 (float64 when computing in float64).
    weight: Tensor,
    /// LayerNorm only.
    bias: Option<Tensor>,
    pub(super) eps: f64,
    /// The weight of an RMSNorm, for the CPU kernels.
    on_host: Option<Arc<[f32]>>,
}

impl Norm {
    /// Reads `{name}.weight` (and `.bias` for LayerNorm) of `width` elements.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub(super) fn load(reader: &Reader, name: &str, width: usize, config: &Config, compute: &Compute) -> Result<Self> {
        let dtype = internal(compute.dtype);
        let weight = reader.tensor(&format!("{name}.weight"), &[width], dtype, &compute.device)?;
        let bias = match config.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some(reader.tensor(&format!("{name}.bias"), &[width], dtype, &compute.device)?),
        };
        let on_host = match bias.is_none() && compute.has_kernels() {
            true => Some(ops::to_host(&weight)?.into()),
            false => None,
        };
        Ok(Self { weight, bias, eps: config.norm_eps, on_host })
    }

    /// The norm of `x`, by a kernel where there is one. Gradients flow to `x`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.on_host {
            Some(weight) => grad::rms_norm(x, weight, self.eps),
            None => self.elementary(x),
        }
    }

    /// `x + norm(out)`, by a kernel where there is one. Gradients flow.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn add(&self, x: &Tensor, out: &Tensor) -> Result<Tensor> {
        match &self.on_host {
            Some(weight) => grad::add_rms_norm(x, out, weight, self.eps),
            None => Ok((x + self.elementary(out)?)?),
        }
    }

    /// The norm from candle's operations.
    fn elementary(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(internal(dtype))?;
        let centred = match self.bias {
            None => x,
            Some(_) => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        };
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        let y = centred.broadcast_div(&scale)?.broadcast_mul(&self.weight)?;
        let y = match &self.bias {
            None => y,
            Some(bias) => y.broadcast_add(bias)?,
        };
        Ok(y.to_dtype(dtype)?)
    }

    /// `norm(x)`, or `residual + norm(x)`, of rows `[N, width]` by the GPU kernel; see [`Norm::gpu_weight`].
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn on_gpu(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        gpu::rms_norm(x, &self.weight, residual, self.eps)
    }

    /// The weight for the GPU kernels, which know the RMSNorm alone.
    pub(super) fn gpu_weight(&self) -> Option<&Tensor> {
        self.bias.is_none().then_some(&self.weight)
    }

    /// The weight for the CPU kernels, if they apply.
    pub(super) fn rms_weight(&self) -> Option<&[f32]> {
        self.on_host.as_deref()
    }
}

fn internal(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
