//! Weights in panels of 32 output columns, in the types they may be stored in.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use memmap2::MmapMut;
use pulp::bytemuck::{Pod, cast_slice, cast_slice_mut};
use pulp::{Scalar, Simd};
use rayon::prelude::*;

use super::bf16;
use super::quant::{self, SUB, SUPER};
use super::scratch::{Scratch, scratch};
use super::tile::NR;

/// The weights of 32 output columns at one index of the input.
pub(super) type Line = [f32; NR];

/// Numbers in pages of their own: aligned to cache lines, so that no vector straddles one.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    pages: MmapMut,
    len: usize,
    _numbers: PhantomData<T>,
}

impl<T: Pod> Aligned<T> {
    /// # Panics
    /// If there is not enough memory.
    pub(super) fn zeroed(len: usize) -> Self {
        // The pages are first touched by the threads that fill them. An empty mapping cannot be asked for.
        let pages = MmapMut::map_anon((len * size_of::<T>()).max(1)).expect("memory for the weights");
        // Large weights come from memory in every step, at addresses that pages of 4 KiB would have to be looked up for:
        // with large pages a product with an output head of 200 MiB is a tenth to a fifth faster. A system that has none
        // changes nothing.
        #[cfg(target_os = "linux")]
        let _ = pages.advise(memmap2::Advice::HugePage);
        Self { pages, len, _numbers: PhantomData }
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        cast_slice(&self.pages[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        cast_slice_mut(&mut self.pages[..self.len * size_of::<T>()])
    }
}

/// A weight `[out, in]`, panel by panel; panel `p` holds rows `32 p ..`, the last one padded with zero columns.
///
/// Whatever the storage, [`Panels::lines`] gives the weights in float32, and all but products by a [`bf16::Dot`] read them
/// through it. Nothing is lost in packing: the numbers are exactly those of the file.
#[derive(Debug)]
pub(super) enum Panels {
    /// `[in][32]`.
    F32(Aligned<f32>),
    /// `[in / 2][32]` pairs of bfloat16, the even input in the lower half; an odd `in` is padded with a zero.
    Bf16(Aligned<u32>),
    /// Bytes that are 128 too large, four inputs in a number, `[in / 4][32]`, the first in the lowest byte; and for 32
    /// inputs at a time a factor, `[in / 32][32]`.
    Q8_0 { quants: Aligned<u32>, factors: Aligned<f32> },
    /// Eight inputs of 4 bits in a number, `[in / 8][32]`, the first in the lowest bits; for 64 inputs at a time scale and
    /// minimum of the first 32, then of the others, a byte each, `[in / 64][32]`; for 256 inputs at a time a factor of
    /// all scales and one of all minima, `[in / 256][2][32]`.
    Q4K { quants: Aligned<u32>, scales: Aligned<u32>, factors: Aligned<f32> },
}

impl Panels {
    /// Packs rows that `fill` writes, as float32.
    pub(super) fn f32(out: usize, inn: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let mut data = Aligned::zeroed(out.div_ceil(NR) * inn * NR);
        pack(&mut data, inn * NR, |p, panel| {
            let (rows, stride) = gather(p, out, inn, &fill);
            for (i, line) in panel.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                *line = std::array::from_fn(|j| rows[j * stride + i]);
            }
        });
        Self::F32(data)
    }

    /// Packs rows that `fill` writes, rounded to bfloat16.
    pub(super) fn bf16(out: usize, inn: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let pairs = inn.div_ceil(2);
        let mut data = Aligned::zeroed(out.div_ceil(NR) * pairs * NR);
        pack(&mut data, pairs * NR, |p, panel| {
            let (rows, stride) = gather(p, out, inn, &fill);
            for (i, line) in panel.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                *line = std::array::from_fn(|j| {
                    let row = &rows[j * stride..][..inn];
                    bf16::pair(row[2 * i], row.get(2 * i + 1).copied().unwrap_or(0.0))
                });
            }
        });
        Self::Bf16(data)
    }

