//! The demo model with weights that can be trained: its shape, its parameters and its forward pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use steerling::config::{ConceptConfig, Config, MlpKind, NormKind, NormOrder, UnknownConfig};
use steerling::kernels::attention::HeadShape;

use super::ops::{self, EPS, Heads};
use super::tokenizer::{VOCAB, special_ids};
use crate::concepts::CONCEPTS;

/// The switches are the released model's; the sizes are small.
pub fn demo_config() -> Config {
    Config {
        n_layers: 5,
        n_head: 4,
        n_embd: 128,
        n_kv_heads: 2,
        context: 512,
        diff_block_size: 16,
        norm: NormKind::Rms,
        norm_eps: f64::from(EPS),
        norm_order: NormOrder::Post,
        use_qk_norm: true,
        use_rope: true,
        // Of the order of the context, as the released model's is of its own.
        rope_base: 10_000.0,
        rope_full_precision: true,
        mlp: MlpKind::SwiGlu,
        intermediate_size: 512,
        use_bias: false,
        clip_qkv: Some(10.0),
        weight_sharing: true,
        vocab_size: VOCAB,
        special: special_ids(),
        concept: Some(ConceptConfig {
            n_concepts: CONCEPTS.len(),
            topk_known: Some(16),
            topk_known_features: Some(16),
            use_attention_known: false,
            topk_on_logits: false,
            use_epsilon_correction: true,
            pad_multiple: 16,
            unknown: Some(UnknownConfig {
                n_concepts: 192,
                topk: Some(16),
                factorize_rank: Some(96),
                use_attention: false,
                apply_topk: true,
            }),
        }),
    }
}

/// How the first values of a tensor are drawn: uniform with this standard deviation, or all the same.
enum Start {
    Spread(f64),
    Constant(f64),
}

/// All weights, by their names in the checkpoint. Linear layers are held as `[in, out]`, the transposed of the file's.
pub(super) struct Params {
    vars: BTreeMap<String, Var>,
    pub(super) config: Config,
    rotary: [Vec<f32>; 2],
}

/// What is added at masks, per sequence: `[B, D]` after every layer, and `[B, D]` after those of the upper half.
pub(super) struct Injection {
    pub(super) lower: Tensor,
    pub(super) upper: Tensor,
}

impl Params {
    /// Random first weights.
    pub(super) fn new(config: Config, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut vars = BTreeMap::new();
        for (name, dims, start) in starts(&config) {
            let n = dims.0 * dims.1;
            let values: Vec<f32> = match start {
                Start::Constant(value) => vec![value as f32; n],
                Start::Spread(deviation) => {
                    let bound = (deviation * 3f64.sqrt()) as f32;
                    (0..n).map(|_| rng.random_range(-bound..bound)).collect()
                }
            };
            let shape = if dims.0 == 1 { vec![dims.1] } else { vec![dims.0, dims.1] };
            vars.insert(name, Var::from_vec(values, shape, device)?);
        }
        let half = config.head_dim() / 2;
        let angle = |t: usize, i: usize| t as f32 / (config.rope_base as f32).powf(i as f32 / half as f32);
        let table = |f: fn(f32) -> f32| (0..config.context * half).map(|n| f(angle(n / half, n % half))).collect();
        let rotary = [table(f32::cos), table(f32::sin)];
        Ok(Self { vars, config, rotary })
    }

    /// All weights.
    pub(super) fn vars(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.vars.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// The weight `name`, which must exist.
    pub(super) fn get(&self, name: &str) -> &Tensor {
        self.vars.get(name).expect("every name is in `starts`").as_tensor()
    }

    /// Embeddings and output rows `[V, D]`.
    pub(super) fn tokens(&self) -> &Tensor {
        self.get("transformer.tok_emb.weight")
    }

    /// Embeddings of the known concepts `[C, D]`.
    pub(super) fn concepts(&self) -> &Tensor {
        self.get("known_head.concept_embedding.weight")
    }

    /// Hidden states after the final norm of `b` sequences of `t` ids `[B T]`: `[B T, D]`. What is injected goes to the
    /// positions where `masked` `[B, T, 1]` is 1.
    pub(super) fn hidden(
        &self,
        ids: &Tensor,
        (b, t): (usize, usize),
        injection: Option<(&Injection, &Tensor)>,
    ) -> Result<Tensor> {
        let config = &self.config;
        let half = config.head_dim() / 2;
        let heads = Heads {
            shape: HeadShape {
                n_head: config.n_head,
                n_kv_heads: config.n_kv_heads,
                head_dim: config.head_dim(),
                page: config.diff_block_size,
            },
            clip: config.clip_qkv.context("the demo model clamps q, k and v")? as f32,
            b,
            t,
            rotary: Arc::new(self.rotary.each_ref().map(|table| table[..t * half].to_vec())),
        };
        let spread = |added: &Tensor, masked: &Tensor| -> Result<Tensor> {
            Ok(masked.broadcast_mul(&added.unsqueeze(1)?)?.reshape((b * t, ()))?)
        };
        let injection = match injection {
            Some((Injection { lower, upper }, masked)) => {
                Some((spread(lower, masked)?, spread(&(lower + upper)?, masked)?))
            }
            None => None,
        };
        let mut x = self.tokens().index_select(ids, 0)?;
        for n in 0..config.n_layers {
            let get = |part: &str| self.get(&format!("transformer.blocks.{n}.{part}.weight"));
            let qkv = x.matmul(get("attn.c_attn"))?;
            let out = heads.attention(&qkv, get("attn.q_norm"), get("attn.k_norm"))?.matmul(get("attn.c_proj"))?;
            x = (x + ops::rms_norm(&out, get("ln_1"))?)?;
            let out = ops::swiglu(&x.matmul(get("mlp.c_fc"))?)?.matmul(get("mlp.c_proj"))?;
            x = (x + ops::rms_norm(&out, get("ln_2"))?)?;
            if let Some((lower, upper)) = &injection {
                // Layers count from 1: the preset of suppression begins at half of them.
                x = (x + if n + 1 >= config.n_layers / 2 { upper } else { lower })?;
            }
        }
        Ok(ops::rms_norm(&x, self.get("transformer.ln_f.weight"))?)
    }

    /// Takes the weights of a checkpoint that [`Self::tensors`] was written to.
    pub(super) fn load(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| format!("reading {}", path.display()))?;
        for (name, var) in &self.vars {
            let tensor = tensors.get(name).with_context(|| format!("{} has no {name}", path.display()))?;
            let tensor = if is_linear(name) { tensor.t()? } else { tensor.clone() };
            // Without the padding rows.
            let tensor = var.dims().iter().enumerate().try_fold(tensor, |tensor, (i, n)| tensor.narrow(i, 0, *n))?;
            var.set(&tensor.contiguous()?.to_dtype(DType::F32)?.to_device(var.device())?)
                .with_context(|| format!("{} does not fit the shape of {name}", path.display()))?;
        }
        Ok(())
    }

