//! The served path against the specification's: whole sequences, no cache, no shortcut.

use std::sync::Arc;

use candle_core::DType;
use proptest::prelude::*;
use steerling::config::{Config, MlpKind, NormKind, NormOrder};
use steerling::params::{Align, Decoding, GenerateParams};
use steerling::steer::{Injection, Schedule, Steering, SteeringSpec};
use steerling::{Canvas, CanvasSpec, Denoiser, Error, Runtime};

use crate::compute::{compute_in, is_strict, same_commits, same_commits_within, within};
use crate::goldens::{self, PlainStep};
use crate::half;
use crate::steering::any_steering;

/// A small model whose shape varies with the case.
pub(crate) fn config(block: usize, heads: (usize, usize), switches: u8) -> Config {
    let mut config = goldens::model("nano").info().config.clone();
    let on = |bit: u8| switches & (1 << bit) != 0;
    config.diff_block_size = block;
    config.context = 256;
    (config.n_head, config.n_kv_heads) = heads;
    config.norm_order = if on(0) { NormOrder::Pre } else { NormOrder::Post };
    config.norm = if on(1) { NormKind::Layer } else { NormKind::Rms };
    config.mlp = if on(2) { MlpKind::Silu } else { MlpKind::SwiGlu };
    config.use_qk_norm = !on(3);
    config.use_bias = on(4);
    if on(5) {
        config.clip_qkv = None;
    }
    config
}

/// Runs `canvas` both ways and compares every step.
pub(crate) fn compare(runtime: &mut Runtime, canvas: &Canvas) -> Result<Canvas, TestCaseError> {
    let mut plain = canvas.clone();
    let mut fast = canvas.clone();
    prop_assert!(runtime.admit(&mut fast).unwrap());
    while plain.finish_reason().is_none() {
        let PlainStep { choices, entropies } = goldens::plain_step(runtime.model(), &mut plain);
        let before = fast.commits().len();
        while fast.commits().len() == before {
            runtime.step(&mut [&mut fast]).unwrap();
        }
        for (ours, theirs) in fast.commits()[before..].iter().zip(&choices) {
            if (ours.position, ours.id) != (theirs.position, theirs.id) {
                // Two ways to add may decide a tie differently, and nothing else. Entropies are sums over all ids.
                let (apart, tie) = match plain.params().decoding {
                    Decoding::EntropyBound { .. } => (entropies[&ours.position] - entropies[&theirs.position], 4e-6),
                    _ => (f64::from(ours.confidence - theirs.confidence), 1e-6),
                };
                prop_assert!(apart.abs() < within(tie), "{:?} for {:?}, {} apart", ours, theirs, apart);
                runtime.release(fast.id());
                return Ok(fast);
            }
            prop_assert!((ours.target_logit - theirs.target_logit).abs() < within(1e-4), "{:?} for {:?}", ours, theirs);
        }
    }
    prop_assert_eq!(fast.ids(), plain.ids());
    prop_assert_eq!(fast.finish_reason(), plain.finish_reason());
    runtime.release(fast.id());
    Ok(fast)
}

prop_compose! {
    fn parameters()(
        max_new_tokens in 1usize..70,
        steps in 0.05f64..1.0,
        cfg in prop_oneof![3 => Just(0.0f32), 1 => 0.5f32..2.0],
        sampled in any::<bool>(),
        penalty in prop_oneof![Just(1.0f32), Just(1.3)],
        block_aligned in any::<bool>(),
        seed in 0u64..1 << 53,
    ) -> GenerateParams {
        GenerateParams {
            max_new_tokens,
            steps: Some(((max_new_tokens as f64 * steps).ceil() as usize).clamp(1, max_new_tokens)),
            temperature: 0.0,
            use_entropy_sampling: sampled,
            repetition_penalty: penalty,
            cfg_scale: cfg,
            align: if block_aligned { Align::Block } else { Align::Reference },
            seed,
            ..GenerateParams::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 40, ..ProptestConfig::default() })]

    /// Cached blocks, dropped blocks, masked rows only: same tokens, same logits.
    #[test]
    fn the_served_path_equals_the_plain_one(
        params in parameters(),
        // Mask ids inside a prompt stand for themselves; injections reach them.
        prompt in proptest::collection::vec(prop_oneof![30 => 0u32..507, 1 => Just(511u32)], 1..60),
        steering in prop_oneof![Just(SteeringSpec::default()), any_steering()],
        block in prop_oneof![Just(4usize), Just(12), Just(16), Just(32)],
        heads in prop_oneof![Just((4usize, 4usize)), Just((4, 2)), Just((4, 1))],
        switches in 0u8..64,
        weights in 0u64..1000,
    ) {
        let mut runtime = goldens::runtime(goldens::synthetic(config(block, heads, switches), weights), 2);
        let spec = CanvasSpec::of(&runtime.info().config);
        let steering = Arc::new(runtime.model().steering(&steering).unwrap());
        let canvas = || Canvas::new(&prompt, params.clone(), &spec).unwrap().steered(steering.clone());
        compare(&mut runtime, &canvas())?;
        // Again, with the prompt's blocks cached by the first run, up to the first that injections reach.
        let again = compare(&mut runtime, &canvas())?;
        let first_mask = prompt.iter().position(|id| *id == spec.special.mask);
        let shared = first_mask.filter(|_| !steering.injections.is_empty()).unwrap_or(prompt.len());
        prop_assert!(again.usage.cached_blocks >= shared / block);
    }
}

