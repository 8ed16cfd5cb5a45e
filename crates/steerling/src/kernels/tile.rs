//! The one inner loop that matrix products and attention share.

use pulp::Simd;

/// Rows of the left operand in one packed tile: 8 x 2 accumulators of AVX-512 hide the latency of the fused multiply-add.
pub(super) const MR: usize = 8;
/// Columns of a packed panel of the right operand: two AVX-512 vectors.
pub(super) const NR: usize = 32;

/// Accumulators of `R` rows times two vectors.
pub(super) type Acc<S, const R: usize> = [[<S as Simd>::f32s; 2]; R];

/// `acc[i][v] += sum over p of a[p][row + i] * b[p][vector (column pair) pair, v]`, in the order of `p`.
///
/// Every element is one chain of multiply-adds over `p`, so that its bits do not depend on the tile it sits in.
#[inline(always)]
pub(super) fn accumulate<S: Simd, const R: usize>(
    simd: S,
    (a, row): (&[[f32; MR]], usize),
    (b, pair): (&[[f32; NR]], usize),
    mut acc: Acc<S, R>,
) -> Acc<S, R> {
    for (a, b) in a.iter().zip(b) {
        let b = S::as_simd_f32s(b).0;
        let (b0, b1) = (b[2 * pair], b[2 * pair + 1]);
        for i in 0..R {
            let x = simd.splat_f32s(a[row + i]);
            acc[i][0] = simd.mul_add_e_f32s(x, b0, acc[i][0]);
            acc[i][1] = simd.mul_add_e_f32s(x, b1, acc[i][1]);
        }
    }
    acc
}

/// `c[i][..] (+)= sum over p of a[p][i] * b[p][..]` for one packed tile and one panel, `c` being `MR` rows of `NR`.
///
/// With `first` the old content of `c` is ignored. Sixteen registers hold half a tile, thirty-two a whole one.
#[inline(always)]
pub(super) fn tile<S: Simd>(simd: S, a: &[[f32; MR]], b: &[[f32; NR]], c: &mut [[f32; NR]; MR], first: bool) {
    if S::REGISTER_COUNT >= 32 {
        rows::<S, MR>(simd, (a, 0), b, c, first);
    } else {
        rows::<S, { MR / 2 }>(simd, (a, 0), b, c, first);
        rows::<S, { MR / 2 }>(simd, (a, MR / 2), b, c, first);
    }
}

#[inline(always)]
fn rows<S: Simd, const R: usize>(
    simd: S,
    (a, row): (&[[f32; MR]], usize),
    b: &[[f32; NR]],
    c: &mut [[f32; NR]; MR],
    first: bool,
) {
    for pair in 0..NR / (2 * S::F32_LANES) {
        let mut acc: Acc<S, R> = [[simd.splat_f32s(0.0); 2]; R];
        if !first {
            for (acc, c) in acc.iter_mut().zip(&c[row..]) {
                let c = S::as_simd_f32s(c).0;
                *acc = [c[2 * pair], c[2 * pair + 1]];
            }
        }
        acc = accumulate(simd, (a, row), (b, pair), acc);
        for (acc, c) in acc.iter().zip(&mut c[row..]) {
            let c = S::as_mut_simd_f32s(c).0;
            [c[2 * pair], c[2 * pair + 1]] = *acc;
        }
    }
}
