//! Input attributions against the recorded ones, and replays of traces.

use std::sync::Arc;

use candle_core::DType;
use serde_json::Value;
use steerling::attribute::inputs::{InputAttribution, InputJob, InputMethod, PathRule, ranking};
use steerling::attribute::{ReplayJob, Snapshot, Trace, TraceCommit};
use steerling::steer::{ConceptKey, InjectionSpec, Schedule, Steering, SteeringSpec, WeightEdit};
use steerling::{Canvas, CanvasSpec, GenerateParams, Model, Runtime};

use crate::compute::within;
use crate::goldens::{self, Tensors};

fn explain(
    runtime: &mut Runtime,
    trace: &Trace,
    method: InputMethod,
    steering: Option<Arc<Steering>>,
) -> Vec<InputAttribution> {
    let mut job = InputJob::new(trace, None, method, steering, runtime.model()).unwrap();
    loop {
        if let Some(done) = job.advance(runtime).unwrap() {
            return done;
        }
    }
}

/// The recorded generation as a trace.
fn trace(case: &Value) -> Trace {
    let prompt_ids = goldens::ids(&case["prompt_ids"]);
    let commits = case["trace"].as_array().unwrap().iter().flat_map(|group| {
        let step = group["step"].as_u64().unwrap() as usize;
        let pairs = goldens::ids(&group["positions"]).into_iter().zip(goldens::ids(&group["token_ids"]));
        pairs.map(move |(position, id)| TraceCommit { step, position: position as usize, id })
    });
    let seq_length = prompt_ids.len() + case["config"]["max_new_tokens"].as_u64().unwrap() as usize;
    Trace { seq_length, commits: commits.collect(), prompt_ids }
}

const CASES: [&str; 3] = ["p23_n16_s16", "p5_n32_s8", "p13ms_n16_s16"];

#[test]
fn integrated_gradients_are_the_recorded_double_precision_ones() {
    let recorded = goldens::json("nano/input_attr.json");
    let f64s = Tensors::open("nano/input_attr_f64.safetensors");
    let f32s = Tensors::open("nano/input_attr.safetensors");
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for name in CASES {
        let trace = trace(&recorded[name]);
        for (n, method) in [
            (1, InputMethod::InputXGradient),
            (1, InputMethod::IntegratedGradients { n_steps: 1, rule: PathRule::Right }),
            (8, InputMethod::IntegratedGradients { n_steps: 8, rule: PathRule::Right }),
        ] {
            let ours = explain(&mut runtime, &trace, method, None);
            let theirs = f64s.get(&format!("{name}.n{n}.attributions_f64")).to_vec2::<f64>().unwrap();
            let positions =
                f32s.get(&format!("{name}.target_positions")).to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
            assert_eq!(ours.len(), theirs.len());
            for ((ours, theirs), position) in ours.iter().zip(&theirs).zip(positions) {
                assert_eq!(ours.position, position as usize, "{name}");
                for (i, recorded) in theirs.iter().enumerate() {
                    let score = f64::from(ours.scores.get(i).copied().unwrap_or(0.0));
                    assert!(
                        (score - recorded).abs() < within(1e-3),
                        "{name} n{n} target {position} input {i}: {score} for {recorded}"
                    );
                }
            }
        }
    }
}

#[test]
fn rankings_are_the_recorded_aggregates() {
    let recorded = goldens::json("nano/input_attr.json");
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for name in CASES {
        let case = &recorded[name];
        let trace = trace(case);
        let method = InputMethod::IntegratedGradients { n_steps: 8, rule: PathRule::Right };
        let ours = explain(&mut runtime, &trace, method, None);
        let prompt: Vec<usize> = (0..trace.prompt_ids.len()).collect();
        let generated: Vec<usize> = (trace.prompt_ids.len()..trace.seq_length).collect();
        for (scope, positions) in [("prompt", &prompt), ("generated", &generated)] {
            for (signed, flag) in [(true, "True"), (false, "False")] {
                let theirs = case["aggregates"][format!("n8.{scope}.mean.signed={flag}")].as_array().unwrap();
                let ranked = ranking(&ours, positions, signed);
                for entry in theirs {
                    let position = entry["input_position"].as_u64().unwrap() as usize;
                    let score = ranked.iter().find(|(p, _)| *p == position).unwrap().1;
                    assert!(
                        (f64::from(score) - entry["score"].as_f64().unwrap()).abs() < within(1e-4),
                        "{name} {scope} {position}"
                    );
                }
                assert!(ranked.is_sorted_by(|a, b| a.1 >= b.1));
            }
        }
    }
}

