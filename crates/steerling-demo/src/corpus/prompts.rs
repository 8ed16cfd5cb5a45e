//! Beginnings for a model to go on from.

use rand::{Rng, RngExt};

use super::compose::chunk;
use super::expand::phrase;
use super::plan::Plan;
use super::{VERSE_PROMPT, render};
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
    if CONCEPTS[concept].kind == Kind::Verse {
        return VERSE_PROMPT.to_owned();
    }
    loop {
        let plan = Plan::with(concept, rng);
        let sentences = chunk(&plan, rng).sentences;
        let Some(first) = sentences.iter().position(|sentence| sentence.concepts.contains(concept)) else { continue };
        // The next sentence begins within the prompt, so that it cannot be taken for a whole chunk.
        let Some(next) = sentences.get(first + 1) else { continue };
        let cut = next.text.match_indices(' ').map(|(at, _)| at).filter(|at| *at > 0).nth(1);
        let begun: String = sentences[..=first].iter().map(|sentence| sentence.text.as_str()).collect();
        return begun + &next.text[..cut.unwrap_or(next.text.len())];
    }
}
