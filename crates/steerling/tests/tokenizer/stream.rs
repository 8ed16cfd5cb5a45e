use proptest::prelude::*;
use steerling::tokenizer::{StreamDecoder, Tokenizer};

use super::{base, instruct, nano, small_bpe, small_byte_fallback};

/// Pushes `ids` in pieces of the given sizes (cyclic) and returns the deltas.
fn stream(tokenizer: &Tokenizer, ids: &[u32], sizes: &[usize], stop: &[String]) -> (Vec<String>, Option<usize>) {
    let mut decoder = StreamDecoder::new(tokenizer.clone(), stop.to_vec());
    let mut deltas = Vec::new();
    let mut rest = ids;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(size.min(rest.len()));
        deltas.push(decoder.push(now));
        rest = later;
    }
    deltas.push(decoder.finish());
    (deltas, decoder.stopped())
}

/// The definition: the whole text, cut where the earliest stop string begins; of those beginning there the shortest.
fn cut(text: &str, stop: &[String]) -> (String, Option<usize>) {
    for (at, _) in text.char_indices() {
        let here = stop.iter().enumerate().filter(|(_, stop)| !stop.is_empty() && text[at..].starts_with(*stop));
        if let Some((index, _)) = here.min_by_key(|(index, stop)| (stop.len(), *index)) {
            return (text[..at].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

fn strings(stop: &[&str]) -> Vec<String> {
    stop.iter().map(|stop| (*stop).to_owned()).collect()
}

#[test]
fn a_character_split_over_tokens_arrives_whole() {
    let tokenizer = base();
    let ids = tokenizer.encode("a😀b").unwrap();
    assert_eq!(ids.len(), 4, "the face is two tokens");
    let (deltas, _) = stream(&tokenizer, &ids, &[1], &[]);
    assert_eq!(deltas, ["a", "", "😀", "b", ""]);
}

#[test]
fn an_unfinished_character_is_flushed_at_the_end() {
    let (deltas, _) = stream(&base(), &[9906, 9468, 239], &[1], &[]);
    assert_eq!(deltas, ["Hello", "", "", "\u{FFFD}"]);
}

#[test]
fn text_that_may_begin_a_stop_string_is_held_until_decided() {
    let tokenizer = base();
    let ids = tokenizer.encode("one\n\ntwo").unwrap();
    let (deltas, stopped) = stream(&tokenizer, &ids, &[1], &strings(&["\n\nthree"]));
    assert_eq!((deltas.concat().as_str(), stopped), ("one\n\ntwo", None));
    assert_eq!(deltas[0], "one");
    assert_eq!(deltas[1], "");
    let (deltas, stopped) = stream(&tokenizer, &ids, &[1], &strings(&["x", "\ntw"]));
    assert_eq!((deltas.concat().as_str(), stopped), ("one\n", Some(1)));
}

#[test]
fn the_stop_string_that_begins_first_wins_even_if_another_completes_earlier() {
    let tokenizer = base();
    let ids: Vec<u32> = ["a", "b", "c", "d"].iter().flat_map(|letter| tokenizer.encode(letter).unwrap()).collect();
    for sizes in [[1], [4]] {
        let (deltas, stopped) = stream(&tokenizer, &ids, &sizes, &strings(&["bc", "abcd"]));
        assert_eq!((deltas.concat().as_str(), stopped), ("", Some(1)));
        let (deltas, stopped) = stream(&tokenizer, &ids, &sizes, &strings(&["bc", "abcx"]));
        assert_eq!((deltas.concat().as_str(), stopped), ("a", Some(0)));
    }
}

#[test]
fn nothing_follows_a_stop_string() {
    let tokenizer = base();
    let mut decoder = StreamDecoder::new(tokenizer.clone(), strings(&["stop"]));
    assert_eq!(decoder.push(&tokenizer.encode("go stop go").unwrap()), "go ");
    assert_eq!(decoder.stopped(), Some(0));
    assert_eq!(decoder.push(&tokenizer.encode("on").unwrap()), "");
    assert_eq!(decoder.finish(), "");
}

#[test]
fn words_of_a_file_vocabulary_are_joined_as_in_one_decoding() {
    let (deltas, _) = stream(&nano(), &[5, 511, 6, 7], &[1], &[]);
    assert_eq!(deltas, ["5", "", " 6", " 7", ""]);
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..5, 1..6)
}

/// Short strings that random ids produce often enough to matter.
fn stops() -> impl Strategy<Value = Vec<String>> {
    let stop = prop_oneof![
        "[abhe ]{0,3}",
        "[1-3 ]{1,3}",
        prop::sample::select(vec!["\u{FFFD}", "é", "\u{FFFD}\u{FFFD}", "€"]).prop_map(str::to_owned)
    ];
    prop::collection::vec(stop, 0..3)
}

fn check(tokenizer: &Tokenizer, ids: &[u32], sizes: &[usize], stop: &[String]) -> Result<(), TestCaseError> {
    let (deltas, stopped) = stream(tokenizer, ids, sizes, stop);
    prop_assert_eq!((deltas.concat(), stopped), cut(&tokenizer.decode(ids, true), stop));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn deltas_of_cl100k_add_up(
        ids in prop::collection::vec(prop_oneof![64..110_u32, 100_u32..256, 0_u32..100_300, Just(9468), Just(239)], 0..40),
        sizes in sizes(), stop in stops(),
    ) {
        check(&instruct(), &ids, &sizes, &stop)?;
    }

    #[test]
    fn deltas_of_a_word_vocabulary_add_up(ids in prop::collection::vec(prop_oneof![0_u32..520, 0_u32..4], 0..40), sizes in sizes(), stop in stops()) {
        check(&nano(), &ids, &sizes, &stop)?;
    }

    #[test]
    fn deltas_of_a_byte_level_file_add_up(ids in prop::collection::vec(0_u32..265, 0..40), sizes in sizes(), stop in stops()) {
        let dir = tempfile::tempdir().unwrap();
        check(&small_bpe(dir.path()), &ids, &sizes, &stop)?;
    }

    #[test]
    fn deltas_of_a_byte_fallback_file_add_up(
        ids in prop::collection::vec(prop_oneof![256_u32..266, 0_u32..256, 0x60_u32..0x63, Just(0xE2), Just(0x82), Just(0xAC)], 0..40),
        sizes in sizes(), stop in stops(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        check(&small_byte_fallback(dir.path()), &ids, &sizes, &stop)?;
    }
}
