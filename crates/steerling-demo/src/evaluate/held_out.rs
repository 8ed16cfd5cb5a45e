//! What the concept heads see in documents that the trainer never saw.

use candle_core::Tensor;
use steerling::config::SpecialIds;
use steerling::score::{ScoreItem, left_to_right};
use steerling::{Error, Evaluation, Probe, Result, Runtime, Tokenizer};

use super::measures::{auc, mean, softplus};
use crate::concepts::{CONCEPTS, FACTORS, Labels};
use crate::corpus::{Document, read_notice};

/// A document as the model reads it: each chunk followed by the id that ends it.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    ids: Vec<u32>,
    chunks: Vec<ReadChunk>,
}

#[derive(Debug, Clone, Copy)]
struct ReadChunk {
    concepts: Labels,
    factors: Labels,
    /// Positions of its first and one past its last token.
    start: usize,
    end: usize,
}

impl Reading {
    /// Chunks that do not fit into the context are left out. Notices are read but not scored: as nearly all of them show
    /// every factor, what tells a notice would pass for each of the factors.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub(super) fn new(document: &Document, tokenizer: &Tokenizer, context: usize) -> Result<Self> {
        let SpecialIds { endofchunk, .. } = *tokenizer.special();
        let mut reading = Self { ids: Vec::new(), chunks: Vec::new() };
        for chunk in &document.chunks {
            let text = chunk.text();
            let ids = tokenizer.encode(&text)?;
            let start = reading.ids.len();
            let end = start + ids.len();
            if end >= context {
                break;
            }
            reading.ids.extend(ids);
            reading.ids.push(endofchunk);
            if read_notice(&text).is_none() {
                reading.chunks.push(ReadChunk { concepts: chunk.concepts(), factors: chunk.factors(), start, end });
            }
        }
        Ok(reading)
    }
}

/// A chunk's labels, and what the heads make of it.
#[derive(Debug, Clone)]
pub(super) struct ScoredChunk {
    concepts: Labels,
    factors: Labels,
    /// Of each known concept, `-ln prod(1 - sigmoid(z))` over the tokens: ranks like the noisy-or, which ties near 1.
    known: Vec<f64>,
    /// Of each unknown concept, the largest `z` of a token.
    unknown: Vec<f32>,
}

/// Scores the chunks of each document, all concepts of both heads.
///
/// # Errors
/// [`Error::Unsupported`] without both concept heads, [`Error::Device`].
pub(super) fn score(runtime: &mut Runtime, documents: &[Reading]) -> Result<Vec<Vec<ScoredChunk>>> {
    let probes = documents.iter().map(|document| {
        let end = document.chunks.last().map_or(0, |chunk| chunk.end);
        Probe::new(document.ids.clone(), (0..end).collect())
    });
    let mut evaluation = Evaluation::new(probes.collect());
    let mut hidden = Vec::new();
    while let Some(states) = evaluation.advance(runtime)? {
        hidden.push(states);
    }
    let hidden = Tensor::cat(&hidden, 0)?;
    let none = || Error::Unsupported("a checkpoint without a known and an unknown concept head".into());
    let heads = runtime.model().heads().ok_or_else(none)?;
    let known = heads.known.logits(&hidden)?.to_vec2::<f32>()?;
    let unknown = heads.unknown.as_ref().ok_or_else(none)?.logits(&hidden)?.to_vec2::<f32>()?;
    let mut first = 0;
    let scored = documents.iter().map(|document| {
        let chunks = document.chunks.iter().map(|chunk| {
            let rows = first + chunk.start..first + chunk.end;
            ScoredChunk {
                concepts: chunk.concepts,
                factors: chunk.factors,
                known: column_wise(&known[rows.clone()], 0.0, |sum, z| sum + softplus(f64::from(z))),
                unknown: column_wise(&unknown[rows], f32::NEG_INFINITY, f32::max),
            }
        });
        let chunks = chunks.collect();
        first += document.chunks.last().map_or(0, |chunk| chunk.end);
        chunks
    });
    Ok(scored.collect())
}

/// Folds each column of the rows.
fn column_wise<T: Copy>(rows: &[Vec<f32>], start: T, fold: impl Fn(T, f32) -> T) -> Vec<T> {
    let mut folded = vec![start; rows.first().map_or(0, Vec::len)];
    for row in rows {
        for (value, z) in folded.iter_mut().zip(row) {
            *value = fold(*value, *z);
        }
    }
    folded
}

