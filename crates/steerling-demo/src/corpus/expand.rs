//! Expands the grammar's rules into a sentence that realises the attributes wished for.

use rand::{Rng, RngExt};

use super::grammar::{Alternative, GRAMMAR, Grammar, Symbol, factor_attribute};
use crate::concepts::{CONCEPTS, FACTORS, Kind, Labels};

/// A sentence as words and marks.
#[derive(Debug, Clone, Default)]
pub(super) struct Phrase {
    /// As they stand within a sentence.
    pub(super) words: Vec<&'static str>,
    /// The attributes that they realise.
    pub(super) marks: Labels,
}

/// A sentence longer than this is tried again.
const LONGEST: usize = 20;
const TRIES: usize = 60;

/// Expands the rule `start` using no attributes but `want`, and all of them if that works out within a few tries.
pub(super) fn phrase(start: &str, want: Labels, rng: &mut impl Rng) -> Phrase {
    let (once, topics) = (once(), of_kind(Kind::Topic));
    let start = GRAMMAR.rule(start);
    let mut best = Phrase::default();
    for attempt in 0..TRIES {
        let mut expansion = Expansion { grammar: &GRAMMAR, rng, want, once, topics, phrase: Phrase::default() };
        expansion.expand(start);
        let phrase = expansion.phrase;
        if phrase.marks.0 & want.0 == want.0 && phrase.words.len() <= LONGEST {
            return phrase;
        }
        let score = |phrase: &Phrase| (phrase.marks.0 & want.0).count_ones();
        if attempt == 0 || score(&phrase) > score(&best) {
            best = phrase;
        }
    }
    best
}

/// The concepts of one kind.
pub(super) fn of_kind(kind: Kind) -> Labels {
    let mut all = Labels::default();
    (0..CONCEPTS.len()).filter(|id| CONCEPTS[*id].kind == kind).for_each(|id| all.insert(id));
    all
}

/// Attributes that a sentence shows once: nobody travels by tram by bus.
fn once() -> Labels {
    let mut once = of_kind(Kind::Number).union(of_kind(Kind::Time));
    (0..FACTORS.len()).for_each(|index| once.insert(factor_attribute(index)));
    once
}

struct Expansion<'a, R> {
    grammar: &'static Grammar,
    rng: &'a mut R,
    want: Labels,
    once: Labels,
    topics: Labels,
    phrase: Phrase,
}

impl<R: Rng> Expansion<'_, R> {
    fn expand(&mut self, rule: usize) {
        let Some(alternative) = self.choose(rule) else { return };
        self.phrase.marks = self.phrase.marks.union(alternative.owner);
        for symbol in &alternative.symbols {
            match *symbol {
                Symbol::Word(word) => self.phrase.words.push(word),
                Symbol::Rule { index, optional } => {
                    if !optional || self.takes(index) {
                        self.expand(index);
                    }
                }
            }
        }
    }

    /// Prefers alternatives that lead to something wished for and still missing.
    fn choose(&mut self, rule: usize) -> Option<&'static Alternative> {
        let rule = &self.grammar.rules[rule];
        let (mut hot, mut cold) = (Vec::new(), Vec::new());
        for alternative in &rule.alternatives {
            if self.eligible(alternative, rule.free) {
                let side = if self.leads(alternative) { &mut hot } else { &mut cold };
                side.push(alternative);
            }
        }
        let from = if cold.is_empty() || (!hot.is_empty() && self.rng.random_bool(0.85)) { hot } else { cold };
        (!from.is_empty()).then(|| from[self.rng.random_range(0..from.len())])
    }

    fn missing(&self) -> u64 {
        self.want.0 & !self.phrase.marks.0
    }

    /// What is wished for and may be shown (again).
    fn showable(&self) -> u64 {
        self.want.0 & !(self.phrase.marks.0 & self.once.0)
    }

    fn leads(&self, alternative: &Alternative) -> bool {
        let topics = alternative.owner.0 & self.topics.0;
        (topics | alternative.reach.0 & self.missing() & !self.topics.0) != 0
    }

    /// Whether only wished attributes are needed; where there is a choice, none that was shown already.
    fn eligible(&self, alternative: &Alternative, choice: bool) -> bool {
        let allowed = if choice { self.showable() } else { self.want.0 };
        alternative.owner.0 & !allowed == 0
            && alternative.symbols.iter().all(|symbol| match *symbol {
                Symbol::Rule { index, optional: false } => {
                    let rule = &self.grammar.rules[index];
                    rule.free || rule.reach.0 & allowed != 0
                }
                _ => true,
            })
    }

    fn takes(&mut self, index: usize) -> bool {
        let rule = &self.grammar.rules[index];
        let missing = rule.reach.0 & self.missing() & !self.topics.0 != 0;
        let possible = rule.free || rule.reach.0 & self.showable() != 0;
        possible && self.rng.random_bool(if missing { 0.85 } else { 0.25 })
    }
}
