//! Which positions of a continuation are masked: drawn for the Monte-Carlo estimate, or all of them for the exact one.
//!
//! With `L` tokens, a row with the `x` masked positions `M` estimates the log-likelihood by `-(L / x) * sum_{i in M} CE_i`.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Longest continuation of which all masks are enumerated: `2^7 - 1 = 127` rows.
pub const MAX_EXACT_TOKENS: usize = 7;

/// One row to forward: a continuation with some positions masked, and what its losses count.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskedRow {
    /// Masked positions, counted from the start of the continuation, ascending and never empty.
    pub masked: Vec<usize>,
    /// Factor of `-sum CE` over the masked positions. Of a drawn row `1 / p = L / x`: the estimate of a batch is the
    /// mean over its rows. Of an enumerated row it holds the probability too: the value is the sum over all rows.
    pub weight: f64,
}

/// The batches of an estimate of `samples` rows: all of `batch` rows but the last, which holds the rest.
///
/// As in the reference package the estimate is the mean of the batches' means, so that rows of a shorter last batch
/// count more.
pub fn batch_sizes(samples: usize, batch: usize) -> Vec<usize> {
    let size = batch_size(samples, batch);
    (0..samples).step_by(size).map(|from| size.min(samples - from)).collect()
}

/// Rows of every batch but the last.
pub(super) fn batch_size(samples: usize, batch: usize) -> usize {
    batch.clamp(1, samples.max(1))
}

/// Mask counts of a batch: `x_j = (round(k + j L / rows) - 1) mod L + 1` for `j = 0..rows`, halves rounded to even.
///
/// The counts are spread evenly over `1..=L`, starting from the `k` in `1..=L` drawn for the batch.
pub fn mask_counts(k: usize, rows: usize, len: usize) -> Vec<usize> {
    (0..rows).map(|j| mask_count(k, (j, rows), len)).collect()
}

/// Of row `j` of `rows`.
fn mask_count(k: usize, (j, rows): (usize, usize), len: usize) -> usize {
    (round_half_even(k * rows + j * len, rows) + len - 1) % len + 1
}

/// `numerator / denominator` to the nearest integer, halves to the even one. In integers, as a quotient of floating-point
/// numbers would miss halves.
fn round_half_even(numerator: usize, denominator: usize) -> usize {
    let (quotient, twice) = (numerator / denominator, numerator % denominator * 2);
    let up = twice > denominator || (twice == denominator && quotient % 2 == 1);
    quotient + usize::from(up)
}

/// The `k` in `1..=len` of one batch of an estimate. Depends on the seed, the batch's index and the length only.
pub fn draw_k(seed: u64, batch: usize, len: usize) -> usize {
    stream(seed, batch, 0).random_range(1..=len)
}

/// The rows of one batch of an estimate: [`mask_counts`] for the batch's [`draw_k`], each with that many positions drawn
/// without replacement. Depends on the seed, the batch's index and the two numbers only, so the same masks are drawn
/// whatever else is computed. No rows for a continuation of no tokens.
pub fn masked_rows(seed: u64, batch: usize, rows: usize, len: usize) -> Vec<MaskedRow> {
    let count = if len == 0 { 0 } else { rows };
    (0..count).map(|j| masked_row(seed, (batch, rows), j, len)).collect()
}

/// Row `j` of [`masked_rows`] for a batch, given by its index and its rows, and at least one token.
pub(super) fn masked_row(seed: u64, (batch, rows): (usize, usize), j: usize, len: usize) -> MaskedRow {
    let count = mask_count(draw_k(seed, batch, len), (j, rows), len);
    let mut masked = rand::seq::index::sample(&mut stream(seed, batch, j + 1), len, count).into_vec();
    masked.sort_unstable();
    MaskedRow { masked, weight: len as f64 / count as f64 }
}

/// Random numbers of one row of one batch; row 0 is the batch itself.
fn stream(seed: u64, batch: usize, row: usize) -> impl Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((batch as u64) << 32) | row as u64);
    rng
}

/// Every mask count equally likely: entry `x - 1` is the probability of `x` masked positions.
///
/// With it the exact value is the any-order bound `-sum over masks of (1 / (x binom(L, x))) sum_{i in M} CE_i`, which
/// does not depend on how an estimate is cut into batches.
pub fn uniform_counts(len: usize) -> Vec<f64> {
    vec![1.0 / len as f64; len]
}

