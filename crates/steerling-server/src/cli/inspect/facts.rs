//! What is worth knowing of a checkpoint, for the table and for JSON.

use std::collections::BTreeMap;

use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use steerling::checkpoint::{Checkpoint, MemoryNeeds};
use steerling::config::{ConceptConfig, MlpKind, NormKind, NormOrder, UnknownConfig};
use steerling::{Config, DeviceChoice, DtypeChoice, RuntimeOptions, Tokenizer};

/// What is worth knowing.
pub(super) struct Facts<'a> {
    config: &'a Config,
    layout: &'a str,
    tokenizer: String,
    /// Tensors and bytes of each type in the files.
    dtypes: BTreeMap<String, (usize, u64)>,
    /// Name, bytes on disk and tensors of each file.
    files: Vec<(String, u64, usize)>,
    /// What serving on the CPU needs, by the type computed in.
    memory: [(DtypeChoice, MemoryNeeds); 2],
}

impl<'a> Facts<'a> {
    /// Reads what is not in the configuration.
    ///
    /// # Errors
    /// None that a CPU gives.
    pub(super) fn of(
        checkpoint: &'a Checkpoint,
        tokenizer: Option<&Tokenizer>,
        layout: &'a str,
    ) -> steerling::Result<Self> {
        let config = checkpoint.config();
        let mut dtypes: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let (count, bytes) = dtypes.entry(tensor.dtype).or_default();
            *count += 1;
            *bytes += tensor.bytes;
            *counts.entry(tensor.file).or_default() += 1;
        }
        let file = |(path, bytes): (&std::path::Path, u64)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, bytes, counts.get(path).copied().unwrap_or(0))
        };
        let needs = |dtype| {
            let compute = RuntimeOptions { device: DeviceChoice::Cpu, dtype, ..RuntimeOptions::default() }.compute()?;
            Ok::<_, steerling::Error>((dtype, MemoryNeeds::of(checkpoint, &compute)))
        };
        let kind = if checkpoint.dir().contains("tokenizer.json") { "tokenizer.json" } else { "cl100k_base" };
        Ok(Self {
            config,
            layout,
            tokenizer: match tokenizer {
                Some(tokenizer) => format!("{kind}, {} ids", HumanCount(tokenizer.vocab_size() as u64)),
                None => format!("{kind}, unusable"),
            },
            dtypes,
            files: checkpoint.files().map(file).collect(),
            memory: [needs(DtypeChoice::F32)?, needs(DtypeChoice::Bf16)?],
        })
    }

    /// Labels and values.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let c = self.config;
        let kind = if c.is_instruct() { "instruct (chat) model" } else { "base model" };
        let mut rows = vec![
            ("config".to_owned(), format!("{} layout, {kind}", self.layout)),
            ("parameters".to_owned(), parameters(c.param_count())),
        ];
        let mut row = |label: &str, value: String| rows.push((label.to_owned(), value));
        row(
            "weights",
            lines(self.dtypes.iter(), |(dtype, (n, bytes))| format!("{} in {dtype}, {n} tensors", BinaryBytes(*bytes))),
        );
        row(
            "files",
            lines(self.files.iter(), |(name, bytes, n)| format!("{name}, {}, {n} tensors", BinaryBytes(*bytes))),
        );
        row(
            "transformer",
            format!(
                "{} layers, width {}, {} heads of {} ({} for keys and values)",
                c.n_layers,
                c.n_embd,
                c.n_head,
                c.head_dim(),
                c.n_kv_heads
            ),
        );
        row("feed-forward", format!("{} of width {}", mlp(c.mlp), c.intermediate_size));
        row("norms", norms(c));
        row("positions", positions(c));
        let tied = if c.weight_sharing { "output head tied" } else { "own output head" };
        row("vocabulary", format!("{} ids, {tied}", HumanCount(c.vocab_size as u64)));
        row("tokenizer", self.tokenizer.clone());
        row("special ids", special(c));
        row("known concepts", c.concept.as_ref().map_or("none".to_owned(), known));
        let discovered = c.concept.as_ref().and_then(|concept| concept.unknown.as_ref());
        row("unknown concepts", discovered.map_or("none".to_owned(), unknown));
        if let Some(concept) = &c.concept {
            row("epsilon", if concept.use_epsilon_correction { "added" } else { "left out" }.to_owned());
        }
        for (dtype, needs) in &self.memory {
            let (weights, context) = (BinaryBytes(needs.weights), BinaryBytes(needs.kv_context()));
            let (pages, page) = (needs.context_pages, BinaryBytes(needs.kv_page));
            let total = BinaryBytes(needs.total(needs.kv_context(), 0));
            row(
                &format!("memory in {dtype}"),
                format!("{total}: weights {weights}, one whole context {context} ({pages} pages of {page})"),
            );
        }
        rows
    }

    /// The same for programs; `config` has the keys of the flat layout.
    pub(super) fn json(&self) -> Value {
        let memory = |(dtype, needs): &(DtypeChoice, MemoryNeeds)| {
            let value = json!({
                "weight_bytes": needs.weights,
                "kv_page_bytes": needs.kv_page,
                "kv_context_pages": needs.context_pages,
                "kv_context_bytes": needs.kv_context(),
                "scratch_bytes_per_position": needs.scratch_per_position,
                "total_bytes": needs.total(needs.kv_context(), 0),
            });
            (dtype.to_string(), value)
        };
        let dtype = |(name, (tensors, bytes)): (&String, &(usize, u64))| {
            (name.clone(), json!({"tensors": tensors, "bytes": bytes}))
        };
        json!({
            "layout": self.layout,
            "instruct": self.config.is_instruct(),
            "parameters": self.config.param_count(),
            "dtypes": self.dtypes.iter().map(dtype).collect::<serde_json::Map<_, _>>(),
            "files": self.files.iter().map(|(name, bytes, tensors)| {
                json!({"name": name, "bytes": bytes, "tensors": tensors})
            }).collect::<Vec<_>>(),
            "tokenizer": self.tokenizer,
            "memory": self.memory.iter().map(memory).collect::<serde_json::Map<_, _>>(),
            "config": self.config.to_json_flat(),
        })
    }
}

