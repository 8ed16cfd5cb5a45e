//! `steerling bench`: what a step costs, and where the time goes; with `--url`, what a running server does with load.

mod decoding;
mod explain;
mod load;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use steerling::config::Preset;
use steerling::profile::Part;
use steerling::{
    Canvas, Denoiser, DeviceChoice, DtypeChoice, GenerateParams, Limits, ModelSource, Runtime, RuntimeOptions,
};
use steerling_server::config::model_dir;

/// Measure denoising steps on this machine, or put load on a running server.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Load on a running server.
    #[command(flatten)]
    load: load::LoadArgs,
    /// Directory of the checkpoint to measure; without it and --preset, the demo model inside the program.
    #[arg(long, env = "STEERLING_MODEL", conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// Size to measure with random weights: 8b, 1b, small or tiny.
    #[arg(long)]
    preset: Option<Preset>,
    /// Sequences in the batch; several values are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    batch: Vec<usize>,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 32)]
    prompt_tokens: usize,
    /// Tokens to generate for each sequence.
    #[arg(long, default_value_t = 64)]
    max_new_tokens: usize,
    /// Denoising steps of each sequence; one a token if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// Stop each measurement after this many forwards.
    #[arg(long)]
    max_forwards: Option<usize>,
    /// Device: auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Compute type: auto, f32, bf16 or f16.
    #[arg(long, default_value = "auto")]
    dtype: DtypeChoice,
    /// MiB for pages of keys and values.
    #[arg(long, default_value_t = 4096)]
    kv_cache_mib: u64,
    /// Also measure what explanations cost, for one sequence.
    #[arg(long)]
    explain: bool,
    /// Also write the report as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    // Last, as its heading holds for all flags behind it.
    #[command(flatten)]
    decoding: decoding::DecodingArgs,
}

/// The whole report.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    parameters: u64,
    device: String,
    dtype: String,
    /// Type in which most weights lie in memory.
    weights: String,
    threads: usize,
    load_seconds: f64,
    prompt_tokens: usize,
    max_new_tokens: usize,
    runs: Vec<Run>,
    /// What decoding methods cost, if they are compared; there are no `runs` then.
    decoding: Vec<decoding::Compared>,
    /// What explanations cost, if asked for.
    explained: Option<explain::Explained>,
    /// High-water mark of resident memory in MiB, where the system tells.
    peak_memory_mib: Option<u64>,
}

