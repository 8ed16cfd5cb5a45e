//! Asks whether the grammar derives a sentence.

use std::collections::HashMap;

use super::grammar::{Alternative, GRAMMAR, Grammar, Symbol};
use super::render;

/// Sets of positions are bits of a word, so longer sentences are not parsed (the longest written has about 20).
const LONGEST: usize = 62;

/// How many sentences the grammar accepts, of how many; a trailing unfinished sentence is not counted.
///
/// Special tokens such as `<|endofchunk|>` end a line.
pub fn grammatical_share(text: &str) -> (usize, usize) {
    let mut lines = String::with_capacity(text.len());
    for (index, part) in text.split("<|").enumerate() {
        match part.split_once("|>").filter(|_| index > 0) {
            Some((_, rest)) => lines.extend(["\n", rest]),
            None => lines.push_str(part),
        }
    }
    let sentences = render::finished(&lines);
    (sentences.iter().filter(|sentence| accepts(&render::tokens(sentence))).count(), sentences.len())
}

/// Whether the words and marks are a sentence of the grammar, whatever their case.
pub(super) fn accepts(words: &[&str]) -> bool {
    if words.len() > LONGEST {
        return false;
    }
    let mut parser = Parser { grammar: &GRAMMAR, words, ends: HashMap::new() };
    parser.rule(GRAMMAR.rule("sentence"), 0) >> words.len() & 1 == 1
}

struct Parser<'a> {
    grammar: &'static Grammar,
    words: &'a [&'a str],
    /// Where a rule can end that begins at a position, as bits.
    ends: HashMap<(usize, usize), u64>,
}

impl Parser<'_> {
    fn rule(&mut self, rule: usize, start: usize) -> u64 {
        if let Some(ends) = self.ends.get(&(rule, start)) {
            return *ends;
        }
        let alternatives = &self.grammar.rules[rule].alternatives;
        let ends = alternatives.iter().fold(0, |ends, alternative| ends | self.alternative(alternative, start));
        self.ends.insert((rule, start), ends);
        ends
    }

    fn alternative(&mut self, alternative: &Alternative, start: usize) -> u64 {
        let mut ends = 1 << start;
        for symbol in &alternative.symbols {
            let from = ends;
            ends = 0;
            for at in (0..=self.words.len()).filter(|at| from >> at & 1 == 1) {
                ends |= match *symbol {
                    Symbol::Word(word) => {
                        u64::from(self.words.get(at).is_some_and(|other| other.eq_ignore_ascii_case(word))) << (at + 1)
                    }
                    Symbol::Rule { index, optional } => self.rule(index, at) | u64::from(optional) << at,
                };
            }
            if ends == 0 {
                break;
            }
        }
        ends
    }
}
