//! `steerling-demo train`: makes the demo checkpoint.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use steerling_demo::train::{TrainOptions, train};

/// candle and the allocator read these when they are first used: workers are threads of our own, which candle's pool
/// would only get in the way of, and pages that are given back after every step are cleared again in the next.
const ENVIRONMENT: [(&str, &str); 2] = [("CANDLE_NUM_THREADS", "1"), ("MIMALLOC_PURGE_DELAY", "-1")];

/// Train the demo model and write its checkpoint.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    /// Where the checkpoint goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Updates of the weights
    #[arg(long, value_name = "N", default_value_t = 8000)]
    steps: usize,
    /// Go on after N updates with the weights in --out
    #[arg(long, value_name = "N")]
    resume: Option<usize>,
    /// Sequences of an update
    #[arg(long, value_name = "N", default_value_t = 48)]
    batch: usize,
    /// Positions of a sequence
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(96..=512))]
    length: u16,
    /// Largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 2.5e-3)]
    learning_rate: f64,
    /// Other seeds draw other first weights and documents
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..256))]
    seed: u64,
    /// Workers, each on a thread of its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// auto, cpu or cuda:N
    #[arg(long, default_value_t)]
    device: steerling::DeviceChoice,
    /// Also write the losses of every update, as JSON lines
    #[arg(long, value_name = "FILE")]
    losses: Option<PathBuf>,
}

/// Trains.
///
/// # Errors
/// If the options contradict each other, the device fails, or a file cannot be written.
pub(crate) fn run(args: &TrainArgs) -> Result<ExitCode> {
    if ENVIRONMENT.iter().any(|(name, _)| std::env::var_os(name).is_none()) {
        return again();
    }
    let options = TrainOptions {
        out: args.out.clone(),
        steps: args.steps,
        resume: args.resume,
        batch: args.batch,
        length: args.length.into(),
        learning_rate: args.learning_rate,
        seed: args.seed,
        threads: args.threads.into(),
    };
    let device = steerling::RuntimeOptions { device: args.device, ..Default::default() }.compute()?.device;
    let mut log = match &args.losses {
        Some(path) => Some(BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?)),
        None => None,
    };
    train(&options, &device, &mut |step, losses| {
        if let Some(log) = &mut log {
            let losses: serde_json::Map<_, _> =
                losses.iter().map(|(name, loss)| ((*name).to_owned(), (*loss).into())).collect();
            writeln!(log, "{}", serde_json::json!({ "step": step, "losses": losses }))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Starts this program again with the environment that training wants; what the user has set stays.
fn again() -> Result<ExitCode> {
    let unset = ENVIRONMENT.iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let status =
        Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).envs(unset.copied()).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
