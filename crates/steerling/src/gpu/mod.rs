//! Kernels of our own for GPUs: the whole of a step stays on the device, and what candle's operations would need many
//! launches or the host for is one launch.
//!
//! The sources (`kernels/*.cu`) are compiled by NVRTC when a model is loaded. They cover float32 and bfloat16; other types and
//! forms of checkpoints run on candle's operations. A [`Launch`] is the same wherever it runs, so the tests compile the same
//! sources for the host and send the same launches there ([`host`]): on a machine without a GPU every kernel, its arguments and
//! whole generations are checked.

mod attention;
mod choose;
#[cfg(feature = "cuda")]
mod cuda;
pub mod host;
mod launch;
mod rows;
mod select;
#[cfg(test)]
mod tests;

pub(crate) use attention::{Blocks, Pages, Preparation, attend, qkv_prepare};
pub(crate) use choose::{Draw, RowPlan, RowResult, choose};
pub use launch::Launch;
pub(crate) use rows::{add_to_rows, gather_rows, rms_norm, swiglu};
pub(crate) use select::top_k;

use candle_core::{DType, Device, Shape, Tensor};

use crate::Result;

/// The sources of all kernels.
pub const SOURCE: &str = concat!(
    include_str!("kernels/common.cuh"),
    include_str!("kernels/rows.cu"),
    include_str!("kernels/qkv.cu"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/select.cu"),
    include_str!("kernels/choose.cu"),
);

/// Compiles the kernels for `device`, so that no request waits for it.
///
/// # Errors
/// If NVRTC is missing or refuses them.
pub(crate) fn prepare(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => cuda::prepare(device),
        _ => Ok(()),
    }
}

/// Threads of a block that goes along `len` numbers, so that each has some `each`; no more than `most`.
fn threads(len: usize, each: usize, most: usize) -> usize {
    (len / each).next_multiple_of(32).clamp(32, most)
}

/// A tensor whose every element a kernel is about to write.
fn unwritten(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => cuda::unwritten(shape, dtype, device),
        _ => Ok(Tensor::zeros(shape, dtype, device)?),
    }
}
