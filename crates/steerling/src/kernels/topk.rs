//! The largest entries of a row without sorting it.

use std::cmp::Ordering;

use pulp::{Arch, Simd, WithSimd};

/// The `k` largest entries of `row` as (index, value), ordered by value descending, then index ascending.
///
/// Among equal values the lowest indices are taken. NaN counts as `-inf`. Fewer than `k` only if the row is shorter.
pub fn top_k(row: &[f32], k: usize) -> Vec<(u32, f32)> {
    top_k_on(Arch::new(), row, k)
}

pub(super) fn top_k_on(arch: Arch, row: &[f32], k: usize) -> Vec<(u32, f32)> {
    if k == 0 {
        return Vec::new();
    }
    arch.dispatch(TopK { row, k: k.min(row.len()) })
}

struct TopK<'a> {
    row: &'a [f32],
    k: usize,
}

/// Entries tested at once against the threshold.
const BLOCK: usize = 64;

impl WithSimd for TopK<'_> {
    type Output = Vec<(u32, f32)>;

    /// Keeps the candidates above a rising threshold, the `k`-th best so far: most blocks fail one vector comparison.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<(u32, f32)> {
        let Self { row, k } = self;
        let limit = 2 * k + BLOCK;
        let mut kept: Vec<(u32, f32)> = Vec::with_capacity(limit + BLOCK);
        let mut threshold = None;
        for (b, block) in row.chunks(BLOCK).enumerate() {
            let entries = block.iter().enumerate().map(|(i, x)| ((b * BLOCK + i) as u32, *x));
            match threshold {
                None => kept.extend(entries),
                // An equal value further right loses the tie: only larger ones come in.
                Some(least) if block.iter().fold(false, |any, x| any | (*x > least)) => {
                    kept.extend(entries.filter(|entry| entry.1 > least));
                }
                Some(_) => {}
            }
            if kept.len() >= limit {
                threshold = Some(keep_best(&mut kept, k));
            }
        }
        keep_best(&mut kept, k);
        kept.sort_unstable_by(better);
        kept
    }
}

/// Cuts `kept` to its `k` best and returns the value of the last one.
fn keep_best(kept: &mut Vec<(u32, f32)>, k: usize) -> f32 {
    let Some(last) = k.checked_sub(1).filter(|last| *last < kept.len()) else { return f32::NEG_INFINITY };
    let least = key(kept.select_nth_unstable_by(last, better).1.1);
    kept.truncate(k);
    least
}

fn better(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}

/// A value's rank: zeros of both signs are equal, NaN is last.
fn key(x: f32) -> f32 {
    if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;

    proptest! {
        #[test]
        fn agrees_with_a_full_sort_also_among_ties(
            values in prop::collection::vec(prop_oneof![-20i32..20, Just(i32::MIN)], 0..3000), k in 0usize..200,
        ) {
            let value = |x: &i32| if *x == i32::MIN { f32::NEG_INFINITY } else { *x as f32 / 4.0 };
            let row: Vec<f32> = values.iter().map(value).collect();
            let mut expected: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
            // A stable sort leaves equal values in the order of their indices.
            expected.sort_by(|a, b| b.1.total_cmp(&a.1));
            expected.truncate(k);
            for arch in every_arch() {
                prop_assert_eq!(&top_k_on(arch, &row, k), &expected);
            }
        }

        #[test]
        fn rising_rows_keep_their_end(len in 1usize..3000, k in 1usize..300) {
            let row: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected: Vec<_> = (0..len).rev().take(k).map(|i| (i as u32, i as f32)).collect();
            prop_assert_eq!(top_k(&row, k), expected);
        }
    }

    #[test]
    fn nan_is_last_and_zeros_of_both_signs_tie() {
        let found = top_k(&[f32::NAN, -0.0, 0.0, -1.0], 4);
        assert_eq!(found.iter().map(|entry| entry.0).collect::<Vec<_>>(), [1, 2, 3, 0]);
    }
}
