//! What is returned of a sequence: its text, the tokens of that text, and where they end.

use proptest::prelude::*;
use steerling::canvas::{CanvasSpec, Choice, OutputRules};
use steerling::tokenizer::Tokenizer;
use steerling::{Canvas, FinishReason, GenerateParams, Generation, Outcome};

use super::{base, instruct, nano, small_bpe, small_byte_fallback};

/// Tokens of the prompt.
const PROMPT: [u32; 3] = [64, 65, 66];

/// The outcome of `generated` behind a prompt.
fn outcome(tokenizer: &Tokenizer, generated: &[u32], stop: &[String], stop_tokens: &[u32]) -> Outcome {
    let ids = [&PROMPT, generated].concat();
    let rules = OutputRules { special: tokenizer.special(), stop_tokens };
    Outcome::of((&ids, PROMPT.len()), rules, stop, tokenizer)
}

/// Its text, its tokens, the number of positions that they take, and the reason.
fn told(
    tokenizer: &Tokenizer,
    generated: &[u32],
    stop: &[&str],
    stop_tokens: &[u32],
) -> (String, Vec<u32>, usize, FinishReason) {
    let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
    let Outcome { text, token_ids, end, finish_reason, .. } = outcome(tokenizer, generated, &stop, stop_tokens);
    (text, token_ids, end - PROMPT.len(), finish_reason)
}

#[test]
fn a_token_of_which_a_part_is_returned_is_returned() {
    let tokenizer = base();
    let ids = tokenizer.encode(" house towards the west. And").unwrap();
    assert_eq!(ids.len(), 6);
    let (text, tokens, end, reason) = told(&tokenizer, &ids, &["wards"], &[]);
    assert_eq!((text.as_str(), &tokens[..], end, reason), (" house to", &ids[..2], 2, FinishReason::StopString));
    // A stop string that begins with a token takes none of it, one that ends inside a token none of the rest.
    let (text, tokens, end, _) = told(&tokenizer, &ids, &[" the we"], &[]);
    assert_eq!((text.as_str(), &tokens[..], end), (" house towards", &ids[..2], 2));
    let (text, tokens, end, _) = told(&tokenizer, &ids, &[" house"], &[]);
    assert_eq!((text.as_str(), tokens.len(), end), ("", 0, 0));
}

#[test]
fn a_character_whose_bytes_are_spread_over_tokens_takes_all_of_them() {
    let tokenizer = base();
    let ids = tokenizer.encode("a😀b").unwrap();
    assert_eq!(ids.len(), 4, "the face is two tokens");
    let (text, tokens, end, _) = told(&tokenizer, &ids, &["b"], &[]);
    assert_eq!((text.as_str(), &tokens[..], end), ("a😀", &ids[..3], 3));
    let (text, tokens, end, _) = told(&tokenizer, &ids, &["😀"], &[]);
    assert_eq!((text.as_str(), &tokens[..], end), ("a", &ids[..1], 1));
}

#[test]
fn stop_tokens_the_end_of_the_turn_and_the_last_position_end_the_text() {
    let tokenizer = instruct();
    let special = *tokenizer.special();
    let eot = special.chat.unwrap().eot;
    let (mask, eos, chunk) = (special.mask, special.eos, special.endofchunk);
    /// Generated ids and stop tokens; returned ids, the end, and its reason.
    type Case<'a> = (&'a [u32], &'a [u32], &'a [u32], usize, FinishReason);
    let cases: [Case; 5] = [
        (&[64, chunk, 65], &[], &[64, chunk, 65], 3, FinishReason::Length),
        (&[64, 65, 66], &[65], &[64], 1, FinishReason::StopToken),
        (&[64, eot, eos, eos], &[], &[64], 1, FinishReason::Eot),
        (&[64, mask, 65, eot, eos], &[], &[64, 65], 3, FinishReason::Eot),
        (&[eot, eos], &[eot], &[], 0, FinishReason::StopToken),
    ];
    for (generated, stop_tokens, returned, end, reason) in cases {
        let found = told(&tokenizer, generated, &[], stop_tokens);
        assert_eq!((&found.1[..], found.2, found.3), (returned, end, reason), "{generated:?}");
    }
    // Masks that are passed over count in the positions, not in the tokens.
    let found = told(&tokenizer, &[64, mask, 65, 66, eot, eos], &["c"], &[]);
    assert_eq!((found.0.as_str(), &found.1[..], found.2, found.3), ("ab", &[64, 65][..], 3, FinishReason::StopString));
}

