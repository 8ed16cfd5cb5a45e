//! Softmax over long rows of logits, in one pass over memory.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::pointwise::{Map, ShiftedExp};
use super::scratch::scratch;
use super::vector::{exp_f32s, load_tail};

/// Numbers a task reads: a fixed length, so that sums do not depend on the number of threads.
const CHUNK: usize = 8192;

/// What a softmax, its entropy or a greedy choice needs to know about a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStats {
    /// The largest logit; `-inf` when every logit is.
    pub max: f32,
    /// Its index, the lowest among equals.
    pub argmax: u32,
    /// `sum exp(logit - max)`; 0 when `max` is `-inf`. A logit of `-inf` adds nothing. NaN when a logit is NaN or `inf`.
    pub sum_exp: f32,
}

/// Statistics of each row of `logits` `[m, width]`, on all threads even when there are few rows.
///
/// # Panics
/// If `logits` is no whole number of rows or `width` is 0.
pub fn row_stats(logits: &[f32], width: usize) -> Vec<RowStats> {
    row_stats_on(Arch::new(), logits, width)
}

pub(super) fn row_stats_on(arch: Arch, logits: &[f32], width: usize) -> Vec<RowStats> {
    assert!(width > 0 && logits.len().is_multiple_of(width), "{} logits are no rows of {width}", logits.len());
    let per_row = width.div_ceil(CHUNK);
    let parts: Vec<(f32, f32)> = (0..logits.len() / width * per_row)
        .into_par_iter()
        .map(|i| {
            let row = &logits[i / per_row * width..][..width];
            let from = i % per_row * CHUNK;
            arch.dispatch(MaxAndSum(&row[from..width.min(from + CHUNK)]))
        })
        .collect();
    let combine = |(row, parts): (&[f32], &[(f32, f32)])| {
        let mut best = 0;
        for (i, part) in parts.iter().enumerate() {
            if part.0 > parts[best].0 {
                best = i;
            }
        }
        let max = parts[best].0;
        let argmax = best * CHUNK + position(&row[best * CHUNK..], max);
        let sum_exp =
            parts.iter().filter(|part| part.0 != f32::NEG_INFINITY).map(|part| part.1 * (part.0 - max).exp()).sum();
        RowStats { max, argmax: argmax as u32, sum_exp }
    };
    logits.chunks(width).zip(parts.chunks(per_row)).map(combine).collect()
}

/// Index of the first number equal to `value`, 0 if there is none (only when all are NaN).
fn position(x: &[f32], value: f32) -> usize {
    // Whole blocks first: the inner test has no early exit and becomes vector code.
    let block = x.chunks(64).position(|block| block.iter().fold(false, |found, x| found | (*x == value)));
    let start = block.unwrap_or(0) * 64;
    start + x[start..].iter().position(|x| *x == value).unwrap_or(0)
}

/// The largest number and the sum of `exp(x - max)`.
struct MaxAndSum<'a>(&'a [f32]);

impl WithSimd for MaxAndSum<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
        let (vectors, tail) = S::as_simd_f32s(self.0);
        let (fours, rest) = vectors.as_chunks::<4>();
        let tail = load_tail(simd, tail, f32::NEG_INFINITY);
        let mut max = [tail; 4];
        for four in fours {
            for (max, x) in max.iter_mut().zip(four) {
                *max = simd.max_f32s(*max, *x);
            }
        }
        for (max, x) in max.iter_mut().zip(rest) {
            *max = simd.max_f32s(*max, *x);
        }
        let [a, b, c, d] = max;
        let max = simd.reduce_max_f32s(simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d)));
        if max == f32::NEG_INFINITY {
            // Some processors' maximum passes over NaN.
            let sum = if self.0.iter().any(|x| x.is_nan()) { f32::NAN } else { 0.0 };
            return (max + sum, sum);
        }
        let shift = simd.splat_f32s(max);
        let mut sums = [simd.splat_f32s(0.0); 4];
        for four in fours {
            for (sum, x) in sums.iter_mut().zip(four) {
                *sum = simd.add_f32s(*sum, exp_f32s(simd, simd.sub_f32s(*x, shift)));
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum = simd.add_f32s(*sum, exp_f32s(simd, simd.sub_f32s(*x, shift)));
        }
        sums[3] = simd.add_f32s(sums[3], exp_f32s(simd, simd.sub_f32s(tail, shift)));
        let [a, b, c, d] = sums;
        (max, simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d))))
    }
}

/// `out = exp(row - shift)`.
///
/// # Panics
/// If the lengths differ.
pub fn exp_shifted(row: &[f32], shift: f32, out: &mut [f32]) {
    exp_shifted_on(Arch::new(), row, shift, out);
}

pub(super) fn exp_shifted_on(arch: Arch, row: &[f32], shift: f32, out: &mut [f32]) {
    assert_eq!(row.len(), out.len(), "exp_shifted lengths");
    row.par_chunks(CHUNK).zip(out.par_chunks_mut(CHUNK)).for_each(|(row, out)| {
        out.copy_from_slice(row);
        arch.dispatch(Map(ShiftedExp(shift), out));
    });
}

