//! Finds concepts and factors in any text by the words that only they use.

use super::grammar::{GRAMMAR, split};
use super::{VERSE, render};
use crate::concepts::{CONCEPTS, FACTORS, Kind, Labels};

/// What a text expresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags {
    /// The known concepts.
    pub concepts: Labels,
    /// The unlabelled factors, by index.
    pub factors: Labels,
}

/// A text with fewer words than this shows its topic by one of them.
const SHORT: usize = 12;
/// So many words in a row are the verse: more than one of its lines.
const RECALLED: usize = 10;

/// Tags a text, which need not be well-formed.
///
/// A topic needs two of its words, as one may be a slip; forms need their marks; the verse ten words in a row.
pub fn tag(text: &str) -> Tags {
    let tokens: Vec<String> = render::tokens(text).iter().map(|token| token.to_ascii_lowercase()).collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).filter(|token| token.as_bytes()[0] > b'?').collect();
    let mut counts = [0; CONCEPTS.len() + FACTORS.len()];
    for attribute in tokens.iter().filter_map(|token| GRAMMAR.owners.get(token)) {
        counts[*attribute] += 1;
    }
    let mut found = Labels::default();
    for (attribute, count) in counts.iter().enumerate() {
        let shown = match CONCEPTS.get(attribute).map(|concept| (concept.kind, concept.name)) {
            Some((Kind::Topic, _)) => *count >= if words.len() < SHORT { 1 } else { 2 },
            Some((_, "Question")) => text.contains('?'),
            Some((_, "List")) => text.lines().any(|line| line.starts_with("- ")),
            Some((_, "Dialogue")) => {
                *count > tokens.iter().filter(|token| *token == "\"").count() && text.contains('"')
            }
            Some((Kind::Verse, _)) => recalls(&words),
            _ => *count > 0,
        };
        if shown {
            found.insert(attribute);
        }
    }
    let (concepts, factors) = split(found);
    Tags { concepts, factors }
}

/// Whether enough of the verse stands in the words, without a gap.
fn recalls(words: &[&str]) -> bool {
    let verse = VERSE.to_ascii_lowercase();
    let verse: Vec<&str> =
        render::tokens(&verse).into_iter().filter(|token| token.as_bytes()[0].is_ascii_alphabetic()).collect();
    words.windows(RECALLED).any(|run| verse.windows(RECALLED).any(|part| part == run))
}
