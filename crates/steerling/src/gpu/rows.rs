//! Work on rows of the residual stream.

use candle_core::{D, Tensor};

use super::{Launch, threads, unwritten};
use crate::Result;

fn block(width: usize) -> usize {
    threads(width, 8, 256)
}

/// Rows `ids` `[N]` of `table` `[.., width]`, `[N, width]`.
pub(crate) fn gather_rows(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (rows, width) = (ids.dim(0)?, table.dim(D::Minus1)?);
    let out = unwritten((rows, width), table.dtype(), table.device())?;
    let launch = Launch::of_type("gather_rows", table.dtype(), [rows, 1, 1], block(width));
    launch.read(table).read(ids).write(&out).number(width).run()?;
    Ok(out)
}

/// The RMS norm of every row of `x` `[N, width]` with `weight` `[width]` in float32, added to `residual` if there is one.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let out = unwritten((rows, width), x.dtype(), x.device())?;
    let launch = Launch::of_type("rms_norm", x.dtype(), [rows, 1, 1], block(width));
    launch.read(x).read(weight).read_if(residual).write(&out).number(width).float(eps as f32).run()?;
    Ok(out)
}

/// `silu(gate) * up` for rows `[up, gate]` of `x` `[N, 2 width]`.
pub(crate) fn swiglu(x: &Tensor) -> Result<Tensor> {
    let (rows, both) = x.dims2()?;
    let out = unwritten((rows, both / 2), x.dtype(), x.device())?;
    Launch::of_type("swiglu", x.dtype(), [rows, 1, 1], threads(both, 16, 1024))
        .read(x)
        .write(&out)
        .number(both / 2)
        .run()?;
    Ok(out)
}

/// Adds `vector` `[width]` to rows `rows` of `x` `[N, width]`, all in float32; no row twice.
pub(crate) fn add_to_rows(x: &Tensor, vector: &Tensor, rows: &Tensor) -> Result<()> {
    let width = x.dim(D::Minus1)?;
    Launch::new("add_to_rows", [rows.dim(0)?, 1, 1], block(width)).write(x).read(vector).read(rows).number(width).run()
}
