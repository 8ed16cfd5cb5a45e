//! Linear layers on a weight that is packed once.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::bf16;
pub use super::bf16::Dot;
use super::panels::{Line, Panels};
pub use super::quant::{Kind, row_bytes, row_f32};
use super::scratch::{Scratch, scratch};
use super::tile::{MR, NR, tile};

/// Depth of one pass over a panel: 256 x 32 floats are 32 KiB and stay in the first-level cache.
const DEPTH: usize = 256;
const _: () = assert!(DEPTH.is_multiple_of(NR), "a pass over transposed panels is made of whole panels");
/// Rows packed at a time: their slice of one pass (256 KiB) stays in the second-level cache.
const ROWS: usize = 256;
/// Output columns of a panel: packed weights take the memory of a multiple of this.
pub const PANEL_ROWS: usize = NR;
/// Panels that one task works through together, at most.
const GROUP: usize = 8;
/// A linear layer's weight `[out, in]`, packed once into panels of 32 output columns.
#[derive(Debug)]
pub struct PackedMatrix {
    rows_in: usize,
    cols_out: usize,
    panels: Panels,
    /// The instruction that products are taken by where there is it; it demands that their input is rounded to bfloat16.
    dot: Option<Dot>,
}

impl PackedMatrix {
    /// Packs a weight `[out, inn]`, row-major as in checkpoints.
    ///
    /// # Panics
    /// If `weight` does not hold `out * inn` numbers.
    pub fn pack(weight: &[f32], out: usize, inn: usize) -> Self {
        assert_eq!(weight.len(), out * inn, "weight of shape [{out}, {inn}]");
        Self::pack_with(out, inn, |row, dst| dst.copy_from_slice(&weight[row * inn..][..inn]))
    }

    /// Packs a weight `[out, inn]` whose row `i` is written by `fill(i, row)`, so that half-precision files need no
    /// whole copy in single precision. Rows are asked for in parallel and in any order.
    pub fn pack_with(out: usize, inn: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        Self { rows_in: inn, cols_out: out, panels: Panels::f32(out, inn, fill), dot: None }
    }

    /// The same in half the memory, rounded to bfloat16; nothing is lost of rows that already are.
    ///
    /// With `dot`, [`Dot::fastest`] for example, products are taken by that instruction where this machine has it; they
    /// round their input to bfloat16, too. Otherwise, and elsewhere, products have the bits that the same weights in float32 give.
    pub fn pack_bf16_with(out: usize, inn: usize, dot: Option<Dot>, fill: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        Self { rows_in: inn, cols_out: out, panels: Panels::bf16(out, inn, fill), dot }
    }

    /// Packs quantized rows as they lie in a file, [`row_bytes`] each. Products have the bits that the same weights in
    /// float32 give: nothing but the weights is rounded.
    ///
    /// # Panics
    /// If `bytes` are not `out` rows of whole blocks.
    pub fn pack_quantized(kind: Kind, (out, inn): (usize, usize), bytes: &[u8]) -> Self {
        assert!(inn.is_multiple_of(kind.block()), "rows of {inn} are no whole blocks of {kind:?}");
        assert_eq!(bytes.len(), out * row_bytes(kind, inn), "weight of shape [{out}, {inn}] in {kind:?}");
        Self { rows_in: inn, cols_out: out, panels: Panels::quantized(kind, out, inn, bytes), dot: None }
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Length of an input row, `k`.
    pub fn rows_in(&self) -> usize {
        self.rows_in
    }

    /// Length of an output row, `n`.
    pub fn cols_out(&self) -> usize {
        self.cols_out
    }

    /// `out = x W^T`: `x` `[m, k]`, `out` `[m, n]`.
    ///
    /// # Panics
    /// If the lengths do not fit the shapes.
    pub fn matmul(&self, x: &[f32], out: &mut [f32]) {
        self.matmul_on(Arch::new(), x, out);
    }

    /// The gradient of the input: `gx = gy W`, `gy` `[m, n]`, `gx` `[m, k]`, from the same panels.
    ///
    /// # Panics
    /// If the lengths do not fit the shapes.
    pub fn matmul_transposed(&self, gy: &[f32], gx: &mut [f32]) {
        self.matmul_transposed_on(Arch::new(), gy, gx);
    }

    /// Weight row `out_row` `[k]`: an embedding lookup when the matrix is tied.
    ///
    /// # Panics
    /// If there is no such row or `dst` is not `k` long.
    pub fn row(&self, out_row: usize, dst: &mut [f32]) {
        assert_eq!(dst.len(), self.rows_in, "weight row length");
        assert!(out_row < self.cols_out, "weight row {out_row} of {}", self.cols_out);
        self.panels.column((out_row / NR, out_row % NR), dst);
    }

    /// The dot product of weight row `out_row` with `x` `[k]`.
    ///
    /// # Panics
    /// If there is no such row or `x` is not `k` long.
    pub fn dot_row(&self, out_row: usize, x: &[f32]) -> f32 {
        assert_eq!(x.len(), self.rows_in, "weight row length");
        let mut row = scratch(self.rows_in);
        self.row(out_row, &mut row);
        row.iter().zip(x).fold(0.0, |sum, (w, x)| w.mul_add(*x, sum))
    }

    pub(crate) fn matmul_on(&self, arch: Arch, x: &[f32], out: &mut [f32]) {
        self.product(arch, Direction::Forward, x, out);
    }

    pub(crate) fn matmul_transposed_on(&self, arch: Arch, gy: &[f32], gx: &mut [f32]) {
        self.product(arch, Direction::Transposed, gy, gx);
    }

    fn product(&self, arch: Arch, direction: Direction, x: &[f32], out: &mut [f32]) {
        let (k, n) = match direction {
            Direction::Forward => (self.rows_in, self.cols_out),
            Direction::Transposed => (self.cols_out, self.rows_in),
        };
        if k == 0 || n == 0 {
            out.fill(0.0);
            return;
        }
        assert!(x.len().is_multiple_of(k), "{} inputs are no rows of {k}", x.len());
        assert_eq!(out.len(), x.len() / k * n, "outputs for {} rows of {n}", x.len() / k);
        // About four tasks a thread share the load evenly; more panels a task reuse the rows in the cache.
        let group = n.div_ceil(NR).div_ceil(4 * rayon::current_num_threads()).clamp(1, GROUP);
        for (x, out) in x.chunks(ROWS * k).zip(out.chunks_mut(ROWS * n)) {
            let groups = column_groups(out, n, group * NR).into_par_iter().enumerate();
            if let Some(dot) = self.dot_on(arch, direction) {
                let packed = dot.pack(x, k);
                groups.for_each(|(g, rows)| {
                    dot.multiply(bf16::Product { panels: &self.panels, k, packed: &packed, panel: g * group, rows });
                });
                continue;
            }
            let packed = pack_rows(x, k);
            let tiles = packed.as_chunks::<MR>().0;
            groups.for_each(|(g, rows)| {
                arch.dispatch(Product { matrix: self, direction, k, tiles, panel: g * group, rows });
            });
        }
    }

    /// The instruction that a product is taken by. Gradients never are: their inputs keep all their bits.
    fn dot_on(&self, arch: Arch, direction: Direction) -> Option<Dot> {
        self.dot.filter(|dot| direction == Direction::Forward && dot.available(arch))
    }
}

/// Which way the panels are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Transposed,
}

