//! The workers together with what an evaluation draws: documents, prompts, seeds.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use steerling::Result;
use steerling::score::ScoreItem;

use super::Size;
use super::generate::{self, BATCH, Generated, Job};
use super::held_out::{self, Reading, ScoredChunk};
use super::workers::Workers;
use crate::corpus::document;

/// The trainer's documents come from seeds below 2^32, the evaluator's from here on.
const HELD_OUT: u64 = 1 << 40;

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// Held-out documents.
    Documents,
    /// Prompts without a concept.
    Neutral,
    /// Prompts that begin with a concept.
    Primed,
    /// Pairs of topics.
    Pairs,
    /// The canary.
    Verse,
    /// Notices.
    Notices,
}

/// What all parts of an evaluation work with.
pub(super) struct Bench {
    pub(super) workers: Workers,
    pub(super) size: Size,
    pub(super) seed: u32,
}

impl Bench {
    /// A stream that no other use shares.
    pub(super) fn rng(&self, draw: Draw) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.stream(draw, 0))
    }

    /// The seed of the generation from prompt `index`: the same whatever it is steered by, as runs that are compared
    /// with each other have on the server.
    pub(super) fn seed(&self, draw: Draw, index: usize) -> u64 {
        self.stream(draw, 1 + index as u64)
    }

    fn stream(&self, draw: Draw, index: u64) -> u64 {
        HELD_OUT + (u64::from(self.seed) << 24) + ((draw as u64) << 20) + index
    }

    /// Makes generations.
    ///
    /// # Errors
    /// Those of [`generate::generate`].
    pub(super) fn generate(&mut self, stage: &'static str, jobs: &[Job<'_>]) -> Result<Vec<Generated>> {
        self.workers.stage(stage);
        self.workers.run(jobs, BATCH, generate::generate)
    }

    /// The mean log-likelihood of a token.
    ///
    /// # Errors
    /// Those of [`held_out::likelihoods`].
    pub(super) fn likelihood(&mut self, stage: &'static str, items: &[ScoreItem]) -> Result<Option<f64>> {
        self.workers.stage(stage);
        Ok(held_out::per_token(&self.workers.run(items, 4, held_out::likelihoods)?))
    }

    /// Held-out documents.
    ///
    /// # Errors
    /// If the tokenizer cannot express one.
    pub(super) fn documents(&self) -> Result<Vec<Reading>> {
        let runtime = self.workers.runtime();
        let mut rng = self.rng(Draw::Documents);
        let reading = |_| Reading::new(&document(&mut rng), runtime.tokenizer(), runtime.info().config.context);
        (0..self.size.documents).map(reading).collect()
    }

    /// What the heads make of documents.
    ///
    /// # Errors
    /// Those of [`held_out::score`].
    pub(super) fn score(&mut self, documents: &[Reading]) -> Result<Vec<Vec<ScoredChunk>>> {
        self.workers.stage("held-out documents");
        self.workers.run(documents, 16, held_out::score)
    }
}
