//! Which positions a step commits, and guessed steps: nothing is lost, nothing changes that should not.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use steerling::params::{Align, Decoding, GenerateParams};
use steerling::steer::SteeringSpec;
use steerling::{Canvas, CanvasSpec, Denoiser, Runtime};

use crate::compute::{is_strict, same_commits};
use crate::generation::canvas as recorded_canvas;
use crate::goldens;
use crate::shortcuts::{compare, config};
use crate::steering::any_steering;

/// The same canvas under another method.
fn under(canvas: &Canvas, decoding: Decoding) -> Canvas {
    let params = GenerateParams { decoding, ..canvas.params().clone() };
    let special = *canvas.special();
    let (context, vocab_size) = (canvas.ids().len(), special.mask as usize + 1);
    let spec = CanvasSpec { context, block_size: canvas.block_size(), vocab_size: vocab_size.max(512), special };
    let other = Canvas::new(&canvas.ids()[..canvas.prompt_len()], params, &spec).unwrap();
    let other = match canvas.steering() {
        Some(steering) => other.steered(steering.clone()),
        None => other,
    };
    if canvas.wants_attribution() { other.attributed().unwrap() } else { other }
}

fn finished(runtime: &mut Runtime, mut canvas: Canvas) -> Canvas {
    goldens::run(runtime, &mut canvas);
    assert_eq!(runtime.page_use().active, 0, "every page came back");
    canvas
}

/// Runs a canvas in the confidence order and again with so many drafts: everything but the cost is to be equal.
fn compare_lossless(runtime: &mut Runtime, canvas: &Canvas, drafts: Option<usize>) -> Result<Canvas, TestCaseError> {
    let plain = finished(runtime, under(canvas, Decoding::Confidence));
    let lossless = finished(runtime, under(canvas, Decoding::Lossless { drafts }));
    if !same_commits("lossless", lossless.commits(), plain.commits()) {
        return Ok(lossless);
    }
    if is_strict() {
        prop_assert_eq!(lossless.attributions(), plain.attributions());
    }
    prop_assert_eq!(lossless.ids(), plain.ids());
    prop_assert_eq!(lossless.finish_reason(), plain.finish_reason());
    let (with, without) = (lossless.usage, plain.usage);
    // The second run may find blocks of its prompt cached.
    prop_assert!(with.forwards + with.accepted <= without.forwards);
    prop_assert!(with.accepted <= with.drafts);
    Ok(lossless)
}

#[test]
fn lossless_runs_are_the_recorded_ones() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let mut spared = 0;
    // Sampled runs have draws of their own: there the order is compared, not the recorded tokens.
    for (file, is_greedy) in [("nano/generation.json", true), ("nano/sampled_generation.json", false)] {
        for case in goldens::json(file)["cases"].as_array().unwrap() {
            let canvas = recorded_canvas(runtime.model(), case);
            let canvas = compare_lossless(&mut runtime, &canvas, Some(2)).unwrap();
            if is_greedy && case["strict_tokens"] == Value::Bool(true) {
                assert_eq!(canvas.ids(), goldens::ids(&case["tokens"]), "{}", case["name"]);
            }
            spared += canvas.usage.accepted;
        }
    }
    assert!(spared > 0, "{spared}");
}

prop_compose! {
    /// Parameters without a method.
    fn parameters()(
        max_new_tokens in 1usize..70,
        steps in prop::option::weighted(0.3, 0.2f64..1.0),
        cfg_scale in prop_oneof![3 => Just(0.0f32), 1 => 0.5f32..2.0],
        sampling in 0u8..3,
        repetition_penalty in prop_oneof![Just(1.0f32), Just(1.3)],
        block_aligned in any::<bool>(),
        seed in 0u64..1 << 53,
    ) -> GenerateParams {
        GenerateParams {
            max_new_tokens,
            steps: steps.map(|steps| ((max_new_tokens as f64 * steps).ceil() as usize).clamp(1, max_new_tokens)),
            temperature: if sampling == 0 { 0.0 } else { 0.9 },
            use_entropy_sampling: sampling == 2,
            repetition_penalty,
            cfg_scale,
            align: if block_aligned { Align::Block } else { Align::Reference },
            seed,
            ..GenerateParams::default()
        }
    }
}

