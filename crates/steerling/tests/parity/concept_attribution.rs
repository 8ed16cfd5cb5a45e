//! Attribution of committed tokens to concepts against its records, and what must hold of any.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;
use steerling::attribute::{ChunkEnds, ChunkScores, ConceptShare, TokenAttribution, chunk_boundaries};
use steerling::catalog::{Catalog, Head};
use steerling::params::GenerateParams;
use steerling::steer::{ConceptKey, SteeringSpec};
use steerling::{Canvas, CanvasSpec, Denoiser, Error};

use crate::compute::{is_strict, same_commits, within};
use crate::generation;
use crate::goldens::{self, Tensors};
use crate::steering::{any_steering, short_canvas};

const WEIGHTS: f32 = 2e-5;
const CONTRIBUTIONS: f32 = 2e-5;
const TARGETS: f32 = 1e-4;
const SCORES: f32 = 1e-5;

/// Recorded concepts of one position against ours, whatever their order.
fn check_shares(what: &str, ours: &[ConceptShare], indices: &[u32], weights: &[f32], contributions: &[f32]) {
    let ours: BTreeMap<u32, &ConceptShare> = ours.iter().map(|share| (share.index, share)).collect();
    let theirs: BTreeMap<u32, usize> = indices.iter().enumerate().map(|(n, index)| (*index, n)).collect();
    assert!(ours.keys().eq(theirs.keys()), "{what}: {:?} for {:?}", ours.keys(), theirs.keys());
    for (index, n) in theirs {
        let share = ours[&index];
        assert!((share.weight - weights[n]).abs() < within(WEIGHTS), "{what}: {share:?}, weight {}", weights[n]);
        let recorded = contributions[n];
        assert!(
            (share.contribution - recorded).abs() < within(CONTRIBUTIONS),
            "{what}: {share:?}, recorded {recorded}"
        );
    }
}

#[test]
fn contributions_are_those_of_the_reference() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let golden = Tensors::open("nano/concept_attr.safetensors");
    let cases = goldens::json("nano/concept_attr.json");
    for (name, case) in cases.as_object().unwrap() {
        let mut canvas = generation::canvas(runtime.model(), case).attributed().unwrap();
        goldens::run(&mut runtime, &mut canvas);
        assert_eq!(canvas.ids(), goldens::ids(&case["tokens"]), "{name}");
        let floats = |field: &str| -> Vec<f32> {
            golden.get(&format!("{name}.{field}")).flatten_all().unwrap().to_vec1().unwrap()
        };
        let ids = |field: &str| golden.ids_of_rows(&format!("{name}.{field}"));
        let committed: Vec<u8> = golden.get(&format!("{name}.committed")).flatten_all().unwrap().to_vec1().unwrap();
        let (known, unk) = (ids("known_indices"), ids("unk_indices"));
        let fields = ["known_weights", "known_contributions", "unk_weights", "unk_contributions"].map(floats);
        let [known_weights, known_contributions, unk_weights, unk_contributions] = &fields;
        let (targets, epsilon) = (floats("target_logits"), floats("epsilon_contribution"));
        let mut positions: Vec<usize> = canvas.attributions().iter().map(|found| found.position).collect();
        positions.sort_unstable();
        let recorded: Vec<usize> = (0..committed.len()).filter(|p| committed[*p] != 0).collect();
        assert_eq!(positions, recorded, "{name}");
        for found in canvas.attributions() {
            let p = found.position;
            let what = |part: &str| format!("{name}: {part} of position {p}");
            let row = |values: &[f32], k: usize| values[p * k..(p + 1) * k].to_vec();
            let (k, u) = (known[p].len(), unk[p].len());
            let (weights, contributions) = (row(known_weights, k), row(known_contributions, k));
            check_shares(&what("known"), &found.contributions.known, &known[p], &weights, &contributions);
            let (weights, contributions) = (row(unk_weights, u), row(unk_contributions, u));
            check_shares(&what("unknown"), &found.contributions.unknown, &unk[p], &weights, &contributions);
            assert!((found.target_logit - targets[p]).abs() < within(TARGETS), "{}: {found:?}", what("logit"));
            assert!((found.epsilon() - epsilon[p]).abs() < within(TARGETS), "{}: {found:?}", what("epsilon"));
            assert!(found.error() < within(TARGETS), "{}: {}", what("error"), found.error());
        }
    }
    assert_eq!(cases.as_object().unwrap().len(), 5);
}

/// The concept that a recorded label names: `Known: name`, or `Discovered: #id` where the label file has none.
fn labelled(catalog: &Catalog, label: &str) -> ConceptKey {
    let name = label.split_once(": ").unwrap().1;
    let id = match name.strip_prefix('#') {
        Some(id) => id.parse().unwrap(),
        None => match catalog.named(name).map(|concept| concept.id).collect::<Vec<_>>()[..] {
            [id] => id,
            ref ids => panic!("{label}: {ids:?}"),
        },
    };
    let concept = catalog.get(id).unwrap();
    match concept.head {
        Head::Known => ConceptKey::Known(concept.index),
        Head::Unknown => ConceptKey::Unknown(concept.index),
    }
}

