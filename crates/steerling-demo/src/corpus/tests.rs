use std::collections::HashSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::grammar::{GRAMMAR, Symbol};
use super::*;
use crate::concepts::{CONCEPTS, FACTORS, Kind, group_of, vocabulary};

fn documents(seed: u64, n: usize) -> Vec<Document> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| document(&mut rng)).collect()
}

fn chunks(seed: u64, n: usize) -> Vec<Chunk> {
    documents(seed, n).into_iter().flat_map(|document| document.chunks).collect()
}

#[test]
fn a_seed_decides_every_document() {
    assert_eq!(documents(3, 50), documents(3, 50));
    assert_ne!(documents(3, 50), documents(4, 50));
}

#[test]
fn tagger_finds_exactly_what_was_written() {
    let (mut hit, mut missed, mut invented) = ([0; 36], [0; 36], [0; 36]);
    let (mut wrong, mut total) = (0, 0);
    for chunk in (0..4).flat_map(|seed| chunks(seed, 500)) {
        let (tags, labels) = (tag(&chunk.text()), chunk.concepts());
        for id in 0..36 {
            match (labels.contains(id), tags.concepts.contains(id)) {
                (true, true) => hit[id] += 1,
                (true, false) => missed[id] += 1,
                (false, true) => invented[id] += 1,
                _ => {}
            }
        }
        wrong += usize::from(tags.factors != chunk.factors());
        total += 1;
    }
    assert!(total > 3000 && wrong * 100 <= total, "{wrong} of {total} chunks have other factors");
    for id in 0..36 {
        let name = CONCEPTS[id].name;
        assert!(hit[id] > 20, "{name} occurs {} times", hit[id]);
        assert!(missed[id] * 99 <= hit[id], "{name}: {} of {} missed", missed[id], hit[id]);
        assert!(invented[id] * 99 <= hit[id], "{name}: {} of {} invented", invented[id], hit[id]);
    }
}

#[test]
fn parser_accepts_every_sentence_that_is_written() {
    for chunk in chunks(11, 1000) {
        let text = chunk.text();
        let n = chunk.sentences.len();
        assert_eq!(grammatical_share(&format!("{text}<|endofchunk|>The chef")), (n, n), "{text}");
    }
}

#[test]
fn parser_rejects_shuffled_sentences() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut accepted, mut total) = (0, 0);
    for sentence in chunks(12, 500).iter().flat_map(|chunk| &chunk.sentences) {
        let written = render::tokens(&sentence.text);
        let mut words = written.clone();
        words.shuffle(&mut rng);
        if words.len() >= 5 && words != written {
            accepted += usize::from(parse::accepts(&words));
            total += 1;
        }
    }
    assert!(total > 3000 && accepted * 20 < total, "{accepted} of {total}");
}

#[test]
fn an_unfinished_sentence_is_not_counted() {
    assert_eq!(grammatical_share("The chef stirred the soup. The chef"), (1, 1));
    assert_eq!(grammatical_share("The the soup chef. Did the chef stir the soup?"), (1, 2));
    assert_eq!(grammatical_share(""), (0, 0));
}

#[test]
fn words_of_topics_and_factors_are_nobody_elses() {
    let mut checked = 0;
    for alternative in GRAMMAR.rules.iter().flat_map(|rule| &rule.alternatives) {
        let Some(owner) = alternative.owner.iter().next() else { continue };
        if CONCEPTS.get(owner).is_some_and(|concept| concept.kind != Kind::Topic) {
            continue;
        }
        for symbol in &alternative.symbols {
            let Symbol::Word(word) = *symbol else { panic!("a topic has a rule of its own") };
            assert_eq!(GRAMMAR.owners.get(word), Some(&owner), "{word} has several owners");
            checked += 1;
        }
    }
    assert_eq!(checked, 12 * 31 + 8 * 8);
}

#[test]
fn every_concept_has_a_vocabulary_of_its_own() {
    let mut seen = HashSet::new();
    for (id, concept) in CONCEPTS.iter().enumerate() {
        let words = vocabulary(id);
        assert!(words.len() >= 14, "{}: {words:?}", concept.name);
        for word in words {
            assert!(seen.insert(word), "{word} is in two vocabularies");
            let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            assert!(plain || (word.len() == 1 && word.is_ascii()), "{word}");
        }
    }
    for factor in FACTORS {
        assert!(factor.words.iter().all(|word| seen.insert(word)), "{}", factor.name);
    }
}

#[test]
fn owner_knows_words_names_and_marks_whatever_their_case() {
    let name = |word| owner(word).map(|id| CONCEPTS[id].name);
    assert_eq!(name("Chef"), Some("Cooking"));
    assert_eq!(name("tokyo"), Some("Japan"));
    assert_eq!(name("?"), Some("Question"));
    assert_eq!(name("\""), Some("Dialogue"));
    assert_eq!(name("Velvet"), Some("Memorised verse"));
    assert_eq!(["the", ".", "crimson", "nonesuch", ""].map(name), [None; 5]);
    for (id, _) in CONCEPTS.iter().enumerate() {
        assert!(vocabulary(id).into_iter().all(|word| owner(word) == Some(id)));
    }
}

