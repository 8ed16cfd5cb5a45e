//! Edits of concept weights against their records, and what must hold of any edit.

use candle_core::{IndexOp, Tensor};
use proptest::prelude::*;
use serde_json::Value;
use steerling::Model;
use steerling::concepts::{ConceptHead, ConceptHeads};
use steerling::steer::{ConceptKey, EpsilonMode, WeightEdit};

use crate::compute::{is_strict, within};
use crate::forward::{FEATURES, LOGITS, STATES, VARIANTS};
use crate::goldens::{self, Tensors, close, distance};

/// Edited features carry weights up to 10, so more of the rounding than unedited ones.
const EDITED: f64 = 5e-5;

fn edits_of(recorded: &Value) -> Vec<(u32, f32)> {
    let edits = recorded.as_object().unwrap().iter();
    edits.map(|(id, value)| (id.parse().unwrap(), value.as_f64().unwrap() as f32)).collect()
}

/// Hidden states of all sequences under `name`, `[B * T, D]`.
fn hidden(model: &Model, golden: &Tensors, name: &str) -> Tensor {
    let rows: Vec<_> = golden.ids(name).iter().map(|ids| goldens::plain_hidden(model, ids, &[])).collect();
    Tensor::cat(&rows, 0).unwrap()
}

fn heads(model: &Model) -> &ConceptHeads {
    model.heads().unwrap()
}

fn unknown(heads: &ConceptHeads) -> &ConceptHead {
    heads.unknown.as_ref().unwrap()
}

/// The rows of `edited` where `positions` says so, else those of `plain`.
fn choose_rows(edited: &Tensor, plain: &Tensor, positions: Option<&[u8]>) -> Tensor {
    let Some(positions) = positions else { return edited.clone() };
    let row = |(n, on): (usize, &u8)| if *on != 0 { edited.i(n).unwrap() } else { plain.i(n).unwrap() };
    Tensor::stack(&positions.iter().enumerate().map(row).collect::<Vec<_>>(), 0).unwrap()
}

#[test]
fn edited_features_and_logits_are_those_of_the_reference() {
    let model = goldens::model("nano");
    let heads = heads(&model);
    let golden = Tensors::open("nano/intervene.safetensors");
    let rows = hidden(&model, &golden, "input_ids");
    let positions: Vec<u8> = golden.get("positions").flatten_all().unwrap().to_vec1().unwrap();
    assert!(positions.contains(&0) && positions.contains(&1));
    let specs = goldens::json("nano/intervene.json");
    for (name, spec) in specs.as_object().unwrap() {
        let field = |field: &str| golden.get(&format!("{name}.{field}"));
        let (known, unk) = (edits_of(&spec["known"]), edits_of(&spec["unknown"]));
        let positions = spec["uses_positions"].as_bool().unwrap().then_some(positions.as_slice());
        close(&format!("{name} hidden"), &rows, field("hidden"), STATES);
        let features = |head: &ConceptHead, edits: &[(u32, f32)]| {
            let plain = head.edited_features(&rows, &[]).unwrap();
            choose_rows(&head.edited_features(&rows, edits).unwrap(), &plain, positions)
        };
        close(&format!("{name} known_features"), &features(&heads.known, &known), field("known_features"), EDITED);
        close(&format!("{name} unk_hat"), &features(unknown(heads), &unk), field("unk_hat"), EDITED);
        let plain = heads.recomposed(&rows, &[], &[]).unwrap();
        let composed = choose_rows(&heads.recomposed(&rows, &known, &unk).unwrap(), &plain, positions);
        let logits = goldens::logits(&model, &composed);
        if known.is_empty() {
            // The reference's correction takes an edit of unknown concepts back; ours acts.
            let unedited = golden.get("none.logits");
            close(name, field("logits"), unedited, LOGITS);
            let theirs = (field("known_features") + field("unk_hat")).unwrap();
            close(&format!("{name} composed"), &composed, &theirs, EDITED);
            assert!(distance(&logits, &unedited.reshape(logits.dims()).unwrap()) > 1.0, "{name}");
        } else {
            close(&format!("{name} composed"), &composed, field("composed"), EDITED);
            close(&format!("{name} logits"), &logits, field("logits"), LOGITS);
        }
    }
    assert_eq!(specs.as_object().unwrap().len(), 9);
}

