//! Both layouts of `config.json` -> [`Config`].

use serde_json::{Map, Value};

use super::fields::{Fields, MAX_COUNT};
use super::ids::special_ids;
use super::{ConceptConfig, Config, MlpKind, NormKind, NormOrder, UnknownConfig};
use crate::{Error, Result};

/// Written by the transformers library into any `config.json`; says nothing about what this model computes.
/// Not here, and therefore refused: anything that changes the weights, such as `quantization_config`.
const OTHER_TOOLS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// Concept keys that matter in training only.
const TRAINING_ONLY: &[&str] = &["max_concepts", "store_unknown_weights", "inject_layer", "inject_alpha"];

impl Config {
    /// Reads a parsed `config.json`, flat or nested, with the ids of `tokenizer_config.json` where the directory has one.
    /// Absent keys take the values of the released model (`MODEL.md`, section 1).
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, the value found and what is accepted: for unknown keys, wrong types, values out
    /// of range, values that contradict each other, and switches this crate does not implement.
    pub fn from_json(json: &Value, tokenizer_config: Option<&Value>) -> Result<Self> {
        let map = json
            .as_object()
            .ok_or_else(|| Error::config("config.json", "found something else than a JSON object at the top"))?;
        let mut top = Fields::new(map, "");
        top.ignore(OTHER_TOOLS);
        let nested = match top.get("model_type") {
            None => map.contains_key("concept"),
            Some(Value::String(s)) if s == "steerling" => false,
            Some(Value::String(s)) if s == "causal_diffusion" => true,
            Some(other) => return Err(top.refuse("model_type", other, "\"steerling\" or \"causal_diffusion\"")),
        };
        let concept = if nested { nested_concept(&mut top, map)? } else { flat_concept(&mut top)? };
        let config = backbone(&mut top, concept, tokenizer_config)?;
        top.finish()?;
        config.check()?;
        Ok(config)
    }

    /// What no single key can get wrong on its own.
    fn check(&self) -> Result<()> {
        let (d, h, g) = (self.n_embd, self.n_head, self.n_kv_heads);
        if !d.is_multiple_of(h) {
            return Err(Error::config("n_embd", format!("found {d}, expected a multiple of n_head {h}")));
        }
        if !h.is_multiple_of(g) {
            return Err(Error::config("n_kv_heads", format!("found {g}, expected a divisor of n_head {h}")));
        }
        if self.use_rope && !self.head_dim().is_multiple_of(2) {
            let message =
                format!("found {d} / {h} = {}, expected an even width of heads with use_rope", self.head_dim());
            return Err(Error::config("n_embd / n_head", message));
        }
        if self.n_layers > 4096 {
            return Err(Error::config("n_layers", format!("found {}, expected at most 4096", self.n_layers)));
        }
        if self.intermediate_size > MAX_COUNT {
            let message =
                format!("found {} times n_embd {d}, expected at most {MAX_COUNT}", self.intermediate_size / d);
            return Err(Error::config("mlp_ratio", message));
        }
        // A position that holds the mask is undecided: no other meaning can share the id.
        let ids = &self.special;
        if [ids.eos, ids.pad, ids.bos, ids.endofchunk].contains(&ids.mask) {
            let message = format!("found {}, expected an id of its own", ids.mask);
            return Err(Error::config("mask_token_id", message));
        }
        Ok(())
    }
}

fn backbone(top: &mut Fields<'_>, concept: Option<ConceptSection>, tokenizer: Option<&Value>) -> Result<Config> {
    let n_head = top.count("n_head", 32)?;
    let n_embd = top.count("n_embd", 4096)?;
    let mlp_ratio = top.count("mlp_ratio", 4)?;
    let vocab_size = top.count("vocab_size", 100_281)?;
    let swiglu = top.choice("mlp_type", &[("swiglu", true), ("standard", false)])?;
    let activation =
        top.choice("activation", &[("gelu", MlpKind::Gelu), ("relu", MlpKind::Relu), ("silu", MlpKind::Silu)])?;
    // The transformers library has its own word for the same thing; ours wins where both are written.
    let tied = top.flag("tie_word_embeddings", true)?;
    Ok(Config {
        n_layers: top.count("n_layers", 32)?,
        n_head,
        n_embd,
        // Null means one key and value head per query head; the released model, whose values are the defaults, has 4.
        n_kv_heads: top.count_or_null("n_kv_heads", Some(4))?.unwrap_or(n_head),
        context: top.count("block_size", 4096)?,
        diff_block_size: top.count("diff_block_size", 64)?,
        norm: if top.flag("use_rms_norm", true)? { NormKind::Rms } else { NormKind::Layer },
        norm_eps: top.positive("norm_eps", 1e-5)?,
        norm_order: top.choice("norm_order", &[("post", NormOrder::Post), ("pre", NormOrder::Pre)])?,
        use_qk_norm: top.flag("use_qk_norm", true)?,
        use_rope: top.flag("use_rope", true)?,
        rope_base: top.positive("rope_base", 500_000.0)?,
        rope_full_precision: top.flag("rope_full_precision", true)?,
        mlp: if swiglu { MlpKind::SwiGlu } else { activation },
        intermediate_size: top.count_or_null("intermediate_size", None)?.unwrap_or(mlp_ratio * n_embd),
        use_bias: top.flag("use_bias", false)?,
        clip_qkv: top.positive_or_null("clip_qkv", Some(10.0))?,
        weight_sharing: top.flag("weight_sharing", tied)?,
        vocab_size,
        special: special_ids(top, tokenizer, vocab_size)?,
        concept: match concept {
            Some(section) => Some(section.check(n_embd)?),
            None => None,
        },
    })
}