fn lines<T>(items: impl Iterator<Item = T>, line: impl Fn(T) -> String) -> String {
    let text = items.map(line).collect::<Vec<_>>().join("\n");
    if text.is_empty() { "none".to_owned() } else { text }
}

fn parameters(n: u64) -> String {
    let short =
        if n >= 1_000_000_000 { format!("{:.2} B", n as f64 / 1e9) } else { format!("{:.2} M", n as f64 / 1e6) };
    format!("{} ({short})", HumanCount(n))
}

fn mlp(kind: MlpKind) -> &'static str {
    match kind {
        MlpKind::SwiGlu => "swiglu",
        MlpKind::Gelu => "gelu",
        MlpKind::Relu => "relu",
        MlpKind::Silu => "silu",
    }
}

fn norms(c: &Config) -> String {
    let kind = if c.norm == NormKind::Rms { "RMSNorm" } else { "LayerNorm" };
    let order = if c.norm_order == NormOrder::Post { "after" } else { "before" };
    let qk = if c.use_qk_norm { ", also on q and k" } else { "" };
    let bias = if c.use_bias { ", linear layers with biases" } else { "" };
    let clip = c.clip_qkv.map_or(String::new(), |clip| format!(", q, k, v within {clip}"));
    format!("{kind} {order} each half layer, epsilon {}{qk}{clip}{bias}", c.norm_eps)
}

fn positions(c: &Config) -> String {
    let rotary = if c.use_rope { format!("rotary, base {}", c.rope_base) } else { "none encoded".to_owned() };
    format!("{} of context in blocks of {}, {rotary}", HumanCount(c.context as u64), c.diff_block_size)
}

fn special(c: &Config) -> String {
    let s = &c.special;
    let mut text = format!("eos {}, pad {}, bos {}, endofchunk {}, mask {}", s.eos, s.pad, s.bos, s.endofchunk, s.mask);
    if let Some(chat) = s.chat {
        text.push_str(&format!(
            "\nstart_header {}, end_header {}, eot {}",
            chat.start_header, chat.end_header, chat.eot
        ));
    }
    text
}

fn known(concept: &ConceptConfig) -> String {
    let how = if concept.use_attention_known { "attention" } else { "predictor" };
    format!("{} by {how}, {}", HumanCount(concept.n_concepts as u64), kept(concept.topk_known))
}

fn unknown(head: &UnknownConfig) -> String {
    let how = if head.use_attention { "attention" } else { "predictor" };
    let form = head.factorize_rank.map_or("dense".to_owned(), |rank| format!("rank {rank}"));
    let kept = kept(head.topk.filter(|_| head.apply_topk));
    format!("{} by {how}, {form}, {kept}", HumanCount(head.n_concepts as u64))
}

fn kept(top: Option<usize>) -> String {
    top.map_or("all of them a position".to_owned(), |k| format!("the best {k} a position"))
}
