//! Weights in panels of 32 output columns, in the types they may be stored in.

use std::ops::{Deref, DerefMut, Range};

use rayon::prelude::*;

use super::bf16;
use super::quant::{self, SUB};
use super::scratch::{Scratch, scratch};
use super::tile::NR;

/// Bytes at which panels are aligned, so that no vector straddles a cache line.
const ALIGN: usize = 64;

/// The weights of 32 output columns at one index of the input.
pub(super) type Line = [f32; NR];

/// Numbers aligned to cache lines.
#[derive(Debug)]
pub(super) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(super) fn zeroed(len: usize) -> Self {
        let spare = ALIGN / size_of::<T>();
        // A zeroed allocation is mapped lazily: the pages are first touched by the threads that fill them.
        let data = vec![T::default(); len + spare];
        let start = data.as_ptr().align_offset(ALIGN).min(spare);
        Self { data, start, len }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

/// A weight `[out, in]`, panel by panel; panel `p` holds rows `32 p ..`, the last one padded with zero columns.
///
/// Whatever the storage, [`Panels::lines`] gives the weights in float32, and all but products by `vdpbf16ps` read them
/// through it. Nothing is lost in packing: the numbers are exactly those of the file.
#[derive(Debug)]
pub(super) enum Panels {
    /// `[in][32]`.
    F32(Aligned<f32>),
    /// `[in / 2][32]` pairs of bfloat16, the even input in the lower half; an odd `in` is padded with a zero.
    Bf16(Aligned<u32>),
    /// Whole numbers `[in][32]`, and for 32 inputs at a time a factor, `[in / 32][32]`.
    Q8_0 { quants: Aligned<i8>, factors: Aligned<f32> },
    /// Pairs of 4 bits `[in / 2][32]`, the even input in the lower half; for 32 inputs at a time a scale and a minimum
    /// of 6 bits, `[in / 32][2][32]`; for 256 inputs at a time a factor of each, `[in / 256][2][32]`.
    Q4K { quants: Aligned<u8>, scales: Aligned<u8>, factors: Aligned<f32> },
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
        let (subs, supers) = (inn / SUB * NR, inn.div_ceil(quant::SUPER) * NR);
        let rows = |p: usize| bytes[p * NR * row_bytes..].chunks_exact(row_bytes).take(NR).enumerate();
        match kind {
            quant::Kind::Q8_0 => {
                let (mut quants, mut factors) = (Aligned::zeroed(panels * inn * NR), Aligned::zeroed(panels * subs));
                let parts = quants.par_chunks_mut(inn * NR).zip(factors.par_chunks_mut(subs));
                parts.enumerate().for_each(|(p, (quants, factors))| {
                    for (j, row) in rows(p) {
                        quant::unpack_q8_0(
                            row,
                            |i, q| quants[i * NR + j] = q,
                            |b, factor| factors[b * NR + j] = factor,
                        );
                    }
                });
                Self::Q8_0 { quants, factors }
            }
            quant::Kind::Q4K => {
                let mut quants = Aligned::zeroed(panels * inn / 2 * NR);
                let (mut scales, mut factors) =
                    (Aligned::zeroed(panels * 2 * subs), Aligned::zeroed(panels * 2 * supers));
                let parts = quants.par_chunks_mut(inn / 2 * NR).zip(scales.par_chunks_mut(2 * subs));
                parts.zip(factors.par_chunks_mut(2 * supers)).enumerate().for_each(
                    |(p, ((quants, scales), factors))| {
                        for (j, row) in rows(p) {
                            for (b, block) in quant::q4k_blocks(row).enumerate() {
                                [factors[2 * b * NR + j], factors[(2 * b + 1) * NR + j]] = block.factors;
                                for (s, pair) in block.scales.iter().enumerate() {
                                    let at = 2 * (b * quant::SUPER / SUB + s) * NR + j;
                                    [scales[at], scales[at + NR]] = *pair;
                                }
                                for (i, pair) in block.quants.as_chunks::<2>().0.iter().enumerate() {
                                    quants[(b * quant::SUPER / 2 + i) * NR + j] = pair[0] | pair[1] << 4;
                                }
                            }
                        }
                    },
                );
                Self::Q4K { quants, scales, factors }
            }
        }
    }

    /// Lines `range` of panel `p` of a matrix with rows of `k`, in float32: where they lie, or written to `to`. The
    /// range begins at a multiple of 32 and is no longer than `to`.
    #[inline(always)]
    pub(super) fn lines<'a>(&'a self, p: usize, k: usize, range: Range<usize>, to: &'a mut [Line]) -> &'a [Line] {
        let to = &mut to[..range.len()];
        match self {
            Self::F32(data) => return &panel::<f32, NR>(data, p, k)[range],
            Self::Bf16(data) => {
                let pairs = &panel::<u32, NR>(data, p, k.div_ceil(2))[range.start / 2..];
                for (lines, pairs) in to.chunks_mut(2).zip(pairs) {
                    for (x, pair) in lines[0].iter_mut().zip(pairs) {
                        *x = f32::from_bits(pair << 16);
                    }
                    for (x, pair) in lines.get_mut(1).into_iter().flatten().zip(pairs) {
                        *x = f32::from_bits(pair & 0xffff_0000);
                    }
                }
            }
            Self::Q8_0 { quants, factors } => {
                let quants = &panel::<i8, NR>(quants, p, k)[range.clone()];
                let factors = &panel::<f32, NR>(factors, p, k / SUB)[range.start / SUB..];
                for ((lines, quants), factors) in to.chunks_mut(SUB).zip(quants.chunks(SUB)).zip(factors) {
                    for (line, quants) in lines.iter_mut().zip(quants) {
                        for ((x, q), factor) in line.iter_mut().zip(quants).zip(factors) {
                            *x = factor * f32::from(*q);
                        }
                    }
                }
            }
            Self::Q4K { quants, scales, factors } => {
                let quants = &panel::<u8, NR>(quants, p, k / 2)[range.start / 2..];
                let scales = panel::<u8, NR>(scales, p, 2 * (k / SUB));
                let factors = panel::<f32, NR>(factors, p, 2 * (k / quant::SUPER));
                for ((n, lines), quants) in to.chunks_mut(SUB).enumerate().zip(quants.chunks(SUB / 2)) {
                    let (sub, block) = (range.start / SUB + n, (range.start + n * SUB) / quant::SUPER);
                    let scale = scaled(&scales[2 * sub], &factors[2 * block]);
                    let min = scaled(&scales[2 * sub + 1], &factors[2 * block + 1]);
                    for (lines, quants) in lines.chunks_mut(2).zip(quants) {
                        for (((x, q), scale), min) in lines[0].iter_mut().zip(quants).zip(&scale).zip(&min) {
                            *x = scale * f32::from(q & 15) - min;
                        }
                        let odd = lines.get_mut(1).into_iter().flatten();
                        for (((x, q), scale), min) in odd.zip(quants).zip(&scale).zip(&min) {
                            *x = scale * f32::from(q >> 4) - min;
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
                    for (x, line) in to.iter_mut().zip(self.lines(p, k, from..from + SUB, &mut lines)) {
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
            Self::Q8_0 { quants, factors } => quants.len() + 4 * factors.len(),
            Self::Q4K { quants, scales, factors } => quants.len() + scales.len() + 4 * factors.len(),
        }
    }
}

/// Panel `p` of `lines` lines of `N` numbers.
#[inline(always)]
fn panel<T, const N: usize>(data: &[T], p: usize, lines: usize) -> &[[T; N]] {
    data[p * lines * N..][..lines * N].as_chunks().0
}

/// `factor * scale` for 32 columns.
#[inline(always)]
fn scaled(scales: &[u8; NR], factors: &Line) -> Line {
    let mut line = *factors;
    for (x, scale) in line.iter_mut().zip(scales) {
        *x *= f32::from(*scale);
    }
    line
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
