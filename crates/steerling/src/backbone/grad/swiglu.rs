//! The gated activation of the feed-forward half.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::of_two;
use crate::Result;
use crate::backbone::ops::contiguous_f32;
use crate::kernels::grad::swiglu_backward;
use crate::kernels::pointwise;

/// `silu(gate) * up` for rows of `up` then `gate`.
pub(in crate::backbone) fn swiglu(fc: &Tensor) -> Result<Tensor> {
    Ok(fc.contiguous()?.apply_op1(SwiGlu)?)
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let fc = contiguous_f32(storage, layout)?;
        let mut dims = layout.dims().to_vec();
        let Some(width) = dims.last_mut() else { candle_core::bail!("swiglu of a scalar") };
        *width /= 2;
        let inter = *width;
        let mut out = vec![0f32; fc.len() / 2];
        pointwise::swiglu(fc, inter, &mut out);
        Ok((CpuStorage::F32(out), dims.into()))
    }

    fn bwd(&self, fc: &Tensor, out: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let inter = out.dim(candle_core::D::Minus1)?;
        let gradient = of_two(fc, grad, |fc, grad| {
            let mut gfc = fc.to_vec();
            swiglu_backward(&mut gfc, grad, inter);
            gfc
        })?;
        Ok(Some(gradient))
    }
}
