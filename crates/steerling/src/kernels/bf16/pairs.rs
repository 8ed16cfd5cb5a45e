//! The product by `vdpbf16ps`: 16 pairs of a vector with 16 pairs of another, both products of a pair added to one
//! float32.

use std::arch::x86_64::{__cpuid, __m512, __m512bh, _mm512_dpbf16_ps};
use std::mem::transmute;

use pulp::Arch;
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use rayon::prelude::*;

use super::{Product, pair};
use crate::kernels::scratch::{Scratch, scratch};
use crate::kernels::tile::{MR, NR};

/// Pairs of one pass over a panel: 32 KiB, which stay in the first-level cache.
const DEPTH: usize = 256;
/// Numbers of a vector.
const LANES: usize = 16;
/// Vectors of a line.
const VECTORS: usize = NR / LANES;

/// Whether [`multiply`] may be called where `arch` is used: the instruction belongs to AVX-512.
pub(super) fn available(arch: Arch) -> bool {
    matches!(arch, Arch::V4(_)) && detected()
}

pub(super) fn is_fast() -> bool {
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    available(Arch::new()) && name == b"AuthenticAMD"
}

fn detected() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Rows `[m, k]` rounded to bfloat16, as tiles of `[k / 2][8]` pairs: bits, not numbers. An odd `k` is padded with zeros.
pub(super) fn pack(x: &[f32], k: usize) -> Scratch {
    let pairs = k.div_ceil(2);
    let mut packed = scratch(x.len().div_ceil(MR * k) * MR * pairs);
    packed.par_chunks_mut(MR * pairs).zip(x.par_chunks(MR * k)).for_each(|(tile, rows)| {
        let lines = cast_slice_mut::<f32, u32>(tile).as_chunks_mut::<MR>().0;
        lines.fill([0; MR]);
        for (i, row) in rows.chunks(k).enumerate() {
            let (even, odd) = row.as_chunks::<2>();
            for (line, x) in lines.iter_mut().zip(even) {
                line[i] = pair(x[0], x[1]);
            }
            if let ([x], Some(line)) = (odd, lines.last_mut()) {
                line[i] = pair(*x, 0.0);
            }
        }
    });
    packed
}

/// Computes a task.
///
/// # Panics
/// If the processor has no `vdpbf16ps`, or the panels do not hold bfloat16.
pub(super) fn multiply(product: Product) {
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
    let packed = cast_slice::<f32, u32>(product.packed).as_chunks::<MR>().0;
    let pairs = product.k.div_ceil(2);
    let width = product.rows.first().map_or(0, |row| row.len());
    for from in (0..pairs).step_by(DEPTH) {
        let to = pairs.min(from + DEPTH);
        for column in (0..width).step_by(NR) {
            let panel = product.panels.pairs(product.panel + column / NR, product.k).expect("panels of bfloat16");
            let end = width.min(column + NR);
            for (rows, a) in product.rows.chunks_mut(MR).zip(packed.chunks(pairs)) {
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
