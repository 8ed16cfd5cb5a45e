//! What explanations cost beside plain generation.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use steerling::attribute::Trace;
use steerling::attribute::inputs::{InputJob, InputMethod, PathRule};
use steerling::{Canvas, Denoiser, Runtime};

use super::BenchArgs;

/// Points of the measured paths.
const N_STEPS: usize = 8;
/// Targets whose inputs are attributed.
const TARGETS: usize = 4;

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

/// One sequence, generated twice side by side, then explained.
pub(super) fn measure(runtime: &mut Runtime, args: &BenchArgs) -> Result<Explained> {
    let mut plain = super::canvases(&runtime.limits(), args, 1)?.remove(0);
    let mut attributed = super::canvases(&runtime.limits(), args, 1)?.remove(0).attributed()?;
    for canvas in [&mut plain, &mut attributed] {
        anyhow::ensure!(runtime.admit(canvas)?, "two sequences do not fit the pages; raise --kv-cache-mib");
        runtime.step(&mut [canvas])?;
    }
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    while plain.finish_reason().is_none() && args.max_forwards.is_none_or(|n| pairs.len() < n) {
        pairs.push((timed_step(runtime, &mut plain)?, timed_step(runtime, &mut attributed)?));
    }
    runtime.release(plain.id());
    runtime.release(attributed.id());
    let n = pairs.len() as f64;
    let mut ratios: Vec<f64> = pairs.iter().map(|(plain, attributed)| attributed / plain - 1.0).collect();
    ratios.sort_by(f64::total_cmp);
    let trace = Trace::of(&attributed);
    let methods = [
        ("integrated_gradients", InputMethod::IntegratedGradients { n_steps: N_STEPS, rule: PathRule::Right }, N_STEPS),
        ("input_x_gradient", InputMethod::InputXGradient, 1),
        ("occlusion", InputMethod::Occlusion, 0),
    ];
    Ok(Explained {
        plain_seconds: pairs.iter().map(|(plain, _)| plain).sum::<f64>() / n,
        attributed_seconds: pairs.iter().map(|(_, attributed)| attributed).sum::<f64>() / n,
        overhead: ratios[ratios.len() / 2],
        inputs: methods
            .into_iter()
            .map(|(name, method, n_steps)| input_cost(runtime, &trace, (name, method), n_steps))
            .collect::<Result<_>>()?,
    })
}

fn timed_step(runtime: &mut Runtime, canvas: &mut Canvas) -> Result<f64> {
    let start = Instant::now();
    runtime.step(&mut [canvas])?;
    Ok(start.elapsed().as_secs_f64())
}

fn input_cost(
    runtime: &mut Runtime,
    trace: &Trace,
    (method, form): (&'static str, InputMethod),
    n_steps: usize,
) -> Result<InputCost> {
    let positions: Vec<usize> = trace.commits.iter().take(TARGETS).map(|commit| commit.position).collect();
    let start = Instant::now();
    let mut job = InputJob::new(trace, Some(&positions), form, None, runtime.model())?;
    let done = loop {
        if let Some(done) = job.advance(runtime)? {
            break done;
        }
    };
    let n = done.len().max(1) as f64;
    let [rows_forwarded, rows_backed] = job.rows;
    Ok(InputCost {
        method,
        n_steps,
        targets: done.len(),
        seconds_per_target: start.elapsed().as_secs_f64() / n,
        rows_forwarded,
        rows_backed,
        mean_completeness_error: done.iter().map(|t| f64::from(t.completeness_error())).sum::<f64>() / n,
    })
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
pub(super) fn print(explained: &Explained) {
    println!(
        "\nconcept attribution: {:.4} s a step, {:.4} s without, {:+.1} % (median of pairs)",
        explained.attributed_seconds,
        explained.plain_seconds,
        explained.overhead * 100.0
    );
    println!(
        "{:>22} {:>8} {:>9} {:>12} {:>12} {:>12}",
        "input attribution", "n_steps", "s/target", "rows fwd", "rows bwd", "incomplete"
    );
    for cost in &explained.inputs {
        println!(
            "{:>22} {:>8} {:>9.3} {:>12} {:>12} {:>11.1} %",
            cost.method,
            cost.n_steps,
            cost.seconds_per_target,
            cost.rows_forwarded,
            cost.rows_backed,
            cost.mean_completeness_error * 100.0
        );
    }
}
