//! Whole sequences at once, as MODEL.md section 2 has it; gradients flow. By kernels where there are any, else by
//! candle's own operations.

use std::sync::Arc;

use candle_core::{D, DType, Tensor};

use super::grad::Sequences;
use super::inject::Injected;
use super::layer::Layer;
use super::{Backbone, RowInjection, rotary};
use crate::Result;

/// Told every intermediate result by the name that the goldens give it: `embed`, and per layer `block{N}.qkv_unclipped`,
/// `block{N}.q_rope`, `block{N}.k_rope` (`[B, heads, T, hd]`), `block{N}.attn_out`, `block{N}.mlp_out`, `block{N}.out`.
pub type Observe<'a> = &'a mut dyn FnMut(&str, &Tensor);

/// Rotary tables and the mask, for candle's operations.
struct Elementary {
    tables: Option<rotary::Rows>,
    mask: Tensor,
}

impl Backbone {
    /// The hidden state (after the final norm) of embedded sequences: `[B, T, D] -> [B, T, D]`. The rows of
    /// `injections` count over `B` and `T`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward_plain(&self, embeddings: &Tensor, injections: &[RowInjection], observe: Observe) -> Result<Tensor> {
        let (b, t, _) = embeddings.dims3()?;
        let sequences = self.sequences(b, t)?;
        let mut elementary = None;
        let mut injected = Injected::new(injections, embeddings);
        let mut x = embeddings.clone();
        observe("embed", &x);
        for (n, layer) in self.layers.iter().enumerate() {
            let name = |part: &str| format!("block{n}.{part}");
            let qkv = layer.attn.c_attn.forward(&layer.attention_input(&x)?)?;
            observe(&name("qkv_unclipped"), &qkv);
            let (q, k, attended) = match &layer.attn.form {
                Some(form) => {
                    let prepared = sequences.prepare(&qkv, form)?;
                    let [q, k] = sequences.queries_and_keys(&prepared, &form.shape)?;
                    (q, k, sequences.attend(&prepared, &form.shape)?)
                }
                None => {
                    let elementary = match &mut elementary {
                        Some(elementary) => elementary,
                        none => none.insert(self.elementary(t, embeddings.dtype())?),
                    };
                    let (q, k, v) = self.prepare(layer, qkv, elementary)?;
                    let attended = self.attend(&q, &k, &v, &elementary.mask)?;
                    (q, k, attended)
                }
            };
            observe(&name("q_rope"), &q);
            observe(&name("k_rope"), &k);
            let attended = layer.attn.c_proj.forward(&attended)?;
            observe(&name("attn_out"), &attended);
            x = layer.add_attention(&x, &attended)?;
            let out = layer.mlp.forward(&layer.mlp_input(&x)?, &self.profile)?;
            observe(&name("mlp_out"), &out);
            x = layer.add_mlp(&x, &out)?;
            if let Some(added) = injected.after(n + 1)? {
                x = (x + added)?;
            }
            observe(&name("out"), &x);
        }
        self.ln_f.forward(&x)
    }

    /// What the kernels need to know of `b` sequences of `t` positions.
    fn sequences(&self, b: usize, t: usize) -> Result<Sequences> {
        let positions: Vec<u32> = (0..b).flat_map(|_| 0..t as u32).collect();
        let rotary = match &self.rotary {
            Some(rotary) if self.compute.has_kernels() => rotary.rows(&positions)?.into_host().map(Arc::new),
            _ => None,
        };
        Ok(Sequences { b, t, rotary })
    }

    /// What candle's operations need to know of sequences of `t` positions.
    fn elementary(&self, t: usize, dtype: DType) -> Result<Elementary> {
        let positions: Vec<u32> = (0..t as u32).collect();
        let tables = self.rotary.as_ref().map(|rotary| rotary.rows(&positions)).transpose()?;
        Ok(Elementary { tables, mask: self.mask(t, dtype)? })
    }

    /// `[B, T, D + 2 G hd]` -> q `[B, H, T, hd]`, k and v `[B, G, T, hd]`; clamped, normed, rotated.
    fn prepare(&self, layer: &Layer, mut qkv: Tensor, elementary: &Elementary) -> Result<(Tensor, Tensor, Tensor)> {
        let (b, t, _) = qkv.dims3()?;
        let (d, h, g, hd) = (self.config.n_embd, self.config.n_head, self.config.n_kv_heads, self.config.head_dim());
        if let Some(clip) = self.config.clip_qkv {
            qkv = qkv.clamp(-clip, clip)?;
        }
        let mut q = qkv.narrow(D::Minus1, 0, d)?.reshape((b, t, h, hd))?;
        let mut k = qkv.narrow(D::Minus1, d, g * hd)?.reshape((b, t, g, hd))?;
        let v = qkv.narrow(D::Minus1, d + g * hd, g * hd)?.reshape((b, t, g, hd))?;
        if let Some((q_norm, k_norm)) = &layer.attn.qk_norm {
            q = q_norm.forward(&q)?;
            k = k_norm.forward(&k)?;
        }
        if let Some(rotary::Rows { cos, sin, .. }) = &elementary.tables {
            q = rotary::rotate(&q, cos, sin)?;
            k = rotary::rotate(&k, cos, sin)?;
        }
        Ok((q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?))
    }

    /// Block-causal attention, `[B, T, D]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (b, h, t, hd) = q.dims4()?;
        let g = k.dim(1)?;
        // Query head h uses kv head h / (H/G): fold the heads of a group into rows.
        let q = q.contiguous()?.reshape((b, g, h / g * t, hd))?;
        let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (hd as f64).sqrt())?;
        let scores = scores.reshape((b, h, t, t))?.broadcast_add(mask)?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.reshape((b, g, h / g * t, t))?;
        let out = weights.matmul(&v.contiguous()?)?.reshape((b, h, t, hd))?;
        Ok(out.transpose(1, 2)?.reshape((b, t, h * hd))?)
    }

    /// `[T, T]`: 0 where query `i` sees key `j`, that is `i / S >= j / S`, else minus infinity.
    fn mask(&self, t: usize, dtype: DType) -> Result<Tensor> {
        let s = self.config.diff_block_size;
        let mask: Vec<f32> =
            (0..t).flat_map(|i| (0..t).map(move |j| if i / s >= j / s { 0.0 } else { f32::NEG_INFINITY })).collect();
        Ok(Tensor::from_vec(mask, (t, t), &self.compute.device)?.to_dtype(dtype)?)
    }
}
