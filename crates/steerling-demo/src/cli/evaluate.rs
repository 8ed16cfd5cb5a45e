//! `steerling-demo evaluate`: measures a checkpoint.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use steerling_demo::evaluate::{Options, Size, evaluate};

/// Measure whether a checkpoint does what a concept model promises.
///
/// Prints a table of checks and one of concepts; fails if a check does.
#[derive(Debug, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// The checkpoint directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Draw less: half a minute instead of minutes
    #[arg(long)]
    quick: bool,
    /// Also write everything to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Other seeds draw other documents, prompts and tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
    /// Runtimes that work side by side; the numbers do not depend on it
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
}

/// Evaluates and prints.
///
/// # Errors
/// If the model cannot be loaded or is not a demo model, or the results cannot be written.
pub(crate) fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    let options = Options { model: args.model.clone(), size, seed: args.seed, threads: args.threads.into() };
    let style = ProgressStyle::with_template("{msg} [{bar:24}] {pos}/{len} {elapsed}")
        .expect("the template names only keys that exist");
    let progress = ProgressBar::new(0).with_style(style);
    progress.enable_steady_tick(Duration::from_millis(250));
    let report = evaluate(&options, progress.clone());
    progress.finish_and_clear();
    let report = report?;
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", serde_json::to_value(&report)?);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    super::emit(&report.markdown())?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
