//! `steerling bench`: what a step costs, and where the time goes; with `--url`, what a running server does with load.

mod batch;
mod decoding;
mod explain;
mod load;
mod memory;
mod quality;
mod report;
mod steps;
mod sweep;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::RangedU64ValueParser;
use steerling::backbone::KvPool;
use steerling::config::Preset;
use steerling::device::Speeds;
use steerling::{Config, DeviceChoice, DtypeChoice, ModelDir, ModelSource, RuntimeOptions};
use steerling_server::config::model_dir;

use super::output::{Reader, emit};
use batch::Shape;
use memory::Peaks;
use report::{Head, Report};
use sweep::{Plan, Sweep};

/// MiB of pages, unless a sweep says what it needs.
const KV_CACHE_MIB: u64 = 4096;
/// The least context of a sweep: half of it is prompt, the rest has a few steps.
const LEAST_CONTEXT: usize = 8;

/// The longest sequence that can be asked for; what a model has room for is known when it is loaded.
const MOST_TOKENS: u64 = 1 << 24;

/// A number that no sum overflows with.
fn at_most(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=most)
}

/// Measure denoising steps on this machine, or put load on a running server.
///
/// Without --prompt-tokens, --max-new-tokens, --steps, --max-forwards, --explain and --decoding, or with --context: the whole
/// table of a model on a device, which takes minutes on a CPU.
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
    /// Sequences in the batch; several values are measured one after the other [default: 1,4,16; of a table
    /// 1,2,4,8,16,32].
    #[arg(long, value_delimiter = ',', value_parser = at_most(1 << 16))]
    batch: Vec<usize>,
    /// The whole table, with sequences of so many tokens, prompt and generated [default: 256,1024,4096].
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "TOKENS",
        value_parser = at_most(MOST_TOKENS),
        conflicts_with_all = ["prompt_tokens", "max_new_tokens", "steps", "explain", "decoding", "url"]
    )]
    context: Vec<usize>,
    /// Tokens of each prompt [default: 32].
    #[arg(long, value_parser = at_most(MOST_TOKENS))]
    prompt_tokens: Option<usize>,
    /// Tokens to generate for each sequence [default: 64].
    #[arg(long, value_parser = at_most(MOST_TOKENS))]
    max_new_tokens: Option<usize>,
    /// Denoising steps of each sequence; one a token if absent.
    #[arg(long)]
    steps: Option<usize>,
    /// Stop each measurement after this many forwards [default: of a table 24].
    #[arg(long)]
    max_forwards: Option<usize>,
    /// Device: auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Compute type: auto, f32, bf16 or f16.
    #[arg(long, default_value = "auto")]
    dtype: DtypeChoice,
    /// MiB for pages of keys and values [default: 4096; of a table, what its largest cell needs].
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    kv_cache_mib: Option<u64>,
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

impl BenchArgs {
    /// What the whole table has, if it is asked for.
    fn plan(&self) -> Result<Option<Plan>> {
        let Self { prompt_tokens, max_new_tokens, steps, max_forwards, explain, decoding, .. } = self;
        let numbers = [prompt_tokens, max_new_tokens, steps, max_forwards];
        let particular = numbers.iter().any(|n| n.is_some()) || *explain || !decoding.decoding.is_empty();
        if particular && self.context.is_empty() {
            return Ok(None);
        }
        let or = |given: &[usize], default: &[usize]| if given.is_empty() { default.to_vec() } else { given.to_vec() };
        let contexts = or(&self.context, &[256, 1024, 4096]);
        for context in &contexts {
            ensure!(*context >= LEAST_CONTEXT, "--context: {context} is below the minimum of {LEAST_CONTEXT}");
        }
        let sequences = or(&self.batch, &[1, 2, 4, 8, 16, 32]);
        Ok(Some(Plan { sequences, contexts, forwards: max_forwards.unwrap_or(24).max(1) }))
    }

    fn batches(&self) -> Vec<usize> {
        if self.batch.is_empty() { vec![1, 4, 16] } else { self.batch.clone() }
    }

