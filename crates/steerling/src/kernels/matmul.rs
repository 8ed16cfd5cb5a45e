//! Linear layers on a weight that is packed once.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::scratch::{Scratch, scratch};
use super::tile::{MR, NR, tile};

/// Depth of one pass over a panel: 256 x 32 floats are 32 KiB and stay in the first-level cache.
const DEPTH: usize = 256;
const _: () = assert!(DEPTH.is_multiple_of(NR), "a pass over transposed panels is made of whole panels");
/// Rows packed at a time: their slice of one pass (256 KiB) stays in the second-level cache.
const ROWS: usize = 256;
/// Panels that one task works through together, at most.
const GROUP: usize = 8;
/// Bytes at which panels are aligned, so that no vector straddles a cache line.
const ALIGN: usize = 64;

/// A linear layer's weight `[out, in]`, packed once into panels of 32 output columns.
///
/// Panel `p` holds weight rows `32 p ..` as `[in][32]`; the last one is padded with zero columns.
#[derive(Debug)]
pub struct PackedMatrix {
    rows_in: usize,
    cols_out: usize,
    data: Vec<f32>,
    /// Where the first aligned panel begins in `data`.
    start: usize,
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
        let len = out.div_ceil(NR) * inn * NR;
        // A zeroed allocation is mapped lazily: the pages are first touched by the threads that fill them.
        let mut data = vec![0.0; len + ALIGN / size_of::<f32>()];
        let start = data.as_ptr().align_offset(ALIGN).min(ALIGN / size_of::<f32>());
        // A power-of-two distance between rows would send all of them to the same cache sets.
        let stride = inn + 16;
        if inn > 0 {
            data[start..start + len].par_chunks_mut(inn * NR).enumerate().for_each(|(p, panel)| {
                let first = p * NR;
                let mut rows = scratch(NR * stride);
                for (j, row) in rows.chunks_mut(stride).enumerate() {
                    if first + j < out {
                        fill(first + j, &mut row[..inn]);
                    } else {
                        row.fill(0.0);
                    }
                }
                for (i, line) in panel.as_chunks_mut::<NR>().0.iter_mut().enumerate() {
                    *line = std::array::from_fn(|j| rows[j * stride + i]);
                }
            });
        }
        Self { rows_in: inn, cols_out: out, data, start }
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
        for (dst, line) in dst.iter_mut().zip(self.panel_of(out_row)) {
            *dst = line[out_row % NR];
        }
    }

    /// The dot product of weight row `out_row` with `x` `[k]`.
    ///
    /// # Panics
    /// If there is no such row or `x` is not `k` long.
    pub fn dot_row(&self, out_row: usize, x: &[f32]) -> f32 {
        assert_eq!(x.len(), self.rows_in, "weight row length");
        self.panel_of(out_row).iter().zip(x).fold(0.0, |sum, (line, x)| line[out_row % NR].mul_add(*x, sum))
    }

    fn panel_of(&self, out_row: usize) -> &[[f32; NR]] {
        assert!(out_row < self.cols_out, "weight row {out_row} of {}", self.cols_out);
        self.panel(out_row / NR)
    }

    /// Panel `p`, `[k][32]`.
    fn panel(&self, p: usize) -> &[[f32; NR]] {
        self.data[self.start + p * self.rows_in * NR..][..self.rows_in * NR].as_chunks().0
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
            let packed = pack_rows(x, k);
            let tiles = packed.as_chunks::<MR>().0;
            column_groups(out, n, group * NR).into_par_iter().enumerate().for_each(|(g, rows)| {
                arch.dispatch(Product { matrix: self, direction, k, tiles, panel: g * group, rows });
            });
        }
    }
}

