//! Whole forwards through the GPU kernels.

use candle_core::DType;

use crate::compute::compute_in;
use crate::goldens::{self, Tensors, close, distance};

/// Largest error of hidden states and of logits in float32.
pub(crate) const STATES: f64 = 2e-5;
pub(crate) const LOGITS: f64 = 2e-4;

#[test]
fn forwards_reproduce_the_recorded_logits_of_every_variant() {
    let recorded = goldens::json("variants.json");
    let variants = recorded.as_object().unwrap().keys().filter(|name| *name != "untied");
    let mut files = vec![("nano".to_owned(), "nano/forward_t50_randmask.safetensors".to_owned())];
    files.extend(variants.map(|v| (format!("variants/{v}"), format!("variants/{v}/golden.safetensors"))));
    for (dir, file) in &files {
        let model = goldens::model_in(dir, compute_in(DType::F32));
        let golden = Tensors::open(file);
        let ids = golden.ids("input_ids").remove(0);
        let composed = model.composed(&goldens::paged_hidden(&model, &ids, &[]), &[]).unwrap();
        close(file, &goldens::logits(&model, &composed), golden.get("logits"), LOGITS);
    }
}

#[test]
fn bfloat16_is_as_close_to_double_precision_as_the_reference_in_bfloat16() {
    let model = goldens::model_in("nano", compute_in(DType::BF16));
    let golden = Tensors::open("nano/forward_t50_randmask.safetensors");
    for (row, ids) in golden.ids("input_ids").iter().enumerate() {
        let exact = golden.get("f64.hidden").narrow(0, row, 1).unwrap();
        let theirs = distance(&golden.get("bf16.hidden").narrow(0, row, 1).unwrap(), &exact);
        let ours = distance(&goldens::paged_hidden(&model, ids, &[]).unsqueeze(0).unwrap(), &exact);
        assert!(ours > 1e-5, "bfloat16 was not used");
        assert!(ours < 2.0 * theirs, "off by {ours}, the reference by {theirs}");
    }
}

/// Selections by the kernel, and the features of what it selected, of every kind of head.
#[test]
fn concept_heads_reproduce_the_recorded_selections_of_every_variant() {
    let recorded = goldens::json("variants.json");
    let mut compared = 0;
    for variant in recorded.as_object().unwrap().keys() {
        let model = goldens::model_in(&format!("variants/{variant}"), compute_in(DType::F32));
        let golden = Tensors::open(&format!("variants/{variant}/golden.safetensors"));
        let Some(heads) = model.heads() else { continue };
        let parts = heads.decompose(&golden.get("hidden").squeeze(0).unwrap()).unwrap();
        close(&format!("{variant} known_features"), &parts.known_features, golden.get("known_features"), STATES);
        if let Some(unk_hat) = &parts.unk_hat {
            close(&format!("{variant} unk_hat"), unk_hat, golden.get("unk_hat"), STATES);
        }
        for (name, top) in [("known", &parts.known), ("unknown", &parts.unknown)] {
            let Some(top) = top else { continue };
            let theirs = golden.ids_of_rows(&format!("{name}_topk_indices"));
            for (row, (ours, mut theirs)) in top.indices.chunks(top.k).zip(theirs).enumerate() {
                let mut ours = ours.to_vec();
                ours.sort_unstable();
                theirs.sort_unstable();
                assert_eq!(ours, theirs, "{variant} {name} row {row}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared} selections");
}
