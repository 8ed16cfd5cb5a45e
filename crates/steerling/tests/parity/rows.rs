//! The rows of steps stay within their limit, whatever runs, and no text depends on it.

use std::sync::Arc;

use proptest::prelude::*;
use steerling::params::{Align, Decoding, GenerateParams};
use steerling::steer::{ConceptKey, InjectionSpec, Schedule, SteeringSpec};
use steerling::{Canvas, CanvasSpec, Denoiser, Error, Model, Runtime, rows_needed};

use crate::compute::{is_strict, same_commits};
use crate::goldens;
use crate::steering::any_steering;

/// A generation to be made beside others.
#[derive(Debug, Clone)]
struct Case {
    prompt: Vec<u32>,
    params: GenerateParams,
    steering: SteeringSpec,
    attributed: bool,
}

impl Case {
    fn canvas(&self, model: &Model) -> Canvas {
        let steering = Arc::new(model.steering(&self.steering).unwrap());
        let canvas = Canvas::new(&self.prompt, self.params.clone(), &CanvasSpec::of(&model.info().config)).unwrap();
        let canvas = canvas.steered(steering);
        if self.attributed && self.params.cfg_scale == 0.0 { canvas.attributed().unwrap() } else { canvas }
    }
}

/// A direction whose strength changes with every commit.
fn decaying(tokens: usize) -> SteeringSpec {
    let injection = InjectionSpec {
        concepts: vec![ConceptKey::Known(7)],
        target: 4.0,
        normalize: true,
        inject_layer: Some(1),
        schedule: Schedule::LinearDecay { tokens },
    };
    SteeringSpec { injections: vec![injection], ..SteeringSpec::default() }
}

/// What a run under a limit did.
struct Story {
    canvases: Vec<Canvas>,
    /// Of each step.
    rows: Vec<usize>,
    /// Most steps in a row that a canvas past its prompt had no part in.
    most_waited: usize,
}

fn run(runtime: &mut Runtime, cases: &[Case], limit: usize) -> Story {
    runtime.limit_rows(limit);
    let mut canvases: Vec<Canvas> = cases.iter().map(|case| case.canvas(runtime.model())).collect();
    for canvas in &mut canvases {
        assert!(runtime.admit(canvas).unwrap());
    }
    let (mut rows, mut most_waited, mut waited) = (Vec::new(), 0, vec![0; cases.len()]);
    while canvases.iter().any(|canvas| canvas.finish_reason().is_none()) {
        let before: Vec<usize> = canvases.iter().map(|canvas| canvas.usage.rows).collect();
        let mut batch: Vec<&mut Canvas> = canvases.iter_mut().filter(|c| c.finish_reason().is_none()).collect();
        runtime.step(&mut batch).unwrap();
        let mut step = 0;
        for ((canvas, before), waited) in canvases.iter().zip(before).zip(&mut waited) {
            let own = canvas.usage.rows - before;
            step += own;
            let waits = own == 0 && canvas.finish_reason().is_none() && !canvas.commits().is_empty();
            *waited = if waits { *waited + 1 } else { 0 };
            most_waited = most_waited.max(*waited);
        }
        assert!(step > 0, "a step did nothing");
        rows.push(step);
    }
    canvases.iter().for_each(|canvas| runtime.release(canvas.id()));
    Story { canvases, rows, most_waited }
}

fn check(cases: &[Case], spare: usize) -> Result<Story, TestCaseError> {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2 * cases.len() as u64);
    let needed = cases.iter().map(|case| rows_needed(&case.canvas(runtime.model()))).max().unwrap();
    let limit = needed + spare;
    let story = run(&mut runtime, cases, limit);
    prop_assert!(story.rows.iter().all(|rows| *rows <= limit), "limit {}: {:?}", limit, story.rows);
    // Each step serves the canvas that has waited longest; prompts come first in every other one at most.
    prop_assert!(story.most_waited <= 2 * cases.len(), "{} steps", story.most_waited);
    prop_assert_eq!(runtime.page_use().active, 0);
    for (n, (case, together)) in cases.iter().zip(&story.canvases).enumerate() {
        let mut runtime = goldens::runtime(goldens::model("nano"), 2);
        let mut alone = case.canvas(runtime.model());
        goldens::run(&mut runtime, &mut alone);
        same_commits(&format!("canvas {n}"), together.commits(), alone.commits());
        if is_strict() {
            prop_assert_eq!(together.attributions(), alone.attributions());
        }
    }
    Ok(story)
}

