//! From the joint projection of whole sequences to what attention gives.
//!
//! Queries, keys and values stay one tensor in between, all queries first, then all keys, then all values, in the order
//! of the rows: cutting it up would cost the backward pass copies.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::of_two;
use crate::Result;
use crate::backbone::ops::{QkvForm, contiguous_f32};
use crate::kernels::attention::{BlockQuery, HeadShape, paged_attention, write_page_rows};
use crate::kernels::grad::attention::{QkvRows, attention_backward};
use crate::kernels::grad::qkv_prepare_backward;
use crate::kernels::pointwise::{Qkv, qkv_prepare};

/// `B` sequences of `T` positions.
#[derive(Clone)]
pub(in crate::backbone) struct Sequences {
    pub(in crate::backbone) b: usize,
    pub(in crate::backbone) t: usize,
    /// Cosines and sines of all `B T` rows, `[B T, hd / 2]` each; `None` without rotary embedding.
    pub(in crate::backbone) rotary: Option<Arc<(Vec<f32>, Vec<f32>)>>,
}

impl Sequences {
    /// `[B, T, D + 2 G hd]` -> queries, keys and values, clamped, normed, rotated, in one.
    pub(in crate::backbone) fn prepare(&self, qkv: &Tensor, form: &Arc<QkvForm>) -> Result<Tensor> {
        Ok(qkv.contiguous()?.apply_op1(Prepare { sequences: self.clone(), form: form.clone() })?)
    }

    /// The queries `[B, H, T, hd]` and the keys `[B, G, T, hd]` of what [`Self::prepare`] gave.
    pub(in crate::backbone) fn queries_and_keys(&self, prepared: &Tensor, shape: &HeadShape) -> Result<[Tensor; 2]> {
        let HeadShape { n_head: h, n_kv_heads: g, head_dim: hd, .. } = *shape;
        let part = |from: usize, heads: usize| -> Result<Tensor> {
            let rows = self.b * self.t;
            Ok(prepared
                .narrow(0, rows * from * hd, rows * heads * hd)?
                .reshape((self.b, self.t, heads, hd))?
                .transpose(1, 2)?)
        };
        Ok([part(0, h)?, part(h, g)?])
    }

    /// Block-causal attention of what [`Self::prepare`] gave, `[B, T, D]`.
    pub(in crate::backbone) fn attend(&self, prepared: &Tensor, shape: &HeadShape) -> Result<Tensor> {
        Ok(prepared.apply_op1(Attend { b: self.b, t: self.t, shape: *shape })?)
    }
}

struct Prepare {
    sequences: Sequences,
    form: Arc<QkvForm>,
}

impl Prepare {
    fn rotary(&self) -> Option<(&[f32], &[f32])> {
        self.sequences.rotary.as_deref().map(|(cos, sin)| (cos.as_slice(), sin.as_slice()))
    }
}

/// `flat` cut into queries, keys and values.
fn split<'a>(shape: &HeadShape, flat: &'a mut [f32]) -> Qkv<'a> {
    let rows = flat.len() / ((shape.n_head + 2 * shape.n_kv_heads) * shape.head_dim);
    let (q, kv) = flat.split_at_mut(rows * shape.n_head * shape.head_dim);
    let (k, v) = kv.split_at_mut(rows * shape.n_kv_heads * shape.head_dim);
    Qkv { q, k, v }
}

impl CustomOp1 for Prepare {
    fn name(&self) -> &'static str {
        "qkv-prepare"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let qkv = contiguous_f32(storage, layout)?;
        let mut out = vec![0f32; qkv.len()];
        qkv_prepare(&self.form.shape, &self.form.params(self.rotary()), qkv, split(&self.form.shape, &mut out));
        let len = out.len();
        Ok((CpuStorage::F32(out), len.into()))
    }

    fn bwd(&self, qkv: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = of_two(qkv, grad, |qkv, grad| {
            let mut out = vec![0f32; qkv.len()];
            let grad = QkvRows::of(&self.form.shape, grad);
            qkv_prepare_backward(&self.form.shape, &self.form.params(self.rotary()), qkv, grad, &mut out);
            out
        })?;
        Ok(Some(gradient))
    }
}

struct Attend {
    b: usize,
    t: usize,
    shape: HeadShape,
}

impl CustomOp1 for Attend {
    fn name(&self) -> &'static str {
        "block-causal-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let QkvRows { q, k, v } = QkvRows::of(&self.shape, contiguous_f32(storage, layout)?);
        let HeadShape { n_head, n_kv_heads, head_dim, page } = self.shape;
        let per_sequence = self.t.div_ceil(page);
        let pages: Vec<u32> = (0..(self.b * per_sequence) as u32).collect();
        let rows = (0..self.b).flat_map(|b| (0..self.t).map(move |i| (b, i)));
        let places: Vec<_> = rows.map(|(b, i)| ((b * per_sequence + i / page) as u32, (i % page) as u32)).collect();
        let [k, v] = [k, v].map(|rows| {
            let mut pool = vec![0f32; pages.len() * n_kv_heads * page * head_dim];
            write_page_rows(&self.shape, rows, &places, &mut pool);
            pool
        });
        let blocks = (0..self.b).flat_map(|b| (0..per_sequence).map(move |block| (b, block)));
        let blocks: Vec<_> = blocks
            .map(|(b, block)| BlockQuery {
                row: b * self.t + block * page,
                rows: page.min(self.t - block * page),
                pages: &pages[b * per_sequence..][..block + 1],
                keys: self.t.min((block + 1) * page),
            })
            .collect();
        let mut out = vec![0f32; q.len()];
        paged_attention(&self.shape, q, &k, &v, &blocks, &mut out);
        Ok((CpuStorage::F32(out), (self.b, self.t, n_head * head_dim).into()))
    }

    fn bwd(&self, prepared: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = of_two(prepared, grad, |prepared, grad| {
            let mut out = vec![0f32; prepared.len()];
            let qkv = QkvRows::of(&self.shape, prepared);
            attention_backward(&self.shape, self.t, qkv, grad, split(&self.shape, &mut out));
            out
        })?;
        Ok(Some(gradient))
    }
}
