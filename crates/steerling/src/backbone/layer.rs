//! One transformer layer: its weights, and the parts that both forward passes share.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::grad;
use super::linear::{Compute, Linear};
use super::norm::Norm;
use super::ops;
use crate::Result;
use crate::checkpoint::Reader;
use crate::config::{Config, MlpKind, NormOrder};
use crate::profile::{Part, Profile};

/// Attention: projections and the norms of q and k.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) c_attn: Linear,
    pub(super) c_proj: Linear,
    pub(super) qk_norm: Option<(Norm, Norm)>,
    /// What the kernel does to q, k and v, if it covers this checkpoint and device.
    pub(super) form: Option<Arc<ops::QkvForm>>,
}

/// The feed-forward half.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    pub(super) kind: MlpKind,
    pub(super) c_fc: Linear,
    pub(super) c_proj: Linear,
}

/// One layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) attn: Attention,
    pub(super) mlp: Mlp,
    pub(super) ln_1: Norm,
    pub(super) ln_2: Norm,
    pub(super) order: NormOrder,
}

impl Layer {
    /// Reads the layer under `name` (`transformer.blocks.N`).
    pub(super) fn load(reader: &Reader, name: &str, config: &Config, compute: &Compute) -> Result<Self> {
        let (d, inter) = (config.n_embd, config.intermediate_size);
        let kv = config.n_kv_heads * config.head_dim();
        let linear = |part: &str, out, inn| {
            Linear::load(reader, &format!("{name}.{part}"), (out, inn), config.use_bias, compute)
        };
        let norm = |part: &str, width| Norm::load(reader, &format!("{name}.{part}"), width, config, compute);
        let qk_norm = match config.use_qk_norm {
            true => Some((norm("attn.q_norm", config.head_dim())?, norm("attn.k_norm", config.head_dim())?)),
            false => None,
        };
        let fc_out = if config.mlp == MlpKind::SwiGlu { 2 * inter } else { inter };
        Ok(Self {
            attn: Attention {
                c_attn: linear("attn.c_attn", d + 2 * kv, d)?,
                c_proj: linear("attn.c_proj", d, d)?,
                form: compute.has_kernels().then(|| ops::QkvForm::of(config, qk_norm.as_ref())).flatten().map(Arc::new),
                qk_norm,
            },
            mlp: Mlp {
                kind: config.mlp,
                c_fc: linear("mlp.c_fc", fc_out, d)?,
                c_proj: linear("mlp.c_proj", d, inter)?,
            },
            ln_1: norm("ln_1", d)?,
            ln_2: norm("ln_2", d)?,
            order: config.norm_order,
        })
    }

    /// What the attention half reads: `x` itself, or `ln_1(x)` when norms come first.
    pub(super) fn attention_input(&self, x: &Tensor) -> Result<Tensor> {
        match self.order {
            NormOrder::Post => Ok(x.clone()),
            NormOrder::Pre => self.ln_1.forward(x),
        }
    }

    /// `x` after the attention half whose output is `attended`.
    pub(super) fn add_attention(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        self.add(x, attended, &self.ln_1)
    }

    /// What the feed-forward half reads.
    pub(super) fn mlp_input(&self, x: &Tensor) -> Result<Tensor> {
        match self.order {
            NormOrder::Post => Ok(x.clone()),
            NormOrder::Pre => self.ln_2.forward(x),
        }
    }

    /// `x` after the feed-forward half whose output is `out`.
    pub(super) fn add_mlp(&self, x: &Tensor, out: &Tensor) -> Result<Tensor> {
        self.add(x, out, &self.ln_2)
    }

    fn add(&self, x: &Tensor, out: &Tensor, ln: &Norm) -> Result<Tensor> {
        match self.order {
            NormOrder::Post => ln.add(x, out),
            NormOrder::Pre => Ok((x + out)?),
        }
    }
}

impl Mlp {
    /// The feed-forward half of `x`.
    pub(super) fn forward(&self, x: &Tensor, profile: &Profile) -> Result<Tensor> {
        let h = profile.time(Part::MlpProducts, || self.c_fc.forward(x))?;
        let h = profile.time(Part::MlpRest, || self.activate(h))?;
        profile.time(Part::MlpProducts, || self.c_proj.forward(&h))
    }

    fn activate(&self, h: Tensor) -> Result<Tensor> {
        match self.kind {
            MlpKind::SwiGlu if ops::has_kernels(&h) => grad::swiglu(&h),
            MlpKind::SwiGlu => {
                let inter = h.dim(D::Minus1)? / 2;
                let up = h.narrow(D::Minus1, 0, inter)?;
                let gate = h.narrow(D::Minus1, inter, inter)?;
                Ok((gate.silu()? * up)?)
            }
            MlpKind::Gelu => Ok(h.gelu()?),
            MlpKind::Relu => Ok(h.relu()?),
            MlpKind::Silu => Ok(h.silu()?),
        }
    }
}