/// The concept keys of a nested file stand in a section of their own, whose `block_size` is not the context.
fn nested_concept(top: &mut Fields<'_>, map: &Map<String, Value>) -> Result<Option<ConceptSection>> {
    let section = top.get("concept").filter(|v| !v.is_null());
    let interpretable = top.flag("interpretable", section.is_some())?;
    let Some(section) = section else {
        if interpretable {
            return Err(top.error("concept", "found nothing beside interpretable true, expected the concept keys"));
        }
        return Ok(None);
    };
    let Some(section) = section.as_object() else {
        return Err(top.refuse("concept", &map["concept"], "an object"));
    };
    let mut fields = Fields::new(section, "concept.");
    fields.ignore(&["block_size"]);
    let concept = ConceptSection::read(&mut fields)?;
    fields.finish()?;
    Ok(interpretable.then_some(concept))
}

/// In a flat file the concept keys stand among the others, and are read even if `interpretable` is false.
fn flat_concept(top: &mut Fields<'_>) -> Result<Option<ConceptSection>> {
    top.ignore(&["concept_block_size"]);
    let interpretable = top.flag("interpretable", true)?;
    let concept = ConceptSection::read(top)?;
    Ok(interpretable.then_some(concept))
}

/// The concept keys, and the one that has to agree with the backbone.
struct ConceptSection {
    config: ConceptConfig,
    dim: Option<usize>,
    dim_key: String,
}

impl ConceptSection {
    fn read(fields: &mut Fields<'_>) -> Result<Self> {
        fields.ignore(TRAINING_ONLY);
        let n_concepts = fields.count("n_concepts", 33_732)?;
        let topk_known = fields.count_or_null("topk_known", Some(32))?;
        let topk_known_features = fields.count_or_null("topk_known_features", topk_known)?;
        let config = ConceptConfig {
            n_concepts,
            // More than there are means all of them.
            topk_known: topk_known.map(|k| k.min(n_concepts)),
            topk_known_features: topk_known_features.map(|k| k.min(n_concepts)),
            use_attention_known: fields.flag("use_attention_known", false)?,
            topk_on_logits: fields.flag("topk_on_logits", false)?,
            use_epsilon_correction: fields.flag("use_epsilon_correction", true)?,
            pad_multiple: fields.count("pad_multiple", 16)?,
            unknown: unknown(fields)?,
        };
        Ok(Self { config, dim: fields.count_or_null("concept_dim", None)?, dim_key: fields.full_key("concept_dim") })
    }

    fn check(self, n_embd: usize) -> Result<ConceptConfig> {
        match self.dim {
            Some(dim) if dim != n_embd => {
                Err(Error::config(self.dim_key, format!("found {dim}, expected n_embd {n_embd}")))
            }
            _ => Ok(self.config),
        }
    }
}

fn unknown(fields: &mut Fields<'_>) -> Result<Option<UnknownConfig>> {
    let n_concepts = fields.count("n_unknown_concepts", 101_196)?;
    let factorize = fields.flag("factorize_unknown", true)?;
    let rank = fields.count("factorize_rank", 256)?;
    let head = UnknownConfig {
        n_concepts,
        topk: fields.count_or_null("unknown_topk", Some(128))?.map(|k| k.min(n_concepts)),
        factorize_rank: factorize.then_some(rank),
        use_attention: fields.flag("use_attention_unknown", false)?,
        apply_topk: fields.flag("apply_topk_to_unknown", true)?,
    };
    Ok(fields.flag("use_unknown", true)?.then_some(head))
}
