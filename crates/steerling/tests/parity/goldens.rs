//! Recorded inputs and outputs, and models to hold against them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;
use steerling::backbone::{BlockRows, Compute, KvPool, PagedBatch, RowInjection};
use steerling::canvas::Choice;
use steerling::checkpoint::{Synthetic, Weights};
use steerling::config::{Config, SpecialIds};
use steerling::params::{Decoding, GenerateParams};
use steerling::steer::{ConceptKey, InjectionSpec, Schedule, Steering, SteeringSpec};
use steerling::{Canvas, CanvasSpec, Denoiser, Model, Runtime, RuntimeOptions, Tokenizer};

use crate::compute::{compute, on_host, within};

/// A file under `tests/goldens`, or under `STEERLING_TEST_GOLDENS` on a machine without the sources.
pub(crate) fn path(name: &str) -> PathBuf {
    match std::env::var_os("STEERLING_TEST_GOLDENS") {
        Some(dir) => Path::new(&dir).join(name),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name),
    }
}

/// A recorded JSON file.
pub(crate) fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap()
}

/// Recorded tensors by name.
pub(crate) struct Tensors(HashMap<String, Tensor>);

impl Tensors {
    pub(crate) fn open(name: &str) -> Self {
        let bytes = std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView)| {
            let tensor = match view.dtype() {
                // Not a type of candle's.
                safetensors::Dtype::BOOL => Tensor::from_slice(view.data(), view.shape(), &Device::Cpu),
                _ => view.load(&Device::Cpu),
            };
            (name, tensor.unwrap())
        };
        Self(file.tensors().into_iter().map(tensor).collect())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Recorded ids `[.., k]`, one vector of `k` a row.
    pub(crate) fn ids_of_rows(&self, name: &str) -> Vec<Vec<u32>> {
        let ids = self.get(name).to_dtype(DType::U32).unwrap();
        ids.flatten_to(ids.rank() - 2).unwrap().to_vec2().unwrap()
    }

    /// The recorded input ids, one vector a sequence.
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        self.get(name).to_dtype(DType::U32).unwrap().to_vec2().unwrap()
    }
}

/// The model of a directory of goldens, where these tests compute.
pub(crate) fn model(dir: &str) -> Model {
    model_in(dir, compute())
}

pub(crate) fn model_in(dir: &str, compute: Compute) -> Model {
    let weights = Weights::open(path(dir)).unwrap();
    build(dir, &weights, compute)
}

/// A model with random weights.
pub(crate) fn synthetic(config: Config, seed: u64) -> Model {
    synthetic_in(config, seed, DType::F32, compute())
}

/// The same, stored in a type and computed in another.
pub(crate) fn synthetic_in(config: Config, seed: u64, stored: DType, compute: Compute) -> Model {
    build("synthetic", &Weights::Random(Synthetic::new(config, seed, stored).unwrap()), compute)
}

fn build(name: &str, weights: &Weights, compute: Compute) -> Model {
    let tokenizer = Tokenizer::from_file(&path("nano/tokenizer.json"), weights.config().special).unwrap();
    Model::from_weights(name.into(), weights, tokenizer, compute, &mut |_, _| ()).unwrap()
}

/// A runtime with pages for `contexts` whole contexts.
pub(crate) fn runtime(model: Model, contexts: u64) -> Runtime {
    let config = &model.info().config;
    let page = steerling::backbone::KvPool::page_bytes(config, model.backbone().compute());
    let kv_bytes = contexts * config.context.div_ceil(config.diff_block_size) as u64 * page;
    Runtime::new(model, &RuntimeOptions { kv_bytes, ..RuntimeOptions::default() }).unwrap()
}