fn check(tokenizer: &Tokenizer, ids: &[u32], stop: &[String], stop_tokens: &[u32]) -> Result<(), TestCaseError> {
    let found = outcome(tokenizer, ids, stop, stop_tokens);
    let rules = OutputRules { special: tokenizer.special(), stop_tokens };
    let until = &ids[..found.end - PROMPT.len()];
    prop_assert_eq!(rules.output(until).map(|(_, id)| id).collect::<Vec<_>>(), &found.token_ids[..]);
    let decode = |ids: &[u32]| tokenizer.decode(ids, true);
    if found.finish_reason != FinishReason::StopString {
        prop_assert_eq!(decode(&found.token_ids), found.text);
        return Ok(());
    }
    prop_assert!(!stop.iter().any(|stop| !stop.is_empty() && found.text.contains(stop.as_str())));
    prop_assert!(decode(&found.token_ids).starts_with(&found.text));
    if let Some((_, before)) = found.token_ids.split_last() {
        prop_assert!(!decode(before).starts_with(&found.text), "a token too many");
        prop_assert_eq!(until.last(), found.token_ids.last());
    }
    Ok(())
}

/// Fills a canvas in the given order, and follows it.
fn follow(tokenizer: &Tokenizer, ids: &[u32], order: &[usize], stop: &[String]) -> (Vec<String>, Outcome, Vec<u32>) {
    let spec =
        CanvasSpec { context: 64, block_size: 8, vocab_size: tokenizer.vocab_size(), special: *tokenizer.special() };
    let params = GenerateParams { max_new_tokens: ids.len(), stop: stop.to_vec(), ..GenerateParams::default() };
    let mut generation = Generation::new(Canvas::new(&PROMPT, params, &spec).unwrap(), tokenizer);
    let mut deltas = Vec::new();
    while generation.canvas.finish_reason().is_none() {
        let mut masked = generation.canvas.masked();
        masked.sort_by_key(|position| order[position - PROMPT.len()]);
        let id = ids[masked[0] - PROMPT.len()];
        let (confidence, target_logit, decision_logit) = (0.5, 1.0, 1.0);
        generation.canvas.commit(&[Choice { position: masked[0], id, confidence, target_logit, decision_logit }]);
        deltas.extend(generation.update().map(|update| update.delta));
    }
    let outcome = generation.outcome().unwrap();
    deltas.push(outcome.delta.clone());
    (deltas, outcome, generation.canvas.ids().to_vec())
}

fn stops() -> impl Strategy<Value = Vec<String>> {
    let stop = prop_oneof![
        "[abhe ]{1,3}",
        "[1-3 ]{1,3}",
        prop::sample::select(vec!["\u{FFFD}", "é", "€", "😀"]).prop_map(str::to_owned)
    ];
    prop::collection::vec(stop, 0..3)
}

/// Letters, bytes of characters, whole characters, anything.
fn ids() -> impl Strategy<Value = Vec<u32>> {
    let id = prop_oneof![64..70_u32, 100_u32..256, 0_u32..100_200, Just(9468), Just(239), Just(100_279)];
    prop::collection::vec(id, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_tokens_of_cl100k_cover_the_text(ids in ids(), stop in stops(), stop_tokens in prop::collection::vec(64..70_u32, 0..2)) {
        check(&base(), &ids, &stop, &stop_tokens)?;
    }

    #[test]
    fn the_tokens_of_a_word_vocabulary_cover_the_text(ids in prop::collection::vec(0_u32..506, 1..24), stop in stops()) {
        check(&nano(), &ids, &stop, &[])?;
    }

    #[test]
    fn the_tokens_of_files_of_bytes_cover_the_text(ids in prop::collection::vec(0_u32..257, 1..24), stop in stops()) {
        let dir = tempfile::tempdir().unwrap();
        check(&small_bpe(dir.path()), &ids, &stop, &[])?;
        check(&small_byte_fallback(dir.path()), &ids, &stop, &[])?;
    }

    #[test]
    fn deltas_of_a_canvas_filled_in_any_order_are_the_text_of_its_outcome(
        ids in ids(), order in prop::collection::vec(any::<usize>(), 24), stop in stops(),
    ) {
        let tokenizer = base();
        let (deltas, outcome, canvas) = follow(&tokenizer, &ids, &order, &stop);
        prop_assert_eq!(deltas.concat(), &outcome.text[..]);
        let rules = OutputRules { special: tokenizer.special(), stop_tokens: &[] };
        let of_ids = Outcome::of((&canvas, PROMPT.len()), rules, &stop, &tokenizer);
        prop_assert_eq!(Outcome { delta: outcome.delta.clone(), ..of_ids }, outcome);
    }
}