/// One batch size.
#[derive(Debug, Serialize)]
struct Run {
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

#[derive(Debug, Serialize)]
struct Quantiles {
    mean: f64,
    median: f64,
    p90: f64,
}

/// Runs the measurement and prints the table.
///
/// # Errors
/// If the model cannot be loaded, a sequence does not fit, or the report cannot be written.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if let Some(url) = &args.load.url {
        return load::run(&args.load, url, args.json.as_ref());
    }
    let source = match args.preset {
        Some(preset) => ModelSource::Synthetic { preset, seed: 0 },
        None => model_dir(args.model.as_deref()).into(),
    };
    let options = RuntimeOptions { device: args.device, dtype: args.dtype, kv_bytes: args.kv_cache_mib << 20 };
    let start = Instant::now();
    let mut runtime = super::load(&source, &options)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (mut runs, mut compared) = (Vec::new(), Vec::new());
    if args.decoding.decoding.is_empty() {
        runs = args.batch.iter().map(|batch| measure(&mut runtime, args, *batch)).collect::<Result<_>>()?;
    } else {
        compared = decoding::measure(&mut runtime, args)?;
    }
    let explained = if args.explain { Some(explain::measure(&mut runtime, args)?) } else { None };
    let info = runtime.info();
    let report = Report {
        model: info.name.clone(),
        parameters: info.parameters,
        device: info.device.clone(),
        dtype: info.dtype.clone(),
        weights: info.weights.clone(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        load_seconds,
        prompt_tokens: args.prompt_tokens,
        max_new_tokens: args.max_new_tokens,
        runs,
        decoding: compared,
        explained,
        peak_memory_mib: peak_memory_mib(),
    };
    print(&report);
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Sequences of one batch, with prompts of ids that mean nothing.
fn canvases(limits: &Limits, args: &BenchArgs, batch: usize) -> Result<Vec<Canvas>> {
    (0..batch)
        .map(|n| {
            let params = GenerateParams {
                max_new_tokens: args.max_new_tokens,
                steps: args.steps,
                seed: n as u64,
                ..GenerateParams::default()
            };
            Ok(Canvas::new(&random_prompt(limits, args, n), params, &limits.canvas)?)
        })
        .collect()
}

/// The prompt of sequence `n`: different for every sequence, so that nothing is shared, and without the mask.
fn random_prompt(limits: &Limits, args: &BenchArgs, n: usize) -> Vec<u32> {
    let (ids, mask) = (limits.canvas.vocab_size as u32 - 1, limits.canvas.special.mask);
    let id = |i: usize| ((n * 7919 + i * 104_729 + 1) % ids as usize) as u32;
    (0..args.prompt_tokens).map(id).map(|id| if id < mask { id } else { id + 1 }).collect()
}

fn measure(runtime: &mut Runtime, args: &BenchArgs, batch: usize) -> Result<Run> {
    let mut canvases = canvases(&runtime.limits(), args, batch)?;
    for canvas in &mut canvases {
        anyhow::ensure!(runtime.admit(canvas)?, "a batch of {batch} does not fit the pages; raise --kv-cache-mib");
    }
    // The first step pays for what is allocated once, and computes the prompts.
    step(runtime, &mut canvases)?;
    runtime.model().backbone().profile().take();
    let committed = |canvases: &[Canvas]| canvases.iter().map(|c| c.commits().len()).sum::<usize>();
    let rows = |canvases: &[Canvas]| canvases.iter().map(|c| c.usage.rows).sum::<usize>();
    let (tokens_before, rows_before) = (committed(&canvases), rows(&canvases));
    let mut times: Vec<Duration> = Vec::new();
    while canvases.iter().any(|c| c.finish_reason().is_none()) && args.max_forwards.is_none_or(|n| times.len() < n) {
        let start = Instant::now();
        step(runtime, &mut canvases)?;
        times.push(start.elapsed());
    }
    let parts = runtime.model().backbone().profile().take();
    for canvas in &canvases {
        runtime.release(canvas.id());
    }
    let seconds: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let tokens = committed(&canvases) - tokens_before;
    let share = |time: Duration| time.as_secs_f64() / seconds;
    let mut shares: Vec<(&str, f64)> = parts.iter().map(|(part, time)| (part.name(), share(*time))).collect();
    let timed: f64 = shares.iter().map(|(_, share)| share).sum();
    shares.push(("untimed", 1.0 - timed));
    let essential: f64 = parts.iter().filter(|(part, _)| Part::is_essential(*part)).map(|(_, t)| share(*t)).sum();
    times.sort_unstable();
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64();
    Ok(Run {
        batch,
        forwards: times.len(),
        tokens,
        seconds,
        tokens_per_second: tokens as f64 / seconds,
        rows_per_forward: (rows(&canvases) - rows_before) as f64 / times.len() as f64,
        seconds_per_step: Quantiles { mean: seconds / times.len() as f64, median: quantile(0.5), p90: quantile(0.9) },
        shares,
        overhead_share: 1.0 - essential,
    })
}

fn step(runtime: &mut Runtime, canvases: &mut [Canvas]) -> Result<()> {
    let mut batch: Vec<&mut Canvas> = canvases.iter_mut().filter(|c| c.finish_reason().is_none()).collect();
    Ok(runtime.step(&mut batch)?)
}

/// `VmHWM` of this process.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
fn print(report: &Report) {
    println!(
        "{} ({:.1} M parameters) on {} in {}, weights in {}, {} threads, loaded in {:.1} s; prompt {}, {} new tokens",
        report.model,
        report.parameters as f64 / 1e6,
        report.device,
        report.dtype,
        report.weights,
        report.threads,
        report.load_seconds,
        report.prompt_tokens,
        report.max_new_tokens
    );
    if report.decoding.is_empty() {
        print_runs(&report.runs);
    } else {
        decoding::print(&report.decoding);
    }
    if let Some(explained) = &report.explained {
        explain::print(explained);
    }
    if let Some(peak) = report.peak_memory_mib {
        println!("\npeak memory {peak} MiB");
    }
}

#[expect(clippy::print_stdout, reason = "the report is the command's output")]
fn print_runs(runs: &[Run]) {
    println!("{:>6} {:>9} {:>10} {:>10} {:>10} {:>12}", "batch", "rows/fwd", "s/step", "median", "p90", "tokens/s");
    for run in runs {
        let Quantiles { mean, median, p90 } = run.seconds_per_step;
        let (rows, speed) = (run.rows_per_forward, run.tokens_per_second);
        println!("{:>6} {rows:>9.1} {mean:>10.4} {median:>10.4} {p90:>10.4} {speed:>12.2}", run.batch);
    }
    println!("\nshare of time, per batch size");
    for (i, (name, _)) in runs.first().map(|run| run.shares.iter().enumerate()).into_iter().flatten() {
        print!("{name:>20}");
        for run in runs {
            print!(" {:>7.1} %", run.shares[i].1 * 100.0);
        }
        println!();
    }
    print!("{:>20}", "overhead");
    for run in runs {
        print!(" {:>7.1} %", run.overhead_share * 100.0);
    }
    println!("   (neither product nor attention)");
}
