//! Models in one GGUF file: written from a directory, read without it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::path::{Path, PathBuf};

use candle_core::DType;
use common::{copy_of, golden, variants};
use steerling::backbone::KvPool;
use steerling::catalog::Catalog;
use steerling::checkpoint::{Checkpoint, Kind, MemoryNeeds, Recipe, Synthetic, Weights};
use steerling::fidelity::{Fidelity, Readings};
use steerling::{Config, DeviceChoice, DtypeChoice, ModelSource, Runtime, RuntimeOptions, Tokenizer};

const KINDS: [Kind; 2] = [Kind::Q8_0, Kind::Q4K];

/// A golden directory as a file.
fn quantized(source: &Path, kind: Kind) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    Weights::open(source).unwrap().quantize_to(&file, "model", Recipe::of(kind), &mut |_, _| ()).unwrap();
    (dir, file)
}

fn runtime(path: &Path, dtype: DtypeChoice) -> Runtime {
    let options = RuntimeOptions { device: DeviceChoice::Cpu, dtype, kv_bytes: 64 << 20, ..RuntimeOptions::default() };
    Runtime::load(&ModelSource::Directory(path.to_owned()), &options, &mut |_, _| ()).unwrap()
}

fn error_of(path: &Path) -> String {
    Checkpoint::open(path).unwrap_err().to_string()
}

/// A sequence of all sorts of tokens with every third masked.
fn sequence(runtime: &Runtime) -> Vec<u32> {
    let mask = runtime.info().config.special.mask;
    (0..120).map(|i| if i % 3 == 2 { mask } else { (i * 37 + 11) % 500 }).collect()
}

fn fidelity(source: &Path, file: &Path, dtype: DtypeChoice) -> Fidelity {
    let mut full = runtime(source, DtypeChoice::F32);
    let sequences = [sequence(&full)];
    let expected = Readings::of(&mut full, &sequences, None).unwrap();
    let found = Readings::of(&mut runtime(file, dtype), &sequences, Some(&expected)).unwrap();
    expected.against(&found)
}

#[test]
fn a_file_holds_all_that_its_directory_holds() {
    let source = golden("nano");
    for kind in KINDS {
        let (_dir, file) = quantized(&source, kind);
        let config = Config::from_dir(&file).unwrap();
        assert_eq!(config, Config::from_dir(&source).unwrap());
        let tokenizers = [&file, &source].map(|path| Tokenizer::for_checkpoint(path, &config).unwrap());
        let ids = tokenizers.each_ref().map(|tokenizer| tokenizer.encode("Steam rose from the pot.").unwrap());
        assert_eq!(ids[0], ids[1]);
        let labels = [&file, &source].map(|path| Catalog::open(path, &config).unwrap());
        assert_eq!(labels[0].get(5).unwrap().name, labels[1].get(5).unwrap().name);
        let runtime = runtime(&file, DtypeChoice::Auto);
        assert_eq!((runtime.info().name.as_str(), runtime.info().weights.as_str()), ("model", "q8_0"));
    }
}

#[test]
fn norms_and_concept_heads_keep_their_precision() {
    let (_dir, file) = quantized(&golden("nano"), Kind::Q8_0);
    let checkpoint = Checkpoint::open(&file).unwrap();
    for tensor in checkpoint.tensors() {
        let expected = match tensor.name {
            name if name.contains("_head.") && !name.contains("lm_head") => "F16",
            name if name.contains("ln_") || name.contains("_norm") => "F32",
            _ => "Q8_0",
        };
        assert_eq!(tensor.dtype, expected, "{}", tensor.name);
    }
}

#[test]
fn answers_of_8_bits_are_close_to_those_of_all_bits() {
    let source = golden("nano");
    let (_dir, file) = quantized(&source, Kind::Q8_0);
    let found = fidelity(&source, &file, DtypeChoice::Auto);
    assert_eq!(found.positions, 40);
    assert!(found.argmax_agreement >= 0.9 && found.kl < 0.01, "{found:?}");
    assert!(found.known_overlap.unwrap() > 0.9 && found.unknown_overlap.unwrap() > 0.9, "{found:?}");
    assert!((0.0..0.1).contains(&found.attribution_error.unwrap()) && found.kl > 0.0, "{found:?}");
}

#[test]
fn answers_in_bfloat16_are_close_to_those_in_float32() {
    let source = golden("nano");
    let found = fidelity(&source, &source, DtypeChoice::Bf16);
    assert!(found.argmax_agreement >= 0.9 && found.kl < 0.01 && found.kl > 0.0, "{found:?}");
}

/// That the memory told beforehand is what loading takes, and what `weights` are said to be.
fn check_memory(path: &Path, dtype: DtypeChoice, form: &str) {
    let options = RuntimeOptions { device: DeviceChoice::Cpu, dtype, kv_bytes: 64 << 20, ..RuntimeOptions::default() };
    let compute = options.compute().unwrap();
    let needs = MemoryNeeds::of(&Checkpoint::open(path).unwrap(), &compute);
    let runtime = runtime(path, dtype);
    let what = format!("{} in {dtype}, weights in {form}", path.display());
    assert_eq!(runtime.info().weights, form, "{what}");
    assert_eq!(needs.weights, runtime.model().weight_bytes(), "{what}");
    assert_eq!(needs.kv_page, KvPool::page_bytes(&runtime.info().config, &compute), "{what}");
}

