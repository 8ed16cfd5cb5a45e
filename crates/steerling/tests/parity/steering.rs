//! Steering against its records, and what must hold of any steering.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use steerling::params::GenerateParams;
use steerling::steer::{ConceptKey, EpsilonMode, InjectionSpec, Schedule, SteeringSpec, WeightEdit};
use steerling::{Canvas, CanvasSpec, Error, Model, Runtime};

use crate::compute::{same_commits, within};
use crate::forward::{LOGITS, STATES};
use crate::generation::{self, Compared};
use crate::goldens::{self, Tensors, close};

fn layer_is_beyond_the_last(case: &Value) -> bool {
    case["steering"]["inject_layer"].as_u64().is_some_and(|layer| layer > 3)
}

#[test]
fn steered_runs_are_those_of_the_reference() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let mut compared = Compared::default();
    for case in goldens::json("nano/steering.json")["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        if layer_is_beyond_the_last(case) {
            continue;
        }
        let steering = runtime.model().steering(&goldens::steering_spec(&case["steering"])).unwrap();
        let layers: Vec<u64> = steering.injections.iter().map(|injection| injection.inject_layer as u64).collect();
        assert_eq!(layers, Vec::from_iter(case["resolved_inject_layer"].as_u64()), "{name}");
        let mut canvas = generation::canvas(runtime.model(), case).steered(Arc::new(steering));
        let mut alphas = Vec::new();
        goldens::run_observed(&mut runtime, &mut canvas, &mut |canvas| alphas.push(canvas.alphas()));
        compared.check(&canvas, case);
        let steps = case["steps"].as_array().unwrap();
        assert_eq!(alphas.len(), steps.len(), "{name}");
        for (step, (ours, recorded)) in alphas.iter().zip(steps).enumerate() {
            // Recorded as null where nothing was injected.
            let recorded = recorded["alpha"].as_f64().unwrap_or(0.0) as f32;
            let ours: f32 = ours.iter().sum();
            assert!((ours - recorded).abs() < within(1e-5), "{name}: step {step}: alpha {ours} for {recorded}");
        }
    }
    assert_eq!(compared, Compared { strict: 37, ordered: 37, loose: 3 });
}

/// The reference takes a layer beyond the last and then injects nowhere; we refuse it.
#[test]
fn a_layer_beyond_the_last_is_refused_where_the_reference_steers_nothing() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let mut compared = Compared::default();
    for case in goldens::json("nano/steering.json")["cases"].as_array().unwrap() {
        if !layer_is_beyond_the_last(case) {
            continue;
        }
        match runtime.model().steering(&goldens::steering_spec(&case["steering"])) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, "inject_layer"),
            other => panic!("{other:?}"),
        }
        let mut canvas = generation::canvas(runtime.model(), case);
        goldens::run(&mut runtime, &mut canvas);
        compared.check(&canvas, case);
    }
    assert_eq!(compared, Compared { strict: 4, ordered: 4, loose: 0 });
}

/// The steering of every preset in `steering.json`, once.
fn presets() -> Vec<Value> {
    let mut presets: Vec<Value> = goldens::json("nano/steering.json")["cases"].as_array().unwrap().clone();
    presets.retain(|case| !layer_is_beyond_the_last(case));
    presets.dedup_by(|a, b| a["preset"] == b["preset"]);
    presets
}

#[test]
fn directions_factors_and_suppressed_logits_are_those_of_the_reference() {
    let model = goldens::model("nano");
    let golden = Tensors::open("nano/steering_vectors.safetensors");
    let device = &model.backbone().compute().device;
    let mut directions = 0;
    for case in presets() {
        let preset = case["preset"].as_str().unwrap();
        let steering = model.steering(&goldens::steering_spec(&case["steering"])).unwrap();
        match golden.find(&format!("{preset}.direction")) {
            Some(recorded) => {
                let injection = &steering.injections[0];
                let direction = candle_core::Tensor::new(injection.direction.as_slice(), device).unwrap();
                close(preset, &direction, recorded, 1e-6);
                let base = case["base_alpha"].as_f64().unwrap() as f32;
                assert!((injection.alpha - base).abs() < within(1e-5), "{preset}: {} for {base}", injection.alpha);
                directions += 1;
            }
            None => assert!(steering.injections.is_empty(), "{preset}"),
        }
        match golden.find(&format!("{preset}.relu_mask")) {
            Some(recorded) => {
                let ours = candle_core::Tensor::new(steering.suppression.unwrap(), device).unwrap();
                close(preset, &ours, recorded, 2e-5);
            }
            None => assert!(steering.suppression.is_none(), "{preset}"),
        }
    }
    assert_eq!(directions, 9);
}

