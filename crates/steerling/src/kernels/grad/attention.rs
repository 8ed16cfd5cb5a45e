//! The gradient of block-causal attention over whole sequences.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::product::{Matrix, multiply};
pub use super::qkv::QkvRows;
use crate::kernels::attention::HeadShape;
use crate::kernels::pointwise::{Map, Qkv, ShiftedExp};
use crate::kernels::scratch::scratch;
use crate::kernels::vector::dot;

/// Queries worked on together: enough for the products, and their weights over 4096 keys stay within 2 MiB.
const QUERIES: usize = 128;

/// Gradients of q, k and v of sequences of `t` positions, from that of `softmax(q k^T / sqrt(head_dim)) v`. A query sees
/// the keys up to the end of its block of `shape.page` positions. `gout` is shaped like the queries, `[rows, H * hd]`.
///
/// The weights are computed again: `P`; then `dV = P^T dO`, `dS = P (dP - rowsum(dP P))` with `dP = dO V^T`,
/// `dQ = dS K / sqrt(hd)` and `dK = dS^T Q / sqrt(hd)`.
///
/// # Panics
/// If a length does not fit the shape and whole sequences.
pub fn attention_backward(shape: &HeadShape, t: usize, qkv: QkvRows, gout: &[f32], out: Qkv) {
    attention_backward_on(Arch::new(), shape, t, qkv, gout, out);
}

fn attention_backward_on(arch: Arch, shape: &HeadShape, t: usize, qkv: QkvRows, gout: &[f32], out: Qkv) {
    let HeadShape { n_head, n_kv_heads, head_dim, .. } = *shape;
    let (q_width, kv_width) = (n_head * head_dim, n_kv_heads * head_dim);
    let rows = qkv.q.len() / q_width;
    assert!(rows.is_multiple_of(t), "{rows} rows are no sequences of {t}");
    assert_eq!((qkv.q.len(), gout.len(), out.q.len()), (rows * q_width, rows * q_width, rows * q_width), "queries");
    let keys = [qkv.k.len(), qkv.v.len(), out.k.len(), out.v.len()];
    assert_eq!(keys, [rows * kv_width; 4], "keys, values and their gradients");
    let mut tasks: Vec<Task> = (0..rows / t)
        .flat_map(|b| (0..n_kv_heads).map(move |kv_head| (b * t, kv_head)))
        .map(|(row, kv_head)| Task {
            shape: *shape,
            kv_head,
            q: &qkv.q[row * q_width..][..t * q_width],
            k: &qkv.k[row * kv_width..][..t * kv_width],
            v: &qkv.v[row * kv_width..][..t * kv_width],
            gout: &gout[row * q_width..][..t * q_width],
            out: Vec::with_capacity(t),
        })
        .collect();
    let outputs = out.q.chunks_mut(q_width).zip(out.k.chunks_mut(kv_width)).zip(out.v.chunks_mut(kv_width));
    for (row, ((q, k), v)) in outputs.enumerate() {
        let heads = q.chunks_mut(q_width / n_kv_heads).zip(k.chunks_mut(head_dim)).zip(v.chunks_mut(head_dim));
        for (task, ((q, k), v)) in tasks[row / t * n_kv_heads..].iter_mut().zip(heads) {
            task.out.push([q, k, v]);
        }
    }
    tasks.into_par_iter().for_each(|task| arch.dispatch(task));
}

/// One head of keys of one sequence.
struct Task<'a> {
    shape: HeadShape,
    kv_head: usize,
    /// The sequence's rows, all heads.
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    gout: &'a [f32],
    /// Per row the gradients of this head's queries `[H/G * hd]`, key and value.
    out: Vec<[&'a mut [f32]; 3]>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let HeadShape { n_head, n_kv_heads, head_dim: hd, page } = self.shape;
        let (share, t) = (n_head / n_kv_heads, self.out.len());
        let scale = 1.0 / (hd as f32).sqrt();
        let at_once = (QUERIES / share).max(1);
        let most = at_once.min(page).min(t) * share;
        let [mut q, mut gout, mut gq] = [(); 3].map(|()| scratch(most * hd));
        let [mut weights, mut slopes] = [(); 2].map(|()| scratch(most * t));
        let [mut gk, mut gv] = [(); 2].map(|()| scratch(t * hd));
        gk.fill(0.0);
        gv.fill(0.0);
        for block in (0..t).step_by(page) {
            let keys = t.min(block + page);
            let [k, v] = [self.k, self.v].map(|all| Matrix::new(&all[self.kv_head * hd..], keys, hd, n_kv_heads * hd));
            for start in (block..keys).step_by(at_once) {
                let rows = start..keys.min(start + at_once);
                let n = rows.len() * share;
                // A row's queries that share the key are neighbours.
                for ((row, q), gout) in rows.clone().zip(q.chunks_mut(share * hd)).zip(gout.chunks_mut(share * hd)) {
                    let from = (row * n_head + self.kv_head * share) * hd;
                    q.iter_mut().zip(&self.q[from..]).for_each(|(to, q)| *to = q * scale);
                    gout.copy_from_slice(&self.gout[from..][..share * hd]);
                }
                let (q, gout) = (Matrix::new(&q, n, hd, hd), Matrix::new(&gout, n, hd, hd));
                let (weights, slopes) = (&mut weights[..n * keys], &mut slopes[..n * keys]);
                multiply(simd, q, k.t(), weights, true);
                weights.chunks_mut(keys).for_each(|row| softmax(simd, row));
                multiply(simd, gout, v.t(), slopes, true);
                for (slopes, weights) in slopes.chunks_mut(keys).zip(weights.chunks(keys)) {
                    let mean = dot(simd, slopes, weights);
                    slopes.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = weight * (*slope - mean));
                }
                let (weights, slopes) = (Matrix::new(weights, n, keys, keys), Matrix::new(slopes, n, keys, keys));
                multiply(simd, weights.t(), gout, &mut gv[..keys * hd], false);
                multiply(simd, slopes.t(), q, &mut gk[..keys * hd], false);
                multiply(simd, slopes, k, &mut gq[..n * hd], true);
                for (row, gq) in rows.zip(gq.chunks(share * hd)) {
                    self.out[row][0].iter_mut().zip(gq).for_each(|(out, g)| *out = g * scale);
                }
            }
        }
        for ([_, k, v], (gk, gv)) in self.out.iter_mut().zip(gk.chunks(hd).zip(gv.chunks(hd))) {
            k.copy_from_slice(gk);
            v.copy_from_slice(gv);
        }
    }
}

/// `exp(x - max)` over its sum, in place.
#[inline(always)]
fn softmax<S: Simd>(simd: S, row: &mut [f32]) {
    let max = {
        let (vectors, tail) = S::as_simd_f32s(row);
        let least = simd.splat_f32s(f32::NEG_INFINITY);
        let max = vectors.iter().fold(least, |max, x| simd.max_f32s(max, *x));
        tail.iter().copied().fold(simd.reduce_max_f32s(max), f32::max)
    };
    Map(ShiftedExp(max), &mut *row).with_simd(simd);
    let sum = {
        let (vectors, tail) = S::as_simd_f32s(row);
        let sum = vectors.iter().fold(simd.splat_f32s(0.0), |sum, x| simd.add_f32s(sum, *x));
        simd.reduce_sum_f32s(sum) + tail.iter().sum::<f32>()
    };
    row.iter_mut().for_each(|x| *x /= sum);
}