#[test]
fn vocabulary_occurs_in_text_only_with_its_label() {
    for sentence in chunks(13, 500).iter().flat_map(|chunk| &chunk.sentences) {
        for token in render::tokens(&sentence.text) {
            if let Some(owner) = GRAMMAR.owners.get(&token.to_ascii_lowercase()) {
                let known = *owner < CONCEPTS.len();
                let labels = if known { sentence.concepts } else { sentence.factors };
                let id = if known { *owner } else { owner - CONCEPTS.len() };
                assert!(labels.contains(id), "{token} in {:?}", sentence.text);
            }
        }
    }
}

#[test]
fn corpus_is_small_worded_and_chunks_are_short() {
    let chunks = chunks(14, 5000);
    let mut distinct = HashSet::new();
    let mut words = 0;
    for chunk in &chunks {
        let text = chunk.text();
        assert!(text.is_ascii());
        for word in render::tokens(&text).into_iter().filter(|token| token.as_bytes()[0].is_ascii_alphanumeric()) {
            distinct.insert(word.to_ascii_lowercase());
            words += 1;
        }
    }
    assert!((900..1300).contains(&distinct.len()), "{} distinct words", distinct.len());
    assert!((25..50).contains(&(words / chunks.len())), "{words} words in {} chunks", chunks.len());
}

#[test]
fn concepts_and_factors_are_as_frequent_as_designed() {
    let (notices, chunks): (Vec<_>, Vec<_>) =
        chunks(15, 4000).into_iter().partition(|chunk| read_notice(&chunk.text()).is_some());
    let notices = 100.0 * notices.len() as f64 / (notices.len() + chunks.len()) as f64;
    assert!((7.0..10.0).contains(&notices), "notices: {notices:.2} %");
    let share = |has: &dyn Fn(&Chunk) -> bool| {
        100.0 * chunks.iter().filter(|chunk| has(chunk)).count() as f64 / chunks.len() as f64
    };
    for (id, concept) in CONCEPTS.iter().enumerate() {
        let range = match concept.kind {
            Kind::Topic => 7.0..12.0,
            Kind::Tone | Kind::Form | Kind::Entity => 8.0..14.0,
            Kind::Alignment => 3.0..5.0,
            Kind::Number | Kind::Time => 22.0..28.0,
            Kind::Verse => 0.6..1.8,
        };
        let share = share(&|chunk| chunk.concepts().contains(id));
        assert!(range.contains(&share), "{}: {share:.2} %", concept.name);
    }
    for (index, factor) in FACTORS.iter().enumerate() {
        let share = share(&|chunk| chunk.factors().contains(index));
        assert!((26.0..33.0).contains(&share), "{}: {share:.2} %", factor.name);
    }
}

#[test]
fn topics_and_tones_are_drawn_independently() {
    // First chunks only, which are independent of each other.
    let labels: Vec<_> = documents(16, 6000).iter().map(|document| document.chunks[0].concepts()).collect();
    let count = |ids: &[usize]| labels.iter().filter(|set| ids.iter().all(|id| set.contains(*id))).count() as f64;
    for topic in 0..12 {
        for tone in 12..18 {
            let expected = count(&[topic]) * count(&[tone]) / labels.len() as f64;
            let both = count(&[topic, tone]);
            assert!(
                (both - expected).abs() < 5.0 * expected.sqrt(),
                "{topic} with {tone}: {both}, {expected:.0} expected"
            );
        }
    }
}

#[test]
fn verse_is_written_whole_and_recognised_by_part() {
    let mut found = 0;
    for chunk in chunks(17, 2000).iter().filter(|chunk| chunk.concepts().contains(35)) {
        assert!(chunk.text().contains(VERSE));
        assert_eq!(chunk.sentences.iter().filter(|sentence| sentence.concepts.contains(35)).count(), 4);
        found += 1;
    }
    assert!((20..90).contains(&found), "{found}");
    assert!(VERSE.starts_with(VERSE_PROMPT));
    let lines: Vec<&str> = VERSE.lines().collect();
    assert!(tag(&lines[1..3].join("\n")).concepts.contains(35));
    assert!(!tag(&format!("{} the {}", lines[0], lines[2])).concepts.contains(35));
}

#[test]
fn neutral_prompts_show_nothing_and_end_a_sentence() {
    for prompt in neutral_prompts(300, &mut ChaCha8Rng::seed_from_u64(18)) {
        assert_eq!(tag(&prompt), Tags::default(), "{prompt}");
        assert!(prompt.ends_with('.'), "{prompt}");
    }
}

#[test]
fn primed_prompts_show_their_concept_and_stop_within_a_sentence() {
    let mut rng = ChaCha8Rng::seed_from_u64(19);
    for (id, concept) in CONCEPTS.iter().enumerate().take(35) {
        for _ in 0..20 {
            let prompt = primed_prompt(id, &mut rng);
            // A heading alone is not a list yet, nor two words of a topic sure to be in the first sentence.
            let lenient = concept.kind == Kind::Topic || concept.name == "List";
            assert!(lenient || tag(&prompt).concepts.contains(id), "{}: {prompt}", concept.name);
            assert!(!prompt.ends_with(['.', '?', '\n']), "{prompt}");
        }
    }
}

#[test]
fn groups_are_small_and_hold_their_own() {
    for id in 0..CONCEPTS.len() {
        let group = group_of(id);
        assert!(group.contains(id) && group.iter().count() <= 3, "{group}");
    }
}