    /// Packs rows of quantized blocks as they lie in a file; see [`quant::row_bytes`] for their length.
    pub(super) fn quantized(kind: quant::Kind, out: usize, inn: usize, bytes: &[u8]) -> Self {
        let row_bytes = quant::row_bytes(kind, inn);
        let panels = out.div_ceil(NR);
        let rows = |p: usize| bytes[p * NR * row_bytes..].chunks_exact(row_bytes).take(NR).enumerate();
        match kind {
            quant::Kind::Q8_0 => {
                let lens = [inn / 4 * NR, inn / SUB * NR];
                let (mut quants, mut factors) = (Aligned::zeroed(panels * lens[0]), Aligned::zeroed(panels * lens[1]));
                let parts = quants.par_chunks_mut(lens[0]).zip(factors.par_chunks_mut(lens[1]));
                parts.enumerate().for_each(|(p, (quants, factors))| {
                    for (j, row) in rows(p) {
                        for (b, (factor, block)) in quant::q8_0_blocks(row).enumerate() {
                            factors[b * NR + j] = factor;
                            for (i, four) in block.as_chunks::<4>().0.iter().enumerate() {
                                // The sign bit turned over is 128 added.
                                quants[(b * SUB / 4 + i) * NR + j] = u32::from_le_bytes(*four) ^ 0x8080_8080;
                            }
                        }
                    }
                });
                Self::Q8_0 { quants, factors }
            }
            quant::Kind::Q4K => {
                let lens = [inn / 8 * NR, inn / 64 * NR, inn / SUPER * 2 * NR];
                let (mut quants, mut scales) = (Aligned::zeroed(panels * lens[0]), Aligned::zeroed(panels * lens[1]));
                let mut factors = Aligned::zeroed(panels * lens[2]);
                let parts = quants.par_chunks_mut(lens[0]).zip(scales.par_chunks_mut(lens[1]));
                parts.zip(factors.par_chunks_mut(lens[2])).enumerate().for_each(|(p, ((quants, scales), factors))| {
                    for (j, row) in rows(p) {
                        for (b, block) in quant::q4k_blocks(row).enumerate() {
                            [factors[2 * b * NR + j], factors[(2 * b + 1) * NR + j]] = block.factors;
                            for (i, pairs) in block.scales.as_chunks::<2>().0.iter().enumerate() {
                                let [[scale, min], [next_scale, next_min]] = *pairs;
                                let four = u32::from_le_bytes([scale, min, next_scale, next_min]);
                                scales[(b * SUPER / 64 + i) * NR + j] = four;
                            }
                            for (i, eight) in block.quants.as_chunks::<8>().0.iter().enumerate() {
                                let bits = eight.iter().rev().fold(0, |bits, q| bits << 4 | u32::from(*q));
                                quants[(b * SUPER / 8 + i) * NR + j] = bits;
                            }
                        }
                    }
                });
                Self::Q4K { quants, scales, factors }
            }
        }
    }

    /// Lines `range` of panel `p` of a matrix with rows of `k`, in float32: where they lie, or written to `to`. The
    /// range begins at a multiple of 32 and is no longer than `to`.
    #[inline(always)]
    pub(super) fn lines<'a, S: Simd>(
        &'a self,
        simd: S,
        (p, k): (usize, usize),
        range: Range<usize>,
        to: &'a mut [Line],
    ) -> &'a [Line] {
        let to = &mut to[..range.len()];
        let from = range.start;
        match self {
            Self::F32(data) => return &panel::<f32, NR>(data, p, k)[range],
            Self::Bf16(data) => {
                let pairs = &panel::<u32, NR>(data, p, k.div_ceil(2))[from / 2..];
                for (lines, pairs) in to.chunks_mut(2).zip(pairs) {
                    for (n, line) in lines.iter_mut().enumerate() {
                        let (shift, mask) = (simd.splat_u32s(16 * (1 - n as u32)), simd.splat_u32s(0xffff_0000));
                        for (x, pair) in S::as_mut_simd_f32s(line).0.iter_mut().zip(S::as_simd_u32s(pairs).0) {
                            let bits = simd.and_u32s(simd.wrapping_dyn_shl_u32s(*pair, shift), mask);
                            *x = simd.transmute_f32s_u32s(bits);
                        }
                    }
                }
            }
            Self::Q8_0 { quants, factors } => {
                let quants = &panel::<u32, NR>(quants, p, k / 4)[from / 4..];
                let factors = &panel::<f32, NR>(factors, p, k / SUB)[from / SUB..];
                for ((lines, quants), factors) in to.chunks_mut(SUB).zip(quants.chunks(SUB / 4)).zip(factors) {
                    for (lines, quants) in lines.chunks_mut(4).zip(quants) {
                        for (n, line) in lines.iter_mut().enumerate() {
                            let parts = S::as_simd_u32s(quants).0.iter().zip(S::as_simd_f32s(factors).0);
                            for (x, (quants, factor)) in S::as_mut_simd_f32s(line).0.iter_mut().zip(parts) {
                                let q = part(simd, *quants, 8 * n as u32, 255);
                                *x = simd.mul_f32s(*factor, simd.sub_f32s(q, simd.splat_f32s(128.0)));
                            }
                        }
                    }
                }
            }
            Self::Q4K { quants, scales, factors } => {
                let quants = &panel::<u32, NR>(quants, p, k / 8)[from / 8..];
                let scales = panel::<u32, NR>(scales, p, k / 64);
                let factors = panel::<f32, NR>(factors, p, 2 * (k / SUPER));
                for ((n, lines), quants) in to.chunks_mut(SUB).enumerate().zip(quants.chunks(SUB / 8)) {
                    let at = from + n * SUB;
                    let (four, shift) = (&scales[at / 64], (at % 64 / SUB * 16) as u32);
                    let [factor, min_factor] = [&factors[at / SUPER * 2], &factors[at / SUPER * 2 + 1]];
                    let scale = scaled(simd, (four, shift), factor);
                    let min = scaled(simd, (four, shift + 8), min_factor);
                    for (lines, quants) in lines.chunks_mut(8).zip(quants) {
                        for (n, line) in lines.iter_mut().enumerate() {
                            let parts = S::as_simd_f32s(&scale).0.iter().zip(S::as_simd_f32s(&min).0);
                            let parts = S::as_simd_u32s(quants).0.iter().zip(parts);
                            for (x, (quants, (scale, min))) in S::as_mut_simd_f32s(line).0.iter_mut().zip(parts) {
                                let q = part(simd, *quants, 4 * n as u32, 15);
                                *x = simd.sub_f32s(simd.mul_f32s(*scale, q), *min);
                            }
                        }
                    }
                }
            }
        }
        to
    }

    /// Column `j` of panel `p`: one row of the checkpoint's matrix.
    pub(super) fn column(&self, (p, j): (usize, usize), to: &mut [f32]) {
        let k = to.len();
        match self {
            Self::F32(data) => {
                for (x, line) in to.iter_mut().zip(panel::<f32, NR>(data, p, k)) {
                    *x = line[j];
                }
            }
            Self::Bf16(data) => {
                for (x, line) in to.chunks_mut(2).zip(panel::<u32, NR>(data, p, k.div_ceil(2))) {
                    let pair = [line[j] << 16, line[j] & 0xffff_0000].map(f32::from_bits);
                    x.copy_from_slice(&pair[..x.len()]);
                }
            }
            Self::Q8_0 { .. } | Self::Q4K { .. } => {
                let mut lines = [[0.0; NR]; SUB];
                for (n, to) in to.chunks_mut(SUB).enumerate() {
                    let from = n * SUB;
                    let lines = self.lines(Scalar::new(), (p, k), from..from + SUB, &mut lines);
                    for (x, line) in to.iter_mut().zip(lines) {
                        *x = line[j];
                    }
                }
            }
        }
    }

    /// The pairs of panel `p`, `[k / 2][32]`, if it holds bfloat16.
    pub(super) fn pairs(&self, p: usize, k: usize) -> Option<&[[u32; NR]]> {
        match self {
            Self::Bf16(data) => Some(panel(data, p, k.div_ceil(2))),
            _ => None,
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(data) => 4 * data.len(),
            Self::Bf16(data) => 4 * data.len(),
            Self::Q8_0 { quants, factors } => 4 * (quants.len() + factors.len()),
            Self::Q4K { quants, scales, factors } => 4 * (quants.len() + scales.len() + factors.len()),
        }
    }
}