fn any_method() -> impl Strategy<Value = Decoding> {
    prop_oneof![
        (0.0f32..=1.0, prop::option::of(1usize..6))
            .prop_map(|(threshold, max_per_step)| Decoding::Threshold { threshold, max_per_step }),
        (0.0f32..4.0).prop_map(|factor| Decoding::Factor { factor }),
        (0.0f32..20.0).prop_map(|gamma| Decoding::EntropyBound { gamma }),
    ]
}

fn any_prompt() -> impl Strategy<Value = Vec<u32>> {
    // Mask ids inside a prompt stand for themselves; injections reach them.
    prop::collection::vec(prop_oneof![30 => 0u32..507, 1 => Just(511u32)], 1..60)
}

prop_compose! {
    /// A runtime of random shape and weights, and a canvas of it.
    fn any_case()(
        params in parameters(),
        prompt in any_prompt(),
        steering in prop_oneof![Just(SteeringSpec::default()), any_steering()],
        block in prop_oneof![Just(4usize), Just(12), Just(16), Just(32)],
        heads in prop_oneof![Just((4usize, 4usize)), Just((4, 2)), Just((4, 1))],
        switches in 0u8..64,
        weights in 0u64..1000,
    ) -> Case {
        Case { params, prompt, steering, block, heads, switches, weights }
    }
}

#[derive(Debug, Clone)]
struct Case {
    params: GenerateParams,
    prompt: Vec<u32>,
    steering: SteeringSpec,
    block: usize,
    heads: (usize, usize),
    switches: u8,
    weights: u64,
}

