//! What work allocates at its peak, against what is said of it before it runs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use steerling::attribute::inputs::{GradientShare, InputAttribution, InputJob, InputMethod, PathRule};
use steerling::attribute::{ReplayJob, Trace, TraceCommit};
use steerling::backbone::Compute;
use steerling::checkpoint::{Synthetic, Weights};
use steerling::config::{Config, MlpKind, NormKind, NormOrder, Preset, UnknownConfig};
use steerling::embed::{EmbedJob, EmbeddingType, Pooling};
use steerling::score::{ScoreItem, ScoreJob, ScoreMethod, ScoreParams};
use steerling::scratch::{SLICE_BYTES, SlicedWork};
use steerling::steer::{ConceptKey, EpsilonMode, WeightEdit};
use steerling::{Error, Model, Result, Runtime, RuntimeOptions, Tokenizer};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Allocations of one test are not to be counted to another.
static ALONE: Mutex<()> = Mutex::new(());

/// What `work` gives, and the bytes that it held at its peak beyond those held before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let out = work();
    (out, ALLOCATOR.peak_usage().saturating_sub(before) as u64)
}

fn runtime(config: Config, gradient_bytes: u64) -> Runtime {
    let weights = Weights::Random(Synthetic::new(config.clone(), 7, DType::F32).unwrap());
    let tokenizer = Tokenizer::from_file(&common::golden("nano/tokenizer.json"), config.special).unwrap();
    let model = Model::from_weights("synthetic".into(), &weights, tokenizer, Compute::cpu_f32(), &mut |_, _| ());
    let options =
        RuntimeOptions { kv_bytes: 64 << 20, gradient_bytes: Some(gradient_bytes), ..RuntimeOptions::default() };
    Runtime::new(model.unwrap(), &options).unwrap()
}

fn finish<T>(runtime: &mut Runtime, mut advance: impl FnMut(&mut Runtime) -> Result<Option<T>>) -> T {
    loop {
        if let Some(done) = advance(runtime).unwrap() {
            return done;
        }
    }
}

/// The recorded model's configuration, wider and longer.
fn base() -> Config {
    let nano = Config::from_dir(common::golden("nano")).unwrap();
    Config { n_layers: 6, n_embd: 128, n_head: 4, n_kv_heads: 2, intermediate_size: 512, ..nano }
}

/// As many concepts as the released model has, on narrow hidden states.
fn many_concepts() -> Config {
    let concept = base().concept.map(|concept| steerling::config::ConceptConfig {
        n_concepts: 33_732,
        topk_known: Some(32),
        topk_known_features: Some(32),
        unknown: concept.unknown.clone().map(|head| UnknownConfig {
            n_concepts: 101_196,
            topk: Some(128),
            factorize_rank: Some(16),
            ..head
        }),
        ..concept
    });
    Config { n_layers: 1, n_embd: 64, n_head: 2, n_kv_heads: 1, intermediate_size: 128, concept, ..base() }
}

/// A prompt of `prompt` tokens, behind which all is committed in one step.
fn trace(prompt: usize, len: usize) -> Trace {
    let id = |i: usize| (i * 31 % 500) as u32;
    let commits = (prompt..len).map(|position| TraceCommit { step: 0, position, id: id(position) }).collect();
    Trace { prompt_ids: (0..prompt).map(id).collect(), seq_length: len, commits }
}

#[test]
fn slices_over_all_concepts_stay_within_their_bound() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let config = many_concepts();
    let within = |what: &str, work: SlicedWork, found: u64| {
        let estimate = work.estimate(&config).bytes();
        eprintln!("{what}: {} KiB of {} KiB", found >> 10, estimate >> 10);
        assert!(found <= estimate && estimate <= SLICE_BYTES, "{what}: {found} of {estimate}");
        // An estimate that could never be exceeded would say nothing.
        assert!(estimate <= 4 * found, "{what}: {found} of {estimate}");
    };
    let mut runtime = runtime(config.clone(), 1 << 30);
    let rows = 900; // 1.3 GB of scores of the unknown head alone.
    let hidden = Tensor::randn(0f32, 1.0, (rows, config.n_embd), &candle_core::Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..rows as u32).map(|i| i % 500).collect();
    let model = runtime.model();
    let (found, bytes) = peak(|| model.contributions(&hidden, &tokens, &[]).unwrap());
    assert_eq!((found.len(), found[0].known.len(), found[0].unknown.len()), (rows, 32, 128));
    drop(found);
    within("contributions", SlicedWork::ConceptAttribution { edits: 0 }, bytes);
    let edits = [WeightEdit { concept: ConceptKey::Known(5), weight: 0.5, epsilon: EpsilonMode::Drop }];
    let (_, bytes) = peak(|| model.composed(&hidden, &edits).unwrap());
    within("composed features", SlicedWork::ComposedFeatures { edits: 1 }, bytes);
    let text: Vec<u32> = (0..config.context as u32).map(|i| i % 500).collect();
    let (_, bytes) = peak(|| {
        let mut job = EmbedJob::new(vec![text.clone()], Pooling::Mean).unwrap();
        let states = finish(&mut runtime, |runtime| job.advance(runtime));
        states.embeddings(runtime.model(), EmbeddingType::Unknown).unwrap();
        states.concepts(runtime.model()).unwrap()
    });
    within("embeddings", SlicedWork::Embedding { tokens: text.len() }, bytes);
    let (found, bytes) = peak(|| {
        let mut job = ReplayJob::new(&trace(12, 500), None, runtime.model());
        finish(&mut runtime, |runtime| job.advance(runtime))
    });
    assert_eq!(found.len(), 488);
    drop(found);
    within("a replay", SlicedWork::ConceptAttribution { edits: 0 }, bytes);
}

