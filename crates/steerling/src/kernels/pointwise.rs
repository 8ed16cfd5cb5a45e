//! Functions applied to every number or every row: exponential, activations, norms, preparation of q, k and v.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

pub use super::norm::{rms_norm, rms_norm_add};
pub use super::qkv::{Qkv, QkvParams, qkv_prepare};
use super::rows::{PARALLEL_FROM, for_rows};
use super::vector::{exp_f32s, load_tail, store_tail};

/// A function of one number, on vectors.
pub(super) trait Lanes: Copy + Sync {
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

/// `e^x`.
#[derive(Clone, Copy)]
struct Exp;
/// `e^(x - shift)`.
#[derive(Clone, Copy)]
pub(super) struct ShiftedExp(pub(super) f32);
/// `x / (1 + e^-x)`.
#[derive(Clone, Copy)]
struct Silu;
/// The tanh form of gelu.
#[derive(Clone, Copy)]
struct GeluTanh;
/// `max(x, 0)`.
#[derive(Clone, Copy)]
struct Relu;

impl Lanes for Exp {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        exp_f32s(simd, x)
    }
}

impl Lanes for ShiftedExp {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        exp_f32s(simd, simd.sub_f32s(x, simd.splat_f32s(self.0)))
    }
}

impl Lanes for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let one = simd.splat_f32s(1.0);
        simd.div_f32s(x, simd.add_f32s(one, exp_f32s(simd, simd.neg_f32s(x))))
    }
}

impl Lanes for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        // x/2 (1 + tanh u) = x / (1 + e^(-2u)) with u = sqrt(2/pi) (x + 0.044715 x^3).
        const TWO_ROOT: f32 = 1.595_769;
        let cubic = simd.mul_f32s(simd.splat_f32s(-TWO_ROOT * 0.044_715), simd.mul_f32s(x, x));
        let exponent = simd.mul_f32s(x, simd.sub_f32s(cubic, simd.splat_f32s(TWO_ROOT)));
        simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), exp_f32s(simd, exponent)))
    }
}

impl Lanes for Relu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        simd.select_f32s(simd.less_than_f32s(x, zero), zero, x)
    }
}

/// Applies a function to a slice in place.
pub(super) struct Map<'a, F>(pub(super) F, pub(super) &'a mut [f32]);

impl<F: Lanes> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (vectors, tail) = S::as_mut_simd_f32s(self.1);
        for x in vectors {
            *x = self.0.apply(simd, *x);
        }
        let last = load_tail(simd, tail, 0.0);
        store_tail::<S>(tail, self.0.apply(simd, last));
    }
}

fn map(arch: Arch, f: impl Lanes, x: &mut [f32]) {
    x.par_chunks_mut(PARALLEL_FROM).for_each(|x| arch.dispatch(Map(f, x)));
}

/// `x = e^x` in place: within 2 units in the last place for `-87 <= x <= 88`; 0 and infinity beyond.
pub fn exp(x: &mut [f32]) {
    map(Arch::new(), Exp, x);
}

/// `x = x / (1 + e^-x)` in place.
pub fn silu(x: &mut [f32]) {
    map(Arch::new(), Silu, x);
}

/// `x = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` in place.
pub fn gelu_tanh(x: &mut [f32]) {
    map(Arch::new(), GeluTanh, x);
}

/// `x = max(x, 0)` in place.
pub fn relu(x: &mut [f32]) {
    map(Arch::new(), Relu, x);
}

/// `out = silu(gate) * up`: `fc` `[m, 2 inter]` holds `up` then `gate` in each row, `out` is `[m, inter]`.
///
/// # Panics
/// If the lengths do not fit `inter`.
pub fn swiglu(fc: &[f32], inter: usize, out: &mut [f32]) {
    swiglu_on(Arch::new(), fc, inter, out);
}

