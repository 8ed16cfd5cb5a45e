//! Whatever the bytes of a model's files are: an error or a model, never a panic, and no memory beyond a small multiple of
//! the file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use std::path::Path;
use std::sync::Mutex;

use common::{copy_of, golden};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use serde_json::{Value, json};
use steerling::checkpoint::{Checkpoint, Kind, Recipe, Weights};
use steerling::{Config, Tokenizer};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One measurement at a time.
static MEASURING: Mutex<()> = Mutex::new(());

/// Fails if `work` holds more than 64 MiB at once; the files are of some hundred kilobytes.
fn bounded(work: impl FnOnce()) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    work();
    let taken = MEMORY.peak_usage().saturating_sub(before);
    assert!(taken < 64 << 20, "{taken} bytes were taken at once");
}

/// Some changes of the first bytes, where the header is, and perhaps an end that comes too early.
#[derive(Debug, Clone)]
struct Damage {
    changes: Vec<(prop::sample::Index, u8)>,
    /// Eight bytes at once: lengths, counts, offsets.
    numbers: Vec<(prop::sample::Index, u64)>,
    cut: Option<prop::sample::Index>,
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>, header: usize) {
        for (at, byte) in &self.changes {
            bytes[at.index(header)] = *byte;
        }
        for (at, number) in &self.numbers {
            let at = at.index(header - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(header));
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), Just(1 << 62), Just(1 << 30), 0u64..4096];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let numbers = prop::collection::vec((any::<prop::sample::Index>(), number), 0..3);
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (changes, numbers, cut).prop_map(|(changes, numbers, cut)| Damage { changes, numbers, cut })
}

/// Where the header of a GGUF file ends: the name of its last tensor stands shortly before.
fn gguf_header(bytes: &[u8]) -> usize {
    let name = b"unknown_head.predictor_up.weight";
    bytes.windows(name.len()).rposition(|window| window == name).unwrap() + name.len() + 40
}

/// Everything that is looked at before weights are read, and a look at each tensor that was found.
fn open(path: &Path) {
    if let Ok(found) = Checkpoint::inspect(path) {
        let _ = found.problems().iter().map(ToString::to_string).collect::<Vec<_>>();
        for tensor in found.tensors() {
            let _ = found.view(tensor.name).map(|view| view.bytes.iter().fold(0u8, |sum, byte| sum ^ byte));
        }
        let _ = Tokenizer::for_checkpoint(path, found.config());
    }
}

/// A node of JSON, replaced.
fn replace(json: &mut Value, at: usize, with: &Value) {
    fn walk(json: &mut Value, left: &mut usize, with: &Value) -> bool {
        if *left == 0 {
            *json = with.clone();
            return true;
        }
        *left -= 1;
        match json {
            Value::Array(items) => items.iter_mut().any(|item| walk(item, left, with)),
            Value::Object(map) => map.values_mut().any(|item| walk(item, left, with)),
            _ => false,
        }
    }
    walk(json, &mut { at }, with);
}

fn nodes(json: &Value) -> usize {
    1 + match json {
        Value::Array(items) => items.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// The demo model's tokenizer, cut short: each word of the vocabulary is like the others.
fn small_tokenizer() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let model = &mut json["model"];
    model["merges"].as_array_mut().unwrap().truncate(12);
    let kept: Vec<String> = model["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| match pair {
            Value::String(pair) => pair.replace(' ', ""),
            pair => pair.as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect(),
        })
        .collect();
    let letters = |token: &String| token.chars().count() == 1;
    model["vocab"].as_object_mut().unwrap().retain(|token, _| letters(token) || kept.contains(token));
    json
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn headers_of_safetensors_files(damage in damage()) {
        let _alone = MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = copy_of("nano");
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        damage.apply(&mut bytes, header);
        std::fs::write(&path, bytes).unwrap();
        bounded(|| open(dir.path()));
    }

    #[test]
    fn headers_of_gguf_files(damage in damage()) {
        let _alone = MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        Weights::open(golden("nano")).unwrap().quantize_to(&path, "x", Recipe::of(Kind::Q8_0), &mut |_, _| ()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let header = gguf_header(&bytes);
        damage.apply(&mut bytes, header);
        std::fs::write(&path, bytes).unwrap();
        bounded(|| open(&path));
    }

    #[test]
    fn bytes_of_tokenizers(damage in damage()) {
        let _alone = MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let dir = copy_of("nano");
        let mut bytes = small_tokenizer().to_string().into_bytes();
        let size = bytes.len();
        damage.apply(&mut bytes, size);
        std::fs::write(dir.path().join("tokenizer.json"), bytes).unwrap();
        bounded(|| open(dir.path()));
    }

    /// Files that are still JSON, with something else where it does not belong.
    #[test]
    fn values_of_tokenizers(
        at in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        with in prop::sample::select(vec![json!(null), json!(true), json!(-1), json!(u64::MAX), json!(u32::MAX), json!(1e300),
            json!(0), json!(2), json!(""), json!("Ġ"), json!("a"), json!("ByteLevel"), json!("WordPiece"), json!("Unigram"), json!("("),
            json!([]), json!({}), json!([["a", "b"]]), json!({"type": "ByteLevel"})]),
    ) {
        let _alone = MEASURING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut tokenizer = small_tokenizer();
        for at in at {
            let at = at.index(nodes(&tokenizer));
            replace(&mut tokenizer, at, &with);
        }
        let dir = copy_of("nano");
        let path = dir.path().join("tokenizer.json");
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        let special = Config::from_dir(dir.path()).unwrap().special;
        bounded(|| {
            if let Ok(tokenizer) = Tokenizer::from_file(&path, special) {
                if let Ok(tokens) = tokenizer.encode_with_offsets("a 😃 b<|mask|>\n") {
                    tokenizer.decode(&tokens.iter().map(|token| token.id).collect::<Vec<_>>(), true);
                }
                tokenizer.decode(&[0, 1, 255, 511, u32::MAX], false);
            }
        });
    }
}
