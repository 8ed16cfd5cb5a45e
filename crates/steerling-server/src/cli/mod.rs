//! The commands.

mod attribute;
mod bars;
mod bench;
mod concepts;
mod embed;
mod generate;
mod inspect;
mod openapi;
mod output;
mod progress;
mod quantize;
mod serve;
mod steer;
mod synthesize;

use clap::{Parser, Subcommand};
use steerling_server::config::ServeOptions;

pub(crate) use progress::load;

/// An inference server for Steerling, the interpretable causal diffusion language model.
///
/// Without a command it serves, with the options of `serve`.
#[derive(Debug, Parser)]
#[command(name = "steerling", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests over HTTP (what a bare `steerling` does)
    Serve(ServeOptions),
    /// Generate text, shown as it is unmasked
    Generate(Box<generate::GenerateArgs>),
    /// Embed texts, as vectors or as the concepts in them
    Embed(embed::EmbedArgs),
    /// Look into the concepts: search, show, tokens
    Concepts(concepts::ConceptsArgs),
    /// Generate text under steering, beside the unsteered text if wanted
    Steer(Box<steer::SteerArgs>),
    /// Generate text and tell which concepts made each token
    Attribute(Box<attribute::AttributeArgs>),
    /// Tell what a checkpoint holds, and everything that is wrong with it
    Inspect(inspect::InspectArgs),
    /// Write a checkpoint to one GGUF file with fewer bits a weight
    Quantize(quantize::QuantizeArgs),
    /// Write a checkpoint with random weights
    Synthesize(synthesize::SynthesizeArgs),
    /// Measure denoising steps on this machine, or put load on a running server
    Bench(Box<bench::BenchArgs>),
    /// Print the OpenAPI document
    Openapi,
}

/// Does what the command line says.
pub(crate) fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(options) => serve::run(&options),
        Command::Generate(args) => generate::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Concepts(args) => concepts::run(&args),
        Command::Steer(args) => steer::run(&args),
        Command::Attribute(args) => attribute::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Synthesize(args) => synthesize::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Openapi => openapi::run(),
    }
}

/// An error and its causes in one line; a cause that the message before already tells is left out.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}
