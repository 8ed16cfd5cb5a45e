//! The GPU kernels on the host: their sources, compiled for this processor, and the launches that a GPU would get.
//!
//! What differs from a GPU: threads take turns instead of running side by side, and the instructions of the tensor cores are
//! written out from their documentation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use candle_core::DType;
use steerling::backbone::Compute;

// Recorded runs of the reference, here through the GPU kernels.
#[path = "../parity/generation.rs"]
mod generation;
#[path = "../parity/goldens.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod goldens;
#[path = "../parity/steering.rs"]
mod steering;

mod forward;
mod host;

/// Where these tests compute, and in which type.
fn compute() -> Compute {
    compute_in(DType::F32)
}

/// The CPU with the GPU kernels.
fn compute_in(dtype: DType) -> Compute {
    host::compile();
    Compute { dtype, gpu_on_host: true, ..Compute::cpu_f32() }
}
