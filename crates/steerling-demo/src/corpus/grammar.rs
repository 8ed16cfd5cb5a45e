//! The grammar's data: rules, the alternatives of each, and whose an alternative is.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{VERSE, render};
use crate::concepts::{CONCEPTS, FACTORS, Labels, concept};

pub(super) const DATA: [&str; 7] = [
    include_str!("data/rules.txt"),
    include_str!("data/topics.txt"),
    include_str!("data/tones.txt"),
    include_str!("data/forms.txt"),
    include_str!("data/people.txt"),
    include_str!("data/alignment.txt"),
    include_str!("data/notices.txt"),
];

/// Attributes are concepts, by id, and after them the factors, so that one set holds both.
pub(super) const fn factor_attribute(index: usize) -> usize {
    CONCEPTS.len() + index
}

/// Splits a set of attributes into concepts and factors.
pub(super) const fn split(attributes: Labels) -> (Labels, Labels) {
    let concepts = (1 << CONCEPTS.len()) - 1;
    (Labels(attributes.0 & concepts), Labels(attributes.0 >> CONCEPTS.len()))
}

/// One step of an alternative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// A word or mark as it stands within a sentence.
    Word(&'static str),
    /// Another rule, by index.
    Rule {
        /// Which.
        index: usize,
        /// Whether it may be left out.
        optional: bool,
    },
}

/// One way to expand a rule.
#[derive(Debug)]
pub(super) struct Alternative {
    /// The attribute that it realises, if any.
    pub(super) owner: Labels,
    /// All attributes that it or what is below it can realise.
    pub(super) reach: Labels,
    /// From left to right.
    pub(super) symbols: Vec<Symbol>,
}

/// A rule of the grammar.
#[derive(Debug, Default)]
pub(super) struct Rule {
    /// In the order of the data.
    pub(super) alternatives: Vec<Alternative>,
    /// Whether it can be expanded without realising any attribute.
    pub(super) free: bool,
    /// All attributes that it or what is below it can realise.
    pub(super) reach: Labels,
}

/// Every rule, and the words that only one attribute uses.
#[derive(Debug, Default)]
pub(super) struct Grammar {
    pub(super) rules: Vec<Rule>,
    names: HashMap<&'static str, usize>,
    /// Lower-case words and marks, with the one attribute that uses them.
    pub(super) owners: HashMap<String, usize>,
    vocabulary: Vec<Vec<&'static str>>,
}

/// The grammar of the data files, read once.
pub(super) static GRAMMAR: LazyLock<Grammar> = LazyLock::new(|| Grammar::read(&DATA));

/// The words and marks that only the concept `id` uses, in the order of the data.
pub(crate) fn vocabulary(id: usize) -> Vec<&'static str> {
    GRAMMAR.vocabulary[id].clone()
}

/// The concept whose word or mark this is, whatever its case: the grammar writes it for that concept alone.
pub fn owner(word: &str) -> Option<usize> {
    GRAMMAR.owners.get(&word.to_ascii_lowercase()).copied().filter(|attribute| *attribute < CONCEPTS.len())
}

impl Grammar {
    /// The index of the rule `name`, which must exist.
    pub(super) fn rule(&self, name: &str) -> usize {
        *self.names.get(name).expect("the data define the rule")
    }

    pub(super) fn read(data: &[&'static str]) -> Self {
        let mut grammar = Self::default();
        for text in data {
            grammar.read_file(text);
        }
        for (index, factor) in FACTORS.iter().enumerate() {
            let owner = Labels::one(factor_attribute(index));
            factor.words.iter().for_each(|word| grammar.add(factor.name, owner, &[*word]));
        }
        let verse = concept("Memorised verse").map_or_else(Labels::default, Labels::one);
        VERSE.lines().for_each(|line| grammar.add("verse", verse, &render::tokens(line)));
        grammar.settle();
        grammar.learn_words();
        grammar
    }

    fn read_file(&mut self, text: &'static str) {
        let (mut owner, mut name) = (Labels::default(), "");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix('[') {
                let title = title.trim_end_matches(']');
                let id = concept(title);
                assert!(id.is_some() || title == "-", "no concept is called {title}");
                owner = id.map_or_else(Labels::default, Labels::one);
            } else if let Some((class, words)) = line.split_once(" = ") {
                words.split_whitespace().for_each(|word| self.add(class, owner, &[word]));
            } else {
                let phrases = match line.split_once(": ").filter(|_| !line.starts_with(' ')) {
                    Some((rule, phrases)) => {
                        name = rule;
                        phrases
                    }
                    None => line.trim_start().trim_start_matches('|'),
                };
                for phrase in phrases.split('|') {
                    self.add(name, owner, &phrase.split_whitespace().collect::<Vec<_>>());
                }
            }
        }
    }

    fn index(&mut self, name: &'static str) -> usize {
        *self.names.entry(name).or_insert_with(|| {
            self.rules.push(Rule::default());
            self.rules.len() - 1
        })
    }

    fn add(&mut self, name: &'static str, owner: Labels, phrase: &[&'static str]) {
        let symbols = phrase.iter().map(|symbol| match symbol.strip_prefix('<') {
            Some(rule) => {
                let rule = rule.trim_end_matches('>');
                let index = self.index(rule.trim_end_matches('?'));
                Symbol::Rule { index, optional: rule.ends_with('?') }
            }
            None => Symbol::Word(symbol),
        });
        let symbols = symbols.collect();
        let index = self.index(name);
        self.rules[index].alternatives.push(Alternative { owner, reach: owner, symbols });
    }

    /// Works out what each rule can realise, and whether it must: both only grow, so repeat until nothing does.
    fn settle(&mut self) {
        loop {
            let known: Vec<_> = self.rules.iter().map(|rule| (rule.free, rule.reach)).collect();
            for rule in &mut self.rules {
                for alternative in &mut rule.alternatives {
                    let mut free = alternative.owner == Labels::default();
                    for symbol in &alternative.symbols {
                        if let Symbol::Rule { index, optional } = *symbol {
                            free &= optional || known[index].0;
                            alternative.reach = alternative.reach.union(known[index].1);
                        }
                    }
                    rule.free |= free;
                    rule.reach = rule.reach.union(alternative.reach);
                }
            }
            if self.rules.iter().zip(&known).all(|(rule, known)| (rule.free, rule.reach) == *known) {
                break;
            }
        }
    }

    fn learn_words(&mut self) {
        let mut users: Vec<(&'static str, Option<Labels>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for alternative in self.rules.iter().flat_map(|rule| &rule.alternatives) {
            for symbol in &alternative.symbols {
                let Symbol::Word(word) = *symbol else { continue };
                let place = *places.entry(word.to_ascii_lowercase()).or_insert_with(|| {
                    users.push((word, Some(alternative.owner)));
                    users.len() - 1
                });
                if users[place].1 != Some(alternative.owner) {
                    users[place].1 = None;
                }
            }
        }
        self.vocabulary = vec![Vec::new(); CONCEPTS.len()];
        for (word, owner) in users {
            let Some(attribute) = owner.and_then(|owner| owner.iter().next()) else { continue };
            self.owners.insert(word.to_ascii_lowercase(), attribute);
            if attribute < CONCEPTS.len() && !word.contains(|letter: char| letter.is_ascii_uppercase()) {
                self.vocabulary[attribute].push(word);
            }
        }
    }
}
