//! The GPU kernels on the host: their sources, compiled for this processor, and the launches that a GPU would get.
//!
//! What differs from a GPU: threads take turns instead of running side by side, and the instructions of the tensor cores are
//! written out from their documentation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use steerling::backbone::Compute;

// Recorded runs of the reference, here through the GPU kernels.
#[path = "../parity/compute.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod compute;
#[path = "../parity/generation.rs"]
mod generation;
#[path = "../parity/goldens.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod goldens;
#[path = "../parity/steering.rs"]
mod steering;

mod forward;
mod host;

/// Where these tests compute: on the CPU with the GPU kernels.
fn device() -> Compute {
    host::compile();
    Compute { gpu_on_host: true, ..Compute::cpu_f32() }
}
