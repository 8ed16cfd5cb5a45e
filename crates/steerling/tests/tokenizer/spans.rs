//! The bytes that each token covers, by either kind of tokenizer.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use steerling::Config;
use steerling::config::SpecialIds;
use steerling::tokenizer::{Token, Tokenizer};

use super::{base, cl100k, small_bpe, small_byte_fallback};

/// The tokenizer of the demo model, a byte-level `tokenizer.json`.
fn demo() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/steerling-demo");
    Tokenizer::for_checkpoint(&dir, &Config::from_dir(&dir).unwrap()).unwrap()
}

/// A byte-level vocabulary with tokens that end and begin in the middle of characters.
fn byte_level(dir: &Path, add_prefix_space: bool, normalizer: Value) -> Tokenizer {
    let mut letters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    // A space and the first byte of an emoji, its middle, its last byte and the first of the next, a letter and half an é.
    let merges = [["Ġ", "ð"], ["Ł", "ĺ"], ["ĥ", "ð"], ["b", "Ã"]];
    let mut tokens: Vec<String> = letters.into_iter().map(String::from).collect();
    tokens.extend(merges.iter().map(|pair| pair.concat()));
    let model = json!({"type": "BPE", "vocab": {}, "merges": merges});
    let pre_tokenizer =
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": false, "use_regex": false});
    load(
        dir,
        tokens,
        json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}}),
    )
}

/// A vocabulary of the kind of SentencePiece: spaces become `▁`, one stands before the text, and characters without a
/// token are spelled in bytes.
fn sentence_piece(dir: &Path) -> Tokenizer {
    let mut tokens: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(["▁", "a", "b", "▁a", "ab", "é"].map(String::from));
    let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let model = json!({"type": "BPE", "byte_fallback": true, "vocab": {}, "merges": [["▁", "a"], ["a", "b"]]});
    load(dir, tokens, json!({"normalizer": normalizer, "model": model, "decoder": null}))
}

/// A `tokenizer.json` with these tokens and five specials behind them.
fn load(dir: &Path, mut tokens: Vec<String>, mut json: Value) -> Tokenizer {
    let first = tokens.len() as u32;
    tokens.extend(["<|endoftext|>", "<|pad|>", "<|bos|>", "<|endofchunk|>", "<|mask|>"].map(String::from));
    json["model"]["vocab"] = tokens.into_iter().zip(0u32..).map(|(token, id)| (token, Value::from(id))).collect();
    json["version"] = "1.0".into();
    json["added_tokens"] = json!([]);
    let path = dir.join("spans.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let [eos, pad, bos, endofchunk, mask] = [0, 1, 2, 3, 4].map(|n| first + n);
    Tokenizer::from_file(&path, SpecialIds { eos, pad, bos, endofchunk, mask, chat: None }).unwrap()
}

fn spans(tokenizer: &Tokenizer, text: &str) -> Vec<(usize, usize)> {
    tokenizer.encode_with_offsets(text).unwrap().iter().map(|token| (token.start, token.end)).collect()
}

#[test]
fn the_bytes_of_a_split_character_belong_to_one_token_each() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |n: usize| -> Vec<(usize, usize)> { (0..n).map(|at| (at, at + 1)).collect() };
    assert_eq!(spans(&demo(), "a 😃"), bytes(6));
    assert_eq!(spans(&small_byte_fallback(dir.path()), "b€"), bytes(4));
    let straddling = byte_level(dir.path(), false, Value::Null);
    assert_eq!(spans(&straddling, "a 😃😃é"), [(0, 1), (1, 3), (3, 5), (5, 7), (7, 9), (9, 10), (10, 11), (11, 12)]);
    assert_eq!(spans(&straddling, "bé"), [(0, 2), (2, 3)]);
}

/// What the tokenizer puts before the text covers none of it.
#[test]
fn a_space_that_the_tokenizer_adds_covers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let byte_level = byte_level(dir.path(), true, Value::Null);
    assert_eq!(spans(&byte_level, "😃"), [(0, 1), (1, 3), (3, 4)]);
    assert_eq!(spans(&byte_level, "é"), [(0, 0), (0, 1), (1, 2)]);
    let sentence_piece = sentence_piece(dir.path());
    assert_eq!(spans(&sentence_piece, "€ ab"), [(0, 0), (0, 1), (1, 2), (2, 3), (3, 5), (5, 6)]);
    assert_eq!(spans(&sentence_piece, "aé"), [(0, 1), (1, 3)]);
}

/// Tokens that are not made of the text's own bytes share the characters they were made from.
#[test]
fn tokens_of_changed_characters_share_them() {
    let dir = tempfile::tempdir().unwrap();
    let decomposing = byte_level(dir.path(), false, json!({"type": "NFD"}));
    assert_eq!(spans(&decomposing, "é!😃"), [(0, 2), (0, 2), (0, 2), (2, 3), (3, 4), (4, 6), (6, 7)]);
}

/// That spans follow each other from the first byte to the last.
fn check_cover(text: &str, tokens: &[Token]) -> Result<(), TestCaseError> {
    let mut end = 0;
    for token in tokens {
        prop_assert_eq!(token.start, end);
        prop_assert!(token.end >= token.start);
        end = token.end;
    }
    prop_assert_eq!(end, text.len());
    Ok(())
}

/// Text with characters of every length, in parts and composed.
fn text() -> impl Strategy<Value = String> {
    let pieces =
        ["😃😃", " 😃", "bé", "e\u{301}", "日本語", "שלום", "ﬁ", "▁", "👩\u{200d}🚀", "ab a", "\u{feff}", "क्षि"];
    let piece = prop_oneof![cl100k::text(), prop::sample::select(pieces.to_vec()).prop_map(str::to_owned)];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn spans_follow_each_other_and_cover_the_text(text in text()) {
        let dir = tempfile::tempdir().unwrap();
        let tokenizers = [base(), demo(), small_bpe(dir.path()), byte_level(dir.path(), false, Value::Null)];
        for tokenizer in tokenizers {
            let tokens = tokenizer.encode_with_offsets(&text).unwrap();
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            prop_assert_eq!(&ids, &tokenizer.encode(&text).unwrap());
            check_cover(&text, &tokens)?;
            for token in &tokens {
                // The bytes are those that the token stands for.
                prop_assert_eq!(&String::from_utf8_lossy(&text.as_bytes()[token.start..token.end]), &token.text);
            }
        }
        for tokenizer in [byte_level(dir.path(), true, Value::Null), sentence_piece(dir.path()), small_byte_fallback(dir.path())] {
            check_cover(&text, &tokenizer.encode_with_offsets(&text).unwrap())?;
        }
    }
}
