//! Building blocks on vectors: the exponential, and slices that are no whole number of vectors.

use pulp::Simd;

/// `e^x` to 2 units in the last place for `-87 <= x <= 88`; 0 below -87.33, infinity above 88.37, 1 exactly at 0.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; the polynomial for `e^r` is the one of the Cephes library's `expf`.
#[inline(always)]
pub(super) fn exp_f32s<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Adding it rounds to an integer, left in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let splat = |value| simd.splat_f32s(value);
    let shifted = simd.add_f32s(simd.mul_f32s(x, splat(std::f32::consts::LOG2_E)), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    // ln 2 in two parts, the first short enough for an exact product even without a fused multiply-add.
    let r = simd.mul_add_e_f32s(n, splat(-0.693_359_4), x);
    let r = simd.mul_add_e_f32s(n, splat(2.121_944_4e-4), r);
    let mut p = splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = simd.mul_add_e_f32s(p, r, splat(coefficient));
    }
    let p = simd.add_f32s(simd.mul_add_e_f32s(simd.mul_f32s(r, r), p, r), splat(1.0));
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23)));
    let y = simd.mul_f32s(p, power);
    let y = simd.select_f32s(simd.less_than_f32s(x, splat(-87.33)), splat(0.0), y);
    simd.select_f32s(simd.greater_than_f32s(x, splat(88.37)), splat(f32::INFINITY), y)
}

/// Reads up to one vector; missing lanes hold `fill`.
#[inline(always)]
pub(super) fn load_tail<S: Simd>(simd: S, tail: &[f32], fill: f32) -> S::f32s {
    let mut lanes = simd.splat_f32s(fill);
    lanes_mut::<S>(&mut lanes)[..tail.len()].copy_from_slice(tail);
    lanes
}

/// Writes the first lanes.
#[inline(always)]
pub(super) fn store_tail<S: Simd>(tail: &mut [f32], mut lanes: S::f32s) {
    let len = tail.len();
    tail.copy_from_slice(&lanes_mut::<S>(&mut lanes)[..len]);
}

#[inline(always)]
fn lanes_mut<S: Simd>(lanes: &mut S::f32s) -> &mut [f32] {
    pulp::bytemuck::cast_slice_mut(std::slice::from_mut(lanes))
}

/// The sum of `a[i] * b[i]`.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_tail), (b, b_tail)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    // Four sums, so that the additions do not wait for each other.
    let mut sums = [simd.splat_f32s(0.0); 4];
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        sums[i % 4] = simd.mul_add_e_f32s(*a, *b, sums[i % 4]);
    }
    let (a, b) = (load_tail(simd, a_tail, 0.0), load_tail(simd, b_tail, 0.0));
    sums[3] = simd.mul_add_e_f32s(a, b, sums[3]);
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}
