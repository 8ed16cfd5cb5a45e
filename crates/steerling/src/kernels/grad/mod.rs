//! Gradients of the kernels: what input attribution takes through whole sequences. Weights are frozen and have none.

pub mod attention;
mod product;
mod qkv;
mod rows;

pub use qkv::qkv_prepare_backward;
pub use rows::{rms_norm_backward, swiglu_backward};
