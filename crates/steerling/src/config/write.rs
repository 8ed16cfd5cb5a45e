//! [`Config`] -> the flat layout of `config.json`, as released.

use serde_json::{Map, Value, json};

use super::{ConceptConfig, Config, MlpKind, NormKind, NormOrder};

impl Config {
    /// The flat `config.json` of this configuration, every key written out; [`Config::from_json`] reads it back equal.
    pub fn to_json_flat(&self) -> Value {
        let (mlp_type, activation) = match self.mlp {
            MlpKind::SwiGlu => ("swiglu", "gelu"),
            MlpKind::Gelu => ("standard", "gelu"),
            MlpKind::Relu => ("standard", "relu"),
            MlpKind::Silu => ("standard", "silu"),
        };
        let norm_order = match self.norm_order {
            NormOrder::Post => "post",
            NormOrder::Pre => "pre",
        };
        let mut map = object(json!({
            "model_type": "steerling",
            "interpretable": self.concept.is_some(),
            "n_layers": self.n_layers,
            "n_head": self.n_head,
            "n_embd": self.n_embd,
            "n_kv_heads": self.n_kv_heads,
            "block_size": self.context,
            "diff_block_size": self.diff_block_size,
            "use_rms_norm": self.norm == NormKind::Rms,
            "norm_eps": self.norm_eps,
            "norm_order": norm_order,
            "use_qk_norm": self.use_qk_norm,
            "use_rope": self.use_rope,
            "rope_base": self.rope_base,
            "rope_full_precision": self.rope_full_precision,
            "mlp_type": mlp_type,
            "activation": activation,
            "intermediate_size": self.intermediate_size,
            "use_bias": self.use_bias,
            "clip_qkv": self.clip_qkv,
            "weight_sharing": self.weight_sharing,
            "vocab_size": self.vocab_size,
        }));
        map.extend(self.special_ids_json());
        if let Some(concept) = &self.concept {
            map.extend(object(concept_json(concept)));
            map.insert("concept_dim".to_owned(), self.n_embd.into());
        }
        Value::Object(map)
    }

    /// The keys of the special ids, as `config.json` and `tokenizer_config.json` both write them.
    pub(crate) fn special_ids_json(&self) -> Map<String, Value> {
        let ids = &self.special;
        let mut map = object(json!({
            "eos_token_id": ids.eos,
            "pad_token_id": ids.pad,
            "bos_token_id": ids.bos,
            "endofchunk_token_id": ids.endofchunk,
            "mask_token_id": ids.mask,
        }));
        if let Some(chat) = &ids.chat {
            map.extend(object(json!({
                "start_header_id": chat.start_header,
                "end_header_id": chat.end_header,
                "eot_id": chat.eot,
            })));
        }
        map
    }
}

fn concept_json(concept: &ConceptConfig) -> Value {
    let mut map = object(json!({
        "n_concepts": concept.n_concepts,
        "topk_known": concept.topk_known,
        "topk_known_features": concept.topk_known_features,
        "use_attention_known": concept.use_attention_known,
        "topk_on_logits": concept.topk_on_logits,
        "use_epsilon_correction": concept.use_epsilon_correction,
        "pad_multiple": concept.pad_multiple,
        "use_unknown": concept.unknown.is_some(),
    }));
    if let Some(head) = &concept.unknown {
        map.extend(object(json!({
            "n_unknown_concepts": head.n_concepts,
            "unknown_topk": head.topk,
            "factorize_unknown": head.factorize_rank.is_some(),
            "use_attention_unknown": head.use_attention,
            "apply_topk_to_unknown": head.apply_topk,
        })));
        if let Some(rank) = head.factorize_rank {
            map.insert("factorize_rank".to_owned(), rank.into());
        }
    }
    Value::Object(map)
}

/// The map of a JSON object literal.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
