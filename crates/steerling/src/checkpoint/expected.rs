//! The tensors a configuration demands: names as in `MODEL.md`, section 1.

use crate::config::{ConceptConfig, Config, MlpKind, NormKind, UnknownConfig};

/// A tensor that a checkpoint has to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Name in the file.
    pub name: String,
    /// Linear weights are `[out, in]`.
    pub shape: Vec<usize>,
}

impl Expected {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors of a configuration in the order of a forward pass, each once.
pub fn expected(config: &Config) -> Vec<Expected> {
    let mut list = List { prefix: config.backbone_prefix(), tensors: Vec::new() };
    let d = config.n_embd;
    list.backbone("tok_emb.weight", &[config.vocab_size, d]);
    for layer in 0..config.n_layers {
        list.block(config, layer);
    }
    list.norm("ln_f", d, config.norm);
    if !config.weight_sharing {
        list.backbone("lm_head.weight", &[config.vocab_size, d]);
    }
    if let Some(concept) = &config.concept {
        list.known_head(concept, d);
        if let Some(unknown) = &concept.unknown {
            list.unknown_head(unknown, concept.padded_unknown(), d);
        }
    }
    list.tensors
}

struct List {
    prefix: &'static str,
    tensors: Vec<Expected>,
}

impl List {
    fn push(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(Expected { name, shape: shape.to_vec() });
    }

    fn backbone(&mut self, name: &str, shape: &[usize]) {
        self.push(format!("{}{name}", self.prefix), shape);
    }

    fn norm(&mut self, name: &str, width: usize, kind: NormKind) {
        self.backbone(&format!("{name}.weight"), &[width]);
        if kind == NormKind::Layer {
            self.backbone(&format!("{name}.bias"), &[width]);
        }
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) {
        self.backbone(&format!("{name}.weight"), &shape);
        if bias {
            self.backbone(&format!("{name}.bias"), &shape[..1]);
        }
    }

    fn block(&mut self, config: &Config, layer: usize) {
        let (d, bias) = (config.n_embd, config.use_bias);
        let part = |name: &str| format!("blocks.{layer}.{name}");
        self.norm(&part("ln_1"), d, config.norm);
        self.linear(&part("attn.c_attn"), [d + 2 * config.kv_dim(), d], bias);
        if config.use_qk_norm {
            self.norm(&part("attn.q_norm"), config.head_dim(), config.norm);
            self.norm(&part("attn.k_norm"), config.head_dim(), config.norm);
        }
        self.linear(&part("attn.c_proj"), [d, d], bias);
        self.norm(&part("ln_2"), d, config.norm);
        let inter = config.intermediate_size;
        let fc = if config.mlp == MlpKind::SwiGlu { 2 * inter } else { inter };
        self.linear(&part("mlp.c_fc"), [fc, d], bias);
        self.linear(&part("mlp.c_proj"), [d, inter], bias);
    }

    fn known_head(&mut self, concept: &ConceptConfig, d: usize) {
        let rows = concept.padded();
        self.push("known_head.concept_embedding.weight".to_owned(), &[rows, d]);
        if concept.use_attention_known {
            self.push("known_head.concept_query_projection.weight".to_owned(), &[d, d]);
        } else {
            self.push("known_head.concept_predictor.weight".to_owned(), &[rows, d]);
        }
    }

    fn unknown_head(&mut self, head: &UnknownConfig, rows: usize, d: usize) {
        let mut push = |name: &str, shape: &[usize]| self.push(format!("unknown_head.{name}.weight"), shape);
        match head.factorize_rank {
            Some(rank) => {
                push("embedding_coef", &[rows, rank]);
                push("embedding_basis", &[d, rank]);
            }
            None => push("concept_embedding", &[rows, d]),
        }
        match (head.use_attention, head.factorize_rank) {
            (true, _) => push("concept_query_projection", &[d, d]),
            (false, Some(rank)) => {
                push("predictor_down", &[rank, d]);
                push("predictor_up", &[rows, rank]);
            }
            (false, None) => push("concept_predictor", &[rows, d]),
        }
    }
}
