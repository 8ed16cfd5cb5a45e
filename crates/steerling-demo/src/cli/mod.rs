//! The commands.

mod corpus;
mod decoding;
mod evaluate;
mod plot;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Builds and measures the demo checkpoint of steerling-server.
#[derive(Debug, Parser)]
#[command(name = "steerling-demo", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write labelled documents as JSON, one a line
    Corpus(corpus::CorpusArgs),
    /// Measure what decoding methods do to the text
    Decoding(decoding::DecodingArgs),
    /// Measure whether a checkpoint does what a concept model promises
    Evaluate(evaluate::EvaluateArgs),
    /// Draw the losses of a training
    Plot(plot::PlotArgs),
    /// Train the demo model and write its checkpoint
    Train(train::TrainArgs),
}

/// Does what the command line says.
///
/// # Errors
/// Those of the command.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Corpus(args) => corpus::run(&args),
        Command::Decoding(args) => decoding::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Train(args) => train::run(&args),
    }
}

/// Writes to standard output, and tells whether it is still read: a reader that leaves (`| head`) is no error.
fn emit(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
