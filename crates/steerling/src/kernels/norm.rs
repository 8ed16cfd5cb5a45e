//! RMS norms of rows.

use pulp::{Arch, Simd, WithSimd};

use super::rows::for_rows;
use super::vector::load_tail;

/// `out = x * rsqrt(mean(x^2) + eps) * weight` for each row: `x` and `out` `[m, d]`, `weight` `[d]`.
///
/// # Panics
/// If the lengths differ or are no whole rows.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    norm_on(Arch::new(), x, Norm { weight, eps, add: false }, out);
}

/// `residual += x * rsqrt(mean(x^2) + eps) * weight` for each row: the end of a post-norm layer.
///
/// # Panics
/// If the lengths differ or are no whole rows.
pub fn rms_norm_add(x: &[f32], weight: &[f32], eps: f32, residual: &mut [f32]) {
    norm_on(Arch::new(), x, Norm { weight, eps, add: true }, residual);
}

/// An RMS norm's parameters; `add` adds the result to what is there.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
    pub(super) add: bool,
}

pub(super) fn norm_on(arch: Arch, x: &[f32], norm: Norm, out: &mut [f32]) {
    let width = norm.weight.len();
    for_rows((x, width), (out, width), |x, out| arch.dispatch(NormRow { norm, x, out }));
}

struct NormRow<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let scale = rms_scale(simd, self.x, self.norm.eps);
        // Plain loops: the compiler makes vectors of them, with the instruction set this function is compiled for.
        let rows = self.out.iter_mut().zip(self.x).zip(self.norm.weight);
        if self.norm.add {
            rows.for_each(|((out, x), weight)| *out += x * scale * weight);
        } else {
            rows.for_each(|((out, x), weight)| *out = x * scale * weight);
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(super) fn rms_scale<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let (vectors, tail) = S::as_simd_f32s(x);
    // Four sums, so that the additions do not wait for each other.
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (fours, rest) = vectors.as_chunks::<4>();
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum = simd.mul_add_e_f32s(*x, *x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = simd.mul_add_e_f32s(*x, *x, *sum);
    }
    let tail = load_tail(simd, tail, 0.0);
    sums[3] = simd.mul_add_e_f32s(tail, tail, sums[3]);
    let [a, b, c, d] = sums;
    let sum = simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)));
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;
    use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn norms_agree_with_double_precision(m in 1usize..5, d in 1usize..150, seed: u64) {
            let (x, weight) = (numbers(seed, m * d), numbers(seed ^ 1, d));
            let normed: Vec<f64> = x.chunks(d).flat_map(|row| {
                let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64;
                row.iter().zip(&weight).map(move |(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w))
            }).collect();
            for arch in every_arch() {
                let (mut out, mut sum) = (vec![0.0; m * d], vec![1.0; m * d]);
                let norm = Norm { weight: &weight, eps: 1e-5, add: false };
                norm_on(arch, &x, norm, &mut out);
                norm_on(arch, &x, Norm { add: true, ..norm }, &mut sum);
                assert_close(&out, &normed, 1e-6);
                assert_close(&sum, &normed.iter().map(|x| x + 1.0).collect::<Vec<_>>(), 1e-6);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let (m, d) = (129, 333);
        let (x, weight) = (numbers(1, m * d), numbers(2, d));
        for add in [false, true] {
            let norm = Norm { weight: &weight, eps: 1e-5, add };
            for arch in every_arch() {
                for normed in on_one_and_two_threads(|| {
                    let mut normed = vec![0.5; m * d];
                    norm_on(arch, &x, norm, &mut normed);
                    normed
                }) {
                    for (one, normed) in x.chunks(d).zip(normed.chunks(d)) {
                        let mut alone = vec![0.5; d];
                        norm_on(arch, one, norm, &mut alone);
                        assert_eq!(alone, normed);
                    }
                }
            }
        }
    }
}
