//! Operations on the CPU kernels through which gradients flow: what `Backbone::forward_plain` runs on in float32.
//!
//! Weights are frozen and get no gradient. Every operation is checked against candle's own operations in float64.

mod attention;
mod norm;
mod swiglu;
#[cfg(test)]
mod tests;

pub(super) use attention::Sequences;
pub(super) use norm::{add_rms_norm, rms_norm};
pub(super) use swiglu::swiglu;

use candle_core::{Device, Result, Shape, Storage, Tensor};

use super::ops::contiguous_f32;

/// Calls `f` with the numbers of two contiguous tensors and makes a tensor like the first of what it returns.
fn of_two(a: &Tensor, b: &Tensor, f: impl FnOnce(&[f32], &[f32]) -> Vec<f32>) -> Result<Tensor> {
    let (b, shape): (_, &Shape) = (b.contiguous()?, a.shape());
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    match (&*a, &*b) {
        (Storage::Cpu(a), Storage::Cpu(b)) => {
            let out = f(contiguous_f32(a, a_layout)?, contiguous_f32(b, b_layout)?);
            Tensor::from_vec(out, shape, &Device::Cpu)
        }
        _ => candle_core::bail!("a processor kernel was given tensors of another device"),
    }
}
