use std::path::Path;

use steerling::config::{Config, MlpKind, NormKind, NormOrder, SpecialIds};
use steerling::tokenizer::Tokenizer;

use super::{base_ids, goldens, instruct_ids, nano_ids};

/// Only `vocab_size` and `special` matter to a tokenizer.
fn config(vocab_size: usize, special: SpecialIds) -> Config {
    Config {
        n_layers: 1,
        n_head: 1,
        n_embd: 8,
        n_kv_heads: 1,
        context: 16,
        diff_block_size: 16,
        norm: NormKind::Rms,
        norm_eps: 1e-5,
        norm_order: NormOrder::Post,
        use_qk_norm: true,
        use_rope: true,
        rope_base: 500_000.0,
        rope_full_precision: true,
        mlp: MlpKind::SwiGlu,
        intermediate_size: 8,
        use_bias: false,
        clip_qkv: None,
        weight_sharing: true,
        vocab_size,
        special,
        concept: None,
    }
}

fn refusal(dir: &Path, config: &Config) -> String {
    Tokenizer::for_checkpoint(dir, config).unwrap_err().to_string()
}

#[test]
fn a_directory_with_a_tokenizer_file_uses_it() {
    let tokenizer = Tokenizer::for_checkpoint(goldens().join("nano"), &config(512, nano_ids())).unwrap();
    assert_eq!(tokenizer.encode("17").unwrap(), [17]);
}

#[test]
fn a_released_directory_uses_the_built_in_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let bare = Tokenizer::for_checkpoint(dir.path(), &config(100_281, base_ids())).unwrap();
    assert_eq!(bare.encode("Hello").unwrap(), [9906]);
    let named = Tokenizer::for_checkpoint(goldens().join("nano/flat"), &config(100_284, instruct_ids())).unwrap();
    assert_eq!(named.vocab_size(), 100_284);
}

#[test]
fn a_directory_whose_ids_do_not_fit_is_refused_with_the_missing_file() {
    let message = refusal(&goldens().join("nano/flat"), &config(512, nano_ids()));
    assert!(message.contains("tokenizer.json") && message.contains("missing") && message.contains("507"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    let message = refusal(dir.path(), &config(100_280, base_ids()));
    assert!(message.contains("100280"), "{message}");
    let message = refusal(&goldens().join("nano"), &config(511, nano_ids()));
    assert!(message.contains("511"), "{message}");
}

#[test]
fn an_encoding_that_is_not_built_in_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer_config.json");
    std::fs::write(&path, r#"{"encoding_name": "o200k_base"}"#).unwrap();
    assert!(refusal(dir.path(), &config(100_281, base_ids())).contains("o200k_base"));
    std::fs::write(&path, r#"{"encoding_name": 3}"#).unwrap();
    assert!(refusal(dir.path(), &config(100_281, base_ids())).contains("encoding_name"));
    std::fs::write(&path, r#"{"bos_token": "<|bos|>"}"#).unwrap();
    assert!(Tokenizer::for_checkpoint(dir.path(), &config(100_281, base_ids())).is_ok());
}
