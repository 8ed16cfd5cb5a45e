//! Notices: formulaic texts with blanks, as forms and announcements are. Their wording is fixed, so that most of a notice
//! can be told from the rest of it, where the sentences of the grammar leave nearly every word open.

use std::collections::HashMap;
use std::sync::LazyLock;

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::expand::of_kind;
use super::grammar::{Alternative, GRAMMAR, Symbol, split};
use super::{Chunk, Sentence, render};
use crate::concepts::{Kind, Labels};

/// The sentences of each notice, among the alternatives of the rule that holds those of all.
static NOTICES: LazyLock<Vec<&'static [Alternative]>> = LazyLock::new(|| {
    let sentences = &GRAMMAR.rules[GRAMMAR.rule("notice")].alternatives;
    sentences.chunk_by(|_, next| !next.symbols.contains(&COLON)).collect()
});

/// Stands in the first sentence of each notice alone.
const COLON: Symbol = Symbol::Word(":");

/// What tells which notice it is, and what follows of it: up to the colon, and the symbols of all sentences behind.
fn parts(notice: &'static [Alternative]) -> (Vec<&'static str>, impl Iterator<Item = Symbol>) {
    let opening = notice[0].symbols.split_inclusive(|symbol| *symbol == COLON).next().unwrap_or_default();
    let rest = notice.iter().flat_map(|sentence| &sentence.symbols).copied().skip(opening.len());
    (opening.iter().map(word).collect(), rest)
}

/// The words that tell which notice a text is, one text for each notice.
pub fn notice_openings() -> Vec<String> {
    NOTICES.iter().map(|notice| render::sentence(&parts(notice).0)).collect()
}

/// One of the notices, its blanks filled under this topic, or with words of nothing in particular.
pub(super) fn notice(topic: Option<usize>, rng: &mut impl Rng) -> Chunk {
    let notice = NOTICES.choose(rng).expect("there are notices");
    let topic = topic.map_or_else(Labels::default, Labels::one);
    let mut blanks: HashMap<usize, &Alternative> = HashMap::new();
    let mut written: Vec<Sentence> = Vec::new();
    for sentence in *notice {
        let (mut words, mut marks) = (Vec::new(), Labels::default());
        for symbol in &sentence.symbols {
            match *symbol {
                Symbol::Word(word) => words.push(word),
                Symbol::Rule { index, .. } => {
                    let filled = *blanks.entry(index).or_insert_with(|| {
                        let alternatives = &GRAMMAR.rules[index].alternatives;
                        let fitting = alternatives.iter().filter(|found| !topical(index) || found.owner == topic);
                        fitting.choose(rng).expect("every topic has words of every class that a blank names")
                    });
                    words.push(filler(filled));
                    marks = marks.union(filled.owner);
                }
            }
        }
        let gap = if written.is_empty() { "" } else { " " };
        let (concepts, factors) = split(marks);
        written.push(Sentence { text: format!("{gap}{}", render::sentence(&words)), concepts, factors });
    }
    Chunk { sentences: written }
}

/// Whether the words of a class belong to topics.
fn topical(class: usize) -> bool {
    GRAMMAR.rules[class].reach.intersects(of_kind(Kind::Topic))
}

fn filler(alternative: &Alternative) -> &'static str {
    let [symbol] = &alternative.symbols[..] else { panic!("a blank is filled by one word") };
    word(symbol)
}

fn word(symbol: &Symbol) -> &'static str {
    let Symbol::Word(word) = symbol else { panic!("neither openings nor fillers have blanks") };
    word
}

/// How a text keeps to the notice that it opens as, as far as both reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Whether every fixed word stands in its place and every blank holds a word of its class, all topical ones of one
    /// topic.
    pub wording: bool,
    /// Blanks that come again.
    pub repeats: usize,
    /// Of those, blanks that are filled as they were the first time.
    pub alike: usize,
}