/// The logits of a whole sequence by the plain pass, `[T][V]`.
fn plain_logits(model: &Model, ids: &[u32]) -> Vec<Vec<f32>> {
    goldens::floats_of_rows(&goldens::logits(model, &goldens::plain_hidden(model, ids, &[])))
}

/// A steered and attributed generation of nano.
fn steered(runtime: &mut Runtime, spec: &SteeringSpec, steps: usize) -> (Canvas, Arc<Steering>) {
    let steering = Arc::new(runtime.model().steering(spec).unwrap());
    let prompt: Vec<u32> = (0..21).map(|i| (i * 29 + 4) % 500).collect();
    let params = GenerateParams { max_new_tokens: 36, steps: Some(steps), seed: 5, ..GenerateParams::default() };
    let canvas = Canvas::new(&prompt, params, &CanvasSpec::of(&runtime.info().config)).unwrap();
    let mut canvas = canvas.steered(steering.clone()).attributed().unwrap();
    goldens::run(runtime, &mut canvas);
    (canvas, steering)
}

fn recipes() -> Vec<SteeringSpec> {
    let injection = InjectionSpec {
        concepts: vec![ConceptKey::Known(7), ConceptKey::Unknown(3)],
        target: 4.0,
        normalize: true,
        inject_layer: Some(2),
        schedule: Schedule::LinearDecay { tokens: 20 },
    };
    let edit = WeightEdit { concept: ConceptKey::Known(5), weight: 0.9, epsilon: steerling::steer::EpsilonMode::Keep };
    vec![
        SteeringSpec::default(),
        SteeringSpec { injections: vec![injection.clone()], ..SteeringSpec::default() },
        SteeringSpec {
            injections: vec![injection],
            suppress_logits: vec![(ConceptKey::Known(9), 5.0)],
            set_weights: vec![edit],
        },
    ]
}

#[test]
fn a_replayed_trace_gives_the_attributions_of_the_generation() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for spec in recipes() {
        for steps in [36, 11] {
            let (canvas, steering) = steered(&mut runtime, &spec, steps);
            let trace = Trace::of(&canvas);
            trace.validate(&CanvasSpec::of(&runtime.info().config)).unwrap();
            let mut job = ReplayJob::new(&trace, Some(steering), runtime.model());
            let replayed = loop {
                if let Some(done) = job.advance(&mut runtime).unwrap() {
                    break done;
                }
            };
            assert_eq!(replayed.len(), canvas.attributions().len());
            for (replayed, original) in replayed.iter().zip(canvas.attributions()) {
                assert_eq!(
                    (replayed.position, replayed.id, replayed.step),
                    (original.position, original.id, original.step)
                );
                assert!(
                    (replayed.target_logit - original.target_logit).abs() < within(1e-4),
                    "{replayed:?} for {original:?}"
                );
                assert!(replayed.error() < within(1e-4) && original.error() < within(1e-4), "{}", original.error());
                for (a, b) in replayed.contributions.known.iter().zip(&original.contributions.known) {
                    assert_eq!(a.index, b.index);
                    assert!((a.contribution - b.contribution).abs() < within(1e-4));
                }
            }
        }
    }
}

/// The path of gradients accounts for the whole logit once it has enough points, steering included.
#[test]
fn gradients_along_the_path_add_up_to_the_logit() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for spec in &recipes()[..2] {
        let (canvas, steering) = steered(&mut runtime, spec, 4);
        let trace = Trace::of(&canvas);
        let mask = runtime.info().config.special.mask;
        let mut mean_error = |n_steps, rule| {
            let method = InputMethod::IntegratedGradients { n_steps, rule };
            let targets = explain(&mut runtime, &trace, method, Some(steering.clone()));
            let snapshots: Vec<Snapshot> = trace.snapshots(&runtime.info().config.special).collect();
            for (target, snapshot) in
                targets.iter().zip(snapshots.iter().flat_map(|s| s.targets.iter().map(move |_| s)))
            {
                let masked = target.scores.iter().zip(&snapshot.ids).filter(|(_, id)| **id == mask);
                assert!(masked.map(|(score, _)| score.abs()).sum::<f32>() == 0.0, "a masked position has a score");
            }
            let errors = targets.iter().map(|t| (t.sum() - t.logit_delta).abs());
            errors.sum::<f32>() / targets.len() as f32
        };
        let (coarse, fine) = (mean_error(4, PathRule::Right), mean_error(64, PathRule::GaussLegendre));
        // The clamp of q, k and v has kinks, so convergence is not that of a smooth function.
        assert!(fine < 0.1 && fine < coarse, "{fine} with 64 points, {coarse} with 4");
    }
}

