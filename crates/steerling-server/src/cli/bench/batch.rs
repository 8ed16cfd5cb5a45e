//! Sequences that mean nothing, and steps of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use steerling::{Canvas, Denoiser, GenerateParams, Limits, Runtime};

/// What every sequence of a batch looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) prompt_tokens: usize,
    pub(super) max_new_tokens: usize,
    /// One a token if absent.
    pub(super) steps: Option<usize>,
}

impl Shape {
    /// A sequence of `context` tokens whose last attention block is generated, one token a step: every step then
    /// attends to the whole context.
    pub(super) fn of_context(context: usize, limits: &Limits) -> Self {
        let max_new_tokens = limits.canvas.block_size.min(context / 2);
        Self { prompt_tokens: context - max_new_tokens, max_new_tokens, steps: None }
    }

    /// Sequence `n`: the same for the same `n`, sharing nothing with others.
    pub(super) fn canvas(&self, limits: &Limits, n: usize) -> Result<Canvas> {
        let params = GenerateParams {
            max_new_tokens: self.max_new_tokens,
            steps: self.steps,
            seed: n as u64,
            ..GenerateParams::default()
        };
        Ok(Canvas::new(&random_prompt(limits, self.prompt_tokens, n), params, &limits.canvas)?)
    }

    /// Sequences `0..batch`.
    pub(super) fn canvases(&self, limits: &Limits, batch: usize) -> Result<Vec<Canvas>> {
        (0..batch).map(|n| self.canvas(limits, n)).collect()
    }
}

/// The prompt of sequence `n`: different for every sequence, so that nothing is shared, and without the mask. A shorter
/// one is the beginning of a longer one.
pub(super) fn random_prompt(limits: &Limits, tokens: usize, n: usize) -> Vec<u32> {
    let (ids, mask) = (limits.canvas.vocab_size as u32 - 1, limits.canvas.special.mask);
    let id = |i: usize| ((n * 7919 + i * 104_729 + 1) % ids as usize) as u32;
    (0..tokens).map(id).map(|id| if id < mask { id } else { id + 1 }).collect()
}

/// One step of all that are not finished.
pub(super) fn step(runtime: &mut Runtime, canvases: &mut [Canvas]) -> Result<()> {
    step_where(runtime, canvases, |canvas| canvas.finish_reason().is_none())
}

/// One step of those that are chosen.
pub(super) fn step_where(
    runtime: &mut Runtime,
    canvases: &mut [Canvas],
    chosen: impl Fn(&Canvas) -> bool,
) -> Result<()> {
    let mut batch: Vec<&mut Canvas> = canvases.iter_mut().filter(|canvas| chosen(canvas)).collect();
    Ok(runtime.step(&mut batch)?)
}

/// Does something and tells how long it took, the work that it left queued on the device included.
pub(super) fn timed<T>(runtime: &mut Runtime, work: impl FnOnce(&mut Runtime) -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let done = work(runtime)?;
    runtime.model().backbone().compute().device.synchronize().map_err(steerling::Error::from)?;
    Ok((done, start.elapsed()))
}

/// Of step times, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quantiles {
    pub(super) mean: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
}

impl Quantiles {
    /// Of at least one time.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64();
        let mean = times.iter().map(Duration::as_secs_f64).sum::<f64>() / times.len() as f64;
        Self { mean, median: quantile(0.5), p90: quantile(0.9) }
    }
}
