//! Forward passes against the recorded ones.

use candle_core::{DType, Device, Tensor};
use steerling::Model;
use steerling::concepts::{ConceptHead, TopK};

use crate::compute::compute_in;
use crate::goldens::{self, Tensors, close, distance};

/// Recorded with wide random weights; the reference's own distance between float32 and float64 is about 2e-5.
pub(crate) const LOGITS: f64 = 2e-4;
pub(crate) const STATES: f64 = 1e-4;
pub(crate) const FEATURES: f64 = 2e-5;

const NANO: [&str; 7] = ["t1", "t16_nomask", "t20_specials", "t23_tailmask", "t33_allmask", "t50_randmask", "b2_t37"];

pub(crate) const VARIANTS: [&str; 19] = [
    "attn_known",
    "attn_unknown",
    "attn_unknown_dense",
    "bias",
    "blk12",
    "dense_unknown",
    "layernorm",
    "mha",
    "mlp_gelu",
    "mlp_silu",
    "no_epsilon",
    "no_rope",
    "no_unknown",
    "pad",
    "plain",
    "prenorm",
    "topk_features",
    "topk_none",
    "topk_on_logits",
];

/// Every recorded field of one file, by the plain pass.
fn check(model: &Model, file: &str) {
    let golden = Tensors::open(file);
    let sequences = golden.ids("input_ids");
    let (b, t) = (sequences.len(), sequences[0].len());
    let d = model.info().config.n_embd;
    let embeddings = model.backbone().embed(&sequences.concat()).unwrap().reshape((b, t, d)).unwrap();
    let mut seen = 0;
    let hidden = model
        .backbone()
        .forward_plain(&embeddings, &[], &mut |name, ours| {
            seen += 1;
            if name.ends_with("_rope") && !model.info().config.use_rope {
                return;
            }
            let recorded = golden.get(&format!("dbg.{name}"));
            close(&format!("{file} {name}"), ours, recorded, STATES);
        })
        .unwrap();
    assert_eq!(seen, 1 + 6 * model.info().config.n_layers);
    let rows = hidden.reshape((b * t, d)).unwrap();
    let composed = match model.heads() {
        None => rows.clone(),
        Some(heads) => {
            let parts = heads.decompose(&rows).unwrap();
            let field = |name: &str, ours: &Tensor, tolerance| {
                close(&format!("{file} {name}"), ours, golden.get(name), tolerance)
            };
            field("hidden", &rows, STATES);
            field("known_features", &parts.known_features, FEATURES);
            field("unk", &parts.unk().unwrap(), STATES);
            field("composed", &parts.composed, STATES);
            check_head(file, "known", &heads.known, parts.known.as_ref(), &rows, &golden);
            if let Some(unknown) = &heads.unknown {
                field("unk_hat", parts.unk_hat.as_ref().unwrap(), FEATURES);
                field("epsilon_true", &parts.epsilon_true().unwrap().unwrap(), STATES);
                check_head(file, "unknown", unknown, parts.unknown.as_ref(), &rows, &golden);
            } else {
                assert!(golden.find("unk_hat").is_none());
            }
            match &parts.epsilon {
                Some(epsilon) => field("epsilon", epsilon, STATES),
                None => assert!(golden.find("epsilon").is_none()),
            }
            parts.composed
        }
    };
    let logits = model.backbone().lm_head().forward(&composed).unwrap();
    close(&format!("{file} logits"), &logits, golden.get("logits"), LOGITS);
}

fn check_head(file: &str, name: &str, head: &ConceptHead, top: Option<&TopK>, rows: &Tensor, golden: &Tensors) {
    let z = head.logits(rows).unwrap();
    close(&format!("{file} {name}_logits"), &z, golden.get(&format!("{name}_logits")), STATES);
    let recorded = golden.find(&format!("{name}_topk_indices"));
    let Some(top) = top else {
        // The package selects for its report what did not enter the features; we report no selection.
        assert!(name == "unknown" || recorded.is_none(), "{file}: {name} top-k recorded, none found");
        return;
    };
    let recorded = recorded.unwrap_or_else(|| panic!("{file}: no {name} top-k recorded"));
    let k = recorded.dims()[2];
    assert_eq!(top.k, k, "{file} {name}");
    let recorded: Vec<u32> = recorded.to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for (row, (ours, theirs)) in top.indices.chunks(k).zip(recorded.chunks(k)).enumerate() {
        let sorted = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        assert_eq!(sorted(ours), sorted(theirs), "{file} {name} top-k of row {row}");
    }
    let logits = golden.get(&format!("{name}_topk_logits"));
    let ours = Tensor::from_slice(&top.logits, logits.elem_count(), logits.device()).unwrap();
    close(&format!("{file} {name}_topk_logits"), &ours, logits, STATES);
}

