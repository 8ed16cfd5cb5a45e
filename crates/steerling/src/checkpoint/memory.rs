//! What a model will take of memory, known from its files without loading it.

use candle_core::DType;

use super::{Checkpoint, Expected, Form, StoredType, expected};
use crate::backbone::{Compute, KvPool};
use crate::config::{Config, MlpKind};

/// Bytes that serving takes on the device of a model. All commands and checks that speak of memory take it from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// The weights, in the forms in which they are computed with: what [`crate::Model::weight_bytes`] will be.
    pub weights: u64,
    /// Keys and values of one attention block over all layers.
    pub kv_page: u64,
    /// Attention blocks of one whole context.
    pub context_pages: u64,
    /// What one token position of a forward pass takes beside them, at most: activations of a layer, or its logits.
    pub scratch_per_position: u64,
}

impl MemoryNeeds {
    /// The needs of `checkpoint` on a device. Tensors that it lacks count nothing.
    pub fn of(checkpoint: &Checkpoint, compute: &Compute) -> Self {
        let config = checkpoint.config();
        let bytes = |tensor: Expected| {
            let stored = checkpoint.view(&tensor.name).ok()?.stored;
            Some(tensor_bytes(&tensor, stored, compute))
        };
        Self {
            weights: expected(config).into_iter().filter_map(bytes).sum(),
            kv_page: KvPool::page_bytes(config, compute),
            context_pages: config.context.div_ceil(config.diff_block_size) as u64,
            scratch_per_position: scratch_per_position(config, compute),
        }
    }

    /// Keys and values of one whole context.
    pub fn kv_context(&self) -> u64 {
        self.kv_page * self.context_pages
    }

    /// Weights, `kv_bytes` for keys and values, and forward passes of `positions` token positions.
    pub fn total(&self, kv_bytes: u64, positions: usize) -> u64 {
        self.weights + kv_bytes + self.scratch_per_position * positions as u64
    }
}

/// Bytes of a tensor once it is loaded.
fn tensor_bytes(tensor: &Expected, stored: StoredType, compute: &Compute) -> u64 {
    if let [out, inn] = tensor.shape[..] {
        return Form::of(stored, compute).bytes((out, inn));
    }
    // Norms are kept in float32 at least, biases of linear layers in the type of activations.
    let linear = tensor.name.contains(".c_");
    let dtype = match (linear, compute.dtype) {
        (true, _) => compute.activations(),
        (false, DType::F64) => DType::F64,
        (false, _) => DType::F32,
    };
    (tensor.elements() * dtype.size_in_bytes()) as u64
}

/// The larger of a layer's activations and of what the output head gives, for one token position.
fn scratch_per_position(config: &Config, compute: &Compute) -> u64 {
    let (d, inter) = (config.n_embd, config.intermediate_size);
    let projected = if config.mlp == MlpKind::SwiGlu { 2 * inter } else { inter };
    // The residual stream and the input of the MLP block beside its two products; or beside q, k, v and their attention.
    let mlp = 2 * d + projected + inter;
    let attention = 3 * d + 2 * config.kv_dim() + d;
    let layer = mlp.max(attention) * compute.activations().size_in_bytes();
    // Logits are read in float32: those of the model, and those that its choices change.
    let logits = 2 * config.vocab_size * DType::F32.size_in_bytes();
    layer.max(logits) as u64
}
