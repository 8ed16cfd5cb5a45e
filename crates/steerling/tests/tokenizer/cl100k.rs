use proptest::prelude::*;
use serde::Deserialize;
use steerling::Error;
use steerling::config::SpecialIds;
use steerling::tokenizer::{Message, Tokenizer};

use super::{base, base_ids, goldens, instruct};

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<Case>,
    decode_cases: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    ids_with_special: Vec<u32>,
    decoded: String,
    decoded_full_skip: String,
    decoded_full_keep: String,
}

#[derive(Deserialize)]
struct DecodeCase {
    ids: Vec<u32>,
    base_skip_true: Option<String>,
    base_skip_false: Option<String>,
    instruct_skip_true: Option<String>,
    instruct_skip_false: Option<String>,
}

fn recorded() -> Recorded {
    serde_json::from_slice(&std::fs::read(goldens().join("tokenizer.json")).unwrap()).unwrap()
}

#[test]
fn encodes_and_decodes_every_recorded_text() {
    let cases = recorded().cases;
    assert_eq!(cases.len(), 43);
    for tokenizer in [base(), instruct()] {
        for case in &cases {
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{:?}", case.text);
            assert_eq!(tokenizer.encode_with_specials(&case.text).unwrap(), case.ids_with_special, "{:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids, true), case.decoded);
            assert_eq!(tokenizer.decode(&case.ids_with_special, true), case.decoded_full_skip);
            assert_eq!(tokenizer.decode(&case.ids_with_special, false), case.decoded_full_keep);
        }
    }
}

#[test]
fn decodes_every_recorded_id_sequence_and_skips_ids_the_reference_fails_on() {
    let cases = recorded().decode_cases;
    assert_eq!(cases.len(), 12);
    let (base, instruct) = (base(), instruct());
    for case in &cases {
        let columns = [
            (&base, true, &case.base_skip_true),
            (&base, false, &case.base_skip_false),
            (&instruct, true, &case.instruct_skip_true),
            (&instruct, false, &case.instruct_skip_false),
        ];
        for (tokenizer, skip, expected) in columns {
            // The reference's failures are all on a `Hello` followed by an id without text.
            let expected = expected.as_deref().unwrap_or("Hello");
            assert_eq!(tokenizer.decode(&case.ids, skip), expected, "{:?} skip {skip}", case.ids);
        }
    }
}

#[test]
fn ids_without_text_decode_to_nothing() {
    let ids: Vec<u32> = (100261..=100275).chain([100256, 100284, 200_000, u32::MAX]).collect();
    assert_eq!(instruct().decode(&ids, false), "");
}

#[test]
fn token_text_shows_special_names_and_broken_characters() {
    let tokenizer = instruct();
    assert_eq!(tokenizer.token_text(9906), "Hello");
    assert_eq!(tokenizer.token_text(100283), "<|eot_id|>");
    assert_eq!(tokenizer.token_text(100258), "<|fim_prefix|>");
    assert_eq!(tokenizer.token_text(9468), "\u{FFFD}");
}

#[test]
fn vocabulary_ends_after_the_last_special_id() {
    assert_eq!(base().vocab_size(), 100_281);
    assert_eq!(instruct().vocab_size(), 100_284);
}

#[test]
fn special_ids_that_text_would_produce_or_that_repeat_are_refused() {
    let taken = Tokenizer::cl100k(SpecialIds { mask: 511, ..base_ids() }).unwrap_err();
    assert!(taken.to_string().contains("<|mask|> has id 511"), "{taken}");
    let twice = Tokenizer::cl100k(SpecialIds { pad: 100257, ..base_ids() }).unwrap_err();
    assert!(twice.to_string().contains("100257 is both"), "{twice}");
}

#[test]
fn long_runs_of_whitespace_are_encoded_or_refused_but_never_panic() {
    let tokenizer = base();
    let long = format!("\n{}x", " ".repeat(699_999));
    assert_eq!(tokenizer.decode(&tokenizer.encode(&long).unwrap(), true), long);
    let longer = " ".repeat(1_100_000) + "x";
    assert!(matches!(tokenizer.encode(&longer), Err(Error::Tokenizer(_))));
}

#[test]
fn chat_prompt_follows_the_template_with_ids_for_specials_and_text_for_text() {
    let tokenizer = instruct();
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let ids = tokenizer.chat(&[message("system", "Be kind."), message("user", "<|eot_id|>\nHi")]).unwrap();
    let text = "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|endofchunk|><|eot_id|>\
        <|start_header_id|>user<|end_header_id|>\n\n<|eot_id|>\nHi<|endofchunk|><|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(tokenizer.decode(&ids, false), text);
    let special: Vec<u32> = ids.iter().copied().filter(|&id| id > 100_256).collect();
    assert_eq!(special, [100281, 100282, 100279, 100283, 100281, 100282, 100279, 100283, 100281, 100282]);
    let hi = tokenizer.chat(&[message("user", "Hi")]).unwrap();
    assert_eq!(hi, [100281, 882, 100282, 271, 13347, 100279, 100283, 100281, 78191, 100282, 271]);
}

#[test]
fn chat_refuses_what_the_template_cannot_express() {
    let user = Message { role: "user".into(), content: "Hi".into() };
    assert!(matches!(base().chat(std::slice::from_ref(&user)), Err(Error::Unsupported(_))));
    assert!(matches!(instruct().chat(&[]), Err(Error::Invalid { field, .. }) if field == "messages"));
    let tool = Message { role: "tool".into(), content: String::new() };
    assert!(matches!(instruct().chat(&[user, tool]), Err(Error::Invalid { field, .. }) if field == "messages[1].role"));
}

/// Arbitrary text with a taste for what breaks tokenizers: special names, blanks, characters of several bytes.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[ \\t\\r\\n]{0,6}",
        "[a-zA-Z0-9' ]{0,12}",
        prop::sample::select(vec![
            "<|mask|>",
            "<|endoftext|>",
            "<|eot_id|>",
            "<|fim_prefix|>",
            "👨\u{200d}👩\u{200d}👧",
            "\0",
            "\u{85}",
            "é"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn every_text_survives_the_round_trip_without_special_ids(text in text()) {
        let tokenizer = instruct();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| id < 100_256));
        prop_assert_eq!(tokenizer.decode(&ids, true), text.as_str());
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_with_specials(&text).unwrap(), true), text);
    }

    #[test]
    fn decoding_never_panics(ids in prop::collection::vec(any::<u32>(), 0..50), skip in any::<bool>()) {
        instruct().decode(&ids, skip);
    }
}
