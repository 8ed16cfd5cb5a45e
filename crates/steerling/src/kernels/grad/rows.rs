//! Gradients of functions of one row: RMS norm and the gated activation.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::norm::rms_scale;
use crate::kernels::rows::PARALLEL_FROM;
use crate::kernels::vector::{dot, exp_f32s, load_tail, store_tail};

/// The gradient of the RMS norm's input. With `r = rsqrt(mean(x^2) + eps)`:
/// `gx = r gy w - x r^3 / d sum(gy w x)`; `x`, `gy`, `gx` `[m, d]`, `weight` `[d]`.
///
/// # Panics
/// If the lengths differ or are no whole rows.
pub fn rms_norm_backward(x: &[f32], gy: &[f32], weight: &[f32], eps: f32, gx: &mut [f32]) {
    rms_norm_backward_on(Arch::new(), x, gy, (weight, eps), gx);
}

fn rms_norm_backward_on(arch: Arch, x: &[f32], gy: &[f32], (weight, eps): (&[f32], f32), gx: &mut [f32]) {
    let width = weight.len();
    assert!(gx.len().is_multiple_of(width), "{} gradients are no rows of {width}", gx.len());
    assert_eq!((x.len(), gy.len()), (gx.len(), gx.len()), "inputs and gradients");
    let row = |((x, gy), gx): ((&[f32], &[f32]), &mut [f32])| {
        gx.copy_from_slice(gy);
        arch.dispatch(NormRow { x, weight, eps, g: gx });
    };
    (x.par_chunks(width).zip(gy.par_chunks(width)).zip(gx.par_chunks_mut(width)))
        .with_min_len(PARALLEL_FROM.div_ceil(width))
        .for_each(row);
}

struct NormRow<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    g: &'a mut [f32],
}

impl WithSimd for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        norm_row(simd, self.x, (self.weight, self.eps), self.g);
    }
}

/// Replaces the gradient `g` of one normed row by that of its input `x`.
#[inline(always)]
pub(super) fn norm_row<S: Simd>(simd: S, x: &[f32], (weight, eps): (&[f32], f32), g: &mut [f32]) {
    let r = rms_scale(simd, x, eps);
    g.iter_mut().zip(weight).for_each(|(g, weight)| *g *= weight);
    let pull = dot(simd, g, x) * r * r * r / x.len() as f32;
    g.iter_mut().zip(x).for_each(|(g, x)| *g = *g * r - x * pull);
}

/// The gradient of `out = silu(gate) * up`: `fc` `[m, 2 inter]` holds `up` then `gate` in each row and is replaced by
/// its own gradient; `gout` `[m, inter]`.
///
/// # Panics
/// If the lengths do not fit `inter`.
pub fn swiglu_backward(fc: &mut [f32], gout: &[f32], inter: usize) {
    swiglu_backward_on(Arch::new(), fc, gout, inter);
}

fn swiglu_backward_on(arch: Arch, fc: &mut [f32], gout: &[f32], inter: usize) {
    if inter == 0 {
        return;
    }
    assert!(gout.len().is_multiple_of(inter), "{} gradients are no rows of {inter}", gout.len());
    assert_eq!(fc.len(), 2 * gout.len(), "rows of up and gate");
    (fc.par_chunks_mut(2 * inter).zip(gout.par_chunks(inter)))
        .with_min_len(PARALLEL_FROM.div_ceil(2 * inter))
        .for_each(|(fc, gout)| {
            let (up, gate) = fc.split_at_mut(inter);
            arch.dispatch(GatedRow { up, gate, gout });
        });
}

struct GatedRow<'a> {
    up: &'a mut [f32],
    gate: &'a mut [f32],
    gout: &'a [f32],
}

impl WithSimd for GatedRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (up, up_tail) = S::as_mut_simd_f32s(self.up);
        let (gate, gate_tail) = S::as_mut_simd_f32s(self.gate);
        let (gout, gout_tail) = S::as_simd_f32s(self.gout);
        for ((up, gate), gout) in up.iter_mut().zip(gate).zip(gout) {
            (*up, *gate) = gated(simd, *up, *gate, *gout);
        }
        let [u, g, o] = [&*up_tail, &*gate_tail, gout_tail].map(|tail| load_tail(simd, tail, 0.0));
        let (u, g) = gated(simd, u, g, o);
        store_tail::<S>(up_tail, u);
        store_tail::<S>(gate_tail, g);
    }
}

/// Gradients of `up` and `gate`: `g silu(gate)` and `g up s (1 + gate (1 - s))` with the sigmoid `s` of `gate`.
#[inline(always)]
fn gated<S: Simd>(simd: S, up: S::f32s, gate: S::f32s, g: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    let s = simd.div_f32s(one, simd.add_f32s(one, exp_f32s(simd, simd.neg_f32s(gate))));
    let silu = simd.mul_f32s(gate, s);
    // s (1 + gate (1 - s)) = s + silu (1 - s)
    let slope = simd.mul_add_e_f32s(silu, simd.sub_f32s(one, s), s);
    (simd.mul_f32s(g, silu), simd.mul_f32s(simd.mul_f32s(g, up), slope))
}