/// Panel `p` of `lines` lines of `N` numbers.
#[inline(always)]
fn panel<T, const N: usize>(data: &[T], p: usize, lines: usize) -> &[[T; N]] {
    data[p * lines * N..][..lines * N].as_chunks().0
}

/// `factor * byte` for 32 columns, the byte being that from bit `shift` on.
#[inline(always)]
fn scaled<S: Simd>(simd: S, (bytes, shift): (&[u32; NR], u32), factors: &Line) -> Line {
    let mut line = *factors;
    for (x, bytes) in S::as_mut_simd_f32s(&mut line).0.iter_mut().zip(S::as_simd_u32s(bytes).0) {
        *x = simd.mul_f32s(*x, part(simd, *bytes, shift, 255));
    }
    line
}

/// The bits of `mask` from bit `shift` on, as a number: exact for up to 23 bits.
#[inline(always)]
fn part<S: Simd>(simd: S, x: S::u32s, shift: u32, mask: u32) -> S::f32s {
    /// 2^23, to which a whole number below it adds just its bits.
    const WHOLE: f32 = 8_388_608.0;
    let bits = simd.and_u32s(simd.wrapping_dyn_shr_u32s(x, simd.splat_u32s(shift)), simd.splat_u32s(mask));
    let bits = simd.or_u32s(bits, simd.splat_u32s(WHOLE.to_bits()));
    simd.sub_f32s(simd.transmute_f32s_u32s(bits), simd.splat_f32s(WHOLE))
}

fn pack<T: Send>(data: &mut [T], len: usize, fill: impl Fn(usize, &mut [T]) + Sync) {
    if len > 0 {
        data.par_chunks_mut(len).enumerate().for_each(|(p, panel)| fill(p, panel));
    }
}

/// The rows of panel `p` and the distance between them; rows past the last are zero.
fn gather(p: usize, out: usize, inn: usize, fill: &impl Fn(usize, &mut [f32])) -> (Scratch, usize) {
    // A power-of-two distance between rows would send all of them to the same cache sets.
    let stride = inn + 16;
    let first = p * NR;
    let mut rows = scratch(NR * stride);
    for (j, row) in rows.chunks_mut(stride).enumerate() {
        if first + j < out {
            fill(first + j, &mut row[..inn]);
        } else {
            row.fill(0.0);
        }
    }
    (rows, stride)
}
