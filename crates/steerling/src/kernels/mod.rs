//! The processor kernels of the hot path: plain `f32` slices in and out, safe Rust but for two instructions (`bf16`).
//!
//! Vector code is written once against [`pulp::Simd`] and compiled for every instruction set; the best one is chosen
//! at run time (AVX-512, AVX2, NEON or scalar), so one binary serves every machine. Work is shared with rayon.
//!
//! Every kernel computes a row by the same chain of operations whatever other rows are in the call and however many
//! threads there are: the results are bitwise equal. Between instruction sets the last bits may differ.

pub mod attention;
mod bf16;
pub mod grad;
pub mod matmul;
mod norm;
mod panels;
pub mod pointwise;
mod qkv;
mod quant;
mod rows;
pub(crate) mod scratch;
pub mod softmax;
mod tile;
pub mod topk;
mod vector;

/// Instruction sets this machine can run, the plainest first: the tests go through all of them.
#[cfg(test)]
pub(crate) fn every_arch() -> Vec<pulp::Arch> {
    let mut all = vec![pulp::Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        all.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
        all.extend(pulp::x86::V4::try_new().map(pulp::Arch::V4));
    }
    #[cfg(not(target_arch = "x86_64"))]
    all.push(pulp::Arch::new());
    all
}

/// What the kernels' tests share.
#[cfg(test)]
pub(crate) mod testing {
    /// Repeatable numbers between -1 and 1.
    pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Runs `f` on one thread and on two and returns both results.
    pub(crate) fn on_one_and_two_threads<T: Send>(f: impl Fn() -> T + Sync) -> [T; 2] {
        [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads start").install(&f))
    }

    /// Fails unless every number is within `tolerance` of the reference.
    pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= tolerance * expected.abs().max(1.0), "at {i}: {found}, expected {expected}");
        }
    }
}
