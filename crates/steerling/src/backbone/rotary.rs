//! Rotary position embedding, half-split form. Tables are built in float32, as the reference builds them.

use candle_core::{D, DType, Device, Tensor};

use super::linear::Compute;
use super::ops;
use crate::Result;
use crate::config::Config;

/// Cosines and sines of `position * rope_base^(-2i/hd)` for every position of the context.
#[derive(Debug, Clone)]
pub(super) struct Rotary {
    /// `[context, hd / 2]` in the type of the rotation.
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// The tables of `config`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn new(config: &Config, compute: &Compute) -> Result<Self> {
        let half = config.head_dim() / 2;
        let (cos, sin): (Vec<f32>, Vec<f32>) = (0..config.context)
            .flat_map(|position| (0..half).map(move |i| (position, i)))
            .map(|(position, i)| {
                let exponent = (2 * i) as f32 / config.head_dim() as f32;
                let inverse_frequency = 1.0 / (config.rope_base as f32).powf(exponent);
                let angle = position as f32 * inverse_frequency;
                (angle.cos(), angle.sin())
            })
            .unzip();
        let dtype = match compute.activations() {
            DType::F64 => DType::F64,
            _ if config.rope_full_precision => DType::F32,
            other => other,
        };
        let table = |values: Vec<f32>| -> Result<Tensor> {
            let on_host = Tensor::from_vec(values, (config.context, half), &Device::Cpu)?;
            Ok(on_host.to_dtype(dtype)?.to_device(&compute.device)?)
        };
        Ok(Self { cos: table(cos)?, sin: table(sin)? })
    }

    /// Cosines and sines of all positions, if they are in float32.
    pub(super) fn tables(&self) -> Option<(&Tensor, &Tensor)> {
        (self.cos.dtype() == DType::F32).then_some((&self.cos, &self.sin))
    }

    /// Cosines and sines at `positions`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn rows(&self, positions: &[u32]) -> Result<Rows> {
        let positions = Tensor::new(positions, self.cos.device())?;
        let (cos, sin) = (self.cos.index_select(&positions, 0)?, self.sin.index_select(&positions, 0)?);
        let on_host = match ops::has_kernels(&cos) {
            true => Some((ops::to_host(&cos)?, ops::to_host(&sin)?)),
            false => None,
        };
        Ok(Rows { cos, sin, on_host })
    }
}

/// Cosines and sines of chosen positions.
pub(super) struct Rows {
    /// `[rows, hd / 2]`.
    pub(super) cos: Tensor,
    /// `[rows, hd / 2]`.
    pub(super) sin: Tensor,
    on_host: Option<(Vec<f32>, Vec<f32>)>,
}

impl Rows {
    /// The numbers of `cos` and `sin` for the CPU kernels.
    pub(super) fn on_host(&self) -> Option<(&[f32], &[f32])> {
        self.on_host.as_ref().map(|(cos, sin)| (cos.as_slice(), sin.as_slice()))
    }

    /// The same to keep.
    pub(super) fn into_host(self) -> Option<(Vec<f32>, Vec<f32>)> {
        self.on_host
    }
}

/// `[x1, x2] -> [x1 cos - x2 sin, x2 cos + x1 sin]` for `x` of `[.., rows, heads, hd]`, tables of `[rows, hd / 2]`.
/// Gradients flow.
///
/// # Errors
/// If the device fails.
pub(super) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(cos.dtype())?;
    let half = x.dim(D::Minus1)? / 2;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?); // [rows, 1, hd / 2]
    let x1 = x.narrow(D::Minus1, 0, half)?;
    let x2 = x.narrow(D::Minus1, half, half)?;
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Ok(Tensor::cat(&[y1, y2], D::Minus1)?.to_dtype(dtype)?)
}
