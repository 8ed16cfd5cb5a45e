//! What explanations cost beside plain generation.

use anyhow::{Result, ensure};
use serde::Serialize;
use steerling::attribute::Trace;
use steerling::attribute::inputs::{InputJob, InputMethod, PathRule};
use steerling::{Canvas, Denoiser, Runtime};

use super::batch::{Shape, timed};

/// Points of the measured paths.
const N_STEPS: usize = 8;
/// Targets whose inputs are attributed.
const TARGETS: usize = 4;

/// A method of input attribution, and its points.
type Method = (&'static str, InputMethod, usize);

/// Gradients along a path.
pub(super) const INTEGRATED_GRADIENTS: Method =
    ("integrated_gradients", InputMethod::IntegratedGradients { n_steps: N_STEPS, rule: PathRule::Right }, N_STEPS);
/// All methods.
pub(super) const METHODS: [Method; 3] = [
    INTEGRATED_GRADIENTS,
    ("input_x_gradient", InputMethod::InputXGradient, 1),
    ("occlusion", InputMethod::Occlusion, 0),
];

/// Attribution while generating against plain generation, and input attribution afterwards.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    /// Seconds a step, without and with concept attribution, taken in turn.
    plain_seconds: f64,
    attributed_seconds: f64,
    /// What attribution adds, as a share of a plain step: median over the pairs.
    overhead: f64,
    inputs: Vec<InputCost>,
}

#[derive(Debug, Serialize)]
struct InputCost {
    method: &'static str,
    n_steps: usize,
    targets: usize,
    seconds_per_target: f64,
    rows_forwarded: usize,
    rows_backed: usize,
    mean_completeness_error: f64,
}

/// One sequence, generated twice side by side for `most` steps, then explained by `methods`.
pub(super) fn measure(
    runtime: &mut Runtime,
    shape: &Shape,
    most: Option<usize>,
    methods: &[Method],
) -> Result<Explained> {
    let canvas = |runtime: &Runtime| shape.canvas(&runtime.limits(), 0);
    let mut pair = [canvas(runtime)?, canvas(runtime)?.attributed()?];
    let result = side_by_side(runtime, &mut pair, most);
    pair.iter().for_each(|canvas| runtime.release(canvas.id()));
    let pairs = result?;
    let n = pairs.len() as f64;
    let mut ratios: Vec<f64> = pairs.iter().map(|(plain, attributed)| attributed / plain - 1.0).collect();
    ratios.sort_by(f64::total_cmp);
    let trace = Trace::of(&pair[1]);
    Ok(Explained {
        plain_seconds: pairs.iter().map(|(plain, _)| plain).sum::<f64>() / n,
        attributed_seconds: pairs.iter().map(|(_, attributed)| attributed).sum::<f64>() / n,
        overhead: ratios[ratios.len() / 2],
        inputs: methods.iter().map(|method| input_cost(runtime, &trace, *method)).collect::<Result<_>>()?,
    })
}

/// Seconds of each step of the first canvas and of the second, in turn.
fn side_by_side(runtime: &mut Runtime, pair: &mut [Canvas; 2], most: Option<usize>) -> Result<Vec<(f64, f64)>> {
    for canvas in &mut *pair {
        ensure!(runtime.admit(canvas)?, "two sequences do not fit the pages; raise --kv-cache-mib");
        while canvas.commits().is_empty() {
            runtime.step(&mut [canvas])?;
        }
    }
    let mut seconds = |canvas: &mut Canvas| -> Result<f64> {
        Ok(timed(runtime, |runtime| Ok(runtime.step(&mut [canvas])?))?.1.as_secs_f64())
    };
    let [plain, attributed] = pair;
    let mut pairs = Vec::new();
    while plain.finish_reason().is_none() && most.is_none_or(|n| pairs.len() < n) {
        pairs.push((seconds(plain)?, seconds(attributed)?));
    }
    ensure!(!pairs.is_empty(), "nothing is left to measure behind the first step; generate more tokens in more steps");
    Ok(pairs)
}

fn input_cost(runtime: &mut Runtime, trace: &Trace, (method, form, n_steps): Method) -> Result<InputCost> {
    let positions: Vec<usize> = trace.commits.iter().take(TARGETS).map(|commit| commit.position).collect();
    let mut job = InputJob::new(trace, Some(&positions), form, None, runtime.model())?;
    let (done, time) = timed(runtime, |runtime| {
        loop {
            if let Some(done) = job.advance(runtime)? {
                break Ok(done);
            }
        }
    })?;
    let n = done.len().max(1) as f64;
    let [rows_forwarded, rows_backed] = job.rows;
    Ok(InputCost {
        method,
        n_steps,
        targets: done.len(),
        seconds_per_target: time.as_secs_f64() / n,
        rows_forwarded,
        rows_backed,
        mean_completeness_error: done.iter().map(|t| f64::from(t.completeness_error())).sum::<f64>() / n,
    })
}

/// The table for people.
pub(super) fn table(explained: &Explained) -> String {
    let mut text = format!(
        "\nconcept attribution: {:.4} s a step, {:.4} s without, {:+.1} % (median of pairs)\n",
        explained.attributed_seconds,
        explained.plain_seconds,
        explained.overhead * 100.0
    );
    text += &format!(
        "{:>22} {:>8} {:>9} {:>12} {:>12} {:>12}\n",
        "input attribution", "n_steps", "s/target", "rows fwd", "rows bwd", "incomplete"
    );
    for cost in &explained.inputs {
        text += &format!(
            "{:>22} {:>8} {:>9.3} {:>12} {:>12} {:>11.1} %\n",
            cost.method,
            cost.n_steps,
            cost.seconds_per_target,
            cost.rows_forwarded,
            cost.rows_backed,
            cost.mean_completeness_error * 100.0
        );
    }
    text
}