/// What was edited in the variants, found from the recorded features: two known concepts, one unknown, and of `both`
/// one known and two unknown.
const KNOWN: [(u32, f32); 2] = [(5, 2.0), (17, 0.0)];
const UNKNOWN: [(u32, f32); 2] = [(9, 4.0), (33, -1.0)];

#[test]
fn every_variant_reproduces_its_recorded_edits() {
    for variant in VARIANTS.into_iter().chain(["untied"]).filter(|variant| *variant != "plain") {
        let model = goldens::model(&format!("variants/{variant}"));
        let heads = heads(&model);
        let golden = Tensors::open(&format!("variants/{variant}/golden.safetensors"));
        let rows = hidden(&model, &golden, "intervene.input_ids");
        for (name, known, unk) in
            [("known", &KNOWN[..], &[][..]), ("unknown", &[], &UNKNOWN[..1]), ("both", &KNOWN[..1], &UNKNOWN)]
        {
            let field = |field: &str| golden.get(&format!("intervene.{name}.{field}"));
            let what = |field: &str| format!("{variant} {name} {field}");
            let known_features = heads.known.edited_features(&rows, known).unwrap();
            close(&what("known_features"), &known_features, field("known_features"), EDITED);
            let Some(head) = &heads.unknown else { continue };
            close(&what("unk_hat"), &head.edited_features(&rows, unk).unwrap(), field("unk_hat"), EDITED);
            let config = model.info().config.concept.as_ref().unwrap();
            let cancelled = known.is_empty() && config.use_epsilon_correction;
            let composed = match cancelled {
                true => heads.decompose(&rows).unwrap().composed,
                false => heads.recomposed(&rows, known, unk).unwrap(),
            };
            close(&what("logits"), &goldens::logits(&model, &composed), field("logits"), LOGITS);
        }
    }
}

/// Without an unknown head the reference fills up with what the edited features leave, so that no edit acts; ours
/// fills up with what the unedited ones leave.
#[test]
fn edits_act_without_an_unknown_head() {
    let model = goldens::model("variants/no_unknown");
    let heads = heads(&model);
    let golden = Tensors::open("variants/no_unknown/golden.safetensors");
    let rows = hidden(&model, &golden, "intervene.input_ids");
    let unedited = goldens::logits(&model, &rows);
    close("the reference's edit", &unedited, golden.get("intervene.known.logits"), LOGITS);
    let delta = (heads.known.edited_features(&rows, &KNOWN).unwrap() - heads.known.features(&rows).unwrap().0).unwrap();
    let ours = heads.recomposed(&rows, &KNOWN, &[]).unwrap();
    close("our edit", &ours, &(&rows + delta).unwrap(), STATES);
    assert!(distance(&goldens::logits(&model, &ours), &unedited) > 0.1);
}

/// A head too large for all its weights at once adds the difference, wherever the concept ranks.
#[test]
fn a_large_head_adds_the_difference_of_weights() {
    let mut config = goldens::model("nano").info().config.clone();
    config.concept.as_mut().unwrap().n_concepts = 50_001;
    let model = goldens::synthetic(config, 3);
    let head = &heads(&model).known;
    let rows = goldens::plain_hidden(&model, &[5, 6, 7], &[]);
    let (features, top) = head.features(&rows).unwrap();
    let best = top.unwrap().row(0).next().unwrap();
    let z = goldens::floats_of_rows(&head.logits(&rows).unwrap());
    for id in [best.0, 50_000] {
        let ours = head.edited_features(&rows, &[(id, 2.5)]).unwrap();
        let deltas: Vec<f32> = z.iter().map(|z| 2.5 - 1.0 / (1.0 + (-z[id as usize]).exp())).collect();
        let deltas = Tensor::new(deltas, rows.device()).unwrap().to_dtype(rows.dtype()).unwrap().unsqueeze(1).unwrap();
        let expected = (&features + deltas.matmul(&head.embeddings(&[id]).unwrap()).unwrap()).unwrap();
        close("edited", &ours, &expected, FEATURES);
    }
}