/// A prompt of many blocks is computed over several steps, before the first commit.
#[test]
fn a_long_prompt_is_computed_in_slices() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let prompt: Vec<u32> = (0..450).map(|i| (i * 7 + 3) % 500).collect();
    let params = GenerateParams { max_new_tokens: 20, cfg_scale: 0.7, ..GenerateParams::default() };
    let canvas = Canvas::new(&prompt, params, &CanvasSpec::of(&runtime.info().config)).unwrap();
    let done = compare(&mut runtime, &canvas).unwrap();
    assert_eq!(done.usage.prefill_rows, 2 * 448);
    // 16 blocks a step, 8 of each sequence; the last 4 share the first step that commits.
    assert_eq!(done.usage.forwards, 20 + 3);
}

/// A long prompt that arrives beside a running sequence takes no more rows of a step than that computes itself.
#[test]
fn a_long_prompt_leaves_running_sequences_their_pace() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 4);
    let spec = CanvasSpec::of(&runtime.info().config);
    let canvas = |prompt: usize| {
        let ids: Vec<u32> = (0..prompt as u32).map(|i| (i * 7 + 3) % 500).collect();
        let params = GenerateParams { max_new_tokens: 40, ..GenerateParams::default() };
        Canvas::new(&ids, params, &spec).unwrap()
    };
    let (mut running, mut long) = (canvas(5), canvas(16 * 14));
    assert!(runtime.admit(&mut running).unwrap() && runtime.admit(&mut long).unwrap());
    runtime.step(&mut [&mut running]).unwrap();
    let mut steps = 0;
    while long.commits().is_empty() {
        let (before, commits) = (long.usage.rows, running.commits().len());
        runtime.step(&mut [&mut running, &mut long]).unwrap();
        assert_eq!(running.commits().len(), commits + 1, "it commits in every step");
        // Two blocks of the prompt, and with the last of them the block being unmasked.
        assert!(long.usage.rows - before <= 16 * 3, "{}", long.usage.rows - before);
        steps += 1;
    }
    assert_eq!(steps, 7);
}

/// Logits that are no numbers name their canvas, and neither commit anything nor harm the others.
#[test]
fn unusable_logits_stop_their_own_canvas_only() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 4);
    let spec = CanvasSpec::of(&runtime.info().config);
    let params = GenerateParams { max_new_tokens: 20, ..GenerateParams::default() };
    let healthy = Canvas::new(&[1, 2, 3], params.clone(), &spec).unwrap();
    let mut alone = healthy.clone();
    goldens::run(&mut goldens::runtime(goldens::model("nano"), 1), &mut alone);
    let direction = vec![1.0; runtime.info().config.n_embd];
    let injection =
        Injection { direction, alpha: f32::INFINITY, peak: 1.0, inject_layer: 1, schedule: Schedule::Fixed };
    let steering = Arc::new(Steering { injections: vec![injection], ..Steering::default() });
    let mut broken = Canvas::new(&[4, 5], params, &spec).unwrap().steered(steering);
    let mut healthy = healthy;
    assert!(runtime.admit(&mut broken).unwrap() && runtime.admit(&mut healthy).unwrap());
    let error = runtime.step(&mut [&mut broken, &mut healthy]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { canvas, position: 2 } if canvas == broken.id()), "{error}");
    assert!(broken.commits().is_empty() && healthy.commits().is_empty());
    runtime.release(broken.id());
    while healthy.finish_reason().is_none() {
        runtime.step(&mut [&mut healthy]).unwrap();
    }
    runtime.release(healthy.id());
    same_commits("healthy", healthy.commits(), alone.commits());
    assert_eq!(runtime.page_use().active, 0);
}

/// Beyond the prompt, a step computes the attention blocks it can change, and each finished block once more.
#[test]
fn rows_stay_within_two_blocks_a_step() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let s = runtime.info().config.diff_block_size;
    for case in goldens::json("nano/generation.json")["cases"].as_array().unwrap() {
        let prompt = goldens::ids(&case["prompt_ids"]);
        let params = goldens::params(&case["config"]);
        let sequences = if params.cfg_scale > 0.0 { 2 } else { 1 };
        let spec = goldens::spec(runtime.model(), case["eot_id"].as_u64().map(|id| id as u32));
        let mut canvas = Canvas::new(&prompt, params, &spec).unwrap();
        goldens::run(&mut runtime, &mut canvas);
        let blocks_of_step = if prompt.len().is_multiple_of(s) { 1 } else { 2 };
        let bound = blocks_of_step * s * canvas.usage.forwards + s * canvas.blocks().len();
        let rows = canvas.usage.rows - canvas.usage.prefill_rows;
        assert!(rows <= sequences * bound, "{}: {rows} rows, bound {}", case["name"], sequences * bound);
    }
}

