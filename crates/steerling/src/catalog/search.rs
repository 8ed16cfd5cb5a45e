//! Search by words, ranked as the reference package ranks.

use std::cmp::Reverse;

use super::{Catalog, Concept, Filter, Page};
use crate::{Error, Result};

/// Most different words of one query: every word is looked for in every text.
pub const MAX_QUERY_TERMS: usize = 64;
/// A word in the name counts as much as this many in the description.
const NAME_WEIGHT: u64 = 3;

/// A concept that a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// What was found.
    pub concept: Concept<'a>,
    /// `sum over query words of 3 * (occurrences in the name) + (occurrences in the description)`, above 0.
    pub score: u64,
}

impl Catalog {
    /// The concepts whose name or description has a word of `query`, best first.
    ///
    /// Query and texts are lower-cased; the query is split at white space, and a word that stands twice in it counts
    /// twice. An occurrence must begin and end at word boundaries (letters, digits and `_` make words), so `cat` is not
    /// found in `category`. Equal scores stay in the order of the label file, which is also the reference's where it
    /// defines one. A query without words finds nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] of field `q` for more than [`MAX_QUERY_TERMS`] different words.
    pub fn search(&self, query: &str, filter: Filter, offset: usize, limit: usize) -> Result<Page<Hit<'_>>> {
        let terms = terms(query)?;
        let mut lower = String::new();
        let mut found = Vec::new();
        for &id in self.0.order() {
            let concept = self.0.concept(id);
            if !filter.admits(concept.head, concept.flags) {
                continue;
            }
            let mut count = |text: &str| -> u64 {
                lower_into(text, &mut lower);
                terms.iter().map(|(term, times)| times * count_words(&lower, term)).sum()
            };
            let score = NAME_WEIGHT * count(concept.name) + count(concept.description);
            if score > 0 {
                found.push((score, id));
            }
        }
        // Stable: equal scores keep their order.
        found.sort_by_key(|(score, _)| Reverse(*score));
        let hits = found.into_iter().map(|(score, id)| Hit { concept: self.0.concept(id), score });
        Ok(Page::of(hits, offset, limit))
    }
}

/// The different words of a query, lower-case, each with how often it stands there.
fn terms(query: &str) -> Result<Vec<(String, u64)>> {
    let lower = query.to_lowercase();
    let mut terms: Vec<(String, u64)> = Vec::new();
    for term in lower.split(is_space).filter(|term| !term.is_empty()) {
        match terms.iter().position(|(known, _)| known == term) {
            Some(known) => terms[known].1 += 1,
            None if terms.len() == MAX_QUERY_TERMS => {
                return Err(Error::invalid("q", format!("more than {MAX_QUERY_TERMS} different words")));
            }
            None => terms.push((term.to_owned(), 1)),
        }
    }
    Ok(terms)
}

/// White space as Python splits at it: Unicode's, and the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn lower_into(text: &str, out: &mut String) {
    out.clear();
    if text.is_ascii() {
        out.push_str(text);
        out.make_ascii_lowercase();
    } else {
        out.push_str(&text.to_lowercase());
    }
}

/// Occurrences of `term` (not empty) that do not overlap, with a word boundary at both ends.
fn count_words(text: &str, term: &str) -> u64 {
    let (mut count, mut from) = (0, 0);
    while let Some(at) = text[from..].find(term) {
        let start = from + at;
        let end = start + term.len();
        if is_boundary(text, start) && is_boundary(text, end) {
            count += 1;
            from = end;
        } else {
            from = start + text[start..].chars().next().map_or(1, char::len_utf8);
        }
    }
    count
}

/// Whether exactly one neighbour of this place belongs to a word; the ends of the text do not.
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let before = text[..at].chars().next_back().is_some_and(is_word);
    let after = text[at..].chars().next().is_some_and(is_word);
    before != after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_the_regular_expression_of_the_reference_counts_them() {
        // Recorded: len(re.findall(rf"\b{re.escape(term)}\b", text)) of Python 3.11.
        for (text, term, expected) in [
            ("cat category cat, concat cat_ cat", "cat", 3),
            ("cat-cat.cat", "cat", 3),
            ("aaaa aa aa", "aa", 2),
            ("a-a-a", "a-a", 1),
            ("naïve café cafe\u{301} caf", "caf", 1),
            ("naïve café", "café", 1),
            ("c++ c++11 c++", "c++", 1),
            ("(x) a(x)b (x)", "(x)", 1),
            ("日本 日本語 日本", "日本", 2),
            ("½ 1½ x", "1", 0),
            ("", "x", 0),
            ("_x x_ x", "x", 1),
            ("ab-ab-abx ab-ab", "ab-ab", 2),
        ] {
            assert_eq!(count_words(text, term), expected, "{term:?} in {text:?}");
        }
    }

    #[test]
    fn a_query_of_too_many_words_is_refused_and_repetition_is_not() {
        let many: Vec<String> = (0..=MAX_QUERY_TERMS).map(|i| i.to_string()).collect();
        assert!(matches!(terms(&many.join(" ")), Err(Error::Invalid { field, .. }) if field == "q"));
        assert_eq!(terms(&"cat\x1cCat ".repeat(100)).unwrap(), [("cat".to_owned(), 200)]);
    }
}