    /// The weights as the checkpoint has them: names, shapes, padding rows, in `dtype`.
    pub(super) fn tensors(&self, dtype: DType) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, var) in &self.vars {
            let tensor = if is_linear(name) { var.t()?.contiguous()? } else { var.as_tensor().clone() };
            let rows = tensor.dim(0)?;
            let pads = ["concept_embedding", "concept_predictor", "embedding_coef", "predictor_up"];
            let tensor = match name.split('.').nth(1).is_some_and(|part| pads.contains(&part)) {
                true => tensor.pad_with_zeros(0, 0, rows.next_multiple_of(16) - rows)?,
                false => tensor,
            };
            tensors.insert(name.clone(), tensor.to_device(&Device::Cpu)?.to_dtype(dtype)?);
        }
        Ok(tensors)
    }
}

/// Whether a matrix is held as `[in, out]`.
fn is_linear(name: &str) -> bool {
    ["c_attn", "c_proj", "c_fc", "concept_predictor", "predictor_down", "predictor_up"]
        .iter()
        .any(|part| name.contains(part))
}

/// Names, shapes as held here, and first values.
///
/// The norms at the end of each half start small, so that a token's own embedding stays visible in the sum.
fn starts(config: &Config) -> Vec<(String, (usize, usize), Start)> {
    let (d, hd) = (config.n_embd, config.head_dim());
    let inter = config.intermediate_size;
    let linear = |inn: usize| Start::Spread(1.0 / (inn as f64).sqrt());
    let mut all = vec![
        ("transformer.tok_emb.weight".to_owned(), (config.vocab_size, d), Start::Spread(0.3)),
        ("transformer.ln_f.weight".to_owned(), (1, d), Start::Constant(0.3)),
    ];
    for n in 0..config.n_layers {
        let mut add =
            |part: &str, dims, start| all.push((format!("transformer.blocks.{n}.{part}.weight"), dims, start));
        add("attn.c_attn", (d, d + 2 * config.kv_dim()), linear(d));
        add("attn.c_proj", (d, d), linear(d));
        add("attn.q_norm", (1, hd), Start::Constant(1.0));
        add("attn.k_norm", (1, hd), Start::Constant(1.0));
        add("ln_1", (1, d), Start::Constant(0.3));
        add("ln_2", (1, d), Start::Constant(0.3));
        add("mlp.c_fc", (d, 2 * inter), linear(d));
        add("mlp.c_proj", (inter, d), linear(inter));
    }
    let mut add = |name: &str, dims, start| all.push((format!("{name}.weight"), dims, start));
    add("known_head.concept_embedding", (CONCEPTS.len(), d), Start::Spread(0.1));
    add("known_head.concept_predictor", (d, CONCEPTS.len()), linear(d));
    if let Some((unknown, rank)) = unknown(config) {
        add("unknown_head.embedding_coef", (unknown.n_concepts, rank), linear(rank));
        add("unknown_head.embedding_basis", (d, rank), linear(d));
        add("unknown_head.predictor_down", (d, rank), linear(d));
        add("unknown_head.predictor_up", (rank, unknown.n_concepts), linear(rank));
    }
    all
}

/// The unknown head and its rank.
pub(super) fn unknown(config: &Config) -> Option<(&UnknownConfig, usize)> {
    let unknown = config.concept.as_ref()?.unknown.as_ref()?;
    Some((unknown, unknown.factorize_rank?))
}