/// How well each known concept's score tells the chunks that have the concept; `None` where all or none have it.
pub(super) fn known_aucs(documents: &[Vec<ScoredChunk>]) -> Vec<Option<f64>> {
    let one = |id: usize| auc(documents.iter().flatten().map(|chunk| (chunk.known[id], chunk.concepts.contains(id))));
    (0..CONCEPTS.len()).map(one).collect()
}

/// The unknown concept that stands for a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Found {
    /// Its index within the unknown head.
    pub(super) index: usize,
    /// On documents that it was not chosen by.
    pub(super) auc: Option<f64>,
}

/// For each factor the unknown concept that tells it best in every other document, scored on the documents between.
pub(super) fn factors(documents: &[Vec<ScoredChunk>]) -> Vec<Option<Found>> {
    let half = |odd: usize| documents.iter().skip(odd).step_by(2).flatten();
    let area = |odd: usize, factor: usize, index: usize| {
        auc(half(odd).map(|chunk| (f64::from(chunk.unknown[index]), chunk.factors.contains(factor))))
    };
    let n_unknown = documents.iter().flatten().next().map_or(0, |chunk| chunk.unknown.len());
    let best = |factor: usize| {
        let areas = (0..n_unknown).filter_map(|index| Some((index, area(0, factor, index)?)));
        let (index, _) = areas.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
        Some(Found { index, auc: area(1, factor, index) })
    };
    (0..FACTORS.len()).map(best).collect()
}

/// The left-to-right log-likelihood of each item.
///
/// # Errors
/// Those of [`left_to_right`].
pub(super) fn likelihoods(runtime: &mut Runtime, items: &[ScoreItem]) -> Result<Vec<(f64, usize)>> {
    let scores = left_to_right(runtime, items.to_vec())?;
    Ok(scores.into_iter().map(|score| (score.loglikelihood, score.tokens)).collect())
}

/// Nats a token over all items together.
pub(super) fn per_token(likelihoods: &[(f64, usize)]) -> Option<f64> {
    let tokens: usize = likelihoods.iter().map(|(_, tokens)| tokens).sum();
    mean(likelihoods.iter().map(|(nats, _)| *nats)).map(|mean| mean * likelihoods.len() as f64 / tokens.max(1) as f64)
}

impl Reading {
    /// The whole document, from an empty context.
    pub(super) fn item(&self) -> ScoreItem {
        ScoreItem { context: Vec::new(), continuation: self.ids.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(factors: Labels, unknown: &[f32]) -> ScoredChunk {
        ScoredChunk {
            concepts: Labels::default(),
            factors,
            known: vec![0.0; CONCEPTS.len()],
            unknown: unknown.to_vec(),
        }
    }

    #[test]
    fn unknown_concept_is_chosen_on_one_half_and_scored_on_the_other() {
        let (with, without) = (Labels::one(0), Labels::default());
        // In even documents concept 1 tells factor 0 and concept 0 misleads; in odd ones it is the other way round.
        let documents = [
            vec![chunk(with, &[0.0, 1.0]), chunk(without, &[1.0, 0.0])],
            vec![chunk(with, &[1.0, 0.0]), chunk(without, &[0.0, 1.0])],
        ];
        let found = factors(&documents);
        assert_eq!(found[0], Some(Found { index: 1, auc: Some(0.0) }));
        assert_eq!(found[1], None, "a factor that never occurs has no concept");
    }

    #[test]
    fn columns_are_folded_over_rows() {
        let rows = [vec![1.0, -2.0], vec![-3.0, 5.0]];
        assert_eq!(column_wise(&rows, f32::NEG_INFINITY, f32::max), [1.0, 5.0]);
        assert_eq!(column_wise(&rows, 0.0f64, |sum, z| sum + f64::from(z)), [-2.0, 3.0]);
    }

    #[test]
    fn likelihood_per_token_weighs_texts_by_their_length() {
        assert_eq!(per_token(&[(-10.0, 10), (-2.0, 1)]), Some(-12.0 / 11.0));
        assert_eq!(per_token(&[]), None);
    }
}