#[test]
fn every_recorded_field_of_nano_is_reproduced() {
    let model = goldens::model("nano");
    for case in NANO {
        check(&model, &format!("nano/forward_{case}.safetensors"));
    }
}

#[test]
fn every_variant_reproduces_its_recorded_forward() {
    for variant in VARIANTS.into_iter().chain(["untied"]) {
        check(&goldens::model(&format!("variants/{variant}")), &format!("variants/{variant}/golden.safetensors"));
    }
}

#[test]
fn the_variants_tested_are_all_there_are() {
    let recorded = goldens::json("variants.json");
    let mut names: Vec<&str> = recorded.as_object().unwrap().keys().map(String::as_str).collect();
    names.retain(|name| *name != "untied");
    assert_eq!(names, VARIANTS);
}

#[test]
fn double_precision_agrees_with_the_recorded_double_precision() {
    let model = goldens::model_in("nano", compute_in(DType::F64));
    for case in NANO {
        let golden = Tensors::open(&format!("nano/forward_{case}.safetensors"));
        for (row, ids) in golden.ids("input_ids").iter().enumerate() {
            let hidden = goldens::plain_hidden(&model, ids, &[]).unsqueeze(0).unwrap();
            let recorded = golden.get("f64.hidden").narrow(0, row, 1).unwrap();
            // The rotary tables are float32 in both.
            close(&format!("{case} f64.hidden"), &hidden, &recorded, 1e-6);
        }
    }
}

#[test]
fn bfloat16_is_as_close_to_double_precision_as_the_reference_in_bfloat16() {
    let model = goldens::model_in("nano", compute_in(DType::BF16));
    let mut worst_ratio = 0f64;
    for case in NANO {
        let golden = Tensors::open(&format!("nano/forward_{case}.safetensors"));
        for (row, ids) in golden.ids("input_ids").iter().enumerate() {
            let exact = golden.get("f64.hidden").narrow(0, row, 1).unwrap();
            let theirs = distance(&golden.get("bf16.hidden").narrow(0, row, 1).unwrap(), &exact);
            for hidden in [goldens::plain_hidden(&model, ids, &[]), goldens::paged_hidden(&model, ids, &[])] {
                let ours = distance(&hidden.unsqueeze(0).unwrap(), &exact);
                assert!(ours > STATES, "bfloat16 was not used");
                worst_ratio = worst_ratio.max(ours / theirs);
            }
        }
    }
    assert!(worst_ratio < 2.0, "ours is {worst_ratio} times as far off");
}

/// The paged pass, all blocks in one forward, against the recorded logits: every variant has one.
#[test]
fn the_paged_forward_reproduces_the_recorded_logits() {
    let mut files = vec![("nano".to_owned(), "nano/forward_t50_randmask.safetensors".to_owned())];
    files.extend(VARIANTS.iter().map(|v| (format!("variants/{v}"), format!("variants/{v}/golden.safetensors"))));
    for dtype in [DType::F32, DType::F64] {
        for (dir, file) in &files {
            let model = goldens::model_in(dir, compute_in(dtype));
            let golden = Tensors::open(file);
            let ids = golden.ids("input_ids").remove(0);
            let composed = model.composed(&goldens::paged_hidden(&model, &ids, &[]), &[]).unwrap();
            let mut logits = Vec::new();
            model.logits(&composed, &mut logits).unwrap();
            let logits = Tensor::from_vec(logits, (ids.len(), model.info().config.vocab_size), &Device::Cpu).unwrap();
            close(&format!("{file} in {dtype:?}"), &logits, golden.get("logits"), LOGITS);
        }
    }
}

#[test]
fn rotary_angles_are_those_of_the_reference() {
    let golden = Tensors::open("nano/rope_256.safetensors");
    let model = goldens::model("nano");
    let positions: Vec<u32> = (0..256).collect();
    let (cos, sin) = model.backbone().rotary(&positions).unwrap().expect("nano rotates");
    let half = cos.dims()[1];
    for (name, ours) in [("cos", cos), ("sin", sin)] {
        let recorded = golden.get(name).reshape((256, 2 * half)).unwrap().narrow(1, 0, half).unwrap();
        close(name, &ours, &recorded, 1e-6);
    }
}
