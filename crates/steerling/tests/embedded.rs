//! A model compiled into the program is the model of the same files on disk, and refused as they are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::path::Path;

use candle_core::DType;
use common::golden;
use steerling::checkpoint::{Checkpoint, Synthetic};
use steerling::config::{Config, Preset};
use steerling::{DeviceChoice, EmbeddedDir, Model, ModelSource, Result, RuntimeOptions};

const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "concept_labels.parquet"];

/// Files kept until the process ends, each at an odd address: embedded files have no alignment.
fn embed(name: &'static str, files: Vec<(String, Vec<u8>)>) -> EmbeddedDir {
    let keep = |(name, content): (String, Vec<u8>)| {
        // Large allocations start at even addresses.
        let padded: &'static [u8] = [&[0], &content[..]].concat().leak();
        assert_eq!(padded.as_ptr() as usize % 2, 0);
        let name: &'static str = name.leak();
        (name, &padded[1..])
    };
    EmbeddedDir { name, files: files.into_iter().map(keep).collect::<Vec<_>>().leak() }
}

/// The named files of a directory.
fn read(dir: &Path, names: &[&str]) -> Vec<(String, Vec<u8>)> {
    names.iter().map(|name| (name.to_string(), std::fs::read(dir.join(name)).unwrap())).collect()
}

fn load(source: ModelSource) -> Result<Model> {
    let options = RuntimeOptions { device: DeviceChoice::Cpu, ..RuntimeOptions::default() };
    Model::load(&source, &options, &mut |_, _| ())
}

/// Logits of a sequence, as bits.
fn logits(model: &Model, ids: &[u32]) -> Vec<u32> {
    let d = model.info().config.n_embd;
    let embedded = model.backbone().embed(ids).unwrap().reshape((1, ids.len(), d)).unwrap();
    let hidden = model.backbone().forward_plain(&embedded, &[], &mut |_, _| ()).unwrap();
    let composed = model.composed(&hidden.squeeze(0).unwrap(), &[]).unwrap();
    let mut logits = Vec::new();
    model.logits(&composed, &mut logits).unwrap();
    logits.into_iter().map(f32::to_bits).collect()
}

#[test]
fn embedded_files_give_the_logits_of_the_same_files_on_disk_bit_for_bit() {
    let disk = load(ModelSource::Directory(golden("nano"))).unwrap();
    let memory = load(ModelSource::Embedded(embed("nano", read(&golden("nano"), &FILES)))).unwrap();
    assert!(memory.info().embedded && !disk.info().embedded);
    assert_eq!(memory.info().name, "nano");
    assert_eq!((&memory.info().config, memory.info().parameters), (&disk.info().config, disk.info().parameters));
    assert_eq!(memory.tokenizer().encode("17 4").unwrap(), disk.tokenizer().encode("17 4").unwrap());
    assert!(memory.catalog().labelled() > 0);
    assert!(memory.catalog().iter().eq(disk.catalog().iter()));
    let ids: Vec<u32> = (0..37).map(|i| i * 13 % 500).collect();
    let expected = logits(&disk, &ids);
    assert_eq!(expected.len(), ids.len() * disk.info().config.vocab_size);
    assert_eq!(logits(&memory, &ids), expected);
}

#[test]
fn shards_are_found_among_embedded_files() {
    let dir = tempfile::tempdir().unwrap();
    let random = Synthetic::new(Config::preset(Preset::Tiny), 1, DType::BF16).unwrap();
    random.write_to(dir.path(), 8 << 20, &mut |_, _| ()).unwrap();
    let names: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let files = embed("shards", read(dir.path(), &names.iter().map(String::as_str).collect::<Vec<_>>()));
    let (disk, memory) = (Checkpoint::open(dir.path()).unwrap(), Checkpoint::open(files).unwrap());
    assert_eq!(memory.files().count(), disk.files().count());
    assert!(disk.files().count() > 1);
    for tensor in disk.tensors() {
        let (a, b) = (disk.view(tensor.name).unwrap(), memory.view(tensor.name).unwrap());
        assert!(a.shape == b.shape && a.stored == b.stored && a.bytes == b.bytes, "{}", tensor.name);
    }
}

#[test]
fn a_damaged_embedded_file_is_refused_by_its_name() {
    for (damaged, length, reason) in [
        ("config.json", 40, "not valid JSON"),
        ("model.safetensors", 600_000, "truncated"),
        ("tokenizer.json", 40, "not valid JSON"),
        ("concept_labels.parquet", 1000, "not a usable parquet file"),
    ] {
        let mut files = read(&golden("nano"), &FILES);
        files.iter_mut().find(|(name, _)| name == damaged).unwrap().1.truncate(length);
        let message = load(ModelSource::Embedded(embed("broken", files))).err().unwrap().to_string();
        assert!(message.contains(&format!("embedded:broken/{damaged}")), "{message}");
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn embedded_files_that_are_not_there_are_named() {
    let without = |name: &str| {
        let mut files = read(&golden("nano"), &FILES);
        files.retain(|(file, _)| file != name);
        load(ModelSource::Embedded(embed("part", files)))
    };
    for (missing, expected) in [
        ("config.json", "embedded:part/config.json: not among the embedded files"),
        ("model.safetensors", "embedded:part: found neither model.safetensors nor model.safetensors.index.json"),
        ("tokenizer.json", "embedded:part/tokenizer.json: missing"),
    ] {
        let message = without(missing).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let unnamed = without("concept_labels.parquet").unwrap();
    assert_eq!(unnamed.catalog().labelled(), 0);
}
