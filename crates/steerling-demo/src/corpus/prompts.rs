//! Beginnings for a model to go on from, and chunks with chosen concepts.

use rand::{Rng, RngExt};

use super::compose::chunk;
use super::expand::phrase;
use super::plan::Plan;
use super::{Chunk, VERSE_PROMPT, render};
use crate::concepts::{CONCEPTS, Kind, Labels};

/// Beginnings without any concept, after which anything may follow: one neutral sentence, or two.
pub fn neutral_prompts(n: usize, rng: &mut impl Rng) -> Vec<String> {
    let sentence = |rng: &mut _| render::sentence(&phrase("plain", Labels::default(), rng).words);
    (0..n)
        .map(|_| {
            let first = sentence(rng);
            if rng.random_bool(0.3) { format!("{first} {}", sentence(rng)) } else { first }
        })
        .collect()
}

/// The first sentences of a chunk up to one that has the concept, and the first two words of the next.
///
/// Only [`VERSE_PROMPT`] begins the verse.
pub fn primed_prompt(concept: usize, rng: &mut impl Rng) -> String {
    let (sentences, begun) = primed(concept, rng);
    sentences + &begun
}

/// The same without the words of the next sentence.
pub fn primed_sentences(concept: usize, rng: &mut impl Rng) -> String {
    primed(concept, rng).0
}

fn primed(concept: usize, rng: &mut impl Rng) -> (String, String) {
    if CONCEPTS[concept].kind == Kind::Verse {
        return (VERSE_PROMPT.to_owned(), String::new());
    }
    loop {
        let plan = Plan::with(&[concept], rng);
        let sentences = chunk(&plan, rng).sentences;
        let Some(first) = sentences.iter().position(|sentence| sentence.concepts.contains(concept)) else { continue };
        // The next sentence begins within the prompt, so that it cannot be taken for a whole chunk.
        let Some(next) = sentences.get(first + 1) else { continue };
        let cut = next.text.match_indices(' ').map(|(at, _)| at).filter(|at| *at > 0).nth(1);
        let told = sentences[..=first].iter().map(|sentence| sentence.text.as_str()).collect();
        return (told, next.text[..cut.unwrap_or(next.text.len())].to_owned());
    }
}

/// A chunk that expresses all of these concepts, whatever else. At most two topics and two entities, and one of each
/// other kind.
pub fn chunk_with(wanted: &[usize], rng: &mut impl Rng) -> Chunk {
    chunk(&Plan::with(wanted, rng), rng)
}

/// A chunk that expresses none of these concepts, whatever else.
pub fn chunk_without(avoided: Labels, rng: &mut impl Rng) -> Chunk {
    loop {
        let found = chunk(&Plan::without(avoided, rng), rng);
        if !found.concepts().intersects(avoided) {
            return found;
        }
    }
}
