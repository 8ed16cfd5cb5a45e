//! What is not a step: prompts and embeddings.

use anyhow::{Result, ensure};
use serde::Serialize;
use steerling::embed::{EmbedJob, EmbeddingType, Pooling};
use steerling::{Denoiser, Runtime};

use super::cell::compute_prompts;
use crate::cli::bench::batch::{Shape, random_prompt, timed};

/// Texts embedded in one request.
const TEXTS: usize = 16;
/// The numbers of sequences that no cell has, so that none of their blocks is cached.
const FRESH: [usize; 2] = [1_000, 2_000];

/// A prompt of which nothing is cached.
#[derive(Debug, Serialize)]
pub(super) struct Prefill {
    pub(super) context: usize,
    /// Rows computed up to the first commit, those of the block being unmasked included.
    pub(super) rows: usize,
    pub(super) seconds: f64,
    pub(super) rows_per_second: f64,
}

/// Texts as vectors: hidden states, pooled by their mean.
#[derive(Debug, Serialize)]
pub(super) struct Embeddings {
    pub(super) texts: usize,
    pub(super) tokens_per_text: usize,
    pub(super) seconds: f64,
    pub(super) texts_per_second: f64,
    pub(super) tokens_per_second: f64,
}

/// The prompt of a context, alone.
pub(super) fn prefill(runtime: &mut Runtime, context: usize) -> Result<Prefill> {
    let limits = runtime.limits();
    let mut canvases = [Shape::of_context(context, &limits).canvas(&limits, FRESH[0] + context)?];
    ensure!(runtime.admit(&mut canvases[0])?, "the prompt does not fit the pages; raise --kv-cache-mib");
    let result = timed(runtime, |runtime| compute_prompts(runtime, &mut canvases));
    runtime.release(canvases[0].id());
    let seconds = result?.1.as_secs_f64();
    let rows = canvases[0].usage.rows;
    Ok(Prefill { context, rows, seconds, rows_per_second: rows as f64 / seconds })
}

/// Texts of so many tokens.
pub(super) fn embeddings(runtime: &mut Runtime, tokens_per_text: usize) -> Result<Embeddings> {
    let limits = runtime.limits();
    let texts = (0..TEXTS).map(|n| random_prompt(&limits, tokens_per_text, FRESH[1] + n)).collect();
    let (vectors, time) = timed(runtime, |runtime| {
        let mut job = EmbedJob::new(texts, Pooling::Mean)?;
        let states = loop {
            if let Some(states) = job.advance(runtime)? {
                break states;
            }
        };
        Ok(states.embeddings(runtime.model(), EmbeddingType::Hidden)?)
    })?;
    let (texts, seconds) = (vectors.len(), time.as_secs_f64());
    Ok(Embeddings {
        texts,
        tokens_per_text,
        seconds,
        texts_per_second: texts as f64 / seconds,
        tokens_per_second: (texts * tokens_per_text) as f64 / seconds,
    })
}
