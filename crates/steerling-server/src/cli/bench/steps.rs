//! Batches from their prompts to their ends: the time of a step, and its parts.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use steerling::profile::Part;
use steerling::{Canvas, Denoiser, Runtime};

use super::batch::{Quantiles, Shape, step, timed};

/// One batch size.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    batch: usize,
    forwards: usize,
    tokens: usize,
    seconds: f64,
    tokens_per_second: f64,
    /// Rows a forward, all sequences together.
    rows_per_forward: f64,
    seconds_per_step: Quantiles,
    /// Share of the time in each part of a step.
    shares: Vec<(&'static str, f64)>,
    /// Share of everything that is neither a matrix product nor attention.
    overhead_share: f64,
}

/// Runs a batch to its end, or for `most` forwards.
pub(super) fn measure(runtime: &mut Runtime, shape: &Shape, most: Option<usize>, batch: usize) -> Result<Run> {
    let mut canvases = shape.canvases(&runtime.limits(), batch)?;
    for canvas in &mut canvases {
        ensure!(runtime.admit(canvas)?, "a batch of {batch} does not fit the pages; raise --kv-cache-mib");
    }
    // The first step pays for what is allocated once, and computes the prompts.
    step(runtime, &mut canvases)?;
    runtime.model().backbone().profile().take();
    let committed = |canvases: &[Canvas]| canvases.iter().map(|c| c.commits().len()).sum::<usize>();
    let rows = |canvases: &[Canvas]| canvases.iter().map(|c| c.usage.rows).sum::<usize>();
    let (tokens_before, rows_before) = (committed(&canvases), rows(&canvases));
    let mut times: Vec<Duration> = Vec::new();
    while canvases.iter().any(|c| c.finish_reason().is_none()) && most.is_none_or(|n| times.len() < n) {
        times.push(timed(runtime, |runtime| step(runtime, &mut canvases))?.1);
    }
    let parts = runtime.model().backbone().profile().take();
    for canvas in &canvases {
        runtime.release(canvas.id());
    }
    ensure!(!times.is_empty(), "nothing is left to measure behind the first step; generate more tokens in more steps");
    let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let tokens = committed(&canvases) - tokens_before;
    let share = |time: Duration| time.as_secs_f64() / seconds;
    let mut shares: Vec<(&str, f64)> = parts.iter().map(|(part, time)| (part.name(), share(*time))).collect();
    let timed: f64 = shares.iter().map(|(_, share)| share).sum();
    shares.push(("untimed", 1.0 - timed));
    let essential: f64 = parts.iter().filter(|(part, _)| Part::is_essential(*part)).map(|(_, t)| share(*t)).sum();
    Ok(Run {
        batch,
        forwards: times.len(),
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        rows_per_forward: (rows(&canvases) - rows_before) as f64 / times.len() as f64,
        seconds_per_step: Quantiles::of(times),
        shares,
        overhead_share: 1.0 - essential,
    })
}

/// The table for people.
pub(super) fn table(runs: &[Run]) -> String {
    let [batch, rows, mean, median] = ["batch", "rows/fwd", "s/step", "median"];
    let mut text = format!("{batch:>6} {rows:>9} {mean:>10} {median:>10} {:>10} {:>12}\n", "p90", "tokens/s");
    for run in runs {
        let Quantiles { mean, median, p90 } = run.seconds_per_step;
        let (rows, speed) = (run.rows_per_forward, run.tokens_per_second);
        text += &format!("{:>6} {rows:>9.1} {mean:>10.4} {median:>10.4} {p90:>10.4} {speed:>12.2}\n", run.batch);
    }
    text += "\nshare of time, per batch size\n";
    for (i, (name, _)) in runs.first().map(|run| run.shares.iter().enumerate()).into_iter().flatten() {
        text += &format!("{name:>20}");
        text.extend(runs.iter().map(|run| format!(" {:>7.1} %", run.shares[i].1 * 100.0)));
        text += "\n";
    }
    text += &format!("{:>20}", "overhead");
    text.extend(runs.iter().map(|run| format!(" {:>7.1} %", run.overhead_share * 100.0)));
    text + "   (neither product nor attention)\n"
}