    fn shape(&self) -> Shape {
        Shape {
            prompt_tokens: self.prompt_tokens.unwrap_or(32),
            max_new_tokens: self.max_new_tokens.unwrap_or(64),
            steps: self.steps,
        }
    }

    fn source(&self) -> ModelSource {
        match self.preset {
            Some(preset) => ModelSource::Synthetic { preset, seed: 0 },
            None => model_dir(self.model.as_deref()).into(),
        }
    }
}

/// Runs the measurement and prints the table.
///
/// # Errors
/// If the model cannot be loaded, a sequence does not fit, a part of a sweep failed, or the report cannot be written.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if let Some(url) = &args.load.url {
        return load::run(&args.load, url, args.json.as_ref());
    }
    ensure!(!args.batch.contains(&0), "--batch: 0 is below the minimum of 1");
    let (source, plan) = (args.source(), args.plan()?);
    let kv_cache_mib = args.kv_cache_mib.unwrap_or(KV_CACHE_MIB);
    let mut options = RuntimeOptions {
        device: args.device,
        dtype: args.dtype,
        kv_bytes: kv_cache_mib << 20,
        ..RuntimeOptions::default()
    };
    let mut speeds = None;
    if let Some(plan) = &plan {
        let compute = options.compute()?;
        if args.kv_cache_mib.is_none() {
            let config = config(&source)?;
            let pages = plan.pages(config.context, config.diff_block_size);
            options.kv_bytes = KvPool::page_bytes(&config, &compute).saturating_mul(pages as u64);
        }
        // Before the model is there: what this takes is not to count as memory of the model.
        speeds = Some(Speeds::measure(&compute)?);
    }
    let start = Instant::now();
    let mut runtime = match plan.is_some() && args.kv_cache_mib.is_none() {
        true => super::load(&source, &options).context("the pages of the largest --batch and --context")?,
        false => super::load(&source, &options)?,
    };
    let head = Head::new(runtime.info(), start.elapsed().as_secs_f64());
    // The report in the file is written even if the reader of the table has left.
    let show = |text: &str| {
        let reader = emit(text)?;
        Ok(if args.json.is_some() { Reader::Listening } else { reader })
    };
    if show(&head.line())? == Reader::Gone {
        return Ok(());
    }
    let save = |report: &Report| args.json.as_ref().map_or(Ok(()), |path| report.save(path));
    let found: Sweep;
    let mut report = Report::new(&head);
    if let Some((plan, speeds)) = plan.zip(speeds) {
        found = sweep::measure(&mut runtime, &plan, &speeds, &|runtime, sweep, lines| {
            save(&Report { sweep: Some(sweep), peaks: Some(Peaks::so_far(runtime)), ..Report::new(&head) })?;
            show(lines)
        })?;
        report.sweep = Some(&found);
    } else {
        let shape = args.shape();
        report.prompt_tokens = Some(shape.prompt_tokens).filter(|_| !args.decoding.has_texts());
        report.max_new_tokens = Some(shape.max_new_tokens);
        if args.decoding.decoding.is_empty() {
            let measure = |batch: usize| steps::measure(&mut runtime, &shape, args.max_forwards, batch);
            report.runs = args.batches().into_iter().map(measure).collect::<Result<_>>()?;
        } else {
            report.decoding = decoding::measure(&mut runtime, args)?;
        }
        if args.explain {
            report.explained = Some(explain::measure(&mut runtime, &shape, args.max_forwards, &explain::METHODS)?);
        }
    }
    report.peaks = Some(Peaks::so_far(&runtime));
    save(&report)?;
    show(&report.rest())?;
    match report.sweep.map_or(0, |sweep| sweep.failures.len()) {
        0 => Ok(()),
        1 => bail!("a measurement failed"),
        n => bail!("{n} measurements failed"),
    }
}

/// The configuration of a model that is not loaded yet.
fn config(source: &ModelSource) -> Result<Config> {
    Ok(match source {
        ModelSource::Synthetic { preset, .. } => Config::preset(*preset),
        ModelSource::Directory(dir) => Config::from_dir(dir)?,
        ModelSource::Embedded(dir) => Config::from_dir(ModelDir::Embedded(*dir))?,
    })
}
