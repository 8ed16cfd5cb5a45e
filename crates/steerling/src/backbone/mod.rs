//! The transformer: embedding, layers, final norm, output head.
//!
//! Two forward passes over the same weights. [`Backbone::forward_plain`] takes whole sequences and is written like
//! the specification, from operations through which gradients flow: kernels on the CPU in float32, else candle's own.
//! [`Backbone::forward_paged`] computes chosen attention blocks against cached pages and is what serves.

mod gpu;
mod grad;
mod inject;
mod layer;
pub mod linear;
mod norm;
mod ops;
mod paged;
mod plain;
mod rotary;

pub use linear::{Compute, Matrix};
pub use paged::{BlockRows, KvPool, PagedBatch, RowInjection};
pub use plain::Observe;

use candle_core::Tensor;

use crate::Result;
use crate::checkpoint::Reader;
use crate::config::Config;
use crate::profile::Profile;

/// The transformer.
pub struct Backbone {
    config: Config,
    compute: Compute,
    tok_emb: Matrix,
    layers: Vec<layer::Layer>,
    ln_f: norm::Norm,
    /// `None` when tied: then it is `tok_emb`.
    lm_head: Option<Matrix>,
    rotary: Option<rotary::Rotary>,
    /// Whether paged forwards run on the GPU kernels.
    on_gpu: bool,
    profile: Profile,
}

impl Backbone {
    /// Reads the transformer of a checkpoint.
    ///
    /// # Errors
    /// If a tensor cannot be read or the device fails.
    pub fn load(reader: &Reader, config: &Config, compute: &Compute) -> Result<Self> {
        let prefix = config.backbone_prefix();
        let (v, d) = (config.vocab_size, config.n_embd);
        let tok_emb = reader.matrix(&format!("{prefix}tok_emb.weight"), (v, d), compute)?;
        let layers = (0..config.n_layers)
            .map(|n| layer::Layer::load(reader, &format!("{prefix}blocks.{n}"), config, compute))
            .collect::<Result<_>>()?;
        let lm_head = match config.weight_sharing {
            true => None,
            false => Some(reader.matrix(&format!("{prefix}lm_head.weight"), (v, d), compute)?),
        };
        let rotary = match config.use_rope {
            true => Some(rotary::Rotary::new(config, compute)?),
            false => None,
        };
        let ln_f = norm::Norm::load(reader, &format!("{prefix}ln_f"), d, config, compute)?;
        if compute.has_gpu_kernels() {
            crate::gpu::prepare(&compute.device)?;
        }
        let mut backbone = Self {
            config: config.clone(),
            compute: compute.clone(),
            tok_emb,
            layers,
            ln_f,
            lm_head,
            rotary,
            on_gpu: false,
            profile: Profile::default(),
        };
        backbone.on_gpu = backbone.is_covered();
        Ok(backbone)
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where and in which type it computes.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Where the time of paged forwards went.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Embeddings of `ids`, `[ids.len(), D]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.tok_emb.rows(ids)
    }

    /// Cosines and sines of the rotary angles at `positions`, each `[positions.len(), hd / 2]`; `None` if the
    /// checkpoint does not rotate.
    ///
    /// # Errors
    /// If the device fails.
    pub fn rotary(&self, positions: &[u32]) -> Result<Option<(Tensor, Tensor)>> {
        let rows = self.rotary.as_ref().map(|rotary| rotary.rows(positions)).transpose()?;
        Ok(rows.map(|rows| (rows.cos, rows.sin)))
    }

    /// The output head, `[V, D]` in the checkpoint.
    pub fn lm_head(&self) -> &Matrix {
        self.lm_head.as_ref().unwrap_or(&self.tok_emb)
    }
}
