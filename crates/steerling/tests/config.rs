//! Every recorded `config.json` loads; everything else is refused by name.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod common;

use common::{config_json, golden, variants};
use serde_json::{Value, json};
use steerling::config::{ChatIds, Config, MlpKind, NormKind, NormOrder, Preset, SpecialIds};

/// The recorded nested configuration with some keys replaced; `concept.` reaches into its section.
fn nano_with(changes: &[(&str, Value)]) -> Value {
    let mut json = config_json("nano");
    for (key, value) in changes {
        match key.strip_prefix("concept.") {
            Some(key) => json["concept"][key] = value.clone(),
            None => json[*key] = value.clone(),
        }
    }
    json
}

fn nano_without(keys: &[&str]) -> Value {
    let mut json = config_json("nano");
    for key in keys {
        json.as_object_mut().unwrap().remove(*key).expect("the key is in the recorded file");
    }
    json
}

#[test]
fn both_layouts_of_the_same_model_are_the_same_configuration() {
    let nested = Config::from_dir(golden("nano")).unwrap();
    assert_eq!(Config::from_dir(golden("nano/flat")).unwrap(), nested);
    assert_eq!((nested.n_layers, nested.n_embd, nested.head_dim(), nested.kv_dim()), (3, 64, 16, 32));
    assert_eq!((nested.context, nested.diff_block_size, nested.intermediate_size), (512, 16, 128));
    let ids = SpecialIds { eos: 507, pad: 508, bos: 509, endofchunk: 510, mask: 511, chat: None };
    assert_eq!(nested.special, ids);
    let concept = nested.concept.unwrap();
    assert_eq!((concept.n_concepts, concept.topk_known, concept.padded()), (96, Some(8), 96));
    assert_eq!(concept.unknown.unwrap().factorize_rank, Some(16));
}

#[test]
fn the_layout_is_told_from_the_keys_when_model_type_is_absent() {
    let nested = Config::from_dir(golden("nano")).unwrap();
    assert_eq!(Config::from_json(&nano_without(&["model_type"]), None).unwrap(), nested);
    let mut flat = config_json("nano/flat");
    flat.as_object_mut().unwrap().remove("model_type");
    assert_eq!(Config::from_json(&flat, None).unwrap(), nested);
}

#[test]
fn every_recorded_switch_changes_the_field_it_names() {
    let read = |name: &str| Config::from_dir(golden(&format!("variants/{name}"))).unwrap();
    let concept = |name: &str| read(name).concept.unwrap();
    assert!(concept("attn_known").use_attention_known && concept("attn_known").unknown.unwrap().use_attention);
    assert!(concept("attn_unknown").unknown.unwrap().use_attention);
    let dense = concept("attn_unknown_dense").unknown.unwrap();
    assert_eq!((dense.use_attention, dense.factorize_rank), (true, None));
    assert!(read("bias").use_bias);
    assert_eq!(read("blk12").diff_block_size, 12);
    assert_eq!(concept("dense_unknown").unknown.unwrap().factorize_rank, None);
    assert_eq!(read("layernorm").norm, NormKind::Layer);
    assert_eq!(read("mha").n_kv_heads, 4);
    assert_eq!(read("mlp_gelu").mlp, MlpKind::Gelu);
    assert_eq!(read("mlp_silu").mlp, MlpKind::Silu);
    assert!(!concept("no_epsilon").use_epsilon_correction);
    assert!(!read("no_rope").use_rope);
    assert_eq!(concept("no_unknown").unknown, None);
    assert_eq!((concept("pad").n_concepts, concept("pad").padded(), concept("pad").padded_unknown()), (90, 96, 160));
    assert_eq!(read("plain").concept, None);
    assert_eq!(read("prenorm").norm_order, NormOrder::Pre);
    assert_eq!(concept("topk_features").topk_known_features, Some(12));
    assert_eq!((concept("topk_none").topk_known, concept("topk_none").unknown.unwrap().topk), (None, None));
    assert!(concept("topk_on_logits").topk_on_logits);
    assert!(!read("untied").weight_sharing);
}