fn check_chunk(what: &str, catalog: &Catalog, ours: &ChunkScores, recorded: &Value) {
    let entries = recorded["entries"].as_array().unwrap();
    assert_eq!(ours.concepts.len(), entries.len(), "{what}");
    let found: BTreeMap<ConceptKey, f32> = ours.concepts.iter().copied().collect();
    for entry in entries {
        let key = labelled(catalog, entry["label"].as_str().unwrap());
        let recorded = entry["contribution"].as_f64().unwrap() as f32;
        assert!(
            (found[&key] - recorded).abs() < within(SCORES),
            "{what}: {key:?} {}, recorded {recorded}",
            found[&key]
        );
    }
    assert!(ours.concepts.is_sorted_by(|a, b| a.1.abs() >= b.1.abs()), "{what}");
    assert!(ours.epsilon_abs >= ours.epsilon_signed.abs() - 1e-6, "{what}");
    match recorded["eps_pct"].as_f64() {
        Some(percent) => {
            assert!((f64::from(ours.epsilon_signed) * 100.0 - percent).abs() < within(1e-2), "{what}: {ours:?}")
        }
        // The mean over no position.
        None => assert_eq!((ours.epsilon_signed, ours.epsilon_abs), (0.0, 0.0), "{what}"),
    }
}

#[test]
fn chunks_and_ranges_are_scored_as_recorded() {
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    let catalog = Catalog::open(goldens::path("nano"), &runtime.info().config).unwrap();
    let (mut chunks, mut ranges) = (0, 0);
    for (name, case) in goldens::json("nano/concept_attr.json").as_object().unwrap() {
        let mut canvas = generation::canvas(runtime.model(), case).attributed().unwrap();
        goldens::run(&mut runtime, &mut canvas);
        let eot = case["eot_id"].as_u64().map(|id| id as u32);
        let endofchunk = case["endofchunk_id"].as_u64().unwrap() as u32;
        let ends = ChunkEnds { endofchunk, stop: eot.as_slice() };
        let bounds = chunk_boundaries(canvas.ids(), canvas.prompt_len(), ends, true);
        let recorded: Vec<Vec<u32>> = case["chunk_bounds"].as_array().unwrap().iter().map(goldens::ids).collect();
        assert!(bounds.iter().map(|b| vec![b.start as u32, b.end as u32]).eq(recorded), "{name}: {bounds:?}");
        for (bounds, recorded) in bounds.into_iter().zip(case["chunks"].as_array().unwrap()) {
            let what = format!("{name}: chunk {bounds:?}");
            check_chunk(&what, &catalog, &ChunkScores::of(canvas.attributions(), bounds), recorded);
            chunks += 1;
        }
        for (range, recorded) in case["custom_ranges"].as_object().unwrap() {
            let (start, end) = range.split_once(':').unwrap();
            let bounds = start.parse().unwrap()..end.parse().unwrap();
            let what = format!("{name}: range {bounds:?}");
            check_chunk(&what, &catalog, &ChunkScores::of(canvas.attributions(), bounds), recorded);
            ranges += 1;
        }
    }
    assert_eq!(chunks, 17);
    assert!(ranges >= 5, "{ranges}");
}