#[test]
fn occlusion_and_likelihood_are_reduced_as_they_come() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Without the correction the concept heads are evaluated at every row.
    let mut config = many_concepts();
    config.concept.iter_mut().for_each(|concept| concept.use_epsilon_correction = false);
    let mut runtime = runtime(config.clone(), 1 << 30);
    let (found, bytes) = peak(|| {
        let trace = trace(40, 72);
        let mut job = InputJob::new(&trace, None, InputMethod::Occlusion, None, runtime.model()).unwrap();
        finish(&mut runtime, |runtime| job.advance(runtime))
    });
    // 42 sequences, and 32 targets in each of them.
    assert_eq!(found.len(), 32);
    let estimate = SlicedWork::Occlusion { edits: 0 }.estimate(&config).bytes();
    assert!(bytes <= estimate && estimate <= SLICE_BYTES, "{bytes} of {estimate}");
    let item = ScoreItem { context: vec![1, 2, 3], continuation: (0..400).map(|i| i % 500).collect() };
    let params = ScoreParams { method: ScoreMethod::MonteCarlo, samples: 4, batch: 4, ..ScoreParams::default() };
    let (_, bytes) = peak(|| {
        let mut job = ScoreJob::new(vec![item], &params, &config).unwrap();
        finish(&mut runtime, |runtime| job.advance(runtime))
    });
    let estimate = SlicedWork::Likelihood { guided: false }.estimate(&config).bytes();
    assert!(bytes <= estimate && estimate <= SLICE_BYTES, "{bytes} of {estimate}");
}

/// Without a top-k the embeddings of all concepts of a single row are more than a chunk holds.
#[test]
fn a_row_of_too_many_concepts_is_cut_as_well() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let concept = base().concept.map(|concept| steerling::config::ConceptConfig {
        n_concepts: 36_000,
        topk_known: None,
        topk_known_features: None,
        unknown: None,
        ..concept
    });
    let config = Config { n_layers: 1, n_embd: 1024, intermediate_size: 128, concept, ..base() };
    let runtime = runtime(config.clone(), 1 << 30);
    let hidden = Tensor::randn(0f32, 1.0, (2, config.n_embd), &candle_core::Device::Cpu).unwrap();
    let (found, bytes) = peak(|| runtime.model().contributions(&hidden, &[3, 4], &[]).unwrap());
    let estimate = SlicedWork::ConceptAttribution { edits: 0 }.estimate(&config).bytes();
    assert!(bytes <= estimate && estimate <= SLICE_BYTES, "{bytes} of {estimate}");
    let mut logits = Vec::new();
    runtime.model().logits(&runtime.model().composed(&hidden, &[]).unwrap(), &mut logits).unwrap();
    for (row, (found, token)) in found.iter().zip([3, 4]).enumerate() {
        assert_eq!(found.known.len(), 36_000);
        let parts: Vec<f64> = found.known.iter().map(|share| f64::from(share.contribution)).collect();
        let (sum, size) = (parts.iter().sum::<f64>(), parts.iter().map(|part| part.abs()).sum::<f64>());
        let logit = f64::from(logits[row * config.vocab_size + token]);
        let off = (sum + f64::from(found.remainder) - logit).abs();
        assert!(off <= 1e-5 * size, "off by {off} of {size}");
    }
}