/// The same seed gives the same tokens, bit for bit, whoever shares the batch.
/// In bfloat16, too, and with weights that are stored in it: what the kernels of both forms promise row by row.
#[test]
fn neighbours_do_not_change_a_generation_in_bfloat16() {
    for (stored, dtype) in [(DType::F32, DType::BF16), (DType::BF16, DType::F32)] {
        let config = goldens::model("nano").info().config.clone();
        let model = || goldens::synthetic_in(config.clone(), 3, stored, compute_in(dtype));
        let mut runtime = goldens::runtime(model(), 4);
        if is_strict() {
            assert_eq!(runtime.info().weights, "bf16");
        }
        let spec = CanvasSpec::of(&config);
        let canvas = |seed: u64| {
            let params = GenerateParams { max_new_tokens: 20 + 9 * seed as usize, seed, ..GenerateParams::default() };
            Canvas::new(&vec![7 + seed as u32; 5 + 11 * seed as usize], params, &spec).unwrap()
        };
        let mut together: Vec<Canvas> = (0..3).map(canvas).collect();
        for canvas in &mut together {
            assert!(runtime.admit(canvas).unwrap());
        }
        while together.iter().any(|canvas| canvas.finish_reason().is_none()) {
            let mut batch: Vec<_> = together.iter_mut().filter(|canvas| canvas.finish_reason().is_none()).collect();
            runtime.step(&mut batch).unwrap();
        }
        for (seed, together) in (0..).zip(&together) {
            let mut alone = canvas(seed);
            goldens::run(&mut goldens::runtime(model(), 1), &mut alone);
            let what = format!("canvas {seed}, stored in {stored:?}");
            same_commits_within(&what, alone.commits(), together.commits(), half::tolerance(DType::BF16).confidences);
        }
    }
}

#[test]
fn neighbours_do_not_change_a_generation() {
    let prompt: Vec<u32> = (0..21).map(|i| (i * 13 + 5) % 500).collect();
    let canvas = |seed: u64, spec: &CanvasSpec| {
        let params = GenerateParams { max_new_tokens: 40, steps: Some(17), seed, ..GenerateParams::default() };
        Canvas::new(&prompt[..prompt.len() - seed as usize % 7], params, spec).unwrap()
    };
    let mut alone = Vec::new();
    for neighbours in [1u64, 2, 8] {
        let mut runtime = goldens::runtime(goldens::model("nano"), 4);
        let spec = CanvasSpec::of(&runtime.info().config);
        let mut canvases: Vec<Canvas> = (0..neighbours).map(|seed| canvas(seed, &spec)).collect();
        // They join one by one, so that each is at its own block and step.
        let mut active = 1;
        for canvas in &mut canvases {
            assert!(runtime.admit(canvas).unwrap());
        }
        while canvases.iter().any(|c| c.finish_reason().is_none()) {
            let mut batch: Vec<&mut Canvas> =
                canvases.iter_mut().take(active).filter(|c| c.finish_reason().is_none()).collect();
            runtime.step(&mut batch).unwrap();
            active = (active + 1).min(neighbours as usize);
        }
        alone.push(canvases.swap_remove(0).commits().to_vec());
    }
    same_commits("with one neighbour", &alone[0], &alone[1]);
    same_commits("with seven neighbours", &alone[0], &alone[2]);
}

/// Sequences that start together compute the blocks that their prompts have in common once.
#[test]
fn a_prompt_in_common_is_computed_once() {
    let prompt: Vec<u32> = (0..16 * 5 + 3).map(|i| (i * 19 + 7) % 500).collect();
    let mut runtime = goldens::runtime(goldens::model("nano"), 8);
    let spec = CanvasSpec::of(&runtime.info().config);
    let mut canvases: Vec<Canvas> = (0..8)
        .map(|seed| {
            let params = GenerateParams { max_new_tokens: 20, seed, ..GenerateParams::default() };
            Canvas::new(&prompt, params, &spec).unwrap()
        })
        .collect();
    let mut alone = canvases[3].clone();
    goldens::run(&mut goldens::runtime(goldens::model("nano"), 1), &mut alone);
    for canvas in &mut canvases {
        assert!(runtime.admit(canvas).unwrap());
    }
    while canvases.iter().any(|c| c.finish_reason().is_none()) {
        let mut batch: Vec<&mut Canvas> = canvases.iter_mut().filter(|c| c.finish_reason().is_none()).collect();
        runtime.step(&mut batch).unwrap();
    }
    let prefill: usize = canvases.iter().map(|c| c.usage.prefill_rows).sum();
    assert_eq!(prefill, 16 * 5);
    assert!(canvases[1..].iter().all(|c| c.usage.cached_blocks == 5 && c.usage.forwards == 20));
    same_commits("the fourth", canvases[3].commits(), alone.commits());
}