#[test]
fn what_is_written_flat_reads_back_equal() {
    let mut configs: Vec<Config> = variants().iter().map(|dir| Config::from_dir(dir).unwrap()).collect();
    configs.extend(Preset::ALL.map(Config::preset));
    let mut chat = Config::preset(Preset::Tiny);
    (chat.vocab_size, chat.special.chat) = (100_284, Some(ChatIds::RELEASED));
    configs.push(chat);
    configs.push(Config { clip_qkv: None, mlp: MlpKind::Relu, ..Config::preset(Preset::Small) });
    for config in configs {
        assert_eq!(Config::from_json(&config.to_json_flat(), None).unwrap(), config);
    }
}

#[test]
fn ids_come_from_the_config_then_the_tokenizer_then_the_released_vocabulary() {
    let tokenizer = json!({ "eos_token_id": 1, "mask_token_id": 2, "encoding_name": "cl100k_base" });
    let json = json!({ "eos_token_id": 3, "pad_token_id": null });
    let ids = Config::from_json(&json, Some(&tokenizer)).unwrap().special;
    assert_eq!(ids, SpecialIds { eos: 3, mask: 2, ..SpecialIds::RELEASED });
}

#[test]
fn a_model_is_an_instruct_model_when_either_file_names_eot_id_or_it_says_so() {
    let chat = |json: Value, tokenizer: Value| Config::from_json(&json, Some(&tokenizer)).unwrap().special.chat;
    let base = json!({ "vocab_size": 100_284 });
    assert_eq!(chat(base.clone(), json!({})), None);
    assert_eq!(chat(base, json!({ "eot_id": 100_283 })), Some(ChatIds::RELEASED));
    let (named, said) =
        (json!({ "vocab_size": 100_284, "eot_id": 100_283 }), json!({ "vocab_size": 100_284, "instruct": true }));
    assert_eq!(chat(named, json!({})), Some(ChatIds::RELEASED));
    assert_eq!(chat(said, json!({})), Some(ChatIds::RELEASED));
    let placed = json!({ "vocab_size": 100_284, "eot_id": 9, "start_header_id": 5, "end_header_id": 6 });
    assert_eq!(chat(placed, json!({})), Some(ChatIds { start_header: 5, end_header: 6, eot: 9 }));
}

#[test]
fn more_concepts_asked_for_than_there_are_means_all_of_them() {
    let json = nano_with(&[("concept.topk_known", json!(1000)), ("concept.unknown_topk", json!(1000))]);
    let concept = Config::from_json(&json, None).unwrap().concept.unwrap();
    assert_eq!((concept.topk_known, concept.unknown.unwrap().topk), (Some(96), Some(160)));
}

#[test]
fn the_inner_width_defaults_to_the_ratio() {
    let json = nano_with(&[("intermediate_size", Value::Null), ("mlp_ratio", json!(3.0))]);
    assert_eq!(Config::from_json(&json, None).unwrap().intermediate_size, 192);
}

#[test]
fn keys_of_other_tools_and_of_training_are_ignored() {
    let json = nano_with(&[
        ("architectures", json!(["X"])),
        ("auto_map", json!({})),
        ("torch_dtype", json!("bfloat16")),
        ("dtype", json!("bfloat16")),
        ("transformers_version", json!("5.0")),
        ("_name_or_path", json!("x")),
        ("tokenizer_class", json!(null)),
        ("use_cache", json!(true)),
        ("id2label", json!({})),
        ("concept.max_concepts", json!(1)),
        ("concept.store_unknown_weights", json!(true)),
        ("concept.inject_layer", json!(7)),
        ("concept.inject_alpha", json!(0.5)),
        ("concept.block_size", json!(1)),
    ]);
    assert_eq!(Config::from_json(&json, None).unwrap(), Config::from_dir(golden("nano")).unwrap());
}

#[test]
fn the_word_of_other_tools_for_tying_counts_only_where_ours_is_absent() {
    let mut json = nano_with(&[("tie_word_embeddings", json!(false))]);
    assert!(Config::from_json(&json, None).unwrap().weight_sharing);
    json.as_object_mut().unwrap().remove("weight_sharing");
    assert!(!Config::from_json(&json, None).unwrap().weight_sharing);
}

