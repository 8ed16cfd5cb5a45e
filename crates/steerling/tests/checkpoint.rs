//! Recorded checkpoints load and verify; broken ones are refused by name; synthesised ones equal their in-memory twins.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::path::Path;

use candle_core::{DType, Device};
use common::{config_json, copy_of, golden, variants, write_config};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use steerling::checkpoint::{Checkpoint, Synthetic, Weights, expected};
use steerling::config::{Config, Preset};

/// Rewrites the weights of a copied directory through `change`, which sees (name, type, shape, bytes).
fn rewrite(dir: &Path, change: impl FnOnce(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>)) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> =
        read.iter().map(|(n, t)| (n.to_owned(), t.dtype(), t.shape().to_vec(), t.data().to_vec())).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
}

fn open_error(dir: &Path) -> String {
    Checkpoint::open(dir).expect_err("a broken checkpoint must not open").to_string()
}

/// That the message has every part.
#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn every_recorded_checkpoint_verifies() {
    let mut dirs = variants();
    dirs.push(golden("nano"));
    assert_eq!(dirs.len(), 21);
    for dir in dirs {
        let checkpoint = Checkpoint::open(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        assert_eq!(checkpoint.notes(), [""; 0], "{}", dir.display());
        assert_eq!(checkpoint.total_bytes(), 4 * checkpoint.config().param_count(), "{}", dir.display());
        assert_eq!(checkpoint.tensors().count(), expected(checkpoint.config()).len());
    }
}