#[test]
fn an_injected_forward_is_that_of_the_reference_in_both_passes() {
    let model = goldens::model("nano");
    let golden = Tensors::open("nano/steering_forward.safetensors");
    let ids = golden.ids("input_ids").remove(0);
    let mask = model.info().config.special.mask;
    let recorded = goldens::json("nano/steering_forward.json");
    for case in presets() {
        let preset = case["preset"].as_str().unwrap();
        let Some(forward) = recorded.get(preset) else { continue };
        let steering = model.steering(&goldens::steering_spec(&case["steering"])).unwrap();
        let alpha = forward["alpha"].as_f64().unwrap() as f32;
        assert!((steering.injections[0].alpha - alpha).abs() < within(1e-5), "{preset}");
        let injections = goldens::injections(&steering, &steering.alphas(0), &ids, mask);
        let plain = goldens::plain_hidden(&model, &ids, &injections);
        let paged = goldens::paged_hidden(&model, &ids, &injections);
        for (pass, hidden) in [("plain", plain), ("paged", paged)] {
            close(&format!("{preset} {pass} hidden"), &hidden, golden.get(&format!("{preset}.hidden")), STATES);
            let logits = goldens::logits(&model, &hidden);
            close(&format!("{preset} {pass} logits"), &logits, golden.get(&format!("{preset}.logits")), LOGITS);
        }
    }
    assert_eq!(recorded.as_object().unwrap().len(), 4);
}

#[test]
fn the_tokens_that_a_concept_promotes_are_those_of_the_reference() {
    let model = goldens::model("nano");
    for (concept, recorded) in goldens::json("nano/concept_top_tokens.json").as_object().unwrap() {
        let concept = ConceptKey::Known(concept.parse().unwrap());
        let k = recorded["k"].as_u64().unwrap() as usize;
        let (ids, scores): (Vec<_>, Vec<_>) = model.concept_top_tokens(concept, k, false).unwrap().into_iter().unzip();
        assert_eq!(ids, goldens::ids(&recorded["ids"]), "{concept:?}");
        for (ours, theirs) in scores.iter().zip(recorded["top"].as_array().unwrap()) {
            assert!((f64::from(*ours) - theirs[1].as_f64().unwrap()).abs() < within(1e-5), "{concept:?}");
        }
        let least = model.concept_top_tokens(concept, 512, true).unwrap();
        assert!(least.is_sorted_by(|a, b| a.1 <= b.1), "{concept:?}");
        assert_eq!(least[511].0, ids[0], "{concept:?}");
    }
}

#[test]
fn what_the_model_lacks_is_refused_by_name() {
    let (nano, plain) = (goldens::model("nano"), goldens::model("variants/plain"));
    let injection = |concepts: Vec<ConceptKey>| SteeringSpec {
        injections: vec![InjectionSpec::suppress(concepts)],
        ..SteeringSpec::default()
    };
    let edits = |keys: &[u32], weight: f32| SteeringSpec {
        set_weights: keys
            .iter()
            .map(|key| WeightEdit { concept: ConceptKey::Known(*key), weight, epsilon: EpsilonMode::Keep })
            .collect(),
        ..SteeringSpec::default()
    };
    let suppress = |concept| SteeringSpec { suppress_logits: vec![(concept, f32::NAN)], ..SteeringSpec::default() };
    let refused = |spec: &SteeringSpec| match nano.steering(spec) {
        Err(Error::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&injection(vec![ConceptKey::Known(96)])), "concept");
    assert_eq!(refused(&injection(vec![ConceptKey::Unknown(160)])), "concept");
    assert_eq!(refused(&injection(Vec::new())), "concepts");
    assert_eq!(refused(&edits(&[5], f32::INFINITY)), "set_weights[0].weight");
    assert_eq!(refused(&edits(&[5, 6, 5], 1.0)), "set_weights[2].concept");
    assert_eq!(refused(&suppress(ConceptKey::Known(1))), "strength");
    let known = injection(vec![ConceptKey::Known(1)]);
    assert!(matches!(plain.steering(&known), Err(Error::Unsupported(_))));
    let no_unknown = goldens::model("variants/no_unknown");
    let unknown = injection(vec![ConceptKey::Unknown(1)]);
    assert!(matches!(no_unknown.steering(&unknown), Err(Error::Unsupported(_))));
    assert!(no_unknown.steering(&known).is_ok());
}

