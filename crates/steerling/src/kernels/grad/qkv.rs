//! The gradient of the preparation of queries, keys and values.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::rows::norm_row;
use crate::kernels::attention::HeadShape;
use crate::kernels::pointwise::QkvParams;
use crate::kernels::rows::PARALLEL_FROM;
use crate::kernels::scratch::scratch;

/// Gradients of queries `[rows, n_head * head_dim]`, keys and values `[rows, n_kv_heads * head_dim]`, or they themselves.
#[derive(Clone, Copy, Debug)]
pub struct QkvRows<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

impl<'a> QkvRows<'a> {
    /// The three parts of `flat`, which holds all queries, then all keys, then all values.
    pub fn of(shape: &HeadShape, flat: &'a [f32]) -> Self {
        let rows = flat.len() / ((shape.n_head + 2 * shape.n_kv_heads) * shape.head_dim);
        let (q, kv) = flat.split_at(rows * shape.n_head * shape.head_dim);
        let (k, v) = kv.split_at(rows * shape.n_kv_heads * shape.head_dim);
        Self { q, k, v }
    }
}

/// The gradient of [`qkv_prepare`](crate::kernels::pointwise::qkv_prepare)'s input `qkv` from those of its outputs. The
/// clamp lets it pass where `|x| <= clip`.
///
/// # Panics
/// If a length does not fit the shape.
pub fn qkv_prepare_backward(shape: &HeadShape, params: &QkvParams, qkv: &[f32], grad: QkvRows, out: &mut [f32]) {
    let hd = shape.head_dim;
    let (q_width, kv_width) = (shape.n_head * hd, shape.n_kv_heads * hd);
    let width = q_width + 2 * kv_width;
    let rows = qkv.len() / width;
    assert_eq!((qkv.len(), out.len()), (rows * width, rows * width), "qkv rows of {width}");
    let lengths = (grad.q.len(), grad.k.len(), grad.v.len());
    assert_eq!(lengths, (rows * q_width, rows * kv_width, rows * kv_width), "gradients of q, k and v");
    let arch = Arch::new();
    let norms = params.norm.map_or((None, None), |(q, k, eps)| (Some((q, eps)), Some((k, eps))));
    let row = |(i, (x, out)): (usize, (&[f32], &mut [f32]))| {
        let rotary = params.rotary.map(|(cos, sin)| (&cos[i * hd / 2..][..hd / 2], &sin[i * hd / 2..][..hd / 2]));
        out[..q_width].copy_from_slice(&grad.q[i * q_width..][..q_width]);
        out[q_width..][..kv_width].copy_from_slice(&grad.k[i * kv_width..][..kv_width]);
        out[q_width + kv_width..].copy_from_slice(&grad.v[i * kv_width..][..kv_width]);
        let heads = |norm, rotary, x, g| HeadsRow { head_dim: hd, clip: params.clip, norm, rotary, x, g };
        let (gq, gkv) = out.split_at_mut(q_width);
        let (gk, gv) = gkv.split_at_mut(kv_width);
        arch.dispatch(heads(norms.0, rotary, &x[..q_width], gq));
        arch.dispatch(heads(norms.1, rotary, &x[q_width..][..kv_width], gk));
        arch.dispatch(heads(None, None, &x[q_width + kv_width..], gv));
    };
    (qkv.par_chunks(width).zip(out.par_chunks_mut(width)))
        .enumerate()
        .with_min_len(PARALLEL_FROM.div_ceil(width))
        .for_each(row);
}

/// Heads of one row: what was computed, from what, and the gradient, replaced by that of `x`.
struct HeadsRow<'a> {
    head_dim: usize,
    clip: Option<f32>,
    norm: Option<(&'a [f32], f32)>,
    rotary: Option<(&'a [f32], &'a [f32])>,
    x: &'a [f32],
    g: &'a mut [f32],
}

impl WithSimd for HeadsRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut clamped = scratch(self.head_dim);
        let clip = self.clip.unwrap_or(f32::INFINITY);
        for (x, g) in self.x.chunks_exact(self.head_dim).zip(self.g.chunks_exact_mut(self.head_dim)) {
            if let Some((cos, sin)) = self.rotary {
                // The inverse rotation.
                let (first, second) = g.split_at_mut(self.head_dim / 2);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
                    (*a, *b) = (*a * cos + *b * sin, *b * cos - *a * sin);
                }
            }
            if let Some(norm) = self.norm {
                clamped.iter_mut().zip(x).for_each(|(clamped, x)| *clamped = x.clamp(-clip, clip));
                norm_row(simd, &clamped, norm, g);
            }
            g.iter_mut().zip(x).for_each(|(g, x)| *g = if x.abs() <= clip { *g } else { 0.0 });
        }
    }
}
