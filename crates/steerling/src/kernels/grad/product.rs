//! Products of small matrices that are packed on the spot.

use pulp::Simd;

use crate::kernels::scratch::scratch;
use crate::kernels::tile::{MR, NR, tile};

/// Depth of one pass, as for packed weights.
const DEPTH: usize = 256;

/// A matrix within a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    /// From one row to the next, and from one column to the next.
    steps: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Rows of `cols` numbers, `step` apart.
    #[inline(always)]
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize, step: usize) -> Self {
        Self { data, rows, cols, steps: (step, 1) }
    }

    /// The transposed matrix.
    #[inline(always)]
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, steps: (self.steps.1, self.steps.0), ..self }
    }

    /// Lines `lines` of the columns from `first` on, `N` numbers each; missing columns are zero.
    #[inline(always)]
    fn pack<const N: usize>(&self, lines: std::ops::Range<usize>, first: usize, to: &mut [[f32; N]]) {
        let found = N.min(self.cols - first);
        if found < N {
            to.fill([0.0; N]);
        }
        if self.steps.1 == 1 {
            for (p, line) in lines.zip(to) {
                line[..found].copy_from_slice(&self.data[p * self.steps.0 + first..][..found]);
            }
        } else {
            for i in 0..found {
                let column = self.data[(first + i) * self.steps.1..].iter().step_by(self.steps.0);
                for (line, x) in to.iter_mut().zip(column.skip(lines.start)) {
                    line[i] = *x;
                }
            }
        }
    }
}

/// `c (+)= a b`, `c` being `a.rows` rows of `b.cols`; with `first` its old content is ignored.
#[inline(always)]
pub(super) fn multiply<S: Simd>(simd: S, a: Matrix, b: Matrix, c: &mut [f32], first: bool) {
    let (k, n) = (a.cols, b.cols);
    let columns = a.t();
    let mut tiles = scratch(a.rows.div_ceil(MR) * k.min(DEPTH) * MR);
    let mut panel = scratch(k.min(DEPTH) * NR);
    for from in (0..k).step_by(DEPTH) {
        let lines = from..k.min(from + DEPTH);
        let depth = lines.len();
        let tiles = &mut tiles.as_chunks_mut::<MR>().0[..a.rows.div_ceil(MR) * depth];
        for (i, tile) in tiles.chunks_exact_mut(depth).enumerate() {
            columns.pack(lines.clone(), i * MR, tile);
        }
        let panel = &mut panel.as_chunks_mut::<NR>().0[..depth];
        for column in (0..n).step_by(NR) {
            b.pack(lines.clone(), column, panel);
            let end = n.min(column + NR);
            for (rows, a) in c.chunks_mut(MR * n).zip(tiles.chunks_exact(depth)) {
                let mut sums = [[0.0; NR]; MR];
                let fresh = first && from == 0;
                if !fresh {
                    for (sums, row) in sums.iter_mut().zip(rows.chunks(n)) {
                        sums[..end - column].copy_from_slice(&row[column..end]);
                    }
                }
                tile(simd, a, panel, &mut sums, fresh);
                for (sums, row) in sums.iter().zip(rows.chunks_mut(n)) {
                    row[column..end].copy_from_slice(&sums[..end - column]);
                }
            }
        }
    }
}
