//! Products of bfloat16 numbers, summed in float32: `vdpbf16ps`, where the processor has it.
//!
//! The instruction multiplies 16 pairs of a vector with 16 pairs of another and adds both products of a pair to one
//! float32. Both factors are bfloat16, so the input of the product is rounded (a relative error of 2^-8 at most, to
//! nearest); sums, results and everything between products stay in float32.

use super::panels::Panels;
use super::tile::MR;

/// One task of a product: some neighbouring panels, all rows.
pub(super) struct Product<'a> {
    /// Of bfloat16.
    pub(super) panels: &'a Panels,
    /// Length of the sums.
    pub(super) k: usize,
    /// The rows as tiles of pairs, `[tiles][k / 2][8]`.
    pub(super) tiles: &'a [[u32; MR]],
    /// First output panel.
    pub(super) panel: usize,
    /// The outputs' columns from that panel on, one slice a row.
    pub(super) rows: Vec<&'a mut [f32]>,
}

/// `x` rounded to bfloat16, to nearest, ties to even.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    // A NaN keeps one bit that says so; rounding could carry it to an infinity.
    if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Whether products by `vdpbf16ps` are faster than those in float32 on this processor, beyond being possible.
///
/// The instruction does twice the work of a multiply-add. AMD's processors (Zen 4 and later) take as many of them a
/// second; Intel's take a quarter as many, so that they do half the work: 121 GFLOP/s a core against 242 measured. Told
/// by the vendor and not by a measurement, so that the same machine always gives the same numbers.
pub fn dot_is_faster() -> bool {
    dot::faster()
}

/// Two numbers rounded, the first in the lower half.
#[inline(always)]
pub(super) fn pair(even: f32, odd: f32) -> u32 {
    rounded(even) | rounded(odd) << 16
}

pub(super) use dot::{available, multiply};

/// Other processors multiply in float32.
#[cfg(not(target_arch = "x86_64"))]
mod dot {
    pub(in crate::kernels) fn available(_: pulp::Arch) -> bool {
        false
    }

    pub(super) fn faster() -> bool {
        false
    }

    pub(in crate::kernels) fn multiply(_: super::Product) {
        unreachable!("no product by an instruction that is not available");
    }
}

#[cfg(target_arch = "x86_64")]
mod dot {
    use std::arch::x86_64::{__cpuid, __m512, __m512bh, _mm512_dpbf16_ps};
    use std::mem::transmute;

    use pulp::Arch;

    use super::Product;
    use crate::kernels::tile::{MR, NR};

    /// Pairs of one pass over a panel: 32 KiB, which stay in the first-level cache.
    const DEPTH: usize = 256;
    /// Numbers of a vector.
    const LANES: usize = 16;
    /// Vectors of a line.
    const VECTORS: usize = NR / LANES;

    /// Whether [`multiply`] may be called where `arch` is used: the instruction belongs to AVX-512.
    pub(in crate::kernels) fn available(arch: Arch) -> bool {
        matches!(arch, Arch::V4(_)) && detected()
    }

    pub(super) fn faster() -> bool {
        let vendor = __cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
        available(Arch::new()) && name == b"AuthenticAMD"
    }

    fn detected() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    /// Computes a task.
    ///
    /// # Panics
    /// If the processor has no `vdpbf16ps`, or the panels do not hold bfloat16.
    pub(in crate::kernels) fn multiply(product: Product) {
        assert!(detected(), "a processor with avx512bf16");
        // SAFETY: the one precondition of a function with target features is that the processor has them, which the
        // line above has made sure of. The function itself takes and writes slices only.
        #[expect(unsafe_code, reason = "the way to call code for a processor that was found at run time")]
        unsafe {
            multiply_avx512(product);
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn multiply_avx512(mut product: Product) {
        let pairs = product.k.div_ceil(2);
        let width = product.rows.first().map_or(0, |row| row.len());
        for from in (0..pairs).step_by(DEPTH) {
            let to = pairs.min(from + DEPTH);
            for column in (0..width).step_by(NR) {
                let panel = product.panels.pairs(product.panel + column / NR, product.k).expect("panels of bfloat16");
                let end = width.min(column + NR);
                for (rows, a) in product.rows.chunks_mut(MR).zip(product.tiles.chunks(pairs)) {
                    let mut c = [[0.0; NR]; MR];
                    if from > 0 {
                        for (c, row) in c.iter_mut().zip(rows.iter()) {
                            c[..end - column].copy_from_slice(&row[column..end]);
                        }
                    }
                    tile(&a[from..to], &panel[from..to], &mut c);
                    for (c, row) in c.iter().zip(rows) {
                        row[column..end].copy_from_slice(&c[..end - column]);
                    }
                }
            }
        }
    }

    /// `c[i][..] += sum over p of a[p][i] . b[p][..]`. Every element is one chain of operations over `p`, so that its bits
    /// do not depend on the tile it sits in.
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn tile(a: &[[u32; MR]], b: &[[u32; NR]], c: &mut [[f32; NR]; MR]) {
        let mut acc = c.map(|row| sums(split(row)));
        for (a, b) in a.iter().zip(b) {
            let b = split(*b).map(pairs);
            for (acc, a) in acc.iter_mut().zip(a) {
                let a = pairs([*a; LANES]);
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = _mm512_dpbf16_ps(*acc, a, b);
                }
            }
        }
        for (c, acc) in c.iter_mut().zip(acc) {
            *c = join(acc);
        }
    }

    #[inline(always)]
    fn split<T: Copy>(line: [T; NR]) -> [[T; LANES]; VECTORS] {
        std::array::from_fn(|v| std::array::from_fn(|i| line[v * LANES + i]))
    }

    /// The pairs of a vector.
    #[inline(always)]
    fn pairs(x: [u32; LANES]) -> __m512bh {
        // SAFETY: both are 64 bytes of plain numbers, of which every pattern of bits is one.
        #[expect(unsafe_code, reason = "there is no safe conversion to the vector type")]
        unsafe {
            transmute(x)
        }
    }

    #[inline(always)]
    fn sums(x: [[f32; LANES]; VECTORS]) -> [__m512; VECTORS] {
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "there is no safe conversion to the vector type")]
        unsafe {
            transmute(x)
        }
    }

    #[inline(always)]
    fn join(x: [__m512; VECTORS]) -> [f32; NR] {
        // SAFETY: as above, the other way round.
        #[expect(unsafe_code, reason = "there is no safe conversion from the vector type")]
        unsafe {
            transmute(x)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        let numbers = crate::kernels::testing::numbers(3, 4096);
        let special = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-40, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        // Exactly between two bfloat16 numbers, of which first the even one is below, then above.
        let ties = [0x3f80_8000, 0x3f81_8000].map(f32::from_bits);
        for x in numbers.into_iter().chain(special).chain(ties) {
            assert_eq!(rounded(x), u32::from(half::bf16::from_f32(x).to_bits()), "{x}");
        }
        assert_eq!(pair(1.0, -2.0), 0xc000_3f80);
    }
}
