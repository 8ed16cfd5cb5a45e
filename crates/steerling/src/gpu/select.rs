//! The largest of a long row, without a sort.

use std::cmp::Ordering;

use candle_core::{DType, Tensor};

use super::{Launch, threads, unwritten};
use crate::Result;

/// The `k` largest of the first `n` numbers of every row of `rows` `[N, stride]`, clamped to `[-clamp, clamp]`; the first of
/// equals first. With `sigmoids`, the largest by `sigmoid(x)`, which ties where `x` does not. Returns index and number of each,
/// row by row, largest number first.
pub(crate) fn top_k(rows: &Tensor, n: usize, k: usize, sigmoids: bool, clamp: f32) -> Result<Vec<Vec<(u32, f32)>>> {
    let (count, stride) = rows.dims2()?;
    let device = rows.device();
    let (indices, values) = (unwritten((count, k), DType::U32, device)?, unwritten((count, k), DType::F32, device)?);
    Launch::of_type("top_k", rows.dtype(), [if k == 0 { 0 } else { count }, 1, 1], threads(n, 32, 1024))
        .read(rows)
        .write(&indices)
        .write(&values)
        .number(n)
        .number(stride)
        .number(k)
        .number(sigmoids.into())
        .float(clamp)
        .run()?;
    let rows = indices.to_vec2::<u32>()?.into_iter().zip(values.to_vec2::<f32>()?);
    let sorted = |(indices, values): (Vec<u32>, Vec<f32>)| {
        let mut row: Vec<_> = indices.into_iter().zip(values).collect();
        // Both zeros are equal, as they are to the kernel; clamped numbers are no NaN.
        row.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0)));
        row
    };
    Ok(rows.map(sorted).collect())
}