/// How likely each mask count is in the Monte-Carlo estimate: entry `x - 1` for `x` masked positions.
///
/// Uniform unless a row's offset `j L / rows` is half an integer: rounding halves to even then gives that row every
/// other count twice. The mean is over `k` in `1..=len`, over the rows of a batch, and over the batches.
pub fn count_distribution(len: usize, samples: usize, batch: usize) -> Vec<f64> {
    let sizes = batch_sizes(samples, batch);
    let mut distribution = vec![0.0; len];
    for &rows in &sizes {
        let share = 1.0 / (sizes.len() * rows * len) as f64;
        for x in (1..=len).flat_map(|k| mask_counts(k, rows, len)) {
            distribution[x - 1] += share;
        }
    }
    distribution
}

/// All `2^L - 1` masks of a continuation, by ascending bit pattern (bit `i` = position `i`), weighted so that the sum
/// over all rows of `-weight * sum CE` is the exact expectation of an estimate whose mask counts have the probabilities
/// `counts` (`L` of them): `weight = counts[x - 1] / binom(L, x) * L / x`.
///
/// # Errors
/// [`Error::Invalid`] of field `method` for more than [`MAX_EXACT_TOKENS`] tokens.
pub fn exact_masks(counts: &[f64]) -> Result<Vec<MaskedRow>> {
    let len = counts.len();
    if len > MAX_EXACT_TOKENS {
        return Err(Error::invalid(
            "method",
            format!("`exact` takes continuations of at most {MAX_EXACT_TOKENS} tokens, this one has {len}"),
        ));
    }
    let row = |bits: usize| {
        let masked: Vec<usize> = (0..len).filter(|i| bits >> i & 1 == 1).collect();
        let x = masked.len();
        let weight = counts[x - 1] / binomial(len, x) * len as f64 / x as f64;
        MaskedRow { masked, weight }
    };
    Ok((1..1usize << len).map(row).collect())
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k).fold(1.0, |product, i| product * (n - i) as f64 / (i + 1) as f64)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Recorded {
        mask_counts: Vec<Table>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Table {
        bsz: usize,
        cont_len: usize,
        k: usize,
        counts: Vec<usize>,
        p: Vec<f64>,
    }

    #[derive(Deserialize)]
    struct Case {
        continuation: Vec<u32>,
        mc_num: usize,
        mc_batch_size: usize,
        k: Vec<usize>,
        chunks: Vec<Chunk>,
    }

    #[derive(Deserialize)]
    struct Chunk {
        noisy: Vec<Vec<u32>>,
    }

    fn recorded() -> Recorded {
        serde_json::from_str(include_str!("../../tests/goldens/nano/mc_loglikelihood.json")).unwrap()
    }

    #[test]
    fn mask_counts_are_those_of_the_recorded_table() {
        let tables = recorded().mask_counts;
        assert_eq!(tables.len(), 315);
        for table in tables {
            let counts = mask_counts(table.k, table.bsz, table.cont_len);
            assert_eq!(counts, table.counts, "k {} rows {} len {}", table.k, table.bsz, table.cont_len);
            for (x, p) in counts.iter().zip(table.p) {
                assert!((*x as f64 / table.cont_len as f64 - p).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn batches_and_counts_are_those_of_the_recorded_estimates() {
        const MASK: u32 = 511;
        for case in recorded().cases {
            let sizes = batch_sizes(case.mc_num, case.mc_batch_size);
            assert_eq!(sizes, case.chunks.iter().map(|chunk| chunk.noisy.len()).collect::<Vec<_>>());
            for ((chunk, rows), k) in case.chunks.iter().zip(sizes).zip(case.k) {
                let masked = |row: &Vec<u32>| row.iter().filter(|id| **id == MASK).count();
                let found: Vec<_> = chunk.noisy.iter().map(masked).collect();
                assert_eq!(mask_counts(k, rows, case.continuation.len()), found);
            }
        }
    }

    #[test]
    fn drawn_rows_mask_as_many_different_positions_as_their_batch_says_and_repeat_with_the_seed() {
        for (batch, len) in [(0, 1), (0, 5), (3, 20), (1, 300)] {
            let rows = masked_rows(7, batch, 32, len);
            assert_eq!(rows, masked_rows(7, batch, 32, len));
            let counts = mask_counts(draw_k(7, batch, len), 32, len);
            for (row, count) in rows.iter().zip(counts) {
                assert_eq!(row.masked.len(), count);
                assert!(row.masked.is_sorted_by(|a, b| a < b) && row.masked[count - 1] < len);
                assert_eq!(row.weight, len as f64 / count as f64);
            }
        }
        assert_ne!(masked_rows(7, 0, 32, 20), masked_rows(8, 0, 32, 20));
        assert_ne!(masked_rows(7, 0, 32, 20), masked_rows(7, 1, 32, 20));
        assert!(masked_rows(7, 0, 32, 0).is_empty());
    }

    #[test]
    fn every_position_is_masked_equally_often_and_every_k_is_drawn_equally_often() {
        let (len, batches) = (8, 4000);
        let (mut ks, mut positions) = (vec![0.0; len], vec![0.0; len]);
        for batch in 0..batches {
            ks[draw_k(11, batch, len) - 1] += 1.0;
            for row in masked_rows(11, batch, 1, len) {
                row.masked.iter().for_each(|i| positions[*i] += 1.0);
            }
        }
        // Standard deviations are 21 (k, expected 500) and 31 (positions, expected 4000 * 4.5 / 8 = 2250).
        assert!(ks.iter().all(|n: &f64| (n - 500.0).abs() < 90.0), "{ks:?}");
        assert!(positions.iter().all(|n: &f64| (n - 2250.0).abs() < 130.0), "{positions:?}");
    }

    /// A loss that depends on the position and on how much is masked, as a model's does.
    fn value(row: &MaskedRow) -> f64 {
        let losses = row.masked.iter().map(|i| ((i * i) as f64 + 1.3) * (row.masked.len() as f64).sqrt());
        -row.weight * losses.sum::<f64>()
    }

    #[test]
    fn the_exact_value_is_the_mean_of_many_estimates() {
        // Two tokens in batches of four have rows whose offset is half an integer.
        for (len, samples, batch) in [(1, 8, 4), (2, 8, 4), (3, 7, 3), (5, 32, 32), (7, 4, 2)] {
            let exact: f64 = exact_masks(&count_distribution(len, samples, batch)).unwrap().iter().map(value).sum();
            let sizes = batch_sizes(samples, batch);
            let estimate = |seed: u64| -> f64 {
                let mean = |(b, rows): (usize, &usize)| {
                    masked_rows(seed, b, *rows, len).iter().map(value).sum::<f64>() / *rows as f64
                };
                sizes.iter().enumerate().map(mean).sum::<f64>() / sizes.len() as f64
            };
            let n = 4000;
            let estimates: Vec<f64> = (0..n).map(estimate).collect();
            let mean = estimates.iter().sum::<f64>() / n as f64;
            let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n as f64;
            let error = (variance / n as f64).sqrt();
            assert!((mean - exact).abs() <= 5.0 * error + 1e-9, "{len}: {mean} +- {error}, exact {exact}");
        }
    }

    #[test]
    fn enumerated_masks_are_all_masks_and_weigh_one_token_each() {
        for len in 1..=MAX_EXACT_TOKENS {
            let rows = exact_masks(&uniform_counts(len)).unwrap();
            assert_eq!(rows.len(), (1 << len) - 1);
            // With a loss of 1 everywhere the log-likelihood is -L, and every position takes part with weight 1.
            for i in 0..len {
                let total: f64 = rows.iter().filter(|row| row.masked.contains(&i)).map(|row| row.weight).sum();
                assert!((total - 1.0).abs() < 1e-12, "{len} {i} {total}");
            }
        }
        assert!(exact_masks(&[]).unwrap().is_empty());
        assert!(matches!(exact_masks(&uniform_counts(8)), Err(Error::Invalid { field, .. }) if field == "method"));
    }

    #[test]
    fn counts_of_an_estimate_are_uniform_unless_rows_fall_on_halves() {
        let distance = |len, samples, batch| -> f64 {
            count_distribution(len, samples, batch).iter().map(|p| (p - 1.0 / len as f64).abs()).fold(0.0, f64::max)
        };
        assert!(distance(5, 25, 5) < 1e-12);
        assert!(distance(3, 128, 1) < 1e-12);
        // Rows 8 and 24 of 32 always mask both of two tokens.
        assert!((distance(2, 128, 32) - 1.0 / 32.0).abs() < 1e-12);
    }
}