/// The parameters of a recorded case.
pub(crate) fn params(config: &Value) -> GenerateParams {
    let number = |key: &str| config[key].as_f64().unwrap() as f32;
    let max_new_tokens = config["max_new_tokens"].as_u64().unwrap() as usize;
    GenerateParams {
        max_new_tokens,
        // More steps than tokens commit nothing in those beyond.
        steps: config["steps"].as_u64().map(|steps| (steps as usize).min(max_new_tokens)),
        temperature: number("temperature"),
        top_p: number("top_p"),
        repetition_penalty: number("repetition_penalty"),
        cfg_scale: number("cfg_scale"),
        use_entropy_sampling: config["use_entropy_sampling"].as_bool().unwrap(),
        seed: config["seed"].as_u64().unwrap_or(0),
        stop_tokens: ids(&config["stop_tokens"]),
        decoding: Decoding::Confidence,
        ..GenerateParams::default()
    }
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().map(|ids| ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()).unwrap_or_default()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// What a canvas must know of a model whose `eot_id` may be the recorded case's.
pub(crate) fn spec(model: &Model, eot: Option<u32>) -> CanvasSpec {
    let spec = CanvasSpec::of(&model.info().config);
    let chat = eot.map(|eot| steerling::config::ChatIds { start_header: eot, end_header: eot, eot });
    CanvasSpec { special: SpecialIds { chat, ..spec.special }, ..spec }
}

/// What a recorded steering asks for; nothing for an unsteered case.
pub(crate) fn steering_spec(steering: &Value) -> SteeringSpec {
    let mut spec = SteeringSpec::default();
    let concepts: Vec<ConceptKey> = ids(&steering["concept_ids"]).into_iter().map(ConceptKey::Known).collect();
    if !concepts.is_empty() {
        spec.injections.push(InjectionSpec {
            concepts,
            target: steering["mai_lm_target"].as_f64().unwrap() as f32,
            normalize: steering["normalize_mai_lm_target"].as_bool().unwrap(),
            inject_layer: steering["inject_layer"].as_u64().map(|layer| layer as usize),
            schedule: match steering["inject_alpha_schedule"].as_str().unwrap() {
                "fixed" => Schedule::Fixed,
                "hard_cutoff" => Schedule::HardCutoff { tokens: steering["cutoff_tokens"].as_u64().unwrap() as usize },
                other => panic!("schedule {other}"),
            },
        });
    }
    if let Some(suppressed) = steering["relu_logit_mask"].as_object() {
        let entry = |(id, strength): (&String, &Value)| {
            (ConceptKey::Known(id.parse().unwrap()), strength.as_f64().unwrap() as f32)
        };
        spec.suppress_logits.extend(suppressed.iter().map(entry));
    }
    spec
}

/// Runs a canvas to its end.
pub(crate) fn run(runtime: &mut Runtime, canvas: &mut Canvas) {
    run_observed(runtime, canvas, &mut |_| ());
}

/// Runs a canvas to its end and shows it before every step.
pub(crate) fn run_observed(runtime: &mut Runtime, canvas: &mut Canvas, observe: &mut dyn FnMut(&Canvas)) {
    assert!(runtime.admit(canvas).unwrap());
    while canvas.finish_reason().is_none() {
        observe(canvas);
        runtime.step(&mut [canvas]).unwrap();
    }
    runtime.release(canvas.id());
}

/// What `steering` adds to a sequence: its directions with these factors at every masked position.
pub(crate) fn injections(steering: &Steering, alphas: &[f32], ids: &[u32], mask: u32) -> Vec<RowInjection> {
    let rows: Vec<u32> = (0..ids.len() as u32).filter(|row| ids[*row as usize] == mask).collect();
    let injection = |(injection, alpha): (&steerling::steer::Injection, &f32)| RowInjection {
        inject_layer: injection.inject_layer,
        vector: injection.direction.iter().map(|d| alpha * d).collect(),
        rows: rows.clone(),
    };
    steering.injections.iter().zip(alphas).map(injection).collect()
}

/// The hidden states of a whole sequence by the plain pass, `[T, D]`.
pub(crate) fn plain_hidden(model: &Model, ids: &[u32], injections: &[RowInjection]) -> Tensor {
    let embeddings = model.backbone().embed(ids).unwrap().unsqueeze(0).unwrap();
    model.backbone().forward_plain(&embeddings, injections, &mut |_, _| ()).unwrap().squeeze(0).unwrap()
}

/// The hidden states of a whole sequence by the paged pass, all blocks in one forward, `[T, D]`.
pub(crate) fn paged_hidden(model: &Model, ids: &[u32], injections: &[RowInjection]) -> Tensor {
    let (config, t) = (&model.info().config, ids.len());
    let s = config.diff_block_size;
    let block = |b: usize| BlockRows {
        row: b * s,
        rows: s.min(t - b * s),
        pages: (0..=b as u32).collect(),
        keys: ((b + 1) * s).min(t),
    };
    let batch = PagedBatch {
        ids: ids.to_vec(),
        positions: (0..t as u32).collect(),
        blocks: (0..t.div_ceil(s)).map(block).collect(),
        selected: (0..t as u32).collect(),
        injections: injections.to_vec(),
    };
    let mut pool = KvPool::new(config, model.backbone().compute(), t.div_ceil(s)).unwrap();
    model.backbone().forward_paged(&batch, &mut pool).unwrap()
}

/// The logits of hidden states, concept heads and all, `[N, V]`.
pub(crate) fn logits(model: &Model, composed: &Tensor) -> Tensor {
    model.backbone().lm_head().forward(composed).unwrap()
}

/// The logits of a whole sequence of `canvas` as the specification has it, `[T][V]`.
fn plain_logits(model: &Model, canvas: &Canvas, ids: &[u32]) -> Vec<Vec<f32>> {
    let injections = match canvas.steering() {
        Some(steering) => injections(steering, &canvas.alphas(), ids, canvas.special().mask),
        None => Vec::new(),
    };
    let hidden = plain_hidden(model, ids, &injections);
    let composed = match (model.heads(), canvas.set_weights()) {
        (Some(heads), []) => heads.decompose(&hidden).unwrap().composed,
        (Some(heads), edits) => heads.edited(&hidden, edits).unwrap(),
        (None, _) => hidden,
    };
    floats_of_rows(&logits(model, &composed))
}

/// One step as the specification has it: whole sequences, no cache, no shortcut.
pub(crate) fn plain_step(model: &Model, canvas: &mut Canvas) -> PlainStep {
    let masked = canvas.masked();
    let rows = |ids: &[u32]| -> Vec<f32> {
        let logits = plain_logits(model, canvas, ids);
        masked.iter().flat_map(|position| logits[*position].iter().copied()).collect()
    };
    let mut logits = rows(canvas.ids());
    let unconditional = (canvas.params().cfg_scale > 0.0).then(|| rows(&canvas.unconditional_ids()));
    let choices = steerling::decode::choose(canvas, &masked, &mut logits, unconditional.as_deref()).unwrap();
    canvas.commit(&choices);
    let vocab = logits.len() / masked.len();
    let entropies = masked.iter().zip(logits.chunks(vocab)).map(|(position, row)| (*position, entropy(row))).collect();
    PlainStep { choices, entropies }
}

/// What [`plain_step`] committed, and what it was decided by.
pub(crate) struct PlainStep {
    pub(crate) choices: Vec<Choice>,
    /// In nats, of every position that awaited a token.
    pub(crate) entropies: HashMap<usize, f64>,
}

fn entropy(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().filter(|weight| **weight > 0.0).map(|weight| -weight / sum * (weight / sum).ln()).sum()
}

/// The numbers of `[N, M]` in float32, row by row.
pub(crate) fn floats_of_rows(x: &Tensor) -> Vec<Vec<f32>> {
    x.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

/// Fails if two tensors of as many numbers differ by more than `tolerance`.
pub(crate) fn close(what: &str, ours: &Tensor, recorded: &Tensor, tolerance: f64) {
    let tolerance = within(tolerance);
    let recorded = recorded.reshape(ours.dims()).unwrap();
    let found = distance(ours, &recorded);
    assert!(found <= tolerance, "{what}: off by {found:e}, tolerance {tolerance:e}");
}

/// Largest absolute difference.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let f64s = |t: &Tensor| on_host(t).to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(a.dims(), b.dims());
    f64s(a).iter().zip(f64s(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