/// A concept of nano.
pub(crate) fn concept() -> impl Strategy<Value = ConceptKey> {
    prop_oneof![(0u32..96).prop_map(ConceptKey::Known), (0u32..160).prop_map(ConceptKey::Unknown)]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        Just(Schedule::Fixed),
        (0usize..50).prop_map(|tokens| Schedule::HardCutoff { tokens }),
        (1usize..60).prop_map(|tokens| Schedule::LinearDecay { tokens }),
    ]
}

prop_compose! {
    fn injection()(
        concepts in proptest::collection::vec(concept(), 1..4),
        target in -6.0f32..6.0,
        normalize in any::<bool>(),
        inject_layer in proptest::option::of(0usize..4),
        schedule in schedule(),
    ) -> InjectionSpec {
        InjectionSpec { concepts, target, normalize, inject_layer, schedule }
    }
}

prop_compose! {
    fn weight()(
        concept in concept(),
        weight in -1.0f32..3.0,
        drop in proptest::bool::weighted(0.3),
    ) -> WeightEdit {
        let epsilon = if drop { EpsilonMode::Drop } else { EpsilonMode::Keep };
        WeightEdit { concept, weight, epsilon }
    }
}

prop_compose! {
    /// Any steering of nano, none included.
    pub(crate) fn any_steering()(
        injections in proptest::collection::vec(injection(), 0..3),
        suppress_logits in proptest::collection::vec((concept(), 0.0f32..20.0), 0..3),
        mut set_weights in proptest::collection::vec(weight(), 0..4),
    ) -> SteeringSpec {
        set_weights.sort_by_key(|edit| edit.concept);
        set_weights.dedup_by_key(|edit| edit.concept);
        SteeringSpec { injections, suppress_logits, set_weights }
    }
}

/// A short generation of nano under `spec`, by a seed that also picks the prompt.
pub(crate) fn short_canvas(model: &Model, spec: Option<&SteeringSpec>, seed: u64, cfg_scale: f32) -> Canvas {
    let prompt: Vec<u32> = (0..7 + seed as u32 % 30).map(|i| (i * 31 + seed as u32 * 7) % 507).collect();
    let params = GenerateParams { max_new_tokens: 24, steps: Some(10), seed, cfg_scale, ..GenerateParams::default() };
    let canvas = Canvas::new(&prompt, params, &CanvasSpec::of(&model.info().config)).unwrap();
    match spec {
        Some(spec) => canvas.steered(Arc::new(model.steering(spec).unwrap())),
        None => canvas,
    }
}

fn finished(runtime: &mut Runtime, mut canvas: Canvas) -> Canvas {
    goldens::run(runtime, &mut canvas);
    canvas
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn steering_of_no_strength_changes_nothing(
        mut spec in any_steering(),
        seed in 0u64..1000,
        cfg in prop_oneof![Just(0.0f32), Just(1.2)],
    ) {
        spec.set_weights.clear();
        spec.injections.iter_mut().for_each(|injection| injection.target = 0.0);
        spec.suppress_logits.iter_mut().for_each(|(_, strength)| *strength = 0.0);
        let mut runtime = goldens::runtime(goldens::model("nano"), 2);
        let canvas = short_canvas(runtime.model(), Some(&spec), seed, cfg);
        let steered = finished(&mut runtime, canvas);
        let canvas = short_canvas(runtime.model(), None, seed, cfg);
        let plain = finished(&mut runtime, canvas);
        same_commits("of no strength", steered.commits(), plain.commits());
    }

    #[test]
    fn entries_add_up(mut spec in any_steering(), seed in 0u64..1000, cfg in prop_oneof![Just(0.0f32), Just(1.2)]) {
        spec.set_weights.clear();
        // Halves are exact in floating point; the order of more than one sum is not.
        spec.injections.truncate(1);
        spec.suppress_logits.truncate(1);
        let mut halves = spec.clone();
        halves.injections.iter_mut().for_each(|injection| injection.target /= 2.0);
        halves.suppress_logits.iter_mut().for_each(|(_, strength)| *strength /= 2.0);
        halves.injections.extend(halves.injections.clone());
        halves.suppress_logits.extend(halves.suppress_logits.clone());
        let mut runtime = goldens::runtime(goldens::model("nano"), 2);
        let mut traces = Vec::new();
        for spec in [&spec, &halves] {
            let mut canvas = short_canvas(runtime.model(), Some(spec), seed, cfg);
            let mut alphas: Vec<f32> = Vec::new();
            goldens::run_observed(&mut runtime, &mut canvas, &mut |c| alphas.push(c.alphas().iter().sum()));
            traces.push((canvas.commits().to_vec(), alphas));
        }
        if same_commits("halves", &traces[0].0, &traces[1].0) {
            prop_assert_eq!(&traces[0].1, &traces[1].1);
        }
    }
}