pub(super) fn swiglu_on(arch: Arch, fc: &[f32], inter: usize, out: &mut [f32]) {
    for_rows((fc, 2 * inter), (out, inter), |fc, out| {
        let (up, gate) = fc.split_at(inter);
        arch.dispatch(Swiglu { up, gate, out });
    });
}

struct Swiglu<'a> {
    up: &'a [f32],
    gate: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (up, up_tail) = S::as_simd_f32s(self.up);
        let (gate, gate_tail) = S::as_simd_f32s(self.gate);
        let (out, out_tail) = S::as_mut_simd_f32s(self.out);
        for ((out, up), gate) in out.iter_mut().zip(up).zip(gate) {
            *out = simd.mul_f32s(Silu.apply(simd, *gate), *up);
        }
        let gate = Silu.apply(simd, load_tail(simd, gate_tail, 0.0));
        store_tail::<S>(out_tail, simd.mul_f32s(gate, load_tail(simd, up_tail, 0.0)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;
    use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..=700_000).map(|i| -87.0 + i as f32 * 2.5e-4).collect();
        for arch in every_arch() {
            let mut y = x.clone();
            map(arch, Exp, &mut y);
            for (x, y) in x.iter().zip(y) {
                let exact = f64::from(*x).exp();
                let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "exp({x}) = {y}, expected {exact}, {arch:?}");
            }
        }
    }

    #[test]
    fn exp_ends_in_zero_and_infinity() {
        let x = [0.0, -0.0, -88.0, -1e30, f32::MIN, f32::NEG_INFINITY, 88.5, 1e30, f32::INFINITY];
        for arch in every_arch() {
            let mut y = x;
            map(arch, Exp, &mut y);
            assert_eq!(y, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY, f32::INFINITY], "{arch:?}");
            let mut nan = [f32::NAN; 19];
            map(arch, Exp, &mut nan);
            assert!(nan.iter().all(|x| x.is_nan()));
        }
    }

    fn silu_of(x: f32) -> f64 {
        f64::from(x) / (1.0 + (-f64::from(x)).exp())
    }

    #[test]
    fn activations_agree_with_their_formulas() {
        let x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.01).chain([-1e4, -100.0, 100.0, 1e4]).collect();
        let gelu = |x: &f32| {
            let x = f64::from(*x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        };
        for arch in every_arch() {
            let [mut silu, mut gelu_found, mut relu] = [x.clone(), x.clone(), x.clone()];
            map(arch, Silu, &mut silu);
            map(arch, GeluTanh, &mut gelu_found);
            map(arch, Relu, &mut relu);
            assert_close(&silu, &x.iter().map(|x| silu_of(*x)).collect::<Vec<_>>(), 4e-7);
            assert_close(&gelu_found, &x.iter().map(gelu).collect::<Vec<_>>(), 4e-7);
            assert_eq!(relu, x.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn swiglu_agrees_with_double_precision(m in 1usize..5, inter in 1usize..150, seed: u64) {
            let fc = numbers(seed, 2 * m * inter);
            let gated: Vec<f64> = fc.chunks(2 * inter)
                .flat_map(|fc| (0..inter).map(|i| f64::from(fc[i]) * silu_of(fc[inter + i])))
                .collect();
            for arch in every_arch() {
                let mut out = vec![0.0; m * inter];
                swiglu_on(arch, &fc, inter, &mut out);
                assert_close(&out, &gated, 1e-6);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let (m, inter) = (129, 333);
        let fc = numbers(2, 2 * m * inter);
        for arch in every_arch() {
            for gated in on_one_and_two_threads(|| {
                let mut gated = vec![0.0; m * inter];
                swiglu_on(arch, &fc, inter, &mut gated);
                gated
            }) {
                for (one, gated) in fc.chunks(2 * inter).zip(gated.chunks(inter)) {
                    let mut alone = vec![0.0; inter];
                    swiglu_on(arch, one, inter, &mut alone);
                    assert_eq!(alone, gated);
                }
            }
        }
    }
}
