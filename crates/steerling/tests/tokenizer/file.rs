use proptest::prelude::*;
use steerling::config::SpecialIds;
use steerling::tokenizer::Tokenizer;
use steerling::{Error, Result};

use super::{goldens, nano, nano_ids, small_bpe, small_byte_fallback};

#[test]
fn nano_text_is_the_decimal_ids() {
    let tokenizer = nano();
    let ids = [17, 0, 506, 3];
    assert_eq!(tokenizer.encode("17 0  506\n3").unwrap(), ids);
    assert_eq!(tokenizer.decode(&ids, true), "17 0 506 3");
    assert_eq!(tokenizer.encode_with_specials("17").unwrap(), [509, 17, 507]);
    assert_eq!(tokenizer.decode(&[509, 17, 511, 510, 3, 507, 9999], true), "17 3");
    assert_eq!(tokenizer.decode(&[509, 17, 511], false), "<|bos|> 17 <|mask|>");
    assert_eq!(tokenizer.vocab_size(), 512);
}

#[test]
fn nano_special_names_in_text_are_unknown_words() {
    // The file's own vocabulary holds `<|mask|>` as a word.
    assert_eq!(nano().encode("5 <|mask|> 6<|bos|> <|endoftext|>").unwrap(), [5, 0, 0, 0]);
}

#[test]
fn nano_spans_point_at_the_words() {
    let tokens = nano().encode_with_offsets(" 17  <|mask|>").unwrap();
    let spans: Vec<_> = tokens.iter().map(|token| (token.id, token.text.as_str(), token.start, token.end)).collect();
    assert_eq!(spans, [(17, "17", 1, 3), (0, "0", 5, 13)]);
}

#[test]
fn special_names_stay_text_even_where_the_vocabulary_holds_them_as_words() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = small_bpe(dir.path());
    for text in ["<|mask|>", "a<|mask|>b", "he <|endoftext|><|pad|>", "<|bos|> <|mask|>"] {
        let ids = tokenizer.encode(text).unwrap();
        assert!(ids.iter().all(|&id| id <= 256), "{text}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
}

#[test]
fn added_tokens_that_are_not_special_are_found_in_text() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = small_bpe(dir.path());
    let ids = tokenizer.encode("he<tool>he").unwrap();
    assert_eq!(ids, [256, 258, 256]);
    assert_eq!(tokenizer.decode(&ids, true), "he<tool>he");
}

#[test]
fn truncation_of_the_file_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(small_bpe(dir.path()).encode("abcdefgh").unwrap().len(), 8);
}

#[test]
fn raw_bytes_are_joined_into_characters() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = small_byte_fallback(dir.path());
    assert_eq!(tokenizer.decode(&[256, 0xE2, 0x82, 0xAC, 257], true), "a€b");
    assert_eq!(tokenizer.encode("b€").unwrap(), [257, 0xE2, 0x82, 0xAC]);
}

#[test]
fn unreadable_files_are_named() {
    let load = |path: &std::path::Path| -> Result<Tokenizer> { Tokenizer::from_file(path, nano_ids()) };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    assert!(matches!(load(&path), Err(Error::Io { .. })));
    for content in ["", "[]", "{}", "{\"model\": 3}"] {
        std::fs::write(&path, content).unwrap();
        let error = load(&path).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{content}: {error}");
    }
    let twice = SpecialIds { pad: 507, ..nano_ids() };
    assert!(matches!(Tokenizer::from_file(&goldens().join("nano/tokenizer.json"), twice), Err(Error::Tokenizer(_))));
}

proptest! {
    #[test]
    fn byte_level_files_keep_every_text(text in super::cl100k::text()) {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = small_bpe(dir.path());
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|id| ![257, 259, 260, 261, 262].contains(id)));
        prop_assert_eq!(tokenizer.decode(&ids, true), text);
    }
}