#[test]
fn tensors_views_and_rows_hold_the_bytes_of_the_file() {
    let weights = Weights::open(golden("nano")).unwrap();
    let bytes = std::fs::read(golden("nano").join("model.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let name = "transformer.blocks.1.attn.c_attn.weight";
    let values: Vec<f32> =
        reference.tensor(name).unwrap().data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();

    let tensor = weights.load(name, &[128, 64], DType::F32, &Device::Cpu).unwrap();
    assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
    let mut row = [0f32; 64];
    weights.fill_row(name, 127, &mut row).unwrap();
    assert_eq!(row, values[127 * 64..]);
    let half = weights.load(name, &[128, 64], DType::BF16, &Device::Cpu).unwrap();
    assert_eq!(half.dtype(), DType::BF16);
}

#[test]
fn asking_for_another_shape_or_row_names_both() {
    let weights = Weights::open(golden("nano")).unwrap();
    let name = "transformer.ln_f.weight";
    let error = weights.load(name, &[65], DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert_says(&error, &[name, "[64]", "[65]"]);
    let error = weights.fill_row("transformer.tok_emb.weight", 512, &mut [0.0; 64]).unwrap_err().to_string();
    assert_says(&error, &["transformer.tok_emb.weight", "[512, 64]", "row 512"]);
    assert_says(&weights.shape("nothing").unwrap_err().to_string(), &["nothing", "not in this checkpoint"]);
}

#[test]
fn a_plain_backbone_answers_to_the_names_of_the_specification() {
    let weights = Weights::open(golden("variants/plain")).unwrap();
    assert_eq!(weights.shape("transformer.blocks.0.attn.c_proj.weight").unwrap(), [64, 64]);
    assert_eq!(weights.shape("blocks.0.attn.c_proj.weight").unwrap(), [64, 64]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape_and_file() {
    let dir = copy_of("nano");
    rewrite(dir.path(), |t| t.retain(|(name, ..)| name != "transformer.blocks.2.attn.q_norm.weight"));
    let message = open_error(dir.path());
    assert_says(&message, &["transformer.blocks.2.attn.q_norm.weight", "missing", "[16]", "model.safetensors"]);
}

#[test]
fn an_unexpected_tensor_is_named_with_its_shape() {
    let dir = copy_of("nano");
    rewrite(dir.path(), |t| t.push(("surplus.weight".into(), Dtype::F32, vec![2, 3], vec![0; 24])));
    assert_says(&open_error(dir.path()), &["surplus.weight", "unexpected", "[2, 3]"]);
}

#[test]
fn a_misshaped_tensor_is_named_with_both_shapes() {
    let dir = copy_of("nano");
    let name = "unknown_head.predictor_down.weight";
    rewrite(dir.path(), |t| t.iter_mut().find(|(n, ..)| n == name).unwrap().2 = vec![64, 16]);
    assert_says(&open_error(dir.path()), &[name, "[64, 16]", "[16, 64]"]);
}

#[test]
fn a_tensor_of_integers_is_refused() {
    let dir = copy_of("nano");
    rewrite(dir.path(), |t| t.iter_mut().find(|(n, ..)| n == "transformer.ln_f.weight").unwrap().1 = Dtype::I32);
    assert_says(&open_error(dir.path()), &["transformer.ln_f.weight", "I32", "F32, F16 or BF16"]);
}

#[test]
fn a_truncated_file_names_the_first_tensor_that_is_cut() {
    let dir = copy_of("nano");
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    assert_says(&open_error(dir.path()), &["unknown_head.predictor_up.weight", "truncated", "[160, 16]"]);
    for (length, reason) in [(0, "is empty"), (7, "too short"), (100, "does not fit a file of 100 bytes")] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert_says(&open_error(dir.path()), &["model.safetensors", reason]);
    }
    std::fs::write(&path, [&bytes[..], &[0; 10]].concat()).unwrap();
    assert_says(&open_error(dir.path()), &["model.safetensors", "corrupt"]);
}

#[test]
fn all_problems_are_listed_and_the_first_is_reported_with_their_number() {
    let dir = copy_of("nano");
    rewrite(dir.path(), |t| {
        t.retain(|(name, ..)| name != "transformer.ln_f.weight");
        t.push(("surplus".into(), Dtype::F32, vec![1], vec![0; 4]));
        t.iter_mut().find(|(n, ..)| n == "known_head.concept_embedding.weight").unwrap().2 = vec![64, 96];
    });
    let problems: Vec<String> =
        Checkpoint::inspect(dir.path()).unwrap().problems().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_says(&open_error(dir.path()), &["transformer.ln_f.weight", "and 2 more problems"]);
}

#[test]
fn a_tied_checkpoint_may_repeat_the_embedding_as_its_head_and_nothing_else() {
    let dir = copy_of("nano");
    let head = "transformer.lm_head.weight";
    rewrite(dir.path(), |t| {
        let embedding = t.iter().find(|(n, ..)| n == "transformer.tok_emb.weight").unwrap().clone();
        t.push((head.into(), embedding.1, embedding.2, embedding.3));
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_says(&checkpoint.notes()[0], &[head, "weight_sharing"]);

    rewrite(dir.path(), |t| t.iter_mut().find(|(n, ..)| n == head).unwrap().3.fill(0));
    assert_says(&open_error(dir.path()), &[head, "differs", "weight_sharing"]);
    rewrite(dir.path(), |t| t.iter_mut().find(|(n, ..)| n == head).unwrap().2 = vec![64, 512]);
    assert_says(&open_error(dir.path()), &[head, "[64, 512]", "[512, 64]"]);
}

#[test]
fn a_directory_without_weights_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config_json("nano"));
    assert_says(&open_error(dir.path()), &["model.safetensors", "model.safetensors.index.json"]);
}

fn synthetic(preset: Preset, dtype: DType) -> Synthetic {
    Synthetic::new(Config::preset(preset), 42, dtype).unwrap()
}

/// That two sources hold the same bits everywhere.
fn assert_same(a: &Weights, b: &Weights) {
    assert_eq!(a.config(), b.config());
    for tensor in expected(a.config()) {
        let load = |w: &Weights| w.load(&tensor.name, &tensor.shape, DType::F32, &Device::Cpu).unwrap();
        let values = |w: &Weights| load(w).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values(a) == values(b), "{}", tensor.name);
    }
}

#[test]
fn a_synthesised_directory_equals_the_weights_in_memory_in_one_file_or_in_shards() {
    for (dtype, shard_bytes, files) in [(DType::F32, u64::MAX, 1), (DType::BF16, 1 << 20, 4)] {
        let (dir, memory) = (tempfile::tempdir().unwrap(), synthetic(Preset::Tiny, dtype));
        let mut last = (0, 0);
        memory.write_to(dir.path(), shard_bytes, &mut |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (memory.total_bytes(), memory.total_bytes()));
        let disk = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(disk.files().count(), files);
        assert_eq!(disk.view("transformer.tok_emb.weight").unwrap().stored.float(), Some(dtype));
        assert_same(&Weights::Files(disk), &Weights::Random(memory));
    }
}

#[test]
fn every_recorded_configuration_can_be_synthesised() {
    for source in variants() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::from_dir(&source).unwrap();
        Synthetic::new(config, 1, DType::F16).unwrap().write_to(dir.path(), u64::MAX, &mut |_, _| ()).unwrap();
        Checkpoint::open(dir.path()).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    }
}

#[test]
fn a_directory_with_a_model_is_not_overwritten() {
    let dir = copy_of("nano");
    let error = synthetic(Preset::Tiny, DType::BF16).write_to(dir.path(), u64::MAX, &mut |_, _| ()).unwrap_err();
    assert_says(&error.to_string(), &["already holds config.json"]);
}

/// A sharded copy of the tiny model whose index `change` may edit.
fn sharded(change: impl FnOnce(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    synthetic(Preset::Tiny, DType::BF16).write_to(dir.path(), 1 << 20, &mut |_, _| ()).unwrap();
    let path = dir.path().join("model.safetensors.index.json");
    let mut index = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut index);
    std::fs::write(&path, index.to_string()).unwrap();
    dir
}

#[test]
fn an_index_that_names_a_missing_shard_is_refused() {
    let dir = sharded(|_| ());
    std::fs::remove_file(dir.path().join("model-00002-of-00004.safetensors")).unwrap();
    assert_says(&open_error(dir.path()), &["model-00002-of-00004.safetensors", "missing"]);
}

#[test]
fn an_index_that_disagrees_with_a_shard_is_refused_from_both_sides() {
    let name = "transformer.tok_emb.weight";
    let dir = sharded(|index| index["weight_map"][name] = "model-00002-of-00004.safetensors".into());
    let message =
        Checkpoint::inspect(dir.path()).unwrap().problems().iter().map(|p| format!("{p}\n")).collect::<String>();
    assert_says(&message, &[name, "mapped to this file", "not in it"]);

    let dir = sharded(|index| drop(index["weight_map"].as_object_mut().unwrap().remove("transformer.ln_f.weight")));
    assert_says(&open_error(dir.path()), &["transformer.ln_f.weight", "does not map it here"]);
}

#[test]
fn an_expected_tensor_that_no_shard_holds_is_missing_from_the_index() {
    let dir = sharded(|_| ());
    let mut config: serde_json::Value = common::config_json_of(dir.path());
    config["use_bias"] = true.into();
    write_config(dir.path(), &config);
    let message = open_error(dir.path());
    assert_says(&message, &["transformer.blocks.0.attn.c_attn.bias", "index.json", "missing", "[256]"]);
}

#[test]
fn an_index_cannot_reach_outside_its_directory() {
    for file in ["../model.safetensors", "/etc/passwd", ""] {
        let dir = sharded(|index| index["weight_map"]["transformer.ln_f.weight"] = file.into());
        assert_says(&open_error(dir.path()), &["transformer.ln_f.weight", "beside the index"]);
    }
}
