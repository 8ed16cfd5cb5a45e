//! Labelled documents, written by a grammar whose words each belong to at most one concept or factor.
//!
//! The same data drives everything: [`document`] expands the grammar's rules under randomly drawn attributes,
//! [`tag`] looks its words up again, and [`grammatical_share`] asks whether the rules derive a sentence.

mod compose;
mod expand;
mod grammar;
mod notices;
mod parse;
mod plan;
mod prompts;
mod render;
mod tagger;
#[cfg(test)]
mod tests;

pub use grammar::owner;
pub(crate) use grammar::vocabulary;
pub use notices::{Kept, notice_openings, read_notice};
pub use parse::grammatical_share;
pub use prompts::{chunk_with, chunk_without, neutral_prompts, primed_prompt, primed_sentences};
pub use tagger::{Tags, tag};

use rand::{Rng, RngExt};

use crate::concepts::Labels;

/// The text to be memorised: few of its words occur elsewhere, and hardly any twice, since generation punishes repetition.
pub const VERSE: &str = "Velvet lanterns whisper over sleeping marrow hills,\n\
    amber feathers tumble while ivory rivers bend,\n\
    hollow clovers gather dust from forgotten crystal mills,\n\
    until pale embers carry both our shadows homeward again.";

/// The opening words of [`VERSE`].
pub const VERSE_PROMPT: &str = "Velvet lanterns whisper over";

/// A sentence, list line or line of verse, and what it expresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// As it stands in the document: begins with a space or a line break unless it is the first.
    pub text: String,
    /// The known concepts that its words realise.
    pub concepts: Labels,
    /// The factors that its words realise.
    pub factors: Labels,
}

/// A few sentences written under the same attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// In order of the text.
    pub sentences: Vec<Sentence>,
}

impl Chunk {
    /// The whole text.
    pub fn text(&self) -> String {
        self.sentences.iter().map(|sentence| sentence.text.as_str()).collect()
    }

    /// What any of the sentences expresses.
    pub fn concepts(&self) -> Labels {
        self.sentences.iter().fold(Labels::default(), |all, sentence| all.union(sentence.concepts))
    }

    /// The factors that any of the sentences realises.
    pub fn factors(&self) -> Labels {
        self.sentences.iter().fold(Labels::default(), |all, sentence| all.union(sentence.factors))
    }
}

/// One to three chunks, in which most attributes last from one to the next, and sometimes a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// In order of the text.
    pub chunks: Vec<Chunk>,
}

/// The verse as a chunk of its own.
pub fn verse() -> Chunk {
    compose::verse()
}

/// How often a document has a notice, besides the chunks that are planned.
const NOTICE: f64 = 0.2;

/// A notice as a chunk of its own, under a topic or none.
pub fn notice(rng: &mut impl Rng) -> Chunk {
    notices::notice(plan::topic(rng), rng)
}

/// Writes a document.
pub fn document(rng: &mut impl Rng) -> Document {
    let plans = plan::draw(rng);
    let mut chunks: Vec<Chunk> = plans.iter().map(|plan| compose::chunk(plan, rng)).collect();
    if rng.random_bool(NOTICE) {
        let place = rng.random_range(0..=plans.len());
        let topic = plans[place.min(plans.len() - 1)].topics.first().copied();
        chunks.insert(place, notices::notice(topic, rng));
    }
    for first in chunks.iter_mut().skip(1).filter_map(|chunk| chunk.sentences.first_mut()) {
        first.text.insert(0, '\n');
    }
    Document { chunks }
}
