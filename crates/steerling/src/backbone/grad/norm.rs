//! RMSNorm, alone and at the end of a post-norm half.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};

use super::of_two;
use crate::Result;
use crate::backbone::ops::contiguous_f32;
use crate::kernels::grad::rms_norm_backward;
use crate::kernels::pointwise;

/// RMSNorm over the last dimension.
pub(in crate::backbone) fn rms_norm(x: &Tensor, weight: &Arc<[f32]>, eps: f64) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1(RmsNorm { weight: weight.clone(), eps: eps as f32 })?)
}

struct RmsNorm {
    weight: Arc<[f32]>,
    eps: f32,
}

impl RmsNorm {
    fn backward(&self, x: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        of_two(x, grad, |x, grad| {
            let mut gx = vec![0f32; x.len()];
            rms_norm_backward(x, grad, &self.weight, self.eps, &mut gx);
            gx
        })
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        pointwise::rms_norm(x, &self.weight, self.eps, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.backward(x, grad).map(Some)
    }
}

/// `x + rms_norm(out)`.
pub(in crate::backbone) fn add_rms_norm(x: &Tensor, out: &Tensor, weight: &Arc<[f32]>, eps: f64) -> Result<Tensor> {
    let op = AddRmsNorm(RmsNorm { weight: weight.clone(), eps: eps as f32 });
    Ok(x.contiguous()?.apply_op2(&out.contiguous()?, op)?)
}

struct AddRmsNorm(RmsNorm);

impl CustomOp2 for AddRmsNorm {
    fn name(&self) -> &'static str {
        "add-rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        out: &CpuStorage,
        out_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut sum = contiguous_f32(x, x_layout)?.to_vec();
        pointwise::rms_norm_add(contiguous_f32(out, out_layout)?, &self.0.weight, self.0.eps, &mut sum);
        Ok((CpuStorage::F32(sum), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        out: &Tensor,
        _sum: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(self.0.backward(out, grad)?)))
    }
}
