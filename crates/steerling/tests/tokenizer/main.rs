//! The tokenizer against recorded encodings, and what must hold for every text and every sequence of ids.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod checkpoint;
mod cl100k;
mod file;
mod spans;
mod stream;

use std::path::{Path, PathBuf};

use steerling::config::{ChatIds, SpecialIds};
use steerling::tokenizer::Tokenizer;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn base_ids() -> SpecialIds {
    SpecialIds { eos: 100257, pad: 100277, bos: 100278, endofchunk: 100279, mask: 100280, chat: None }
}

fn instruct_ids() -> SpecialIds {
    let chat = ChatIds { start_header: 100281, end_header: 100282, eot: 100283 };
    SpecialIds { chat: Some(chat), ..base_ids() }
}

fn nano_ids() -> SpecialIds {
    SpecialIds { eos: 507, pad: 508, bos: 509, endofchunk: 510, mask: 511, chat: None }
}

fn base() -> Tokenizer {
    Tokenizer::cl100k(base_ids()).unwrap()
}

fn instruct() -> Tokenizer {
    Tokenizer::cl100k(instruct_ids()).unwrap()
}

fn nano() -> Tokenizer {
    Tokenizer::from_file(&goldens().join("nano/tokenizer.json"), nano_ids()).unwrap()
}

/// A byte-level BPE whose whole-word lookup (`ignore_merges`) would find the special names that its vocabulary holds.
/// Ids 0 to 255 are the bytes, 256 is `he`, 257 `<|mask|>`, 258 the added, not special `<tool>`, 259 to 262 further specials.
fn small_bpe(dir: &Path) -> Tokenizer {
    let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        alphabet.iter().enumerate().map(|(id, character)| (character.to_string(), id.into())).collect();
    vocab.insert("he".into(), 256.into());
    vocab.insert("<|mask|>".into(), 257.into());
    let added = |id: u32, content: &str, special: bool| {
        serde_json::json!({"id": id, "content": content, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
    };
    let mut json = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        // The mask is not even marked as special here: the config decides.
        "added_tokens": [added(257, "<|mask|>", false), added(258, "<tool>", false), added(259, "<|endoftext|>", true),
            added(260, "<|pad|>", true), added(261, "<|bos|>", true), added(262, "<|endofchunk|>", true)],
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "ignore_merges": true, "vocab": vocab, "merges": [["h", "e"]]},
    });
    json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [json["pre_tokenizer"].take(),
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]});
    let path = dir.join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let special = SpecialIds { eos: 259, pad: 260, bos: 261, endofchunk: 262, mask: 257, chat: None };
    Tokenizer::from_file(&path, special).unwrap()
}

/// Letters `a` to `c` as words that a `▁` joins, and raw bytes, as SentencePiece vocabularies have them.
/// Ids 0 to 255 are the bytes, then `▁a`, `b`, `▁c`, `<unk>`, and the five specials from 260.
fn small_byte_fallback(dir: &Path) -> Tokenizer {
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        (0..256).map(|byte| (format!("<0x{byte:02X}>"), byte.into())).collect();
    let words = ["▁a", "b", "▁c", "<unk>", "<|endoftext|>", "<|pad|>", "<|bos|>", "<|endofchunk|>", "<|mask|>"];
    vocab.extend(words.iter().zip(256..).map(|(word, id)| ((*word).to_owned(), id.into())));
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": []},
    });
    let path = dir.join("fallback.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let special = SpecialIds { eos: 260, pad: 261, bos: 262, endofchunk: 263, mask: 264, chat: None };
    Tokenizer::from_file(&path, special).unwrap()
}