proptest! {
    /// At the size of the released model, whatever is asked for.
    #[test]
    fn no_slice_of_the_released_model_exceeds_the_bound(
        tokens in 1usize..=4096,
        edits in 0usize..=64,
        guided in any::<bool>(),
        corrected in any::<bool>(),
        selects in any::<bool>(),
        preset in prop_oneof![4 => Just(Preset::EightB), 1 => Just(Preset::OneB), 1 => Just(Preset::Tiny)],
    ) {
        let mut config = Config::preset(preset);
        for concept in config.concept.iter_mut() {
            concept.use_epsilon_correction = corrected;
            concept.topk_known = concept.topk_known.filter(|_| selects);
        }
        let works = [
            SlicedWork::Embedding { tokens },
            SlicedWork::ComposedFeatures { edits },
            SlicedWork::ConceptAttribution { edits },
            SlicedWork::Occlusion { edits },
            SlicedWork::Fidelity,
            SlicedWork::Likelihood { guided },
        ];
        for work in works {
            let estimate = work.estimate(&config);
            prop_assert!(estimate.bytes() <= SLICE_BYTES, "{work:?}: {estimate:?}");
            prop_assert!(!estimate.0.is_empty() && estimate.0.iter().all(|term| !term.name.is_empty()));
        }
    }
}

const PATH: InputMethod = InputMethod::IntegratedGradients { n_steps: 3, rule: PathRule::Right };

fn explain(runtime: &mut Runtime, trace: &Trace) -> Vec<InputAttribution> {
    let mut job = InputJob::new(trace, None, PATH, None, runtime.model()).unwrap();
    finish(runtime, |runtime| job.advance(runtime))
}

#[test]
fn gradients_take_what_is_said_before_they_are_computed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    type Form = fn(&mut Config);
    let forms: [(&str, Form); 3] = [
        ("as released", |_| ()),
        ("norms first, biases, gelu", |config| {
            (config.norm_order, config.use_bias, config.mlp) = (NormOrder::Pre, true, MlpKind::Gelu);
        }),
        // By candle's operations, which a GPU takes as well.
        ("layer norms", |config| config.norm = NormKind::Layer),
    ];
    let mut wrong = Vec::new();
    for (what, form) in forms {
        let mut config = base();
        form(&mut config);
        for (prompt, len) in [(244, 256), (60, 64)] {
            let mut runtime = runtime(config.clone(), u64::MAX);
            let trace = trace(prompt, len);
            let (_, found) = peak(|| explain(&mut runtime, &trace));
            let share = GradientShare { points: (512 / len).min(3), targets: len - prompt };
            let estimate = runtime.gradients().estimate(&config, len, share).bytes();
            // Never more than said, and not less than half of it.
            let line = format!("{what}, {len} positions: {} KiB of {} KiB", found >> 10, estimate >> 10);
            eprintln!("{line}");
            wrong.extend((found > estimate || estimate > 2 * found).then_some(line));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_path_is_split_to_fit_its_budget_without_changing_a_bit() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (config, trace) = (base(), trace(116, 128));
    let whole = explain(&mut runtime(config.clone(), u64::MAX), &trace);
    let free = runtime(config.clone(), u64::MAX);
    for share in [(2, 12), (1, 12), (1, 5), (1, 1)] {
        let share = GradientShare { points: share.0, targets: share.1 };
        let budget = free.gradients().estimate(&config, 128, share).bytes();
        let mut runtime = runtime(config.clone(), budget);
        let (split, found) = peak(|| explain(&mut runtime, &trace));
        assert!(split == whole, "{share:?}");
        assert!(found <= budget, "{share:?}: {found} of {budget}");
    }
}

#[test]
fn gradients_that_cannot_fit_are_rejected_with_figures() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (config, trace) = (base(), trace(116, 128));
    let one = GradientShare { points: 1, targets: 1 };
    let needed_bytes = runtime(config.clone(), 0).gradients().estimate(&config, 128, one).bytes();
    let mut runtime = runtime(config.clone(), needed_bytes - 1);
    let mut job = InputJob::new(&trace, None, PATH, None, runtime.model()).unwrap();
    match job.advance(&mut runtime) {
        Err(Error::TooLarge { needed, available, message, .. }) => {
            assert_eq!((needed, available), (needed_bytes, needed_bytes - 1));
            assert!(message.contains("128 positions"), "{message}");
        }
        other => panic!("{:?}", other.map(|done| done.map(|done| done.len()))),
    }
    assert_eq!(job.rows, [0, 0], "nothing was computed");
    assert!(runtime.gradients().check(&config, 128).is_err() && runtime.gradients().check(&config, 64).is_ok());
    // At 8B a whole context keeps tens of gigabytes, a short one fits most machines.
    let released = Config::preset(Preset::EightB);
    let gib = |positions| runtime.gradients().estimate(&released, positions, one).bytes() >> 30;
    assert!((38..50).contains(&gib(4096)) && gib(512) < 8, "{} and {}", gib(4096), gib(512));
}