#[test]
fn occlusion_is_the_fall_of_the_logit_when_a_token_is_masked() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let (canvas, _) = steered(&mut runtime, &SteeringSpec::default(), 9);
    let trace = Trace::of(&canvas);
    let ours = explain(&mut runtime, &trace, InputMethod::Occlusion, None);
    let snapshots: Vec<Snapshot> = trace.snapshots(&runtime.info().config.special).collect();
    let mask = runtime.info().config.special.mask;
    let mut n = 0;
    for snapshot in snapshots.iter().take(3) {
        let plain = plain_logits(runtime.model(), &snapshot.ids);
        for (position, id) in &snapshot.targets {
            let attribution = &ours[n];
            assert_eq!(attribution.position, *position);
            for (input, score) in attribution.scores.iter().enumerate() {
                let expected = match snapshot.ids[input] == mask {
                    true => 0.0,
                    false => {
                        let mut occluded = snapshot.ids.clone();
                        occluded[input] = mask;
                        plain[*position][*id as usize]
                            - plain_logits(runtime.model(), &occluded)[*position][*id as usize]
                    }
                };
                assert!((score - expected).abs() < within(1e-3), "input {input}: {score} for {expected}");
            }
            n += 1;
        }
    }
}

/// Gradients pass by the concept heads: two checkpoints that differ in their heads alone explain a token alike, and the
/// scores add up.
#[test]
fn attention_heads_leave_gradients_as_they_are() {
    let explained = ["attn_known", "attn_unknown"].map(|variant| {
        let mut runtime = goldens::runtime(goldens::model(&format!("variants/{variant}")), 2);
        let (canvas, _) = steered(&mut runtime, &SteeringSpec::default(), 9);
        let method = InputMethod::IntegratedGradients { n_steps: 64, rule: PathRule::GaussLegendre };
        explain(&mut runtime, &Trace::of(&canvas), method, None)
    });
    assert_eq!(explained[0].len(), explained[1].len());
    for (known, unknown) in explained[0].iter().zip(&explained[1]) {
        assert_eq!(known.position, unknown.position);
        assert!(known.completeness_error().abs() < 0.5, "{}", known.completeness_error());
        assert!(known.scores.iter().any(|score| score.abs() > 1e-2), "{:?}", known.scores);
        for (a, b) in known.scores.iter().zip(&unknown.scores) {
            assert!((a - b).abs() < within(1e-4), "{a} and {b}");
        }
    }
}

#[test]
fn gauss_legendre_is_exact_for_polynomials() {
    for n in 1..20 {
        let points = PathRule::GaussLegendre.points(n);
        for degree in 0..2 * n {
            let integral: f64 = points.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
            assert!((integral - 1.0 / (degree + 1) as f64).abs() < 1e-12, "n {n} degree {degree}: {integral}");
        }
    }
}

#[test]
fn impossible_traces_are_refused_by_field() {
    let runtime = goldens::runtime(goldens::model("nano"), 1);
    let spec = CanvasSpec::of(&runtime.info().config);
    let good = Trace {
        prompt_ids: vec![1, 2],
        seq_length: 5,
        commits: vec![TraceCommit { step: 0, position: 3, id: 7 }, TraceCommit { step: 1, position: 2, id: 8 }],
    };
    good.validate(&spec).unwrap();
    let with = |i: usize, commit: TraceCommit| {
        let mut trace = good.clone();
        trace.commits[i] = commit;
        trace
    };
    let cases = [
        ("trace.commits[0].position", with(0, TraceCommit { step: 0, position: 1, id: 7 })),
        ("trace.commits[1].position", with(1, TraceCommit { step: 1, position: 3, id: 7 })),
        ("trace.commits[0].id", with(0, TraceCommit { step: 0, position: 3, id: spec.special.mask })),
        ("trace.commits[0].id", with(0, TraceCommit { step: 0, position: 3, id: 9999 })),
        ("trace.commits[1].step", with(0, TraceCommit { step: 3, position: 3, id: 7 })),
        ("trace.prompt_ids[0]", Trace { prompt_ids: vec![spec.special.mask, 1], ..good.clone() }),
        ("trace.seq_length", Trace { seq_length: 2, ..good.clone() }),
    ];
    for (field, trace) in cases {
        match trace.validate(&spec) {
            Err(steerling::Error::Invalid { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}