#[test]
fn what_cannot_be_honoured_is_refused_naming_key_value_and_what_is_accepted() {
    let cases: &[(&str, Value, &str)] = &[
        ("sliding_window", json!(128), "unknown key with value 128"),
        ("concept.temperature", json!(0.5), "unknown key with value 0.5"),
        ("quantization_config", json!({ "bits": 4 }), "unknown key with value {\"bits\":4}"),
        ("model_type", json!("llama"), "found \"llama\", expected \"steerling\" or \"causal_diffusion\""),
        ("n_layers", json!("3"), "found \"3\", expected an integer from 1"),
        ("n_layers", json!(0), "found 0, expected an integer from 1"),
        ("n_layers", json!(5000), "found 5000, expected at most 4096"),
        ("n_head", json!(-4), "found -4, expected an integer from 1"),
        ("n_embd", json!(66), "found 66, expected a multiple of n_head 4"),
        ("n_embd / n_head", json!(null), "found 60 / 4 = 15, expected an even width"),
        ("n_kv_heads", json!(3), "found 3, expected a divisor of n_head 4"),
        ("block_size", json!(1.5), "found 1.5, expected an integer"),
        ("diff_block_size", json!(0), "found 0, expected an integer from 1"),
        ("vocab_size", json!(1u64 << 40), "found 1099511627776, expected an integer from 1"),
        ("norm_eps", json!(0.0), "found 0.0, expected a number above 0"),
        ("norm_order", json!("sandwich"), "found \"sandwich\", expected \"post\" or \"pre\""),
        ("mlp_type", json!("moe"), "found \"moe\", expected \"swiglu\" or \"standard\""),
        ("activation", json!("tanh"), "found \"tanh\", expected \"gelu\" or \"relu\" or \"silu\""),
        ("use_rope", json!("yes"), "found \"yes\", expected true or false"),
        ("clip_qkv", json!(-1.0), "found -1.0, expected null or a number above 0"),
        ("intermediate_size", json!(0), "found 0, expected null or an integer"),
        ("mask_token_id", json!(512), "found 512, expected less than vocab_size 512"),
        ("mask_token_id", json!(507), "found 507, expected an id of its own"),
        ("eos_token_id", json!([1, 2]), "found [1,2], expected null or a token id"),
        ("eot_id", json!(600), "found 600, expected less than vocab_size 512"),
        ("concept", json!(3), "found 3, expected an object"),
        ("concept.concept_dim", json!(32), "found 32, expected n_embd 64"),
        ("concept.n_concepts", json!(0), "found 0, expected an integer from 1"),
        ("concept.topk_known", json!(0), "found 0, expected null or an integer from 1"),
        ("concept.use_attention_known", json!(1), "found 1, expected true or false"),
    ];
    for (key, value, expected) in cases {
        let json = match *key {
            "n_embd / n_head" => nano_with(&[("n_embd", json!(60)), ("concept.concept_dim", json!(60))]),
            "n_embd" => nano_with(&[(key, value.clone()), ("concept.concept_dim", value.clone())]),
            _ => nano_with(&[(key, value.clone())]),
        };
        let message = Config::from_json(&json, None).expect_err(key).to_string();
        assert!(message.starts_with(&format!("config key `{key}`: ")), "{key}: {message}");
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let cases = [
        (nano_without(&["concept"]), "config key `concept`: found nothing beside interpretable true"),
        (nano_with(&[("eot_id", json!(5)), ("instruct", json!(false))]), "config key `instruct`: found false"),
        (nano_without(&["mask_token_id"]), "`mask_token_id`: found 100280 (the default, as the key is absent)"),
        (json!([]), "a JSON object"),
    ];
    for (json, expected) in cases {
        let message = Config::from_json(&json, None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_directory_without_a_readable_config_says_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let message = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("config.json"), "{message}");
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    let message = Config::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("config.json: not valid JSON"), "{message}");
}
