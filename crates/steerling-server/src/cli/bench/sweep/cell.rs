//! One cell of the table: so many sequences at a context of so many tokens.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use steerling::{Canvas, Denoiser, Runtime};

use super::floors::{Bounds, Floors};
use crate::cli::bench::batch::{Quantiles, Shape, step, step_where, timed};

/// Steps whose parts are timed, at most.
const PROFILED: usize = 8;

/// A cell, measured or not.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    pub(super) sequences: usize,
    /// Tokens of each sequence, prompt and generated.
    pub(super) context: usize,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Measured(Measured),
    /// It does not fit, for this reason.
    Skipped(String),
    /// Something went wrong.
    Failed(String),
}

/// What steps cost.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    forwards: usize,
    pub(super) seconds_per_step: Quantiles,
    pub(super) tokens_per_second: f64,
    pub(super) rows_per_forward: f64,
    /// Rows whose logits are computed.
    masked_rows_per_forward: f64,
    /// Bytes of keys and values that a forward attends to, which the memory floor leaves out.
    kv_bytes: u64,
    pub(super) floors: Floors,
    /// Mean seconds of each part of a step, of steps of their own that wait for the device before and after each part.
    pub(super) parts: Vec<(&'static str, f64)>,
    /// Mean seconds of such a step: the sum of its parts.
    seconds_per_profiled_step: f64,
}

/// Sums over steps.
#[derive(Default)]
struct Tally {
    times: Vec<Duration>,
    rows: usize,
    masked_rows: usize,
    tokens: usize,
}

/// Measures a cell for `forwards` steps, or as many as its last block has.
pub(super) fn measure(
    runtime: &mut Runtime,
    bounds: &Bounds,
    (sequences, context): (usize, usize),
    forwards: usize,
) -> Cell {
    let outcome = match unfit(runtime, sequences, context) {
        Some(reason) => Outcome::Skipped(reason),
        None => match admitted(runtime, bounds, (sequences, context), forwards) {
            Ok(measured) => Outcome::Measured(measured),
            Err(error) => Outcome::Failed(crate::cli::one_line(&error)),
        },
    };
    Cell { sequences, context, outcome }
}

/// Why a cell cannot be measured here.
fn unfit(runtime: &Runtime, sequences: usize, context: usize) -> Option<String> {
    let limits = runtime.limits();
    if context > limits.canvas.context {
        return Some(format!("the context of this model ends at {}", limits.canvas.context));
    }
    let pages = sequences * context.div_ceil(limits.canvas.block_size);
    let mib = (pages as u64 * limits.page_bytes).div_ceil(1 << 20);
    (pages > limits.pages)
        .then(|| format!("{pages} pages are needed, there are {}; --kv-cache-mib {mib} would do", limits.pages))
}

fn admitted(
    runtime: &mut Runtime,
    bounds: &Bounds,
    (sequences, context): (usize, usize),
    forwards: usize,
) -> Result<Measured> {
    let limits = runtime.limits();
    let shape = Shape::of_context(context, &limits);
    let mut canvases = shape.canvases(&limits, sequences)?;
    let mut run = || -> Result<(Tally, Tally)> {
        for canvas in &mut canvases {
            ensure!(runtime.admit(canvas)?, "the pages are taken");
        }
        compute_prompts(runtime, &mut canvases)?;
        let profiled = (shape.max_new_tokens / 4).min(PROFILED);
        let plain = steps(runtime, &mut canvases, forwards.min(shape.max_new_tokens - 1 - profiled))?;
        let profile = runtime.model().backbone().profile();
        profile.synchronise(Some(runtime.model().backbone().compute().device.clone()));
        profile.take();
        let profiled = steps(runtime, &mut canvases, profiled)?;
        Ok((plain, profiled))
    };
    let result = run();
    runtime.model().backbone().profile().synchronise(None);
    let parts = runtime.model().backbone().profile().take();
    canvases.iter().for_each(|canvas| runtime.release(canvas.id()));
    let (plain, profiled) = result?;

    let n = plain.times.len() as f64;
    let seconds: f64 = plain.times.iter().map(Duration::as_secs_f64).sum();
    let seconds_per_step = Quantiles::of(plain.times);
    let (rows, masked_rows) = (plain.rows as f64 / n, plain.masked_rows as f64 / n);
    let mean = |time: Duration| time.as_secs_f64() / profiled.times.len() as f64;
    let whole = mean(profiled.times.iter().sum());
    let mut parts: Vec<(&str, f64)> = parts.iter().map(|(part, time)| (part.name(), mean(*time))).collect();
    parts.push(("untimed", whole - parts.iter().map(|(_, seconds)| seconds).sum::<f64>()));
    Ok(Measured {
        forwards: n as usize,
        seconds_per_step,
        tokens_per_second: plain.tokens as f64 / seconds,
        rows_per_forward: rows,
        masked_rows_per_forward: masked_rows,
        kv_bytes: (sequences * context) as u64 * limits.page_bytes / limits.canvas.block_size as u64,
        floors: bounds.floors(rows, masked_rows, seconds_per_step.median),
        parts,
        seconds_per_profiled_step: whole,
    })
}

/// Steps until every sequence has its first commit; those that have it wait for the others.
pub(super) fn compute_prompts(runtime: &mut Runtime, canvases: &mut [Canvas]) -> Result<()> {
    while canvases.iter().any(|canvas| canvas.commits().is_empty()) {
        step_where(runtime, canvases, |canvas| canvas.commits().is_empty())?;
    }
    Ok(())
}

/// Up to `n` steps, at least one.
fn steps(runtime: &mut Runtime, canvases: &mut [Canvas], n: usize) -> Result<Tally> {
    let sum = |canvases: &[Canvas], count: fn(&Canvas) -> usize| canvases.iter().map(count).sum::<usize>();
    let (rows, tokens) = (|canvas: &Canvas| canvas.usage.rows, |canvas: &Canvas| canvas.commits().len());
    let before = (sum(canvases, rows), sum(canvases, tokens));
    let mut tally = Tally::default();
    while tally.times.len() < n && canvases.iter().any(|canvas| canvas.finish_reason().is_none()) {
        let open = canvases.iter().filter(|canvas| canvas.finish_reason().is_none());
        tally.masked_rows += open.map(|canvas| canvas.masked().len()).sum::<usize>();
        tally.times.push(timed(runtime, |runtime| step(runtime, canvases))?.1);
    }
    ensure!(!tally.times.is_empty(), "the generations ended before there was a step to measure");
    (tally.rows, tally.tokens) = (sum(canvases, rows) - before.0, sum(canvases, tokens) - before.1);
    Ok(tally)
}
