//! `config.json` -> [`Config`]: both published layouts, validated, nothing silently ignored.

mod fields;
mod ids;
mod parse;
mod preset;
mod write;

use crate::dir::CONFIG;
use crate::{ModelDir, Result};

pub use preset::Preset;

/// Whether a layer normalises the output of its two halves or their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// `x += ln_1(attn(x)); x += ln_2(mlp(x))`, as released.
    Post,
    /// `x += attn(ln_1(x)); x += mlp(ln_2(x))`.
    Pre,
}

/// Which normalisation the checkpoint uses, at every place that normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x * rsqrt(mean(x^2) + eps) * weight`, as released.
    Rms,
    /// Mean and variance, with weight and bias.
    Layer,
}

/// The feed-forward half of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `c_proj(silu(gate) * up)` where `c_fc(x)` is `up` then `gate`, as released.
    SwiGlu,
    /// `c_proj(gelu(c_fc(x)))`, tanh form.
    Gelu,
    /// `c_proj(relu(c_fc(x)))`.
    Relu,
    /// `c_proj(silu(c_fc(x)))`.
    Silu,
}

/// The backbone and, if the checkpoint has them, its concept heads. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Number of transformer layers.
    pub n_layers: usize,
    /// Query heads `H`.
    pub n_head: usize,
    /// Width of the hidden state `D`.
    pub n_embd: usize,
    /// Key and value heads `G` (`n_kv_heads`; null in the file means as many as query heads).
    pub n_kv_heads: usize,
    /// Context length in positions (`block_size` in the file).
    pub context: usize,
    /// Attention block `S` in positions.
    pub diff_block_size: usize,
    /// Kind of every norm.
    pub norm: NormKind,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// Where the layer norms stand.
    pub norm_order: NormOrder,
    /// Norm over each head of q and k.
    pub use_qk_norm: bool,
    /// Rotary position embedding on q and k.
    pub use_rope: bool,
    /// Base of the rotary angles.
    pub rope_base: f64,
    /// Rotate in float32 whatever the compute type.
    pub rope_full_precision: bool,
    /// Feed-forward kind.
    pub mlp: MlpKind,
    /// Inner width of the feed-forward half.
    pub intermediate_size: usize,
    /// Biases on the four linear layers of a block.
    pub use_bias: bool,
    /// q, k and v are clamped to `[-clip, clip]`.
    pub clip_qkv: Option<f64>,
    /// The output head shares the embedding's matrix.
    pub weight_sharing: bool,
    /// Rows of the embedding `V`.
    pub vocab_size: usize,
    /// Ids with a meaning of their own.
    pub special: SpecialIds,
    /// Concept heads; `None` for a plain backbone (`interpretable: false`).
    pub concept: Option<ConceptConfig>,
}

/// Token ids with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialIds {
    /// Fills what follows the end of the text; never generated.
    pub eos: u32,
    /// Padding; never generated.
    pub pad: u32,
    /// Begin of text; never added to prompts, may be generated.
    pub bos: u32,
    /// Ends a chunk.
    pub endofchunk: u32,
    /// A position not decided yet; never generated.
    pub mask: u32,
    /// The chat tokens of an instruct checkpoint.
    pub chat: Option<ChatIds>,
}

/// The three chat tokens of an instruct checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatIds {
    /// `<|start_header_id|>`.
    pub start_header: u32,
    /// `<|end_header_id|>`.
    pub end_header: u32,
    /// `<|eot_id|>`: ends a turn, and generation.
    pub eot: u32,
}

/// The concept heads.
#[derive(Debug, Clone, PartialEq)]
pub struct ConceptConfig {
    /// Known concepts `C`.
    pub n_concepts: usize,
    /// Known concepts kept and reported per position; `None` keeps all.
    pub topk_known: Option<usize>,
    /// Known concepts that enter the features; `None` means `topk_known`.
    pub topk_known_features: Option<usize>,
    /// Known head selects by attention instead of a predictor.
    pub use_attention_known: bool,
    /// Rank the selection by `z` itself instead of `sigmoid(z)`.
    pub topk_on_logits: bool,
    /// Add what the heads do not explain.
    pub use_epsilon_correction: bool,
    /// Rows of the concept tables are padded to a multiple of this.
    pub pad_multiple: usize,
    /// The unknown (discovered) head.
    pub unknown: Option<UnknownConfig>,
}

/// The unknown (discovered) head.
#[derive(Debug, Clone, PartialEq)]
pub struct UnknownConfig {
    /// Unknown concepts `U`.
    pub n_concepts: usize,
    /// Unknown concepts kept per position; `None` keeps all.
    pub topk: Option<usize>,
    /// Rank `r` of the factorised tables; `None` for dense tables.
    pub factorize_rank: Option<usize>,
    /// Selects by attention instead of a predictor.
    pub use_attention: bool,
    /// `topk` is used at all.
    pub apply_topk: bool,
}

impl Config {
    /// Reads `config.json` of a model directory, and the special ids of `tokenizer_config.json` where it has one.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] when there is no such directory, [`crate::Error::Io`] or [`crate::Error::Checkpoint`]
    /// when a file cannot be read or is not JSON, [`crate::Error::Config`] for any key that cannot be honoured.
    pub fn from_dir(dir: impl Into<ModelDir>) -> Result<Self> {
        let dir = dir.into();
        dir.check()?;
        let config = dir.read_json(CONFIG)?;
        let tokenizer = "tokenizer_config.json";
        let tokenizer = if dir.contains(tokenizer) { Some(dir.read_json(tokenizer)?) } else { None };
        Self::from_json(&config, tokenizer.as_ref())
    }

    /// Width of one head, `hd = D / H`.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Width of the keys of a position, and of its values: `G * hd`.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim()
    }

    /// What the names of the backbone's tensors begin with: `transformer.`, or nothing without concept heads.
    pub fn backbone_prefix(&self) -> &'static str {
        if self.concept.is_some() { "transformer." } else { "" }
    }

    /// Whether this is a chat model: it has the chat tokens, above all `<|eot_id|>`.
    pub fn is_instruct(&self) -> bool {
        self.special.chat.is_some()
    }

    /// Number of parameters: the elements of all tensors the checkpoint has to hold, padding rows included.
    pub fn param_count(&self) -> u64 {
        crate::checkpoint::expected(self).iter().map(|t| t.elements() as u64).sum()
    }
}

impl ConceptConfig {
    /// Rows of the known concept tables: `C` rounded up to `pad_multiple`.
    pub fn padded(&self) -> usize {
        self.n_concepts.next_multiple_of(self.pad_multiple)
    }

    /// Rows of the unknown concept tables: `U` rounded up to `pad_multiple`; 0 without an unknown head.
    pub fn padded_unknown(&self) -> usize {
        self.unknown.as_ref().map_or(0, |u| u.n_concepts.next_multiple_of(self.pad_multiple))
    }
}