prop_compose! {
    fn case()(
        prompt in proptest::collection::vec(prop_oneof![40 => 0u32..507, 1 => Just(511u32)], 1..150),
        shared in any::<bool>(),
        max_new_tokens in 1usize..40,
        steps in 0.1f64..1.0,
        cfg_scale in prop_oneof![Just(0.0f32), Just(1.1)],
        align in prop_oneof![Just(Align::Block), Just(Align::Reference)],
        decoding in prop_oneof![
            3 => Just(None),
            1 => Just(Some(Decoding::Threshold { threshold: 0.02, max_per_step: Some(3) })),
            1 => Just(Some(Decoding::EntropyBound { gamma: 9.0 })),
            1 => Just(Some(Decoding::Lossless { drafts: None })),
            2 => (1usize..9).prop_map(|drafts| Some(Decoding::Lossless { drafts: Some(drafts) })),
        ],
        steering in prop_oneof![Just(SteeringSpec::default()), any_steering(), (1usize..60).prop_map(decaying)],
        attributed in any::<bool>(),
        seed in 0u64..1000,
    ) -> Case {
        // Some begin alike, so that blocks are shared.
        let shared: Vec<u32> = if shared { (0..50).collect() } else { Vec::new() };
        let steps = decoding.is_none().then_some(((max_new_tokens as f64 * steps).ceil() as usize).max(1));
        let decoding = decoding.unwrap_or(Decoding::Confidence);
        let params = GenerateParams {
            max_new_tokens, steps, cfg_scale, align, decoding, seed, ..GenerateParams::default()
        };
        Case { prompt: [shared, prompt].concat(), params, steering, attributed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn no_step_has_more_rows_than_allowed_and_no_text_depends_on_it(
        cases in proptest::collection::vec(case(), 1..8),
        spare in 0usize..160,
    ) {
        check(&cases, spare)?;
    }
}

/// Guidance masks the prompt, which a decaying injection then reaches: after every commit all of it is computed again.
#[test]
fn blocks_that_a_changing_injection_makes_stale_are_computed_within_the_limit() {
    let case = |n: usize| Case {
        prompt: (0..60 + 9 * n as u32).map(|i| (i * 13 + 5 * n as u32) % 500).collect(),
        params: GenerateParams { max_new_tokens: 12, cfg_scale: 0.7, seed: n as u64, ..GenerateParams::default() },
        steering: decaying(20),
        attributed: false,
    };
    let cases: Vec<Case> = (0..8).map(case).collect();
    let story = check(&cases, 0).unwrap();
    // A prompt of up to 7 blocks, of which two fit beside another one's block: most commits take several steps.
    assert!(story.canvases.iter().all(|canvas| canvas.usage.forwards > 2 * 12), "the prompts are computed again");
}

/// A prompt is not kept waiting for ever by those that fill every step, nor they by prompts.
#[test]
fn a_long_prompt_and_running_sequences_take_turns_where_rows_are_few() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 8);
    let case = |prompt: u32, max_new_tokens: usize| Case {
        prompt: (0..prompt).map(|i| (i * 7 + prompt) % 500).collect(),
        params: GenerateParams { max_new_tokens, ..GenerateParams::default() },
        steering: SteeringSpec::default(),
        attributed: false,
    };
    // Blocks of 16 positions: three sequences at 16 rows each, and rows for one of them.
    let cases = [case(16, 48), case(32, 48), case(48, 48), case(16 * 20, 16)];
    let story = run(&mut runtime, &cases, 16);
    assert!(story.rows.iter().all(|rows| *rows <= 16), "{:?}", story.rows);
    assert!(story.most_waited <= 8, "{}", story.most_waited);
}

#[test]
fn a_generation_whose_smallest_step_is_too_large_is_not_admitted() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let params = GenerateParams { max_new_tokens: 40, cfg_scale: 1.0, ..GenerateParams::default() };
    let mut canvas = Canvas::new(&[1, 2, 3, 4, 5], params, &CanvasSpec::of(&runtime.info().config)).unwrap();
    // A generation block of 16 positions from 5 on touches two attention blocks, in each of two sequences.
    assert_eq!(rows_needed(&canvas), 64);
    runtime.limit_rows(63);
    match runtime.admit(&mut canvas) {
        Err(Error::TooLarge { needed: 64, available: 63, message, .. }) => {
            assert!(message.contains("64 rows, 63"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(runtime.page_use().reserved, 0);
    runtime.limit_rows(64);
    goldens::run(&mut runtime, &mut canvas);
}