/// Rows `[m, k]` as tiles of `[k][8]`, the last one padded with zero rows.
fn pack_rows(x: &[f32], k: usize) -> Scratch {
    let mut packed = scratch(x.len().div_ceil(MR * k) * MR * k);
    packed.par_chunks_mut(MR * k).zip(x.par_chunks(MR * k)).for_each(|(tile, rows)| {
        let lines = tile.as_chunks_mut::<MR>().0;
        if rows.len() == MR * k {
            let rows: [&[f32]; MR] = std::array::from_fn(|i| &rows[i * k..][..k]);
            for (p, line) in lines.iter_mut().enumerate() {
                *line = std::array::from_fn(|i| rows[i][p]);
            }
        } else {
            lines.fill([0.0; MR]);
            for (i, row) in rows.chunks(k).enumerate() {
                for (line, x) in lines.iter_mut().zip(row) {
                    line[i] = *x;
                }
            }
        }
    });
    packed
}

/// The rows of `out` `[m, n]` cut into groups of `width` columns: for each group its segment of every row.
fn column_groups(out: &mut [f32], n: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let m = out.len() / n;
    let mut groups: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(width)).map(|_| Vec::with_capacity(m)).collect();
    for row in out.chunks_mut(n) {
        for (group, segment) in groups.iter_mut().zip(row.chunks_mut(width)) {
            group.push(segment);
        }
    }
    groups
}

/// One task of a product: some neighbouring output panels, all rows.
struct Product<'a> {
    matrix: &'a PackedMatrix,
    direction: Direction,
    /// Length of the sums.
    k: usize,
    /// The packed rows, `[tiles][k][8]`.
    tiles: &'a [[f32; MR]],
    /// First output panel.
    panel: usize,
    /// The outputs' columns from that panel on, one slice a row.
    rows: Vec<&'a mut [f32]>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = self.rows.first().map_or(0, |row| row.len());
        let mut lines = scratch(DEPTH * NR);
        let lines = lines.as_chunks_mut::<NR>().0;
        for from in (0..self.k).step_by(DEPTH) {
            let to = self.k.min(from + DEPTH);
            for column in (0..width).step_by(NR) {
                let panel = self.panel + column / NR;
                let b = match self.direction {
                    Direction::Forward => self.matrix.panels.lines(simd, (panel, self.k), from..to, lines),
                    Direction::Transposed => {
                        let lines = &mut lines[..to - from];
                        transpose_panel(simd, self.matrix, (panel, from), lines);
                        &*lines
                    }
                };
                let end = width.min(column + NR);
                for (tile_rows, a) in self.rows.chunks_mut(MR).zip(self.tiles.chunks(self.k)) {
                    let mut c = [[0.0; NR]; MR];
                    if from > 0 {
                        for (c, row) in c.iter_mut().zip(tile_rows.iter()) {
                            c[..end - column].copy_from_slice(&row[column..end]);
                        }
                    }
                    tile(simd, &a[from..to], b, &mut c, from == 0);
                    for (c, row) in c.iter().zip(tile_rows) {
                        row[column..end].copy_from_slice(&c[..end - column]);
                    }
                }
            }
        }
    }
}

/// Lines `from ..` of output panel `panel` of the transposed matrix: `lines[j][i] = W[from + j][32 panel + i]`.
#[inline(always)]
fn transpose_panel<S: Simd>(simd: S, matrix: &PackedMatrix, (panel, from): (usize, usize), lines: &mut [Line]) {
    let columns = panel * NR..matrix.rows_in.min((panel + 1) * NR);
    let mut widened = [[0.0; NR]; NR];
    for (block, lines) in lines.chunks_mut(NR).enumerate() {
        // `from` is a multiple of the panels' width, so a block of lines is exactly one panel of the matrix.
        let source = matrix.panels.lines(simd, (from / NR + block, matrix.rows_in), columns.clone(), &mut widened);
        for (j, line) in lines.iter_mut().enumerate() {
            line.fill(0.0);
            for (x, source) in line.iter_mut().zip(source) {
                *x = source[j];
            }
        }
    }
}

#[cfg(test)]
mod tests;