impl Case {
    fn set_up(&self) -> (Runtime, Canvas) {
        let model = goldens::synthetic(config(self.block, self.heads, self.switches), self.weights);
        let runtime = goldens::runtime(model, 2);
        let spec = CanvasSpec::of(&runtime.info().config);
        let steering = Arc::new(runtime.model().steering(&self.steering).unwrap());
        let canvas = Canvas::new(&self.prompt, self.params.clone(), &spec).unwrap().steered(steering);
        (runtime, canvas)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn lossless_is_the_confidence_order_token_for_token(
        case in any_case(), drafts in prop::option::weighted(0.9, 1usize..=8), attributed in any::<bool>(),
    ) {
        let (mut runtime, mut canvas) = case.set_up();
        if attributed && case.params.cfg_scale == 0.0 {
            canvas = canvas.attributed().unwrap();
        }
        compare_lossless(&mut runtime, &canvas, drafts)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_method_fills_every_position_once_with_tokens_and_moves_in_every_step(
        case in any_case(), method in any_method(),
    ) {
        let params = GenerateParams { steps: None, decoding: method, ..case.params };
        // Injections that reach masks of a prompt have its blocks computed again; of smaller ones there may be too many
        // for a step.
        let case = Case { params, block: case.block.max(12), ..case };
        let (mut runtime, mut canvas) = case.set_up();
        prop_assert!(runtime.admit(&mut canvas).unwrap());
        while canvas.finish_reason().is_none() {
            let (before, block, ready) = (canvas.commits().len(), canvas.block(), !canvas.commits().is_empty());
            runtime.step(&mut [&mut canvas]).unwrap();
            let new = &canvas.commits()[before..];
            prop_assert!(!ready || !new.is_empty(), "a step without a commit");
            prop_assert!(new.iter().all(|commit| (block.start..block.end).contains(&commit.position)));
            let full = (block.start..block.end).all(|position| !canvas.is_masked(position));
            prop_assert_eq!(full, canvas.finish_reason().is_some() || canvas.block() != block, "blocks end when full");
        }
        let mut positions: Vec<usize> = canvas.commits().iter().map(|commit| commit.position).collect();
        positions.sort_unstable();
        let all: Vec<usize> = (case.prompt.len()..case.prompt.len() + case.params.max_new_tokens).collect();
        prop_assert_eq!(positions, all);
        let special = canvas.special();
        let banned = [special.mask, special.eos, special.pad];
        prop_assert!(canvas.commits().iter().all(|commit| !banned.contains(&commit.id)));
        prop_assert!(canvas.usage.tokens_per_forward(canvas.commits().len()) > 0.0);
        runtime.release(canvas.id());
    }

    #[test]
    fn methods_at_their_limit_are_the_confidence_order(case in any_case()) {
        let case = Case { params: GenerateParams { steps: None, ..case.params }, ..case };
        let (mut runtime, canvas) = case.set_up();
        let plain = finished(&mut runtime, canvas.clone());
        for method in [
            Decoding::Threshold { threshold: 1.0, max_per_step: None },
            Decoding::Threshold { threshold: 0.0, max_per_step: Some(1) },
            Decoding::Factor { factor: 0.0 },
            Decoding::EntropyBound { gamma: 0.0 },
        ] {
            let other = finished(&mut runtime, under(&canvas, method));
            same_commits(&method.to_string(), other.commits(), plain.commits());
        }
    }

    #[test]
    fn the_served_path_equals_the_plain_one_under_every_method(case in any_case(), method in any_method()) {
        let case = Case { params: GenerateParams { steps: None, decoding: method, ..case.params }, ..case };
        let (mut runtime, canvas) = case.set_up();
        compare(&mut runtime, &canvas)?;
    }
}

/// Methods mix freely in a batch, and nobody's tokens depend on the company.
#[test]
fn every_method_gives_the_same_alone_and_in_a_mixed_batch() {
    let methods = [
        Decoding::Confidence,
        Decoding::Threshold { threshold: 0.02, max_per_step: Some(3) },
        Decoding::Factor { factor: 1.9 },
        Decoding::EntropyBound { gamma: 9.0 },
        Decoding::Lossless { drafts: Some(2) },
        Decoding::Lossless { drafts: None },
    ];
    let mut runtime = goldens::runtime(goldens::model("nano"), 8);
    let spec = CanvasSpec::of(&runtime.info().config);
    let canvas = |n: usize, decoding: Decoding| {
        let prompt: Vec<u32> = (0..9 + 5 * n as u32).map(|i| (i * 13 + 5) % 500).collect();
        let cfg_scale = if n.is_multiple_of(2) { 0.0 } else { 0.8 };
        let params =
            GenerateParams { max_new_tokens: 40, seed: n as u64, decoding, cfg_scale, ..GenerateParams::default() };
        Canvas::new(&prompt, params, &spec).unwrap()
    };
    let mut together: Vec<Canvas> = methods.iter().enumerate().map(|(n, method)| canvas(n, *method)).collect();
    let alone: Vec<Canvas> = together.iter().map(|canvas| finished(&mut runtime, canvas.clone())).collect();
    for canvas in &mut together {
        assert!(runtime.admit(canvas).unwrap());
    }
    while together.iter().any(|c| c.finish_reason().is_none()) {
        let mut batch: Vec<&mut Canvas> = together.iter_mut().filter(|c| c.finish_reason().is_none()).collect();
        runtime.step(&mut batch).unwrap();
    }
    for ((together, alone), method) in together.iter().zip(&alone).zip(methods) {
        same_commits(&method.to_string(), together.commits(), alone.commits());
        assert!(method.has_steps() || together.usage.forwards < 40, "{method} commits more than one a step");
    }
}

/// Drafts take what rows and pages are left, and never those of others.
#[test]
fn drafts_stay_within_the_rows_and_pages_that_are_left() {
    let config = goldens::model("nano").info().config.clone();
    let (context, s) = (config.context, config.diff_block_size);
    let decoding = Decoding::Lossless { drafts: Some(3) };
    let run = |rows: Option<usize>, max_new_tokens: usize| {
        // Pages for a single context.
        let mut runtime = goldens::runtime(goldens::model("nano"), 1);
        rows.into_iter().for_each(|rows| runtime.limit_rows(rows));
        let params = GenerateParams { max_new_tokens, decoding, ..GenerateParams::default() };
        let prompt: Vec<u32> = (0..s as u32).collect();
        let canvas = Canvas::new(&prompt, params, &CanvasSpec::of(&runtime.info().config)).unwrap();
        finished(&mut runtime, canvas)
    };
    let free = run(None, 3 * s);
    assert!(free.usage.drafts > 2 * s && free.usage.accepted > 0, "{:?}", free.usage);
    // A block is computed in every step, and once more beside the first step of the next one.
    for rows in [s, 2 * s - 1] {
        assert_eq!(run(Some(rows), 3 * s).usage.drafts, 0);
    }
    let one = run(Some(2 * s), 3 * s);
    assert!(one.usage.drafts > 0 && one.usage.drafts < one.usage.forwards, "{:?}", one.usage);
    same_commits("one draft", one.commits(), free.commits());
    // A canvas that holds every page leaves none.
    assert_eq!(run(None, context - s).usage.drafts, 0);
}