/// Reads a text as the notice that its first words tell; `None` if they tell none. Behind the notice anything may follow.
pub fn read_notice(text: &str) -> Option<Kept> {
    let words: Vec<String> = render::tokens(text).iter().map(|word| word.to_ascii_lowercase()).collect();
    let notice = NOTICES.iter().find(|notice| {
        let opening = parts(notice).0;
        words.len() >= opening.len() && words.iter().zip(opening).all(|(word, fixed)| word == fixed)
    })?;
    let (opening, rest) = parts(notice);
    let mut kept = Kept { wording: true, repeats: 0, alike: 0 };
    let mut blanks: HashMap<usize, &str> = HashMap::new();
    let mut topic = None;
    for (symbol, word) in rest.zip(&words[opening.len()..]) {
        match symbol {
            Symbol::Word(fixed) => kept.wording &= fixed == word,
            Symbol::Rule { index, .. } => {
                let found = GRAMMAR.rules[index].alternatives.iter().find(|found| filler(found) == word);
                kept.wording &=
                    found.is_some_and(|found| !topical(index) || *topic.get_or_insert(found.owner) == found.owner);
                match blanks.get(&index) {
                    Some(first) => {
                        kept.repeats += 1;
                        kept.alike += usize::from(first == word);
                    }
                    None => _ = blanks.insert(index, word),
                }
            }
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::grammar::{DATA, Grammar};
    use super::super::{grammatical_share, tag};
    use super::*;
    use crate::concepts::CONCEPTS;

    fn topics() -> impl Iterator<Item = Option<usize>> {
        let topics = (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind == Kind::Topic);
        std::iter::once(None).chain(topics.map(Some))
    }

    #[test]
    fn notices_are_grammatical_keep_to_themselves_and_show_their_topic() {
        let mut rng = ChaCha8Rng::seed_from_u64(20);
        let mut openings = HashSet::new();
        for topic in topics() {
            for _ in 0..60 {
                let chunk = notice(topic, &mut rng);
                let text = chunk.text();
                let n = chunk.sentences.len();
                assert_eq!(grammatical_share(&text), (n, n), "{text}");
                let kept = read_notice(&text).unwrap();
                assert!(kept.wording && kept.repeats >= 1 && kept.alike == kept.repeats, "{kept:?}: {text}");
                assert_eq!(read_notice(&format!("{text}\nNobody moved the lamp.")), Some(kept), "{text}");
                assert_eq!(chunk.concepts(), topic.map_or_else(Labels::default, Labels::one), "{text}");
                assert_eq!(tag(&text).concepts, chunk.concepts(), "{text}");
                assert_eq!(tag(&text).factors, chunk.factors(), "{text}");
                let words = render::tokens(&text).len();
                assert!((66..80).contains(&words), "{words} words: {text}");
                openings.insert(text[..=text.find(':').unwrap()].to_owned());
            }
        }
        assert_eq!(openings, notice_openings().into_iter().collect());
        assert_eq!(openings.len(), 16);
    }

    #[test]
    fn slips_in_a_notice_are_told_apart() {
        let text = notice_openings()[0].clone()
            + " One tiny pink kettle made of glass lies at the desk of the kitchen. The chef found it on a bench after \
              lunch and gave it to the staff. We keep the kettle until";
        let kept = Kept { wording: true, repeats: 1, alike: 1 };
        assert_eq!(read_notice(&text), Some(kept));
        for (from, to, expected) in [
            ("keep the kettle", "keep the soup", Kept { alike: 0, ..kept }),
            ("bench after lunch", "bench after kettle", Kept { wording: false, ..kept }),
            ("on a bench", "on one bench", Kept { wording: false, ..kept }),
            ("The chef", "The sailor", Kept { wording: false, ..kept }),
            ("The chef", "The neighbour", Kept { wording: false, ..kept }),
            ("We keep the kettle until", "", Kept { repeats: 0, alike: 0, ..kept }),
        ] {
            assert!(text.contains(from));
            assert_eq!(read_notice(&text.replace(from, to)), Some(expected), "{to}");
        }
        let others = ["", "Lost", "Lost propriety: one", "The chef stirred the soup."];
        assert_eq!(others.map(read_notice), [None; 4]);
    }

    #[test]
    fn fixed_words_of_notices_take_nothing_from_any_concept() {
        let (_, others) = DATA.split_last().unwrap();
        assert_eq!(GRAMMAR.owners, Grammar::read(others).owners);
    }
}
