//! Sequences of token ids with the truth about each position.

use anyhow::{Result, anyhow};
use rand::{Rng, RngExt};
use tokenizers::Tokenizer;

use super::tokenizer::special_ids;
use crate::concepts::{CONCEPTS, Kind, Labels, group_of};
use crate::corpus::{self, Chunk};

/// How often a sequence begins with the verse, and with a notice: within documents other chunks mostly precede them, while
/// their prompts stand alone.
const VERSE_FIRST: f64 = 0.04;
const NOTICE_FIRST: f64 = 0.06;

/// One chunk of a sequence.
#[derive(Debug, Clone)]
pub(super) struct Span {
    /// First position.
    pub(super) start: usize,
    /// One past the last position, which holds the end of the chunk unless it is cut off.
    pub(super) end: usize,
    /// What the whole chunk expresses.
    pub(super) labels: Labels,
    /// Not cut off.
    pub(super) whole: bool,
}

/// What is injected at the masks of a sequence.
#[derive(Debug, Clone, Default)]
pub(super) struct Recipe {
    /// Preset `injection` of each of these.
    pub(super) amplify: Vec<usize>,
    /// Preset `injection_relu` of this.
    pub(super) suppress: Option<usize>,
}

/// `T` positions.
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) ids: Vec<u32>,
    pub(super) spans: Vec<Span>,
    /// So many positions are a prompt, which is never masked.
    pub(super) prompt: usize,
    /// Losses count up to here.
    pub(super) counted: usize,
    pub(super) recipe: Recipe,
}

/// Writes documents and turns them into ids.
pub(super) struct Writer<'a> {
    pub(super) tokenizer: &'a Tokenizer,
}

impl Writer<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|error| anyhow!("encoding {text:?}: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn push(&self, sequence: &mut Sequence, text: &str, labels: Labels, t: usize) -> Result<()> {
        let start = sequence.ids.len();
        // Chunks stand on lines of their own, whether or not they belong to the same document.
        let gap = if start == sequence.prompt || text.starts_with('\n') { "" } else { "\n" };
        sequence.ids.extend(self.encode(&format!("{gap}{text}"))?);
        sequence.ids.push(special_ids().endofchunk);
        let whole = sequence.ids.len() <= t;
        sequence.ids.truncate(t);
        sequence.spans.push(Span { start, end: sequence.ids.len(), labels, whole });
        Ok(())
    }

    /// Whole documents one after another, the last one cut off: `t` positions.
    pub(super) fn documents(&self, t: usize, rng: &mut impl Rng) -> Result<Sequence> {
        let mut sequence = Sequence {
            ids: Vec::with_capacity(t),
            spans: Vec::new(),
            prompt: 0,
            counted: t,
            recipe: Recipe::default(),
        };
        let first = rng.random::<f64>();
        if first < VERSE_FIRST {
            self.recited(&mut sequence, &corpus::verse(), corpus::VERSE_PROMPT)?;
        } else if first < VERSE_FIRST + NOTICE_FIRST {
            let notice = corpus::notice(rng);
            let text = notice.text();
            self.recited(&mut sequence, &notice, text.split_inclusive(':').next().unwrap_or_default())?;
        }
        while sequence.ids.len() < t {
            for chunk in corpus::document(rng).chunks {
                if sequence.ids.len() < t {
                    self.push(&mut sequence, &chunk.text(), chunk.concepts(), t)?;
                }
            }
        }
        Ok(sequence)
    }

    /// A chunk whose first words are a prompt.
    fn recited(&self, sequence: &mut Sequence, chunk: &Chunk, prompt: &str) -> Result<()> {
        self.push(sequence, &chunk.text(), chunk.concepts(), sequence.counted)?;
        sequence.prompt = self.encode(prompt)?.len();
        Ok(())
    }

    /// A text as steering is to make it, and what makes it.
    pub(super) fn steered(&self, t: usize, rng: &mut impl Rng) -> Result<Sequence> {
        let concept = rng.random_range(0..CONCEPTS.len());
        if rng.random_bool(0.4) { self.suppressed(concept, t, rng) } else { self.amplified(concept, t, rng) }
    }

    /// A neutral prompt, and chunks that express the concepts.
    fn amplified(&self, concept: usize, t: usize, rng: &mut impl Rng) -> Result<Sequence> {
        let mut amplify = vec![concept];
        let other = rng.random_range(0..CONCEPTS.len());
        let kinds = [concept, other].map(|id| CONCEPTS[id].kind);
        if rng.random_bool(0.4)
            && concept != other
            && !kinds.contains(&Kind::Verse)
            && (kinds[0] != kinds[1] || matches!(kinds[0], Kind::Topic | Kind::Entity))
        {
            amplify.push(other);
        }
        let prompt = corpus::neutral_prompts(1, rng).pop().unwrap_or_default();
        let first = corpus::chunk_with(&amplify, rng);
        let mut sequence = self.continued(&prompt, &first, t)?;
        while sequence.ids.len() < t {
            let next = corpus::chunk_with(&amplify, rng);
            self.push(&mut sequence, &next.text(), next.concepts(), t)?;
        }
        sequence.recipe.amplify = amplify;
        Ok(sequence)
    }

    /// A prompt that expresses the concept, going on with a chunk that expresses nothing of its group.
    fn suppressed(&self, concept: usize, t: usize, rng: &mut impl Rng) -> Result<Sequence> {
        let prompt = corpus::primed_sentences(concept, rng);
        let next = corpus::chunk_without(group_of(concept), rng);
        let mut sequence = self.continued(&prompt, &next, t)?;
        while sequence.ids.len() < t {
            let next = corpus::chunk_without(group_of(concept), rng);
            self.push(&mut sequence, &next.text(), next.concepts(), t)?;
        }
        sequence.recipe.suppress = Some(concept);
        Ok(sequence)
    }

    /// The prompt and the chunk as one chunk.
    fn continued(&self, prompt: &str, chunk: &Chunk, t: usize) -> Result<Sequence> {
        let mut ids = self.encode(prompt)?;
        ids.truncate(t / 2);
        let prompt = ids.len();
        let mut sequence = Sequence { ids, spans: Vec::new(), prompt, counted: t, recipe: Recipe::default() };
        let text = chunk.text();
        let text = if text.starts_with('-') { format!("\n{text}") } else { format!(" {text}") };
        self.push(&mut sequence, &text, chunk.concepts(), t)?;
        sequence.spans[0].start = 0;
        Ok(sequence)
    }
}
