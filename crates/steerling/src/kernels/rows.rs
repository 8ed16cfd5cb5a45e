//! Passes over the rows of two matrices.

use rayon::prelude::*;

/// Below this many numbers a pass over rows is cheaper on one thread than shared.
pub(super) const PARALLEL_FROM: usize = 1 << 14;

/// Calls `f` for each row of `x` (rows of `x_width`) and `out` (rows of `out_width`), on all threads when there is enough work.
pub(super) fn for_rows(
    (x, x_width): (&[f32], usize),
    (out, out_width): (&mut [f32], usize),
    f: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    if out_width == 0 {
        return;
    }
    assert!(out.len().is_multiple_of(out_width), "{} outputs are no rows of {out_width}", out.len());
    assert_eq!(x.len(), out.len() / out_width * x_width, "inputs for {} rows of {x_width}", out.len() / out_width);
    if x.len() < PARALLEL_FROM {
        x.chunks(x_width).zip(out.chunks_mut(out_width)).for_each(|(x, out)| f(x, out));
    } else {
        x.par_chunks(x_width).zip(out.par_chunks_mut(out_width)).for_each(|(x, out)| f(x, out));
    }
}