/// Holds of every attribution, whatever the steering.
fn check_sums(canvas: &Canvas) -> Result<(), TestCaseError> {
    prop_assert_eq!(canvas.attributions().len(), canvas.commits().len());
    for (found, commit) in canvas.attributions().iter().zip(canvas.commits()) {
        prop_assert_eq!((found.position, found.id, found.step), (commit.position, commit.id, commit.step));
        prop_assert_eq!(found.target_logit, commit.target_logit);
        prop_assert!((found.fractions().iter().sum::<f32>() - 1.0).abs() < within(1e-5), "{:?}", found);
        let sum = found.known_total() + found.unknown_total() + found.contributions.remainder;
        prop_assert!((sum - found.target_logit).abs() < within(1e-4), "{} for {}", sum, found.target_logit);
        prop_assert!(found.error() < within(1e-4), "error {}", found.error());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_add_up_to_the_logit_and_asking_changes_no_token(
        spec in any_steering(),
        seed in 0u64..1000,
        variant in prop_oneof![Just("nano"), Just("variants/topk_features"), Just("variants/topk_none"),
            Just("variants/no_epsilon"), Just("variants/topk_on_logits"), Just("variants/attn_known"),
            Just("variants/attn_unknown_dense")],
    ) {
        let mut runtime = goldens::runtime(goldens::model(variant), 2);
        let mut plain = short_canvas(runtime.model(), Some(&spec), seed, 0.0);
        goldens::run(&mut runtime, &mut plain);
        let mut attributed = short_canvas(runtime.model(), Some(&spec), seed, 0.0).attributed().unwrap();
        goldens::run(&mut runtime, &mut attributed);
        same_commits("attributed", attributed.commits(), plain.commits());
        prop_assert!(plain.attributions().is_empty());
        check_sums(&attributed)?;
    }

    /// Plain, steered, edited, attributed and guided generations share every forward and none notices.
    #[test]
    fn neighbours_of_other_kinds_do_not_change_a_generation(
        specs in [any_steering(), any_steering(), any_steering()],
        seed in 0u64..1000,
    ) {
        let build = |model: &steerling::Model| -> Vec<Canvas> {
            vec![
                short_canvas(model, None, seed, 0.0),
                short_canvas(model, Some(&specs[0]), seed + 1, 0.0),
                short_canvas(model, None, seed + 2, 0.0).attributed().unwrap(),
                short_canvas(model, Some(&specs[1]), seed + 3, 0.0).attributed().unwrap(),
                short_canvas(model, Some(&specs[1]), seed + 4, 0.0).attributed().unwrap(),
                short_canvas(model, Some(&specs[2]), seed + 5, 1.3),
            ]
        };
        let mut runtime = goldens::runtime(goldens::model("nano"), 8);
        let mut alone = build(runtime.model());
        for canvas in &mut alone {
            goldens::run(&mut runtime, canvas);
        }
        let mut runtime = goldens::runtime(goldens::model("nano"), 8);
        let mut together = build(runtime.model());
        for canvas in &mut together {
            prop_assert!(runtime.admit(canvas).unwrap());
        }
        while together.iter().any(|canvas| canvas.finish_reason().is_none()) {
            let mut batch: Vec<&mut Canvas> =
                together.iter_mut().filter(|canvas| canvas.finish_reason().is_none()).collect();
            runtime.step(&mut batch).unwrap();
        }
        for (n, (alone, together)) in alone.iter().zip(&together).enumerate() {
            same_commits(&format!("canvas {n}"), alone.commits(), together.commits());
            if is_strict() {
                prop_assert_eq!(alone.attributions(), together.attributions(), "canvas {}", n);
            }
        }
    }
}

/// A set weight is reported as it was set, also where the concept would not have taken part.
#[test]
fn a_set_weight_is_reported_with_its_contribution() {
    use steerling::steer::{ConceptKey, EpsilonMode, WeightEdit};
    let mut runtime = goldens::runtime(goldens::model("nano"), 2);
    for epsilon in [EpsilonMode::Keep, EpsilonMode::Drop] {
        let edit = |concept, weight| WeightEdit { concept, weight, epsilon };
        let set_weights = vec![edit(ConceptKey::Known(5), 2.5), edit(ConceptKey::Unknown(9), -1.0)];
        let spec = SteeringSpec { set_weights, ..SteeringSpec::default() };
        let mut canvas = short_canvas(runtime.model(), Some(&spec), 4, 0.0).attributed().unwrap();
        goldens::run(&mut runtime, &mut canvas);
        check_sums(&canvas).unwrap();
        let share = |shares: &[ConceptShare], index: u32| *shares.iter().find(|share| share.index == index).unwrap();
        for found in canvas.attributions() {
            let alignment = |concept| {
                let e = runtime.model().concept_embedding(concept).unwrap();
                runtime.model().alignment(&e).unwrap()[found.id as usize]
            };
            let known = share(&found.contributions.known, 5);
            let unknown = share(&found.contributions.unknown, 9);
            assert_eq!((known.weight, unknown.weight), (2.5, -1.0));
            assert!((known.contribution - 2.5 * alignment(ConceptKey::Known(5))).abs() < within(1e-5));
            assert!((unknown.contribution + alignment(ConceptKey::Unknown(9))).abs() < within(1e-5));
        }
    }
}

#[test]
fn attribution_is_refused_where_it_would_not_explain_the_token() {
    let model = goldens::model("nano");
    let guided = short_canvas(&model, None, 1, 1.5).attributed();
    assert!(matches!(guided, Err(Error::Unsupported(_))));
    let mut runtime = goldens::runtime(goldens::model("variants/plain"), 2);
    let params = GenerateParams { max_new_tokens: 4, ..GenerateParams::default() };
    let spec = CanvasSpec::of(&runtime.info().config);
    let mut canvas = Canvas::new(&[1, 2, 3], params, &spec).unwrap().attributed().unwrap();
    assert!(runtime.admit(&mut canvas).unwrap());
    assert!(matches!(runtime.step(&mut [&mut canvas]), Err(Error::Unsupported(_))));
}

/// Fractions of a logit that nothing explains: none, rather than a division by zero.
#[test]
fn fractions_of_nothing_are_zero() {
    let nothing = TokenAttribution {
        position: 0,
        id: 0,
        step: 0,
        target_logit: 0.0,
        decision_logit: Some(0.0),
        contributions: Default::default(),
    };
    assert_eq!(nothing.fractions(), [0.0; 3]);
}