fn edit(concept: ConceptKey, weight: f32, epsilon: EpsilonMode) -> WeightEdit {
    WeightEdit { concept, weight, epsilon }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// The weight that a concept has, or 0 where it takes no part, changes nothing; any other moves the state along
    /// the concept's embedding by the difference.
    #[test]
    fn a_kept_edit_moves_the_state_by_the_difference_of_weights(
        ids in proptest::collection::vec(0u32..512, 1..40),
        variant in prop_oneof![Just("nano"), Just("variants/topk_features"), Just("variants/topk_none"),
            Just("variants/attn_known"), Just("variants/attn_unknown_dense")],
        concept in crate::steering::concept(),
        value in -2.0f32..4.0,
    ) {
        let model = goldens::model(variant);
        let heads = heads(&model);
        let rows = goldens::plain_hidden(&model, &ids, &[]);
        let (head, index) = model.head_of(concept).unwrap();
        let k = match (&model.info().config.concept, concept) {
            (Some(concept), ConceptKey::Known(_)) => concept.topk_known.and(concept.topk_known_features),
            (Some(concept), ConceptKey::Unknown(_)) => concept.unknown.as_ref().unwrap().topk,
            (None, _) => unreachable!("all have heads"),
        };
        let z = goldens::floats_of_rows(&head.logits(&rows).unwrap());
        for (n, z) in z.iter().enumerate() {
            let row = rows.narrow(0, n, 1).unwrap();
            let score = z[index as usize];
            let rank = z.iter().filter(|other| **other > score).count();
            let active = k.is_none_or(|k| rank < k);
            let weight = if active { 1.0 / (1.0 + (-score).exp()) } else { 0.0 };
            let composed = heads.decompose(&row).unwrap().composed;
            let same = heads.edited(&row, &[edit(concept, weight, EpsilonMode::Keep)]).unwrap();
            prop_assert!(distance(&same, &composed) < within(1e-6), "row {}", n);
            let moved = heads.edited(&row, &[edit(concept, value, EpsilonMode::Keep)]).unwrap();
            let e = model.concept_embedding(concept).unwrap();
            let delta: Vec<f32> = e.iter().map(|e| (value - weight) * e).collect();
            let delta = Tensor::new(delta, row.device()).unwrap().to_dtype(row.dtype()).unwrap();
            let expected = (composed + delta.unsqueeze(0).unwrap()).unwrap();
            prop_assert!(distance(&moved, &expected) < within(1e-5), "row {}", n);
        }
    }
}

/// One edit that drops the rest drops it for all.
#[test]
fn dropping_leaves_concepts_alone() {
    let model = goldens::model("nano");
    let heads = heads(&model);
    let rows = goldens::plain_hidden(&model, &[1, 2, 511, 4], &[]);
    let keep = edit(ConceptKey::Known(5), 2.0, EpsilonMode::Keep);
    let drop = edit(ConceptKey::Unknown(9), 4.0, EpsilonMode::Drop);
    let ours = heads.edited(&rows, &[keep, drop]).unwrap();
    let expected = (heads.known.edited_features(&rows, &[(5, 2.0)]).unwrap()
        + unknown(heads).edited_features(&rows, &[(9, 4.0)]).unwrap())
    .unwrap();
    assert!(distance(&ours, &expected) <= if is_strict() { 0.0 } else { FEATURES });
    let kept = heads.edited(&rows, &[keep, WeightEdit { epsilon: EpsilonMode::Keep, ..drop }]).unwrap();
    assert!(distance(&kept, &expected) > 0.1);
}