/// The entropy `-sum p ln p` of the softmax of each row of `logits` `[m, width]`, in nats, from the rows' statistics.
pub fn entropies(logits: &[f32], stats: &[RowStats]) -> Vec<f32> {
    let (arch, width) = (Arch::new(), logits.len() / stats.len().max(1));
    let of_row = |(row, stats): (&[f32], &RowStats)| {
        let mut weights = scratch(CHUNK);
        let mut sum = 0.0;
        for chunk in row.chunks(CHUNK) {
            let weights = &mut weights[..chunk.len()];
            weights.copy_from_slice(chunk);
            arch.dispatch(Map(ShiftedExp(stats.max), weights));
            sum += weighted_sum(weights, chunk, stats.max);
        }
        let total = f64::from(stats.sum_exp);
        // With p = weight / total: -sum p ln p = ln total - sum weight (logit - max) / total.
        (total.ln() - sum / total).max(0.0) as f32
    };
    logits.par_chunks(width.max(1)).zip(stats).map(of_row).collect()
}

/// `sum weight (logit - shift)`; a ban has weight 0 and adds nothing.
fn weighted_sum(weights: &[f32], logits: &[f32], shift: f32) -> f64 {
    const LANES: usize = 16;
    let term = |weight: f32, logit: f32| weight * (logit - shift).max(-1e4);
    let ((weights, last_weights), (logits, last_logits)) = (weights.as_chunks::<LANES>(), logits.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (weights, logits) in weights.iter().zip(logits) {
        for (sum, (weight, logit)) in sums.iter_mut().zip(weights.iter().zip(logits)) {
            *sum += term(*weight, *logit);
        }
    }
    let rest: f32 = last_weights.iter().zip(last_logits).map(|(weight, logit)| term(*weight, *logit)).sum();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + f64::from(rest)
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
        fn statistics_agree_with_double_precision(m in 1usize..4, width in 1usize..20_000, seed: u64) {
            let mut logits: Vec<f32> = numbers(seed, m * width).iter().map(|x| 20.0 * x).collect();
            // Bans, as the sampler makes them, and ties.
            logits.iter_mut().step_by(3).for_each(|x| *x = f32::NEG_INFINITY);
            logits.iter_mut().for_each(|x| *x = x.round());
            for arch in every_arch() {
                for (row, stats) in logits.chunks(width).zip(row_stats_on(arch, &logits, width)) {
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    prop_assert_eq!(stats.max, max);
                    prop_assert_eq!(stats.argmax as usize, row.iter().position(|x| *x == max).expect("the maximum is there"));
                    if max == f32::NEG_INFINITY {
                        prop_assert_eq!(stats.sum_exp, 0.0);
                        continue;
                    }
                    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
                    assert_close(&[stats.sum_exp], &[sum], 2e-6);
                    let mut shifted = vec![0.0; width];
                    exp_shifted_on(arch, row, max, &mut shifted);
                    assert_close(&shifted, &row.iter().map(|x| f64::from(x - max).exp()).collect::<Vec<_>>(), 2e-7);
                    let probabilities = row.iter().map(|x| f64::from(x - max).exp() / sum).filter(|p| *p > 0.0);
                    let entropy: f64 = probabilities.map(|p| -p * p.ln()).sum();
                    prop_assert!((f64::from(entropies(row, &[stats])[0]) - entropy).abs() < 1e-5, "{}", entropy);
                }
            }
        }
    }

    #[test]
    fn a_logit_that_is_no_finite_number_shows_wherever_it_stands() {
        let width = 2 * CHUNK + 40;
        for arch in every_arch() {
            for at in [0, 1, 63, CHUNK - 1, CHUNK, 2 * CHUNK, width - 1] {
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut row = numbers(2, width);
                    row[at] = bad;
                    assert!(row_stats_on(arch, &row, width)[0].sum_exp.is_nan(), "{bad} at {at}");
                }
            }
            let mut row = numbers(3, width);
            row[CHUNK..2 * CHUNK].fill(f32::NAN);
            assert!(row_stats_on(arch, &row, width)[0].sum_exp.is_nan(), "a part of nothing else");
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let (m, width) = (9, 20_001);
        let logits = numbers(1, m * width);
        for arch in every_arch() {
            for all in on_one_and_two_threads(|| row_stats_on(arch, &logits, width)) {
                for (i, row) in logits.chunks(width).enumerate() {
                    assert_eq!(row_stats_on(arch, row, width), [all[i]]);
                }
            }
        }
        let stats = row_stats(&logits, width);
        for all in on_one_and_two_threads(|| entropies(&logits, &stats)) {
            for (i, row) in logits.chunks(width).enumerate() {
                assert_eq!(entropies(row, &stats[i..=i]), [all[i]]);
            }
        }
    }
}