#[test]
fn memory_is_told_before_loading_for_every_form_of_weights() {
    let nano = golden("nano");
    check_memory(&nano, DtypeChoice::Auto, "f32");
    check_memory(&nano, DtypeChoice::Bf16, "bf16");
    check_memory(&nano, DtypeChoice::F16, "f16");
    for (stored, auto) in [(DType::F16, "f32"), (DType::BF16, "bf16")] {
        let dir = tempfile::tempdir().unwrap();
        let weights = Synthetic::new(Config::from_dir(&nano).unwrap(), 1, stored).unwrap();
        weights.write_to(dir.path(), u64::MAX, &mut |_, _| ()).unwrap();
        std::fs::copy(nano.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        for (dtype, form) in [(DtypeChoice::Auto, auto), (DtypeChoice::Bf16, "bf16"), (DtypeChoice::F16, "f16")] {
            check_memory(dir.path(), dtype, form);
        }
    }
    for kind in KINDS {
        let (_dir, file) = quantized(&nano, kind);
        check_memory(&file, DtypeChoice::Auto, "q8_0");
        check_memory(&file, DtypeChoice::Bf16, "q8_0");
    }
    for switch in ["attn_known", "bias", "layernorm", "no_unknown", "pad", "plain", "untied"] {
        let dir = tempfile::tempdir().unwrap();
        let weights = Synthetic::new(Config::from_dir(golden(&format!("variants/{switch}"))).unwrap(), 1, DType::BF16);
        weights.unwrap().write_to(dir.path(), u64::MAX, &mut |_, _| ()).unwrap();
        std::fs::copy(nano.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        check_memory(dir.path(), DtypeChoice::Auto, "bf16");
        check_memory(dir.path(), DtypeChoice::F16, "f16");
    }
}

/// Rows of 256 weights, which nano does not have, are stored in 4 bits.
#[test]
fn memory_is_told_before_loading_for_4_bits() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { n_embd: 256, n_head: 16, concept: None, ..Config::from_dir(golden("nano")).unwrap() };
    Synthetic::new(config, 1, DType::F32).unwrap().write_to(dir.path(), u64::MAX, &mut |_, _| ()).unwrap();
    std::fs::copy(golden("nano/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let (_dir, file) = quantized(dir.path(), Kind::Q4K);
    check_memory(&file, DtypeChoice::Auto, "q4_k");
}

#[test]
fn quantized_attention_heads_answer_as_their_checkpoint() {
    for variant in ["attn_known", "attn_unknown_dense"] {
        let dir = copy_of(&format!("variants/{variant}"));
        std::fs::copy(golden("nano/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
        let (_dir, file) = quantized(dir.path(), Kind::Q8_0);
        let found = fidelity(dir.path(), &file, DtypeChoice::Auto);
        assert!(found.argmax_agreement >= 0.8 && found.kl < 0.02, "{variant}: {found:?}");
        assert!(found.known_overlap.unwrap() > 0.9 && found.unknown_overlap.unwrap() > 0.9, "{variant}: {found:?}");
    }
}

#[test]
fn every_recorded_configuration_can_be_quantized() {
    for source in variants() {
        for kind in KINDS {
            let (_dir, file) = quantized(&source, kind);
            assert_eq!(Checkpoint::open(&file).unwrap().config(), &Config::from_dir(&source).unwrap());
        }
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_is_quantized_twice() {
    let (dir, file) = quantized(&golden("nano"), Kind::Q8_0);
    let weights = Weights::open(golden("nano")).unwrap();
    let error = weights.quantize_to(&file, "x", Recipe::of(Kind::Q8_0), &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.ends_with("already exists; choose another name"), "{error}");
    let twice = dir.path().join("twice.gguf");
    let error =
        Weights::open(&file).unwrap().quantize_to(&twice, "x", Recipe::of(Kind::Q4K), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("quantized already"), "{error}");
    assert!(!twice.exists());
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let (dir, file) = quantized(&golden("nano"), Kind::Q8_0);
    let bytes = std::fs::read(&file).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let cut = error_of(&write("cut.gguf", &bytes[..bytes.len() - 4096]));
    assert!(cut.contains("truncated: shape"), "{cut}");
    let header = error_of(&write("header.gguf", &bytes[..1000]));
    assert!(header.contains("not a usable GGUF file"), "{header}");
    let text = error_of(&write("text.gguf", b"hello"));
    assert!(text.contains("neither a model directory nor a GGUF file"), "{text}");
    let at = bytes.windows(9).position(|window| window == b"steerling").unwrap();
    let mut foreign = bytes.clone();
    foreign[at..at + 9].copy_from_slice(b"starlings");
    let foreign = error_of(&write("foreign.gguf", &foreign));
    assert!(foreign.contains("architecture `starlings`, expected `steerling`"), "{foreign}");
}