/// Which way the panels are read.
#[derive(Clone, Copy, Debug)]
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
        let mut transposed = match self.direction {
            Direction::Forward => None,
            Direction::Transposed => Some(scratch(DEPTH * NR)),
        };
        for from in (0..self.k).step_by(DEPTH) {
            let to = self.k.min(from + DEPTH);
            for column in (0..width).step_by(NR) {
                let panel = self.panel + column / NR;
                let b = match &mut transposed {
                    None => &self.matrix.panel(panel)[from..to],
                    Some(lines) => {
                        let lines = &mut lines.as_chunks_mut::<NR>().0[..to - from];
                        transpose_panel(self.matrix, panel, from, lines);
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
fn transpose_panel(matrix: &PackedMatrix, panel: usize, from: usize, lines: &mut [[f32; NR]]) {
    let columns = panel * NR..matrix.rows_in.min((panel + 1) * NR);
    for (block, lines) in lines.chunks_mut(NR).enumerate() {
        // `from` is a multiple of the panels' width, so a block of lines is exactly one panel of the matrix.
        let source = &matrix.panel(from / NR + block)[columns.clone()];
        for (j, line) in lines.iter_mut().enumerate() {
            line.fill(0.0);
            for (x, source) in line.iter_mut().zip(source) {
                *x = source[j];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::every_arch;
    use crate::kernels::testing::{assert_close, numbers, on_one_and_two_threads};

    fn naive(x: &[f32], weight: &[f32], k: usize) -> Vec<f64> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        x.chunks(k).flat_map(|x| weight.chunks(k).map(move |w| dot(x, w))).collect()
    }

    fn transposed(weight: &[f32], k: usize) -> Vec<f32> {
        (0..k).flat_map(|i| weight.iter().skip(i).step_by(k).copied()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn products_agree_with_double_precision(m in 1usize..20, k in 1usize..600, n in 1usize..100, seed: u64) {
            let (weight, x, gy) = (numbers(seed, n * k), numbers(seed ^ 1, m * k), numbers(seed ^ 2, m * n));
            let packed = PackedMatrix::pack(&weight, n, k);
            let (forward, backward) = (naive(&x, &weight, k), naive(&gy, &transposed(&weight, k), n));
            for arch in every_arch() {
                let (mut y, mut gx) = (vec![f32::NAN; m * n], vec![f32::NAN; m * k]);
                packed.matmul_on(arch, &x, &mut y);
                packed.matmul_transposed_on(arch, &gy, &mut gx);
                assert_close(&y, &forward, 2e-5);
                assert_close(&gx, &backward, 2e-5);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_company() {
        let (k, n, most) = (300, 77, 300);
        let (weight, x, gy) = (numbers(1, n * k), numbers(2, most * k), numbers(3, most * n));
        let packed = PackedMatrix::pack(&weight, n, k);
        for arch in every_arch() {
            let (mut y, mut gx) = (vec![0.0; most * n], vec![0.0; most * k]);
            packed.matmul_on(arch, &x, &mut y);
            packed.matmul_transposed_on(arch, &gy, &mut gx);
            for m in [1, 2, 3, 7, 8, 9, 64, 129] {
                // The last m rows: their places in the tiles differ, too.
                let from = most - m;
                for (part, back) in on_one_and_two_threads(|| {
                    let (mut part, mut back) = (vec![0.0; m * n], vec![0.0; m * k]);
                    packed.matmul_on(arch, &x[from * k..], &mut part);
                    packed.matmul_transposed_on(arch, &gy[from * n..], &mut back);
                    (part, back)
                }) {
                    assert_eq!(part, y[from * n..], "{m} rows, {arch:?}");
                    assert_eq!(back, gx[from * k..], "{m} gradient rows, {arch:?}");
                }
            }
        }
    }

    #[test]
    fn weight_rows_come_back_unchanged() {
        let (k, n) = (19, 70);
        let weight = numbers(4, n * k);
        let packed = PackedMatrix::pack_with(n, k, |i, row| row.copy_from_slice(&weight[i * k..][..k]));
        let x = numbers(5, k);
        let products = naive(&x, &weight, k);
        let mut row = vec![0.0; k];
        for (i, expected) in weight.chunks(k).enumerate() {
            packed.row(i, &mut row);
            assert_eq!(row, expected);
            assert_close(&[packed.dot_row(i, &x)], &products[i..=i], 1e-6);
        }
    }

    #[test]
    fn empty_shapes_give_zeros() {
        let mut out = [f32::NAN; 6];
        PackedMatrix::pack(&[], 3, 0).matmul(&[], &mut out);
        assert_eq!(out, [0.0; 6]);
        PackedMatrix::pack(&numbers(1, 6), 3, 2).matmul(&[], &mut []);
    }
}
